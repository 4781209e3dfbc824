//! The whole service over librdkafka's mock cluster: the real driver, consumer and producer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_config::Config;
use millrace_schemas::{Call, CallKind, Codec, RegistryAccess, now_micros, topics};
use millrace_stage::{DriverError, Outgoing, Producer, StageEnv, StageMetrics, To, admin_client, consumer_config};
use millrace_storage::Entry;
use prometheus::Registry;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::logs::plain;
use super::model::Model;
use crate::LedgerMetrics;

const PARTITIONS: i32 = 3;

struct Cluster {
    _broker: MockCluster<'static, DefaultProducerContext>,
    config: Config,
    codec: Codec,
    producer: Producer,
    store: Arc<Model>,
}

struct Running {
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), DriverError>>,
}

impl Cluster {
    async fn start() -> Self {
        let broker = MockCluster::new(1).unwrap();
        for topic in [topics::CALLS, topics::DEAD_LETTERS, topics::BUDGETS] {
            broker.create_topic(topic, PARTITIONS, 1).unwrap();
        }
        let mut config = Config::default();
        config.kafka.bootstrap_servers = broker.bootstrap_servers();
        config.ledger.flush_interval_ms = 20;
        config.ledger.grace_ms = 50;
        // The mock's coordinator lets the next owner in only after a session's time.
        config.stage.session_timeout_ms = 6000;
        // No topic, so nothing is registered: all schemas have the id 0.
        let codec = Codec::connect(&RegistryAccess::default(), &[]).await.unwrap();
        let producer = Producer::new(&config.kafka).unwrap();
        Self { _broker: broker, config, codec, producer, store: Arc::default() }
    }

    /// What `millrace topics apply` does for the group.
    fn commit_start(&self) {
        let consumer: BaseConsumer =
            consumer_config(&self.config.kafka, &self.config.stage, crate::STAGE).create().unwrap();
        let mut starts = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            starts.add_partition_offset(topics::CALLS, partition, Offset::Offset(0)).unwrap();
        }
        consumer.commit(&starts, CommitMode::Sync).unwrap();
    }

    fn run(&self) -> Running {
        let registry = Registry::new();
        let shutdown = CancellationToken::new();
        let env = StageEnv {
            kafka: self.config.kafka.clone(),
            stage: self.config.stage.clone(),
            metrics: StageMetrics::register(&registry).unwrap(),
            codec: self.codec.clone(),
            ready: Arc::new(|_, _| {}),
            shutdown: shutdown.clone(),
        };
        let (config, store) = (self.config.clone(), self.store.clone());
        let producer = Producer::new(&config.kafka).unwrap();
        let metrics = LedgerMetrics::register(&registry, &env.metrics).unwrap();
        let ended = tokio::spawn(async move {
            crate::run(&config, &env, producer, store, metrics, super::spending::counting()).await
        });
        Running { shutdown, ended }
    }

    async fn write(&self, partition: i32, value: Vec<u8>) {
        let record = Outgoing::new(topics::CALLS, "key", value).to(To::Partition(partition));
        self.producer.send(&record, partition, &[]).await.unwrap();
    }

    async fn call(&self, partition: i32, call: &Call) {
        self.write(partition, self.codec.encode(call).unwrap()).await;
    }

    fn lines(&self) -> Vec<Entry> {
        self.store.tables().entries.values().cloned().collect()
    }

    fn ends(&self, topic: &'static str) -> i64 {
        let admin = admin_client(&self.config.kafka).unwrap();
        let end = |partition| admin.inner().fetch_watermarks(topic, partition, Duration::from_secs(5)).unwrap().1;
        (0..PARTITIONS).map(end).sum()
    }

    async fn until(&self, what: &str, running: &Running, reached: impl Fn(&Self) -> bool) {
        for _ in 0..1500 {
            if reached(self) {
                return;
            }
            assert!(!running.ended.is_finished(), "the ledger has ended before {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let lines = self.lines();
        let last: Vec<_> = lines.iter().rev().take(3).map(|line| (&line.call_id, &line.kind, line.place)).collect();
        panic!("{what} did not come, there are {} lines: {last:?}", lines.len());
    }
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        self.ended.await.unwrap().unwrap();
    }
}

fn call(id: &str, kind: CallKind, millis_left: i64) -> Call {
    let start = plain(id, kind, "acme", "ann", 1_700_000_000_000_000, 900);
    Call { deadline: now_micros() / 1000 + millis_left, cost_nanos: 7, charge_nanos: 9, ..start }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_become_lines_through_restarts_garbage_and_missing_ends() {
    let cluster = Cluster::start().await;
    cluster.commit_start();
    let running = cluster.run();
    for number in 0..150 {
        let (id, partition) = (format!("c{number}"), number % PARTITIONS);
        cluster.call(partition, &call(&id, CallKind::Started, 60_000)).await;
        cluster.call(partition, &call(&id, CallKind::Finished, 60_000)).await;
    }
    cluster.write(1, b"no call".to_vec()).await;
    cluster.call(1, &call("lost", CallKind::Started, -60_000)).await;
    cluster.call(2, &call("open", CallKind::Started, 60_000)).await;
    cluster.until("the lines", &running, |c| c.lines().len() == 151).await;
    running.stop().await;
    assert_eq!(cluster.ends(topics::DEAD_LETTERS), 1);

    // The next owner knows the open call, and the end of the lost one comes late.
    let running = cluster.run();
    cluster.call(2, &call("open", CallKind::Finished, 60_000)).await;
    cluster.call(1, &call("lost", CallKind::Finished, 60_000)).await;
    cluster.until("the last lines", &running, |c| c.lines().len() == 153).await;
    running.stop().await;

    let mut by_call: BTreeMap<String, (i64, i64, usize)> = BTreeMap::new();
    for line in cluster.lines() {
        let sum = by_call.entry(line.call_id).or_default();
        *sum = (sum.0 + line.cost_nanos, sum.1 + line.charge_nanos, sum.2 + 1);
    }
    assert_eq!(by_call.remove("lost"), Some((7, 9, 2)));
    assert_eq!(by_call.len(), 151);
    assert!(by_call.values().all(|sum| *sum == (7, 9, 1)), "{by_call:?}");
    let spent: i64 = cluster.store.tables().rollups.values().map(|cell| cell.cost_nanos["USD"]).sum();
    assert_eq!(spent, 152 * 7);
    // The missing end was declared once.
    assert_eq!(cluster.ends(topics::CALLS), 300 + 3 + 1 + 2);
    assert_eq!(cluster.ends(topics::DEAD_LETTERS), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_its_checkpoints_is_refused_with_a_word_what_to_do() {
    let mut cluster = Cluster::start().await;
    cluster.commit_start();
    let running = cluster.run();
    cluster.call(0, &call("a", CallKind::Started, 60_000)).await;
    cluster.call(0, &call("a", CallKind::Finished, 60_000)).await;
    cluster.until("the line", &running, |c| c.lines().len() == 1).await;
    running.stop().await;

    cluster.store = Arc::default();
    let error = cluster.run().ended.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("restore its latest backup, or reset the group to offset 0"), "{error}");
}
