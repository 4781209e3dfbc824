//! Copies of records, such as a process leaves in a topic that was killed between a write and its commit, or that woke
//! up after its partitions were somebody else's.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use millrace_stack::Stack;
use millrace_tests::Pipeline;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::json;

use crate::{JSON, WITHIN, committed, eventually, producer, publish, tapped, until};

const PARTITION: i32 = 3;
/// A topic of the arrow, who reads it, and what they make of each of its records.
const HOPS: [(&str, &[&str], &str); 3] = [
    ("prompts.batch", &["inference-router.batch"], "completions.batch"),
    ("completions.batch", &["moderator.batch"], "outcomes.batch"),
    ("outcomes.batch", &["result-sink.batch", "webhooks.batch"], "facts"),
];
const READERS: [&str; 6] =
    ["inference-router-0", "inference-router-1", "moderator-0", "moderator-1", "result-sink-0", "result-sink-1"];

/// By readers who saw the first, and by their successors, who know it from the log alone.
pub async fn are_dropped_by_every_reader(stack: &Stack, pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let producer = producer(stack)?;
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Once, please" }] }).to_string();
    let (_, id) = publish(stack, PARTITION, &[JSON], body.as_bytes()).await?;
    let url = format!("{}/v1/requests/{id}", pipeline.http);
    until(&url, |v| v["status"] == "succeeded").await?;
    let paid = pipeline.count().await?["requests"].clone();
    for copies in [1, 2] {
        for (topic, groups, _) in HOPS {
            let first = found(stack, topic, &id).await?;
            let offset = again(&producer, &first).await?;
            for group in groups {
                let (group, topic) = (format!("e2e.{group}"), format!("e2e.{topic}"));
                let passed = async || Ok(committed(stack, &group, &topic, PARTITION).await? > offset);
                eventually(&format!("{group} passes {offset} of {topic}"), passed).await?;
            }
        }
        for (topic, _, derived) in HOPS {
            ensure!(count(pipeline, topic, &id).await? == 1 + copies, "a reader before `{topic}` took a copy");
            let of_it = count(pipeline, derived, &id).await?;
            ensure!(of_it == if derived == "facts" { 1 } else { 1 + copies }, "{of_it} records in `{derived}`");
        }
        ensure!(pipeline.count().await?["requests"] == paid, "a copy was paid for");
        for name in READERS {
            pipeline.terminate(name).await?;
            pipeline.restart(name)?;
        }
        pipeline.until_ready().await?;
    }
    Ok(())
}

async fn count(pipeline: &Pipeline, topic: &str, id: &str) -> anyhow::Result<usize> {
    let records = tapped(pipeline, topic, 1).await?;
    Ok(records.iter().filter(|record| record["headers"]["request_id"] == id).count())
}

/// The first record of a request in a topic, as it was written.
async fn found(stack: &Stack, topic: &str, id: &str) -> anyhow::Result<OwnedMessage> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", stack.bootstrap_servers()).set("group.id", "finder");
    let (topic, id) = (format!("e2e.{topic}"), id.to_owned());
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create()?;
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(&topic, PARTITION, Offset::Beginning)?;
        consumer.assign(&all)?;
        let until = Instant::now() + WITHIN;
        loop {
            ensure!(Instant::now() < until, "{id} is not in {topic}");
            let Some(record) = consumer.poll(Duration::from_millis(200)) else { continue };
            let record = record?.detach();
            let headers = record.headers().context("headers")?;
            if headers.iter().any(|header| header.key == "request_id" && header.value == Some(id.as_bytes())) {
                return Ok(record);
            }
        }
    })
    .await?
}

/// Writes a record once more; tells the offset of the copy.
async fn again(producer: &FutureProducer, record: &OwnedMessage) -> anyhow::Result<i64> {
    let headers = record.headers().map(|headers| {
        let add = |all: OwnedHeaders, header| all.insert(header);
        headers.iter().fold(OwnedHeaders::new(), add)
    });
    let mut copy = FutureRecord::<[u8], [u8]>::to(record.topic()).partition(record.partition());
    (copy.key, copy.payload, copy.headers) = (record.key(), record.payload(), headers);
    let sent = producer.send(copy, Duration::from_secs(10)).await;
    Ok(sent.map_err(|(error, _)| error)?.offset)
}
