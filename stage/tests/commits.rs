//! The driver against a Kafka protocol server: a window much smaller than the log moves on only
//! when each commit's answer is recognised as the answer to that commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millrace_config::{KafkaConfig, StageConfig};
use millrace_schemas::Codec;
use millrace_stage::{
    Assignment, Delivery, DriverSpec, Handler, Producer, Settled, StageEnv, StageError, StageMetrics, consumer_config,
    run_handler,
};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

const TOPIC: &str = "prompts.batch";
const RECORDS: usize = 40;

struct Settles {
    delivered: Arc<AtomicUsize>,
}

impl Handler for Settles {
    async fn assigned(&self, _: &Assignment) -> Result<(), StageError> {
        Ok(())
    }

    fn deliver(&self, delivery: Delivery) {
        delivery.settle(Settled::Done);
        self.delivered.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_window_moves_through_a_long_log_and_all_of_it_is_committed() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    let kafka = KafkaConfig { bootstrap_servers: cluster.bootstrap_servers(), ..KafkaConfig::default() };
    let stage = StageConfig { window: 4, commit_interval_ms: 5, session_timeout_ms: 6_000, ..StageConfig::default() };
    let (topic, group) = (kafka.topic(TOPIC), kafka.group("reader.batch"));
    cluster.create_topic(&topic, 1, 1).expect("a topic");

    let consumer: BaseConsumer = consumer_config(&kafka, &stage, &group).create().expect("a consumer");
    let mut start = TopicPartitionList::new();
    start.add_partition_offset(&topic, 0, Offset::Offset(0)).expect("an offset");
    consumer.commit(&start, CommitMode::Sync).expect("the start is committed");

    let producer = Producer::new(&kafka).expect("a producer");
    for number in 0..RECORDS {
        let record = millrace_stage::Outgoing::new(TOPIC, number.to_string(), b"value".to_vec());
        producer.send(&record, 0, &[]).await.expect("an acknowledgement");
    }

    let delivered = Arc::new(AtomicUsize::new(0));
    let env = StageEnv {
        kafka: kafka.clone(),
        stage: stage.clone(),
        metrics: StageMetrics::register(&prometheus::Registry::new()).expect("metrics"),
        codec: Codec::detached().expect("schemas"),
        ready: Arc::new(|_, _| {}),
        shutdown: CancellationToken::new(),
    };
    let spec = DriverSpec {
        stage: "reader",
        lane: "batch".to_owned(),
        group: "reader.batch".to_owned(),
        topics: vec![TOPIC.to_owned()],
        foreign_topics: Vec::new(),
        drop_duplicates: true,
        own_output: None,
    };
    let (shutdown, counted) = (env.shutdown.clone(), Arc::clone(&delivered));
    let watch = async move {
        while counted.load(Ordering::SeqCst) < RECORDS {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        shutdown.cancel();
    };
    let handler = Settles { delivered: Arc::clone(&delivered) };
    let both = async { tokio::join!(run_handler(spec, &env, handler), watch) };
    // Less than it takes to lose patience with a commit, so that each answer must have counted.
    let (ended, ()) = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap_or_else(|_| {
        panic!("{} of {RECORDS} records were delivered", delivered.load(Ordering::SeqCst));
    });
    ended.expect("a clean end");
    assert_eq!(delivered.load(Ordering::SeqCst), RECORDS);

    let mut asked = TopicPartitionList::new();
    asked.add_partition(&topic, 0);
    let committed = consumer.committed_offsets(asked, Duration::from_secs(10)).expect("an answer");
    assert_eq!(committed.elements()[0].offset(), Offset::Offset(RECORDS as i64));
}
