//! The steps over fakes of everything outside.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;
use millrace_admission::Admission;
use millrace_config::{KeyConfig, ModelConfig, StorageConfig, TenantConfig, TopicBinding, hash_key};
use millrace_provider::{FINISHED, UNCONFIRMED, Who};
use millrace_schemas::{
    Call, CallKind, CallLine, Coordinates, EndedStatus, Moderation, Outcome, OutcomeStatus, RegistryAccess, RequestId,
    SIGNATURE_HEADER, Source, call_id, now_millis,
};
use millrace_storage::LogPlace;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ports::{EmbedError, Embedded, Embedder, Passage, Passages, SearchError};

const BODY: &str = r#"{"model":"small","messages":[{"role":"user","content":"How many hats?"}],"temperature":1e0}"#;
const ASKING: &str = r#"{"model":"small","messages":[{"role":"user","content":"How many hats?"}],"millrace":{"collection":"handbook","top_k":2}}"#;

#[derive(Default)]
struct Store {
    claims: Mutex<BTreeMap<(String, String), Claim>>,
    waiters: Mutex<Vec<(String, Waiter)>>,
    results: Mutex<BTreeMap<(String, String), Vec<u8>>>,
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
}

#[async_trait]
impl millrace_storage::KeptRequests for Store {
    async fn keep(&self, _: &str, request_id: &str, request: Vec<u8>) -> Result<(), StorageError> {
        self.kept.lock().unwrap().insert(request_id.to_owned(), request);
        Ok(())
    }

    async fn kept(&self, _: &str, request_id: &str) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.kept.lock().unwrap().get(request_id).cloned())
    }

    async fn forget(&self, _: &str, request_id: &str) -> Result<(), StorageError> {
        self.kept.lock().unwrap().insert(request_id.to_owned(), Vec::new());
        Ok(())
    }
}

#[async_trait]
impl IdempotencyKeys for Store {
    async fn claim(&self, tenant: &str, key: &str, claim: &Claim) -> Result<Claimed, StorageError> {
        let mut claims = self.claims.lock().unwrap();
        let held = claims.entry((tenant.to_owned(), key.to_owned())).or_insert_with(|| claim.clone());
        Ok(if held.coordinates == claim.coordinates { Claimed::Ours } else { Claimed::Theirs(held.clone()) })
    }

    async fn holder(&self, tenant: &str, key: &str) -> Result<Option<Claim>, StorageError> {
        Ok(self.claims.lock().unwrap().get(&(tenant.to_owned(), key.to_owned())).cloned())
    }

    async fn add_waiter(&self, _: &str, request_id: &str, waiter: &Waiter) -> Result<(), StorageError> {
        self.waiters.lock().unwrap().push((request_id.to_owned(), waiter.clone()));
        Ok(())
    }

    async fn waiters(&self, _: &str, _: &str) -> Result<Vec<Waiter>, StorageError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Results for Store {
    async fn put(&self, _: &str, _: &str, _: i32, _: LogPlace, _: Vec<u8>) -> Result<(), StorageError> {
        Ok(())
    }

    async fn get(&self, tenant: &str, request_id: &str) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.results.lock().unwrap().get(&(tenant.to_owned(), request_id.to_owned())).cloned())
    }

    async fn count(&self) -> Result<u64, StorageError> {
        Ok(0)
    }
}

struct Twelve;

#[async_trait]
impl Partitions for Twelve {
    async fn count(&self, _: &str) -> Result<i32, String> {
        Ok(12)
    }
}

/// Answers as it is told to, then well.
#[derive(Default)]
struct FakeEmbedder {
    script: Mutex<VecDeque<EmbedError>>,
    calls: Mutex<u32>,
    questions: Mutex<Vec<String>>,
}

#[async_trait]
impl Embedder for FakeEmbedder {
    async fn embed(&self, _: &Received, _: &Who, question: &str) -> Result<Embedded, EmbedError> {
        assert!(question.starts_with("How many hats"), "{question}");
        self.questions.lock().unwrap().push(question.to_owned());
        *self.calls.lock().unwrap() += 1;
        match self.script.lock().unwrap().pop_front() {
            Some(error) => Err(error),
            None => Ok(Embedded { vector: vec![1.0], line: line(FINISHED) }),
        }
    }

    fn max_attempts(&self) -> u32 {
        3
    }
}

struct FakePassages {
    found: Vec<Passage>,
    any: Mutex<VecDeque<SearchError>>,
    search: Mutex<VecDeque<SearchError>>,
}

#[async_trait]
impl Passages for FakePassages {
    async fn any(&self, tenant: &str, collection: &str) -> Result<bool, SearchError> {
        assert_eq!((tenant, collection), ("acme", "handbook"));
        self.any.lock().unwrap().pop_front().map_or(Ok(!self.found.is_empty()), Err)
    }

    async fn search(
        &self,
        tenant: &str,
        collection: &str,
        _: Vec<f32>,
        top_k: u32,
    ) -> Result<Vec<Passage>, SearchError> {
        assert_eq!((tenant, collection, top_k), ("acme", "handbook", 2));
        self.search.lock().unwrap().pop_front().map_or(Ok(self.found.clone()), Err)
    }
}

fn line(status: &str) -> CallLine {
    CallLine {
        call_id: call_id(),
        operation: "embeddings".to_owned(),
        provider: "p".to_owned(),
        model: "embed".to_owned(),
        status: status.to_owned(),
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
    _folder: tempfile::TempDir,
    storage: Storage,
    builder: PromptBuilder,
    store: Arc<Store>,
    embedder: Arc<FakeEmbedder>,
    passages: Arc<FakePassages>,
}

fn config() -> Config {
    let mut config = Config::default();
    config.models.insert("small".to_owned(), ModelConfig::chat("p", 8_192));
    config.models.insert("embed".to_owned(), ModelConfig::embedding("p", 8_192, 8));
    let key = KeyConfig { id: "k1".to_owned(), sha256: Some(hash_key("sk-a")), ..KeyConfig::default() };
    config.tenants.insert(
        "acme".to_owned(),
        TenantConfig { keys: vec![key], reply_topics: vec!["acme.outcomes".to_owned()], ..TenantConfig::default() },
    );
    config.topic_bindings.insert("acme.requests".to_owned(), TopicBinding::batch("acme"));
    config.vectors.url = Some("http://127.0.0.1:6334".to_owned());
    config.knowledge.embedding_model = "embed".to_owned();
    config
}

fn settings(config: &Config) -> Current {
    let rules = millrace_rules::compile_all(&config.moderation.rule_sets, None).unwrap();
    Current::new(Settings::judging(Admission::from_config(config).unwrap(), rules))
}

async fn bench_with(found: &[&str]) -> Bench {
    let store = Arc::new(Store::default());
    let embedder = Arc::new(FakeEmbedder::default());
    let found = found.iter().map(|text| Passage { title: None, text: (*text).to_owned() }).collect();
    let passages = Arc::new(FakePassages { found, any: Mutex::default(), search: Mutex::default() });
    let retriever = Retriever { embedder: embedder.clone(), passages: passages.clone() };
    // Without topics nothing is registered, and no registry is asked.
    let nowhere = RegistryAccess { url: "http://127.0.0.1:1".to_owned(), ..RegistryAccess::default() };
    let codec = Codec::connect(&nowhere, &[]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let storage = StorageConfig::Embedded { path: folder.path().join("store") };
    let storage = Storage::open(&storage).await.unwrap();
    let builder = PromptBuilder {
        settings: settings(&config()),
        aside: Aside { bodies: Bodies::new(storage.clone(), 1 << 20), inline_bytes: config().limits.inline_bytes },
        most_bytes: config().limits.body_bytes,
        conversations: Conversations { kept: store.clone(), results: store.clone(), codec: codec.clone() },
        codec,
        keys: store.clone(),
        results: store.clone(),
        partitions: Arc::new(Twelve),
        retriever: Some(retriever),
        cancellations: Cancellations::default(),
        metrics: crate::metrics::PromptMetrics::new().unwrap(),
        lane: Lane::Batch,
    };
    Bench { _folder: folder, storage, builder, store, embedder, passages }
}

#[tokio::test]
async fn a_model_that_its_door_knows_is_waited_for_a_little() {
    let bench = bench().await;
    let body = br#"{"model":"new","messages":[{"role":"user","content":"hi"}]}"#.to_vec();
    let of_a_door = Request { request_id: Some(RequestId::fresh("acme").into_string()), ..Request::new(body.clone()) };
    let record = bench.signed(1, &of_a_door);
    assert!(matches!(bench.builder.process(&record).await, Err(StageError::Retry { .. })));
    let mut config = config();
    config.models.insert("new".to_owned(), ModelConfig::chat("p", 8_192));
    bench.builder.settings.replace(settings(&config).now());
    assert_eq!(bench.built(&record).await.model, "new");
    bench.builder.settings.replace(settings(&self::config()).now());
    let old = Received { timestamp: record.timestamp - SPREADS_WITHIN, ..record };
    bench.poisoned(&old, "model_not_found").await;
    // A producer of its own is told at once.
    bench.poisoned(&bench.signed(2, &Request::new(body)), "model_not_found").await;
}

async fn bench() -> Bench {
    bench_with(&["Four hats.", "Five coats."]).await
}

fn received(topic: &str, offset: i64, value: Vec<u8>, headers: &[(&str, &str)]) -> Received {
    let at = Coordinates { topic: topic.to_owned(), generation: 0, partition: 5, offset };
    Received {
        as_source: Source { from: at.clone(), window: 16, epoch: 1 },
        at,
        timestamp: now_millis(),
        key: None,
        value,
        headers: headers.iter().map(|(k, v)| ((*k).to_owned(), Some(v.as_bytes().to_vec()))).collect(),
        source: None,
        assignment: CancellationToken::new(),
        lease: millrace_stage::core::Lease::unlimited(),
    }
}

impl Bench {
    /// A signed Avro record on the shared topic.
    fn signed(&self, offset: i64, request: &Request) -> Received {
        let value = self.builder.codec.encode(request).unwrap();
        let settings = self.builder.settings.now();
        let directory = settings.admission.directory();
        let signature = directory.sign(&directory.verify_key("sk-a", 0).unwrap(), &value).unwrap();
        received("requests.batch", offset, value, &[(SIGNATURE_HEADER, &signature)])
    }

    async fn prompt(&self, plan: &Plan) -> Prompt {
        let primary = plan.primary.as_ref().unwrap();
        assert_eq!((primary.topic.as_str(), primary.to), ("prompts.batch", To::SamePartition));
        let prompt: Prompt = self.builder.codec.decode(&primary.value).await.unwrap();
        assert_eq!(primary.key, prompt.meta.request_id.as_bytes());
        let mut headers = vec![("request_id", prompt.meta.request_id.clone()), ("tenant", prompt.meta.tenant.clone())];
        headers.extend((prompt.meta.run > 0).then(|| ("run", prompt.meta.run.to_string())));
        assert_eq!(primary.headers, headers);
        assert_eq!(prompt.stages.len(), 1);
        prompt
    }

    async fn built(&self, record: &Received) -> Prompt {
        let plan = self.builder.process(record).await.unwrap();
        self.prompt(&plan).await
    }

    async fn poisoned(&self, record: &Received, code: &str) -> Prompt {
        let Err(StageError::Poison(poison)) = self.builder.process(record).await else { panic!("not poison") };
        let prompt = self.prompt(&poison.plan).await;
        let ended = prompt.ended.clone().unwrap();
        assert_eq!((poison.code.as_str(), ended.code.as_str()), (code, code));
        assert_eq!(poison.message, ended.message);
        assert_eq!(
            (poison.tenant.as_ref(), poison.request_id.as_ref()),
            (Some(&prompt.meta.tenant), Some(&prompt.meta.request_id))
        );
        assert_eq!(prompt.body, None);
        prompt
    }

    fn embedded(&self) -> u32 {
        *self.embedder.calls.lock().unwrap()
    }
}

fn keyed(body: &str) -> Request {
    Request {
        idempotency_key: Some("k".to_owned()),
        reply_topic: Some("acme.outcomes".to_owned()),
        reply_replica: Some("ingress-0".to_owned()),
        ..Request::new(body.as_bytes().to_vec())
    }
}

#[tokio::test]
async fn a_signed_request_becomes_a_prompt_with_its_own_bytes() {
    let bench = bench().await;
    let record = bench.signed(1, &Request::new(BODY.as_bytes().to_vec()));
    let prompt = bench.built(&record).await;
    assert_eq!(prompt.body.as_deref(), Some(BODY.as_bytes()));
    assert_eq!((prompt.meta.tenant.as_str(), prompt.meta.key_id.as_deref()), ("acme", Some("k1")));
    assert_eq!(prompt.meta.request_id, RequestId::of_coordinates("acme", &record.at).into_string());
    assert_eq!((prompt.ended, prompt.passages, prompt.bill.len(), prompt.choices), (None, 0, 0, 1));
    assert_eq!(bench.embedded(), 0);
}

#[tokio::test]
async fn a_response_goes_on_from_what_was_asked_and_answered() {
    let bench = bench().await;
    let asked = |body: String| Request { operation: "responses".to_owned(), ..Request::new(body.into_bytes()) };
    let first = bench.built(&bench.signed(1, &asked(r#"{"model":"small","input":"How many hats?"}"#.to_owned()))).await;
    let body = |prompt: &Prompt| String::from_utf8(prompt.body.clone().unwrap()).unwrap();
    assert_eq!(body(&first), r#"{"model":"small","input":"How many hats?"}"#, "as it came");
    let name = millrace_admission::responses::id_of(&first.meta.request_id);
    let again = asked(format!(r#"{{"model":"small","input":"And coats?","previous_response_id":"{name}"}}"#));

    // Known, and not answered in time.
    let ended = bench.built(&bench.signed(2, &again)).await.ended.unwrap();
    assert_eq!((ended.code.as_str(), ended.http_status), ("previous_response_not_finished", 400));

    let outcome = Outcome {
        response: Some(br#"{"output":[{"type":"message","content":[]}]}"#.to_vec()),
        ..outcome_of(first.meta.clone())
    };
    let key = ("acme".to_owned(), first.meta.request_id.clone());
    bench.store.results.lock().unwrap().insert(key, bench.builder.codec.encode(&outcome).unwrap());
    let second = bench.built(&bench.signed(3, &again)).await;
    let input = serde_json::from_str::<serde_json::Value>(&body(&second)).unwrap()["input"].clone();
    let said = |text: &str| serde_json::json!({ "type": "message", "role": "user", "content": [{ "type": "input_text", "text": text }] });
    let answered = serde_json::json!({ "type": "message", "content": [] });
    assert_eq!(input, serde_json::json!([said("How many hats?"), answered, said("And coats?")]));
    assert!(second.prompt_tokens > first.prompt_tokens);

    // What was forgotten, not stored, or is another tenant's, is not there.
    millrace_storage::KeptRequests::forget(&*bench.store, "acme", &first.meta.request_id).await.unwrap();
    assert_eq!(bench.built(&bench.signed(4, &again)).await.ended.unwrap().code, "previous_response_not_found");
    let unstored = asked(r#"{"model":"small","input":"x","store":false}"#.to_owned());
    let unstored = bench.built(&bench.signed(5, &unstored)).await;
    assert!(!bench.store.kept.lock().unwrap().contains_key(&unstored.meta.request_id));
    let foreign = asked(r#"{"model":"small","input":"x","previous_response_id":"resp_1"}"#.to_owned());
    bench.poisoned(&bench.signed(6, &foreign), "previous_response_not_found").await;
}

fn outcome_of(meta: Meta) -> Outcome {
    Outcome {
        meta,
        status: OutcomeStatus::Succeeded,
        response: None,
        error: None,
        model: "small".to_owned(),
        provider: None,
        moderation: Moderation {
            action: "none".to_owned(),
            rule_set: String::new(),
            rules_version: String::new(),
            hits: Vec::new(),
        },
        input_tokens: 0,
        output_tokens: 0,
        cost_nanos: 0,
        charge_nanos: 0,
        currency: String::new(),
        bill: Vec::new(),
        stages: Vec::new(),
        finished_at: 0,
        prompt_moderation: None,
    }
}

#[tokio::test]
async fn plain_json_on_a_bound_topic_needs_no_signature() {
    let bench = bench().await;
    let headers = [("content-type", "application/json"), ("label-team", "a")];
    let prompt = bench.built(&received("acme.requests", 2, BODY.as_bytes().to_vec(), &headers)).await;
    assert_eq!((prompt.meta.tenant.as_str(), prompt.meta.labels["team"].as_str()), ("acme", "a"));
    // The same on the shared topic proves nobody.
    let prompt =
        bench.poisoned(&received("requests.batch", 2, BODY.as_bytes().to_vec(), &headers), "unknown_tenant").await;
    assert_eq!((prompt.meta.tenant.as_str(), prompt.meta.user.as_str()), ("system", "system"));
}

#[tokio::test]
async fn what_can_never_succeed_is_a_dead_letter_and_a_failed_outcome() {
    let bench = bench().await;
    let json = [("content-type", "application/json")];
    let bound = |value: &[u8], headers| received("acme.requests", 3, value.to_vec(), headers);
    for (record, code) in [
        (bound(b"rubbish", &[]), "undecodable"),
        (bound(b"", &[]), "undecodable"),
        (bound(&[0, 0, 0, 0, 0, 0xff], &[]), "undecodable"),
        (bound(b"rubbish", &json), "invalid_json"),
        (bound(b"\xff", &json), "invalid_utf8"),
        (bound(br#"{"model":"small","mesages":[]}"#, &json), "missing_required_parameter"),
        (bound(BODY.as_bytes(), &[json[0], ("deadline", "soon")]), "invalid_header"),
        (bound(BODY.as_bytes(), &[json[0], ("deadline", "1000")]), "deadline_exceeded"),
    ] {
        let prompt = bench.poisoned(&record, code).await;
        assert_eq!(prompt.meta.tenant, "acme", "{code}");
        assert_eq!(prompt.meta.request_id, RequestId::of_coordinates("acme", &record.at).into_string());
    }
    let mut forged = bench.signed(4, &Request::new(BODY.as_bytes().to_vec()));
    forged.value.push(0);
    let prompt = bench.poisoned(&forged, "invalid_signature").await;
    assert_eq!(prompt.meta.tenant, "system");
}

#[tokio::test]
async fn a_request_that_waited_too_long_expires_and_is_no_dead_letter() {
    let bench = bench().await;
    let request = Request {
        received_at: Some(now_micros() - 10_000_000),
        deadline: Some(now_millis() - 1_000),
        ..Request::new(BODY.as_bytes().to_vec())
    };
    let prompt = bench.built(&bench.signed(1, &request)).await;
    assert_eq!(prompt.ended.unwrap().status, EndedStatus::Expired);
}

#[tokio::test]
async fn one_key_is_one_prompt_however_often_it_comes() {
    let bench = bench().await;
    let id = RequestId::of_key("acme", "k").into_string();
    let first = bench.signed(1, &keyed(BODY));
    assert_eq!(bench.built(&first).await.meta.request_id, id);
    // A replay of the same record goes on.
    assert_eq!(bench.built(&first).await.meta.request_id, id);

    // The same request again waits for the outcome of the first.
    let again = bench.signed(2, &keyed(BODY));
    let plan = bench.builder.process(&again).await.unwrap();
    assert!(plan.primary.is_none() && plan.then.is_empty());
    let waiter = Waiter {
        coordinates: again.at.to_string(),
        replica: Some("ingress-0".to_owned()),
        reply_topic: Some("acme.outcomes".to_owned()),
    };
    assert_eq!(*bench.store.waiters.lock().unwrap(), [(id.clone(), waiter)]);

    // Long done: the stored outcome is delivered at once.
    bench.store.results.lock().unwrap().insert(("acme".to_owned(), id.clone()), b"stored".to_vec());
    let plan = bench.builder.process(&bench.signed(3, &keyed(BODY))).await.unwrap();
    assert!(plan.primary.is_none());
    let sent: Vec<_> = plan.then.iter().map(|r| (r.topic.as_str(), r.to, r.foreign, r.value.as_slice())).collect();
    let partition = To::Partition(replies::partition("ingress-0", 12));
    let expected: [(&str, To, bool, &[u8]); 2] =
        [("replies", partition, false, b"stored"), ("acme.outcomes", To::ByKey, true, b"stored")];
    assert_eq!(sent, expected);
    assert!(plan.then.iter().all(|r| r.key == id.as_bytes()));

    // Nobody waits: nothing to do.
    let silent = Request { reply_topic: None, reply_replica: None, ..keyed(BODY) };
    let plan = bench.builder.process(&bench.signed(4, &silent)).await.unwrap();
    assert!(plan.primary.is_none() && plan.then.is_empty());
    assert_eq!(bench.store.waiters.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_key_with_another_body_is_refused_under_its_own_id() {
    let bench = bench().await;
    bench.built(&bench.signed(1, &keyed(BODY))).await;
    for other in [BODY.replace("hats", "coats"), "rubbish".to_owned()] {
        let record = bench.signed(2, &keyed(&other));
        let prompt = bench.poisoned(&record, "idempotency_key_reused").await;
        assert_eq!(prompt.ended.unwrap().http_status, 422);
        assert_eq!(prompt.meta.request_id, RequestId::of_coordinates("acme", &record.at).into_string());
        assert_eq!(prompt.meta.idempotency_key, None, "nobody waits for the outcome of the key here");
    }
}

#[tokio::test]
async fn a_refusal_holds_its_key_too() {
    let bench = bench().await;
    let id = RequestId::of_key("acme", "k").into_string();
    let prompt = bench.poisoned(&bench.signed(1, &keyed("rubbish")), "invalid_json").await;
    assert_eq!(prompt.meta.request_id, id);
    // Otherwise this would be a second outcome of the same id.
    let plan = bench.builder.process(&bench.signed(2, &keyed("rubbish"))).await.unwrap();
    assert!(plan.primary.is_none());
    bench.poisoned(&bench.signed(3, &keyed(BODY)), "idempotency_key_reused").await;
}

#[tokio::test]
async fn passages_are_put_before_the_question_and_billed() {
    let bench = bench().await;
    let record = bench.signed(1, &Request::new(ASKING.as_bytes().to_vec()));
    let plan = bench.builder.process(&record).await.unwrap();
    let prompt = bench.prompt(&plan).await;
    let body: serde_json::Value = serde_json::from_slice(prompt.body.as_deref().unwrap()).unwrap();
    assert_eq!(body["messages"][0]["role"], "system");
    assert!(
        body["messages"][0]["content"].as_str().unwrap().ends_with("[1]\nFour hats.\n\n[2]\nFive coats."),
        "{body}"
    );
    assert_eq!(body["messages"][1]["content"], "How many hats?");
    assert!(body.get("millrace").is_none());
    assert_eq!((prompt.passages, prompt.bill.len(), bench.embedded()), (2, 1, 1));

    // What follows the prompt is a function of it: recovery writes the same bytes.
    assert_eq!(plan.then.len(), 1);
    let finished: Call = bench.builder.codec.decode(&plan.then[0].value).await.unwrap();
    assert_eq!(
        (finished.kind, finished.cost_nanos, &finished.call_id),
        (CallKind::Finished, 80, &prompt.bill[0].call_id)
    );
    assert_eq!((finished.tenant.as_str(), &finished.request_id), ("acme", &prompt.meta.request_id));
    let output = received("prompts.batch", 9, plan.primary.unwrap().value, &[]);
    let again = bench.builder.recover(&output).await.unwrap();
    let written = |records: &[Outgoing]| {
        records.iter().map(|r| (r.topic.clone(), r.key.clone(), r.value.clone(), r.headers.clone())).collect::<Vec<_>>()
    };
    assert_eq!(written(&again), written(&plan.then));
}

#[tokio::test]
async fn an_empty_collection_costs_nothing() {
    let bench = bench_with(&[]).await;
    let prompt = bench.built(&bench.signed(1, &Request::new(ASKING.as_bytes().to_vec()))).await;
    assert_eq!((prompt.ended, prompt.passages, prompt.bill.len(), bench.embedded()), (None, 0, 0, 0));
    assert!(!String::from_utf8(prompt.body.unwrap()).unwrap().contains("millrace"));
}

#[tokio::test]
async fn outages_before_anything_is_paid_are_tried_again() {
    let bench = bench().await;
    let record = bench.signed(1, &Request::new(ASKING.as_bytes().to_vec()));
    bench.passages.any.lock().unwrap().push_back(SearchError::Outage("down".to_owned()));
    assert!(matches!(bench.builder.process(&record).await, Err(StageError::Retry { .. })));
    assert_eq!(bench.embedded(), 0);
    let after = Some(std::time::Duration::from_secs(7));
    bench.embedder.script.lock().unwrap().push_back(EmbedError::Later { error: "429".to_owned(), after });
    let Err(StageError::Retry { after: asked, .. }) = bench.builder.process(&record).await else { panic!("no retry") };
    assert_eq!(asked, after);
    assert_eq!(bench.built(&record).await.passages, 2);
}

#[tokio::test]
async fn a_paid_question_is_not_paid_again_when_the_search_fails() {
    let bench = bench().await;
    let record = bench.signed(1, &Request::new(ASKING.as_bytes().to_vec()));
    bench
        .passages
        .search
        .lock()
        .unwrap()
        .extend([SearchError::Outage("a".to_owned()), SearchError::Outage("b".to_owned())]);
    let prompt = bench.built(&record).await;
    assert_eq!((prompt.passages, prompt.bill.len(), bench.embedded()), (2, 1, 1));

    bench.passages.search.lock().unwrap().push_back(SearchError::Refused("dimension".to_owned()));
    let prompt = bench.built(&record).await;
    assert_eq!(prompt.ended.unwrap().code, "retrieval_failed");
    assert_eq!(prompt.bill.len(), 1, "what was paid is billed");
}

#[tokio::test]
async fn lost_calls_are_bounded_and_billed() {
    let bench = bench().await;
    let record = bench.signed(1, &Request::new(ASKING.as_bytes().to_vec()));
    let lost = || EmbedError::Lost { error: "cut".to_owned(), line: Some(line(UNCONFIRMED)) };
    bench.embedder.script.lock().unwrap().push_back(lost());
    let plan = bench.builder.process(&record).await.unwrap();
    let prompt = bench.prompt(&plan).await;
    let statuses: Vec<_> = prompt.bill.iter().map(|line| line.status.as_str()).collect();
    assert_eq!((statuses, prompt.passages), (vec![UNCONFIRMED, FINISHED], 2));
    assert_eq!(plan.then.len(), 1, "the ledger closes the lost call");

    bench.embedder.script.lock().unwrap().extend([lost(), lost(), lost()]);
    let plan = bench.builder.process(&record).await.unwrap();
    let prompt = bench.prompt(&plan).await;
    assert_eq!((prompt.ended.unwrap().code.as_str(), prompt.bill.len(), plan.then.len()), ("retrieval_failed", 3, 0));
    assert_eq!(bench.embedded(), 5);
}

#[tokio::test]
async fn a_refused_embedding_and_a_late_search_end_the_request() {
    let bench = bench().await;
    let record = bench.signed(1, &Request::new(ASKING.as_bytes().to_vec()));
    bench.embedder.script.lock().unwrap().push_back(EmbedError::UsedUp("The budget is used up".to_owned()));
    let prompt = bench.built(&record).await;
    let (ended, billed) = (prompt.ended.unwrap(), prompt.bill.len());
    let said = (ended.code.as_str(), ended.kind.as_str(), ended.http_status, ended.status, billed);
    assert_eq!(said, ("insufficient_quota", "insufficient_quota", 429, EndedStatus::Failed, 0));
    bench.embedder.script.lock().unwrap().push_back(EmbedError::Refused { status: 401, line: Some(line("failed")) });
    let prompt = bench.built(&record).await;
    let ended = prompt.ended.unwrap();
    assert_eq!((ended.code.as_str(), ended.http_status, ended.status), ("retrieval_failed", 502, EndedStatus::Failed));

    let soon = Request { deadline: Some(now_millis() + 400), ..Request::new(ASKING.as_bytes().to_vec()) };
    let down = std::iter::repeat_with(|| SearchError::Outage("down".to_owned())).take(10_000);
    bench.passages.search.lock().unwrap().extend(down);
    let prompt = bench.built(&bench.signed(2, &soon)).await;
    assert_eq!(prompt.ended.unwrap().status, EndedStatus::Expired);
    assert_eq!(prompt.bill.len(), 1);
}

#[tokio::test]
async fn a_request_that_was_taken_back_is_not_built_and_keeps_its_key() {
    let bench = bench().await;
    let request = keyed(ASKING);
    let id = RequestId::of_key("acme", "k").into_string();
    bench.builder.cancellations.cancel("acme", &id);
    let prompt = bench.built(&bench.signed(1, &request)).await;
    let ended = prompt.ended.unwrap();
    assert_eq!((ended.status, ended.http_status), (EndedStatus::Cancelled, 499));
    assert_eq!((prompt.meta.request_id.as_str(), prompt.body, prompt.bill.len()), (id.as_str(), None, 0));
    assert_eq!(bench.embedded(), 0, "nothing is paid for it");
    // A replay is a duplicate, which waits for the outcome of the first.
    let again = bench.builder.process(&bench.signed(2, &request)).await.unwrap();
    assert!(again.primary.is_none());
    // Another tenant's cancellation of the same id is nobody's.
    let other = Bench { builder: PromptBuilder { cancellations: Cancellations::default(), ..bench.builder }, ..bench };
    other.builder.cancellations.cancel("rival", &id);
    assert!(!other.builder.is_cancelled(&prompt.meta));
}

#[path = "beside_tests.rs"]
mod beside;

#[path = "rules_tests.rs"]
mod rules;

#[path = "redrive_tests.rs"]
mod redrive;
