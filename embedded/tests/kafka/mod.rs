//! What the broker's tests do with rdkafka.

use std::{
    ops::Range,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::KafkaError,
    message::{BorrowedMessage, Header, Headers as _, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};

pub const PARTITIONS: i32 = 4;

/// A consumer as a stage configures it.
pub fn config(servers: &str, group: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("partition.assignment.strategy", "cooperative-sticky")
        // Long enough to tell a fetch that is woken from one that looks again now and then.
        .set("fetch.wait.max.ms", "5000")
        // A killed broker is back soon; the client would wait up to ten seconds.
        .set("reconnect.backoff.max.ms", "500")
        .set("session.timeout.ms", "6000");
    config
}

pub fn admin(servers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", servers).create().unwrap()
}

pub async fn create(servers: &str, topic: &str, settings: &[(&str, &str)]) {
    let mut new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    for (name, value) in settings {
        new = new.set(name, value);
    }
    let created = admin(servers).create_topics([&new], &AdminOptions::new()).await.unwrap();
    created[0].as_ref().unwrap();
}

/// Commits an offset of every partition without being a member of the group.
pub fn commit(servers: &str, group: &str, topic: &str, offset: i64) {
    let consumer: BaseConsumer = config(servers, group).create().unwrap();
    let mut offsets = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    }
    consumer.commit(&offsets, CommitMode::Sync).unwrap();
}

pub fn subscribed(servers: &str, group: &str, topic: &str) -> BaseConsumer {
    let consumer: BaseConsumer = config(servers, group).create().unwrap();
    consumer.subscribe(&[topic]).unwrap();
    consumer
}

pub fn producer(servers: &str) -> FutureProducer {
    ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "1")
        .create()
        .unwrap()
}

/// Produces one record a number, to partition number modulo 4, and waits for every acknowledgement.
pub async fn produce(servers: &str, topic: &str, numbers: Range<u64>) {
    send(&producer(servers), topic, numbers).await;
}

/// The same through a producer that is there already.
pub async fn send(producer: &FutureProducer, topic: &str, numbers: Range<u64>) {
    let mut sending = Vec::new();
    for number in numbers {
        let payload = [number.to_le_bytes(), now_micros().to_le_bytes()].concat();
        let key = (number % 8).to_le_bytes();
        let header = number.to_string();
        let record =
            FutureRecord::to(topic).key(&key).payload(&payload).partition(i32::try_from(number % 4).unwrap()).headers(
                OwnedHeaders::new()
                    .insert(Header { key: "number", value: Some(&header) })
                    .insert(Header { key: "empty", value: None::<&[u8]> }),
            );
        sending.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
    }
    for sent in sending {
        sent.await.unwrap().unwrap();
    }
}

pub async fn produce_sized(servers: &str, topic: &str, count: i32, bytes: usize) {
    let producer = producer(servers);
    let payload = vec![7_u8; bytes];
    let mut sending = Vec::new();
    for number in 0..count {
        let record = FutureRecord::<(), _>::to(topic).payload(&payload).partition(number % PARTITIONS);
        sending.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
    }
    for sent in sending {
        sent.await.unwrap().unwrap();
    }
}

pub fn number(record: &BorrowedMessage<'_>) -> u64 {
    u64::from_le_bytes(record.payload().unwrap()[..8].try_into().unwrap())
}

pub fn check_record(record: &BorrowedMessage<'_>) {
    let number = number(record);
    assert_eq!(record.key().unwrap(), (number % 8).to_le_bytes());
    assert_eq!(record.partition(), i32::try_from(number % 4).unwrap());
    let headers = record.headers().unwrap();
    assert_eq!((headers.get(0).key, headers.get(0).value), ("number", Some(number.to_string().as_bytes())));
    assert_eq!((headers.get(1).key, headers.get(1).value), ("empty", None));
}

/// Waits for the next record. One poll is not enough: it also ends with a rebalance.
pub fn next(consumer: &BaseConsumer, patience: Duration) -> Option<Result<BorrowedMessage<'_>, KafkaError>> {
    let deadline = Instant::now() + patience;
    loop {
        let polled = consumer.poll(Duration::from_millis(100));
        if polled.is_some() || Instant::now() > deadline {
            return polled;
        }
    }
}

/// Reads so many records and returns their numbers in order.
pub fn consumed(consumer: &BaseConsumer, count: usize, patience: Duration) -> Vec<u64> {
    let deadline = Instant::now() + patience;
    let mut numbers = Vec::new();
    while numbers.len() < count && Instant::now() < deadline {
        if let Some(record) = consumer.poll(Duration::from_millis(100)) {
            numbers.push(number(&record.unwrap()));
        }
    }
    numbers.sort_unstable();
    numbers
}

#[expect(clippy::disallowed_methods, reason = "the crate does without the schemas' clock")]
pub fn now_micros() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// The start and the end of partition 0.
pub async fn watermarks(servers: &str, topic: &str) -> (i64, i64) {
    let (servers, topic) = (servers.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config(&servers, "watermarks").create().unwrap();
        consumer.fetch_watermarks(&topic, 0, Duration::from_secs(10)).unwrap()
    })
    .await
    .unwrap()
}

pub fn disk_bytes(directory: &Path) -> u64 {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}
