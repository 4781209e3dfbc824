//! A worker over a log in memory: what it settles, when, and what it writes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_schemas::{Budget, Call, CallKind, Coordinates, Source, now_micros};
use millrace_stage::{Received, Settled};
use millrace_storage::LedgerStore;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::logs::plain;
use super::model::Model;
use super::spending::counting;
use crate::book::Book;
use crate::calls_log::{CallsLog, Trouble};
use crate::failure::Failure;
use crate::metrics::LedgerMetrics;
use crate::worker::{Job, Settings, Worker};

const PARTITION: i32 = 3;

/// `calls` as a list; values are JSON.
#[derive(Default)]
struct List {
    end: Mutex<i64>,
    appended: Mutex<Vec<Call>>,
    buried: Mutex<Vec<(i64, String)>>,
    published: Mutex<Vec<Vec<Budget>>>,
    /// Decodings that fail before the registry is back.
    outages: Mutex<u32>,
    /// What the producer says to every record.
    refuses: Mutex<Option<Trouble>>,
}

impl CallsLog for List {
    async fn decode(&self, record: &Received) -> Result<Call, Trouble> {
        let mut outages = self.outages.lock().unwrap();
        if *outages > 0 {
            *outages -= 1;
            return Err(Trouble::Outage("the registry is away".into()));
        }
        serde_json::from_slice(&record.value).map_err(|error| Trouble::Poison(error.to_string()))
    }

    async fn bounds(&self, partition: i32) -> Result<(i64, i64), Trouble> {
        assert_eq!(partition, PARTITION);
        Ok((0, *self.end.lock().unwrap()))
    }

    async fn append(&self, partition: i32, call: &Call) -> Result<(), Trouble> {
        assert_eq!(partition, PARTITION);
        if let Some(trouble) = self.refuses.lock().unwrap().clone() {
            return Err(trouble);
        }
        self.appended.lock().unwrap().push(call.clone());
        Ok(())
    }

    async fn publish(&self, budgets: Vec<Budget>) -> Result<(), Trouble> {
        self.published.lock().unwrap().push(budgets);
        Ok(())
    }

    async fn bury(&self, record: &Received, error: &str) -> Result<(), Trouble> {
        self.buried.lock().unwrap().push((record.at.offset, error.to_owned()));
        Ok(())
    }
}

/// What became of the records.
#[derive(Default)]
struct Fates {
    settled: Mutex<Vec<(i64, Settled)>>,
    fatal: Mutex<Vec<String>>,
}

struct TestJob {
    record: Received,
    fates: Arc<Fates>,
}

impl Job for TestJob {
    fn record(&self) -> &Received {
        &self.record
    }

    fn settle(self, outcome: Settled) {
        self.fates.settled.lock().unwrap().push((self.record.at.offset, outcome));
    }

    fn fatal(self, error: String) {
        self.fates.fatal.lock().unwrap().push(error);
    }
}

struct Bench {
    store: Arc<Model>,
    log: Arc<List>,
    fates: Arc<Fates>,
    failure: Arc<Failure>,
    jobs: UnboundedSender<TestJob>,
    token: CancellationToken,
}

impl Bench {
    async fn start(store: Arc<Model>) -> Self {
        let ledger: Arc<dyn LedgerStore> = store.clone();
        let stored = Book::load(Arc::clone(&ledger), 0, PARTITION, counting()).await.unwrap();
        let book = stored.unwrap_or_else(|| Book::empty(ledger, 0, PARTITION, counting()));
        let (jobs, queue) = unbounded_channel();
        let bench = Self {
            store,
            log: Arc::default(),
            fates: Arc::default(),
            failure: Arc::new(Failure::new(CancellationToken::new())),
            jobs,
            token: CancellationToken::new(),
        };
        let settings =
            Settings { flush_calls: 50, flush_interval: Duration::from_millis(10), grace: Duration::from_millis(5) };
        let registry = prometheus::Registry::new();
        let stage = millrace_stage::StageMetrics::register(&registry).unwrap();
        let metrics = LedgerMetrics::register(&registry, &stage).unwrap();
        let (log, failure) = (Arc::clone(&bench.log), Arc::clone(&bench.failure));
        let worker = Worker::new(PARTITION, book, log, queue, settings, metrics, failure);
        tokio::spawn(worker.run(bench.token.clone()));
        bench
    }

    fn deliver(&self, offset: i64, value: Vec<u8>) {
        let at = Coordinates { topic: "calls".into(), generation: 0, partition: PARTITION, offset };
        let record = Received {
            as_source: Source { from: at.clone(), window: 1024, epoch: 1 },
            at,
            timestamp: 0,
            key: None,
            value,
            headers: Vec::new(),
            source: None,
            assignment: self.token.clone(),
            lease: millrace_stage::core::Lease::unlimited(),
        };
        assert!(self.jobs.send(TestJob { record, fates: Arc::clone(&self.fates) }).is_ok(), "the worker has ended");
    }

    fn call(&self, offset: i64, call: &Call) {
        self.deliver(offset, serde_json::to_vec(call).unwrap());
    }

    fn settled(&self) -> Vec<(i64, Settled)> {
        self.fates.settled.lock().unwrap().clone()
    }

    async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if reached(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{what} did not come");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

/// A record of a call that is overdue by a minute.
fn overdue(id: &str, kind: CallKind) -> Call {
    let now = now_micros();
    Call { deadline: now / 1000 - 60_000, cost_nanos: 7, ..plain(id, kind, "acme", "ann", now - 120_000_000, 900) }
}

/// A record of a call that has time.
fn due(id: &str, kind: CallKind) -> Call {
    Call { deadline: now_micros() / 1000 + 60_000, ..overdue(id, kind) }
}

async fn a_while() {
    tokio::time::sleep(Duration::from_millis(150)).await;
}

#[tokio::test]
async fn records_are_settled_in_order_once_they_are_durable() {
    let bench = Bench::start(Arc::default()).await;
    bench.store.fail_after(Some(1));
    for offset in 0..120 {
        let kind = if offset % 2 == 0 { CallKind::Started } else { CallKind::Finished };
        bench.call(offset, &due(&format!("c{}", offset / 2), kind));
    }
    a_while().await;
    assert_eq!(bench.settled(), [], "the store is away");
    bench.store.fail_after(None);
    bench.until("the settlement", |b| b.settled().len() == 120).await;
    assert_eq!(bench.settled(), (0..120).map(|offset| (offset, Settled::Done)).collect::<Vec<_>>());
    assert_eq!(bench.store.tables().entries.len(), 60);
    assert_eq!(bench.store.tables().checkpoints[&(0, PARTITION)].0, 119);
}

#[tokio::test]
async fn what_the_checkpoint_has_is_skipped() {
    let store: Arc<Model> = Arc::default();
    let records = [due("a", CallKind::Started), due("a", CallKind::Finished), due("b", CallKind::Started)];
    for expected in [Settled::Done, Settled::Recovered] {
        let bench = Bench::start(Arc::clone(&store)).await;
        (0..).zip(&records).for_each(|(offset, call)| bench.call(offset, call));
        bench.until("the settlement", |b| b.settled().len() == 3).await;
        assert_eq!(bench.settled(), [(0, expected), (1, expected), (2, expected)]);
    }
    assert_eq!(store.tables().entries.len(), 1);
}

#[tokio::test]
async fn bytes_that_are_no_call_are_buried_and_the_next_is_served() {
    let bench = Bench::start(Arc::default()).await;
    *bench.log.outages.lock().unwrap() = 2;
    bench.call(0, &due("a", CallKind::Started));
    bench.deliver(1, b"no call".to_vec());
    bench.call(2, &due("a", CallKind::Finished));
    bench.until("the settlement", |b| b.settled().len() == 3).await;
    assert_eq!(bench.settled(), [(0, Settled::Done), (1, Settled::DeadLettered), (2, Settled::Done)]);
    assert_eq!(bench.log.buried.lock().unwrap().iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [1]);
    assert_eq!(bench.store.tables().entries.len(), 1);
}

#[tokio::test]
async fn a_store_that_refuses_ends_the_ledger() {
    let bench = Bench::start(Arc::default()).await;
    *bench.store.refuses.lock().unwrap() = true;
    bench.call(0, &due("a", CallKind::Started));
    bench.until("the failure", |b| !b.fates.fatal.lock().unwrap().is_empty()).await;
    assert_eq!(bench.settled(), []);
    assert_eq!(*bench.fates.fatal.lock().unwrap(), ["the credentials are not accepted"]);
}

#[tokio::test]
async fn an_overdue_call_whose_end_lies_unread_is_not_declared() {
    let bench = Bench::start(Arc::default()).await;
    *bench.log.end.lock().unwrap() = 2;
    bench.call(0, &overdue("a", CallKind::Started));
    bench.until("the start", |b| b.settled().len() == 1).await;
    a_while().await;
    bench.call(1, &overdue("a", CallKind::Finished));
    bench.until("the end", |b| b.settled().len() == 2).await;
    a_while().await;
    assert_eq!(*bench.log.appended.lock().unwrap(), []);
    assert_eq!(bench.store.tables().entries.values().map(|e| e.kind.as_str()).collect::<Vec<_>>(), ["finished"]);
}

#[tokio::test]
async fn an_overdue_call_without_an_end_is_declared_once_and_booked_when_read_back() {
    let bench = Bench::start(Arc::default()).await;
    *bench.log.end.lock().unwrap() = 2;
    bench.call(0, &overdue("a", CallKind::Started));
    bench.call(1, &due("b", CallKind::Started));
    bench.until("the declaration", |b| !b.log.appended.lock().unwrap().is_empty()).await;
    a_while().await;
    let appended = bench.log.appended.lock().unwrap().clone();
    assert_eq!(
        appended.iter().map(|c| (c.call_id.as_str(), c.kind)).collect::<Vec<_>>(),
        [("a", CallKind::Unconfirmed)]
    );
    assert!(bench.store.tables().entries.is_empty(), "it is booked before it was read back");
    bench.call(2, &appended[0]);
    bench.until("the booking", |b| !b.store.tables().entries.is_empty()).await;
    let lines: Vec<_> = bench.store.tables().entries.values().cloned().collect();
    assert_eq!((lines[0].kind.as_str(), lines[0].cost_nanos, lines[0].charge_nanos), ("unconfirmed", 900, 0));
    assert!(lines[0].estimated);
}

#[tokio::test]
async fn a_producer_that_failed_for_good_ends_the_ledger_even_when_nothing_is_delivered() {
    let bench = Bench::start(Arc::default()).await;
    *bench.log.end.lock().unwrap() = 1;
    *bench.log.refuses.lock().unwrap() = Some(Trouble::Fatal("fenced".into()));
    bench.call(0, &overdue("a", CallKind::Started));
    bench.until("the failure", |b| b.failure.happened().is_some()).await;
    assert_eq!(bench.failure.happened().as_deref(), Some("fenced"));
}
