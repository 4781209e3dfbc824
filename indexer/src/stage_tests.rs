//! The steps over fakes of everything outside.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;
use millrace_admission::Admission;
use millrace_config::{KeyConfig, TenantConfig, hash_key};
use millrace_provider::{FINISHED, Who};
use millrace_rules::RuleSets;
use millrace_schemas::{CallLine, Coordinates, SIGNATURE_HEADER, Source, call_id};
use millrace_settings::Settings;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::ports::{DocumentKey, EmbedError, Embedded, Embedder, Passages, Point, StoreError, Stored};

const DIMENSIONS: usize = 2;
/// Five or six tokens each, so that each is a chunk of its own.
const ONE: &str = "The hats are four.\n\n";
const TWO: &str = "The coats are five.\n\n";
const THREE: &str = "The shoes are six.\n\n";

/// Answers as it is told to, then well; remembers what was paid for and what was finished.
#[derive(Default)]
struct FakeEmbedder {
    script: Mutex<VecDeque<EmbedError>>,
    paid: Mutex<Vec<(Who, Vec<String>)>>,
    finished: Mutex<Vec<String>>,
    dimensions: Mutex<Option<usize>>,
}

#[async_trait]
impl Embedder for FakeEmbedder {
    async fn embed(&self, _: &Received, who: &Who, texts: &[String]) -> Result<Embedded, EmbedError> {
        // Others get a chance to run, as they would.
        tokio::task::yield_now().await;
        if let Some(error) = self.script.lock().unwrap().pop_front() {
            return Err(error);
        }
        self.paid.lock().unwrap().push((who.clone(), texts.to_vec()));
        let dimensions = self.dimensions.lock().unwrap().unwrap_or(DIMENSIONS);
        let vector = |text: &String| (0..dimensions).map(|place| text.len() as f32 + place as f32).collect();
        Ok(Embedded { vectors: texts.iter().map(vector).collect(), line: line() })
    }

    async fn finished(&self, _: &Received, _: &Who, line: &CallLine) -> Result<(), StageError> {
        self.finished.lock().unwrap().push(line.call_id.clone());
        Ok(())
    }

    fn max_attempts(&self) -> u32 {
        3
    }
}

#[derive(Default)]
struct FakePassages {
    points: Mutex<BTreeMap<Uuid, Point>>,
    upsert: Mutex<VecDeque<StoreError>>,
    down: Mutex<bool>,
}

#[async_trait]
impl Passages for FakePassages {
    async fn stored(&self, document: &DocumentKey) -> Result<Vec<Stored>, StoreError> {
        tokio::task::yield_now().await;
        if *self.down.lock().unwrap() {
            return Err(StoreError::Outage("down".to_owned()));
        }
        let points = self.points.lock().unwrap();
        let of_it = points.values().filter(|point| point.document.key == *document);
        let stored = |point: &Point| Stored {
            id: point.id,
            hash: point.hash.clone(),
            place: Some(point.document.place),
            bill: point.bill.clone(),
        };
        Ok(of_it.map(stored).collect())
    }

    async fn vectors(&self, points: &[Uuid]) -> Result<BTreeMap<Uuid, Vec<f32>>, StoreError> {
        let stored = self.points.lock().unwrap();
        Ok(points.iter().filter_map(|id| Some((*id, stored.get(id)?.vector.clone()))).collect())
    }

    async fn upsert(&self, points: &[Point]) -> Result<(), StoreError> {
        if let Some(error) = self.upsert.lock().unwrap().pop_front() {
            return Err(error);
        }
        self.points.lock().unwrap().extend(points.iter().map(|point| (point.id, point.clone())));
        Ok(())
    }

    async fn delete(&self, points: &[Uuid]) -> Result<(), StoreError> {
        self.points.lock().unwrap().retain(|id, _| !points.contains(id));
        Ok(())
    }
}

fn line() -> CallLine {
    CallLine {
        call_id: call_id(),
        operation: "embeddings".to_owned(),
        provider: "p".to_owned(),
        model: "embed".to_owned(),
        status: FINISHED.to_owned(),
        input_tokens: 4,
        cached_input_tokens: 0,
        output_tokens: 0,
        estimated: false,
        cost_nanos: 80,
        charge_nanos: 100,
        currency: "USD".to_owned(),
        price_version: "v1".to_owned(),
    }
}

struct Bench {
    indexer: Indexer,
    embedder: Arc<FakeEmbedder>,
    passages: Arc<FakePassages>,
}

/// With one chunk to a call, so that a crash between two calls can be played.
fn bench(batch: usize) -> Bench {
    let mut config = Config::default();
    for (tenant, secret) in [("acme", "sk-a"), ("other", "sk-b")] {
        let key = KeyConfig { id: "k1".to_owned(), sha256: Some(hash_key(secret)), ..KeyConfig::default() };
        config.tenants.insert(tenant.to_owned(), TenantConfig { keys: vec![key], ..TenantConfig::default() });
    }
    let embedder = Arc::new(FakeEmbedder::default());
    let passages = Arc::new(FakePassages::default());
    let index = Index {
        embedder: embedder.clone(),
        passages: passages.clone(),
        recipe: Recipe { size: Size { tokens: 9, overlap: 0 }, space: "p/embed/2".to_owned() },
        dimensions: DIMENSIONS,
        batch,
        locks: Locks::default(),
    };
    config.vectors.url = Some("http://127.0.0.1:6334".to_owned());
    config.knowledge.embedding_model = "embed".to_owned();
    let admission = Admission::from_config(&config).unwrap();
    let settings = Current::new(Settings::judging(admission, RuleSets::default()));
    Bench { indexer: Indexer { settings, codec: Codec::detached().unwrap(), index }, embedder, passages }
}

fn document(text: &str) -> Document {
    Document {
        document_id: Some("d1".to_owned()),
        collection: "handbook".to_owned(),
        text: text.to_owned(),
        title: None,
        user: Some("ann".to_owned()),
        metadata: BTreeMap::new(),
    }
}

fn received(offset: i64, value: Vec<u8>, headers: &[(&str, &str)]) -> Received {
    let at = Coordinates { topic: "documents".to_owned(), generation: 0, partition: 5, offset };
    Received {
        as_source: Source { from: at.clone(), window: 16, epoch: 1 },
        at,
        timestamp: 1_000,
        key: None,
        value,
        headers: headers.iter().map(|(k, v)| ((*k).to_owned(), Some(v.as_bytes().to_vec()))).collect(),
        source: None,
        assignment: CancellationToken::new(),
        lease: millrace_stage::core::Lease::unlimited(),
    }
}

impl Bench {
    fn signed(&self, secret: &str, offset: i64, document: &Document) -> Received {
        let value = self.indexer.codec.encode(document).unwrap();
        let principal = self.indexer.settings.now().admission.directory().verify_key(secret, 0).unwrap();
        let signature = self.indexer.settings.now().admission.directory().sign(&principal, &value).unwrap();
        received(offset, value, &[(SIGNATURE_HEADER, &signature)])
    }

    fn version(&self, offset: i64, text: &str) -> Received {
        self.signed("sk-a", offset, &document(text))
    }

    async fn done(&self, record: &Received) {
        let plan = self.indexer.process(record).await.unwrap();
        assert!(plan.primary.is_none() && plan.then.is_empty());
    }

    async fn poisoned(&self, record: &Received) -> Poison {
        match self.indexer.process(record).await {
            Err(StageError::Poison(poison)) => *poison,
            other => panic!("not poison: {other:?}"),
        }
    }

    /// How many texts were paid for since the last time.
    fn paid(&self) -> usize {
        self.embedder.paid.lock().unwrap().drain(..).map(|(_, texts)| texts.len()).sum()
    }

    fn finished(&self) -> Vec<String> {
        std::mem::take(&mut self.embedder.finished.lock().unwrap())
    }

    /// The stored chunks in order, each with the offset of its version.
    fn stored(&self) -> Vec<(String, i64)> {
        let points = self.passages.points.lock().unwrap();
        let mut stored: Vec<_> = points.values().map(|p| (p.chunk, p.text.clone(), p.document.place.offset)).collect();
        stored.sort_unstable();
        stored.into_iter().map(|(_, text, offset)| (text, offset)).collect()
    }
}

fn expected(parts: &[&str], offset: i64) -> Vec<(String, i64)> {
    parts.iter().map(|part| (part.trim().to_owned(), offset)).collect()
}

#[tokio::test]
async fn a_document_becomes_passages_of_its_tenant_paid_for_in_batches() {
    let bench = bench(2);
    let metadata = BTreeMap::from([("tenant".to_owned(), "other".to_owned())]);
    let titled =
        Document { title: Some("A".to_owned()), metadata: metadata.clone(), ..document(&[ONE, TWO, THREE].concat()) };
    bench.done(&bench.signed("sk-a", 1, &titled)).await;
    let calls = bench.embedder.paid.lock().unwrap().clone();
    assert_eq!(calls.iter().map(|(_, texts)| texts.len()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(calls[0].1[0], format!("A\n\n{}", ONE.trim()));
    let who = &calls[0].0;
    assert_eq!((who.tenant.as_str(), who.user.as_str(), who.key_id.as_deref()), ("acme", "ann", Some("k1")));
    assert_eq!((who.request_id.as_str(), who.lane.as_str(), who.run), ("d1", "documents", 0));
    assert_eq!(bench.stored(), expected(&[ONE, TWO, THREE], 1));

    let finished = bench.finished();
    assert_eq!(finished.len(), 2);
    let points = bench.passages.points.lock().unwrap().clone();
    let bills: Vec<_> = points.values().filter_map(|point| point.bill.as_ref()).map(|bill| &bill.call_id).collect();
    assert!(bills.len() == 2 && bills.iter().all(|bill| finished.contains(bill)), "one point of a call has its bill");
    for point in points.values() {
        assert_eq!((point.document.key.tenant.as_str(), &point.document.metadata), ("acme", &metadata));
        assert_eq!((point.document.title.as_deref(), point.vector.len()), (Some("A"), DIMENSIONS));
    }
}

#[tokio::test]
async fn a_replay_pays_nothing_and_finishes_its_calls_again() {
    let bench = bench(2);
    let record = bench.version(1, &[ONE, TWO, THREE].concat());
    bench.done(&record).await;
    let (before, mut finished) = (bench.passages.points.lock().unwrap().clone(), bench.finished());
    assert_eq!(bench.paid(), 3);
    bench.done(&record).await;
    let mut again = bench.finished();
    finished.sort();
    again.sort();
    assert_eq!((bench.paid(), again), (0, finished), "an earlier owner may have died before it wrote them");
    assert_eq!(*bench.passages.points.lock().unwrap(), before);
}

#[tokio::test]
async fn a_document_goes_on_where_it_was_interrupted() {
    let bench = bench(1);
    let record = bench.version(1, &[ONE, TWO, THREE].concat());
    bench.done(&record).await;
    assert_eq!(bench.paid(), 3);
    // As after a crash behind the first of three calls, before its end was written.
    let mut finished = bench.finished();
    bench.passages.points.lock().unwrap().retain(|_, point| point.chunk == 0);
    bench.done(&record).await;
    assert_eq!((bench.paid(), bench.stored()), (2, expected(&[ONE, TWO, THREE], 1)));
    assert_eq!(bench.finished().last(), Some(&finished.swap_remove(0)));

    // An outage of the provider between two calls.
    let longer = bench.version(2, &[THREE, "The ties are two.\n\n", "The bags are one.\n\n"].concat());
    let busy = |after| EmbedError::Later { error: "429".to_owned(), after };
    let wait = Some(std::time::Duration::from_secs(7));
    bench.embedder.script.lock().unwrap().push_back(busy(wait));
    let Err(StageError::Retry { after, .. }) = bench.indexer.process(&longer).await else { panic!("no retry") };
    assert_eq!((after, bench.paid()), (wait, 0));
    bench.done(&longer).await;
    assert_eq!(bench.paid(), 2, "the shoes were paid for by the version before");
}

#[tokio::test]
async fn a_shorter_version_leaves_nothing_of_a_longer_one() {
    let bench = bench(2);
    bench.done(&bench.version(1, &[ONE, TWO, THREE].concat())).await;
    assert_eq!(bench.paid(), 3);
    bench.done(&bench.version(2, TWO)).await;
    assert_eq!((bench.paid(), bench.stored()), (0, expected(&[TWO], 2)));
}

#[tokio::test]
async fn other_documents_are_left_alone() {
    let bench = bench(2);
    bench.done(&bench.version(1, &[ONE, TWO].concat())).await;
    bench.done(&bench.signed("sk-b", 2, &document(THREE))).await;
    bench.done(&bench.signed("sk-a", 3, &Document { collection: "blog".to_owned(), ..document(THREE) })).await;
    bench.done(&bench.signed("sk-a", 4, &Document { document_id: Some("d2".to_owned()), ..document(THREE) })).await;
    bench.done(&bench.signed("sk-a", 5, &Document { document_id: None, ..document(THREE) })).await;
    assert_eq!((bench.paid(), bench.stored().len()), (6, 6));
    // Not even its vectors are shared: whose they are would have to be proven.
    let tenants: Vec<_> =
        bench.passages.points.lock().unwrap().values().map(|p| p.document.key.tenant.clone()).collect();
    assert_eq!(tenants.iter().filter(|tenant| *tenant == "other").count(), 1);
}

#[tokio::test]
async fn the_same_text_again_costs_nothing_but_counts_as_later() {
    let bench = bench(2);
    bench.done(&bench.version(1, ONE)).await;
    assert_eq!(bench.paid(), 1);
    let metadata = BTreeMap::from([("lang".to_owned(), "en".to_owned())]);
    bench.done(&bench.signed("sk-a", 3, &Document { metadata: metadata.clone(), ..document(ONE) })).await;
    assert_eq!((bench.paid(), bench.stored()), (0, expected(&[ONE], 3)));
    assert!(bench.passages.points.lock().unwrap().values().all(|point| point.document.metadata == metadata));
    bench.done(&bench.version(2, TWO)).await;
    assert_eq!((bench.paid(), bench.stored()), (0, expected(&[ONE], 3)));
}

#[tokio::test]
async fn versions_in_flight_together_end_as_the_last_one_in_the_log() {
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [3, 1, 2]] {
        let bench = bench(1);
        let texts = [[ONE, TWO, THREE].concat(), [THREE, ONE].concat(), [TWO, "The ties are two.\n\n"].concat()];
        let records = order.map(|offset: i64| bench.version(offset, &texts[usize::try_from(offset).unwrap() - 1]));
        let [a, b, c] = records.each_ref().map(|record| bench.indexer.process(record));
        let (a, b, c) = tokio::join!(a, b, c);
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
        assert_eq!(bench.stored(), expected(&[TWO, "The ties are two."], 3), "{order:?}");
    }
}

#[tokio::test]
async fn paid_vectors_outlive_an_outage_of_the_store() {
    let bench = bench(2);
    *bench.passages.down.lock().unwrap() = true;
    let record = bench.version(1, &[ONE, TWO].concat());
    assert!(matches!(bench.indexer.process(&record).await, Err(StageError::Retry { .. })));
    assert_eq!(bench.paid(), 0);
    *bench.passages.down.lock().unwrap() = false;
    bench.passages.upsert.lock().unwrap().extend((0..3).map(|_| StoreError::Outage("down".to_owned())));
    bench.done(&record).await;
    assert_eq!((bench.paid(), bench.finished().len(), bench.stored().len()), (2, 1, 2));
}

#[tokio::test]
async fn what_was_paid_is_finished_also_when_it_is_of_no_use() {
    let bench = bench(2);
    bench.passages.upsert.lock().unwrap().push_back(StoreError::Refused("no".to_owned()));
    let poison = bench.poisoned(&bench.version(1, ONE)).await;
    assert_eq!((poison.code.as_str(), poison.tenant.as_deref()), ("vector_store_refused", Some("acme")));
    assert_eq!((bench.paid(), bench.finished().len()), (1, 1));
    *bench.embedder.dimensions.lock().unwrap() = Some(3);
    let poison = bench.poisoned(&bench.version(2, ONE)).await;
    assert_eq!((poison.code.as_str(), poison.request_id.as_deref()), ("embedding_dimensions", Some("d1")));
    assert_eq!((bench.paid(), bench.finished().len(), bench.stored().len()), (1, 1, 0));
}

#[tokio::test]
async fn a_store_made_for_another_model_stops_the_stage_before_it_pays() {
    let bench = bench(2);
    bench.done(&bench.version(1, ONE)).await;
    assert_eq!(bench.paid(), 1);
    bench.passages.upsert.lock().unwrap().push_back(StoreError::Misfit("other".to_owned()));
    assert!(matches!(bench.indexer.process(&bench.version(2, ONE)).await, Err(StageError::Fatal(_))));
    assert_eq!(bench.paid(), 0);
}

#[tokio::test]
async fn lost_calls_are_bounded() {
    let bench = bench(2);
    let lost = || EmbedError::Lost("cut".to_owned());
    let busy = EmbedError::Later { error: "503".to_owned(), after: None };
    bench.embedder.script.lock().unwrap().extend([lost(), busy, lost()]);
    bench.done(&bench.version(1, ONE)).await;
    assert_eq!(bench.paid(), 1);
    bench.embedder.script.lock().unwrap().extend([lost(), lost(), lost()]);
    let poison = bench.poisoned(&bench.version(2, TWO)).await;
    assert_eq!((poison.code.as_str(), bench.paid()), ("embedding_lost", 0));
}

#[tokio::test]
async fn a_text_that_is_refused_is_poison_and_a_wrong_key_is_not() {
    let bench = bench(2);
    bench.embedder.script.lock().unwrap().push_back(EmbedError::Refused { status: 400 });
    assert_eq!(bench.poisoned(&bench.version(1, ONE)).await.code, "embedding_refused");
    bench.embedder.script.lock().unwrap().push_back(EmbedError::UsedUp("The budget is used up".to_owned()));
    let poison = bench.poisoned(&bench.version(1, ONE)).await;
    assert_eq!(poison.code, "insufficient_quota");
    assert!(poison.message.starts_with("The budget is used up. Have the budget raised"), "{}", poison.message);
    for status in [401, 403, 404, 429] {
        bench.embedder.script.lock().unwrap().push_back(EmbedError::Refused { status });
        let retried = bench.indexer.process(&bench.version(1, ONE)).await;
        assert!(matches!(retried, Err(StageError::Retry { after: Some(_), .. })), "{status}");
    }
    let unrecorded = EmbedError::Unrecorded(StageError::Fatal("no price".to_owned()));
    bench.embedder.script.lock().unwrap().push_back(unrecorded);
    assert!(matches!(bench.indexer.process(&bench.version(1, ONE)).await, Err(StageError::Fatal(_))));
    assert_eq!(bench.paid(), 0);
}

#[tokio::test]
async fn a_redriven_version_keeps_its_place_and_is_paid_for_once() {
    let bench = bench(2);
    let redriven = |offset: i64, text: &str, first: &str| {
        let mut record = bench.version(offset, text);
        record.headers.push((millrace_schemas::REDRIVE_OF.to_owned(), Some(first.as_bytes().to_vec())));
        record
    };
    bench.done(&redriven(5, ONE, "0/5/2/1000")).await;
    assert_eq!((bench.paid(), bench.stored()), (1, expected(&[ONE], 2)));
    bench.done(&redriven(6, ONE, "0/5/2/1000")).await;
    assert_eq!((bench.paid(), bench.stored()), (0, expected(&[ONE], 2)), "redriven twice");
    bench.done(&bench.version(3, TWO)).await;
    bench.done(&redriven(7, ONE, "0/5/2/1000")).await;
    assert_eq!((bench.paid(), bench.stored()), (1, expected(&[TWO], 3)), "what was published since stays");
    // Nobody makes a version later than its record is.
    bench.done(&redriven(8, THREE, "0/5/900/1000")).await;
    assert_eq!((bench.paid(), bench.stored()), (1, expected(&[THREE], 8)));
}

#[tokio::test]
async fn records_that_can_never_be_indexed_are_dead_letters() {
    let bench = bench(2);
    let check = async |record: Received, code: &str, tenant: &str| {
        let poison = bench.poisoned(&record).await;
        assert_eq!((poison.code.as_str(), poison.tenant.as_deref()), (code, Some(tenant)), "{}", poison.message);
        assert!(poison.plan.primary.is_none() && poison.plan.then.is_empty());
    };
    let value = bench.indexer.codec.encode(&document(ONE)).unwrap();
    check(received(1, value.clone(), &[]), "unknown_tenant", SYSTEM_TENANT).await;
    check(received(1, value, &[(SIGNATURE_HEADER, "v1:acme/k1:00")]), "invalid_signature", SYSTEM_TENANT).await;
    let principal = bench.indexer.settings.now().admission.directory().verify_key("sk-a", 0).unwrap();
    let rubbish = b"{\"text\":\"x\"}".to_vec();
    let signature = bench.indexer.settings.now().admission.directory().sign(&principal, &rubbish).unwrap();
    check(received(1, rubbish.clone(), &[(SIGNATURE_HEADER, &signature)]), "undecodable", "acme").await;
    let json = [(SIGNATURE_HEADER, signature.as_str()), ("content-type", "application/json")];
    check(received(1, rubbish, &json), "undecodable", "acme").await;
    for empty in ["", " \n\u{a0}"] {
        check(bench.version(1, empty), "empty_document", "acme").await;
    }
    check(bench.version(1, &"x".repeat((1 << 20) + 1)), "document_too_large", "acme").await;
    assert_eq!((bench.paid(), bench.stored().len()), (0, 0));
}
