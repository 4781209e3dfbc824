//! The embedded broker through rdkafka, as the services use it.
#![expect(clippy::unwrap_used, reason = "tests")]

mod kafka;

use std::time::Duration;

use kafka::{PARTITIONS, admin, commit, consumed, create, produce, subscribed};
use millrace_embedded::{Broker, EmbeddedError};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    admin::AdminOptions,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn records_groups_and_topics_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path(), 0).unwrap();
    let servers = broker.bootstrap_servers().to_owned();
    create(&servers, "requests", &[]).await;
    commit(&servers, "stage", "requests", 0);
    produce(&servers, "requests", 0..100).await;

    // The first member reads 60, commits and goes away.
    let first = tokio::task::spawn_blocking({
        let servers = servers.clone();
        move || {
            let consumer = subscribed(&servers, "stage", "requests");
            let records = consumed(&consumer, 60, PATIENCE);
            consumer.commit_consumer_state(CommitMode::Sync).unwrap();
            records
        }
    })
    .await
    .unwrap();
    let port = servers.rsplit(':').next().unwrap().parse().unwrap();
    broker.shutdown().await;

    let broker = Broker::start(directory.path(), port).unwrap();
    assert_eq!(broker.bootstrap_servers(), servers);
    produce(&servers, "requests", 100..120).await;
    let second = tokio::task::spawn_blocking(move || {
        let consumer = subscribed(&servers, "stage", "requests");
        let metadata = consumer.fetch_metadata(Some("requests"), PATIENCE).unwrap();
        assert_eq!(metadata.topics()[0].partitions().len(), usize::try_from(PARTITIONS).unwrap());
        consumed(&consumer, 60, PATIENCE)
    })
    .await
    .unwrap();

    let mut all: Vec<_> = first.into_iter().chain(second).collect();
    all.sort_unstable();
    assert_eq!(all, (0..120).collect::<Vec<u64>>());
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_keys_and_explicit_partitions_come_back_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path(), 0).unwrap();
    let servers = broker.bootstrap_servers().to_owned();
    create(&servers, "t", &[]).await;
    produce(&servers, "t", 0..8).await;
    commit(&servers, "g", "t", 0);
    tokio::task::spawn_blocking(move || {
        let consumer = subscribed(&servers, "g", "t");
        for _ in 0..8 {
            let record = kafka::next(&consumer, PATIENCE).unwrap().unwrap();
            kafka::check_record(&record);
        }
    })
    .await
    .unwrap();
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_consumer_gets_a_record_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path(), 0).unwrap();
    let servers = broker.bootstrap_servers().to_owned();
    create(&servers, "t", &[]).await;
    commit(&servers, "g", "t", 0);
    let producer = kafka::producer(&servers);
    kafka::send(&producer, "t", 0..8).await;
    let waiting = tokio::task::spawn_blocking({
        let servers = servers.clone();
        move || {
            let consumer = subscribed(&servers, "g", "t");
            // From here on every partition is in the fetch that waits.
            assert_eq!(consumed(&consumer, 8, PATIENCE).len(), 8);
            let record = kafka::next(&consumer, PATIENCE).unwrap().unwrap();
            let sent = i64::from_le_bytes(record.payload().unwrap()[8..16].try_into().unwrap());
            Duration::from_micros(u64::try_from(kafka::now_micros() - sent).unwrap())
        }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    kafka::send(&producer, "t", 8..9).await;
    let latency = waiting.await.unwrap();
    // The fetch would wait for five.
    assert!(latency < Duration::from_secs(1), "{latency:?}: the fetch waited for its time instead");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_beyond_the_end_or_before_the_start_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path(), 0).unwrap();
    let servers = broker.bootstrap_servers().to_owned();
    create(&servers, "t", &[]).await;
    produce(&servers, "t", 0..40).await;

    let refused = |offset: i64| {
        let servers = servers.clone();
        tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = kafka::config(&servers, "g").create().unwrap();
            let mut partitions = TopicPartitionList::new();
            partitions.add_partition_offset("t", 0, Offset::Offset(offset)).unwrap();
            consumer.assign(&partitions).unwrap();
            matches!(kafka::next(&consumer, PATIENCE), Some(Err(_)))
        })
    };
    assert!(refused(1_000).await.unwrap(), "beyond the end");

    let mut until = TopicPartitionList::new();
    until.add_partition_offset("t", 0, Offset::Offset(5)).unwrap();
    let deleted = admin(&servers).delete_records(&until, &AdminOptions::new()).await.unwrap();
    assert_eq!(deleted.elements()[0].offset(), Offset::Offset(5));
    assert!(refused(2).await.unwrap(), "before the start");
    assert!(!refused(5).await.unwrap(), "at the start");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_found_by_time() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path(), 0).unwrap();
    let servers = broker.bootstrap_servers().to_owned();
    create(&servers, "t", &[]).await;
    produce(&servers, "t", 0..8).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let between = kafka::now_micros() / 1000;
    tokio::time::sleep(Duration::from_millis(50)).await;
    produce(&servers, "t", 8..16).await;
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = kafka::config(&servers, "g").create().unwrap();
        let mut asked = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            asked.add_partition_offset("t", partition, Offset::Offset(between)).unwrap();
        }
        let found = consumer.offsets_for_times(asked, PATIENCE).unwrap();
        for found in found.elements() {
            assert_eq!(found.offset(), Offset::Offset(2));
        }
    })
    .await
    .unwrap();
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_records_are_retired_and_their_space_is_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path(), 0).unwrap();
    let servers = broker.bootstrap_servers().to_owned();
    create(&servers, "kept", &[]).await;
    create(&servers, "old", &[("retention.ms", "1")]).await;
    produce(&servers, "kept", 0..20).await;

    let mut sizes = Vec::new();
    for round in 0..4_u64 {
        kafka::produce_sized(&servers, "old", 2_000, 4_096).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        broker.retire().await.unwrap();
        sizes.push(kafka::disk_bytes(directory.path()));

        let (low, high) = kafka::watermarks(&servers, "old").await;
        assert_eq!((low, high), (500 * (round as i64 + 1), 500 * (round as i64 + 1)), "{sizes:?}");
    }
    let (low, high) = kafka::watermarks(&servers, "kept").await;
    assert_eq!((low, high), (0, 5));
    assert!(sizes[3] < sizes[1] + sizes[1] / 4, "the disk grows: {sizes:?}");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_keeps_the_newest_record_of_each_key() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path(), 0).unwrap();
    let servers = broker.bootstrap_servers().to_owned();
    create(&servers, "budgets", &[("cleanup.policy", "compact")]).await;
    for round in 0..3 {
        produce(&servers, "budgets", round * 8..round * 8 + 8).await;
    }
    broker.retire().await.unwrap();
    commit(&servers, "g", "budgets", 0);
    let records = tokio::task::spawn_blocking(move || consumed(&subscribed(&servers, "g", "budgets"), 8, PATIENCE))
        .await
        .unwrap();
    // The key is the number modulo 8.
    assert_eq!(records, (16..24).collect::<Vec<_>>());
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path(), 0).unwrap();
    let port = broker.bootstrap_servers().rsplit(':').next().unwrap().parse().unwrap();
    let other = tempfile::tempdir().unwrap();
    let error = Broker::start(other.path(), port).unwrap_err();
    assert!(matches!(error, EmbeddedError::PortTaken { port: taken, .. } if taken == port));
    assert_eq!(
        error.to_string(),
        format!("port {port} for the embedded broker is taken: stop the other process or choose another port")
    );
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("broker.db"), "this is not a database, and long enough to be read as one")
        .unwrap();
    let message = Broker::start(directory.path(), 0).unwrap_err().to_string();
    assert!(message.contains("cannot open its data") && !message.contains('\n'), "{message}");
}
