//! The limit: as many hops as the pipeline has, each only a consumer and a producer of rdkafka with
//! the pipeline's own settings.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use millrace_config::{Config, KafkaConfig, StageConfig};
use millrace_stage::{admin_client, client_config, consumer_config};
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use super::Measured;
use super::usage;
use crate::ui::quantile;

const HOPS: usize = 4;
const PARTITIONS: i32 = 12;
const ALONE: usize = 200;

/// Bytes of a record as short as most.
pub const SHORT: usize = 1024;

/// Topics of a relay.
pub struct Relay {
    kafka: KafkaConfig,
}

impl Relay {
    /// Makes the topics.
    pub async fn prepare(bootstrap_servers: &str) -> anyhow::Result<Self> {
        let kafka = KafkaConfig { bootstrap_servers: bootstrap_servers.to_owned(), ..Config::default().kafka };
        make_topics(&kafka, &(0..=HOPS).map(topic).collect::<Vec<_>>()).await?;
        Ok(Self { kafka })
    }

    /// Sends `records` of so many bytes through all hops, then some one by one.
    pub async fn run(&self, records: u32, bytes: usize) -> anyhow::Result<Measured> {
        let kafka = self.kafka.clone();
        tokio::task::spawn_blocking(move || measure(&kafka, records, bytes)).await?
    }
}

fn topic(hop: usize) -> String {
    format!("relay-{hop}")
}

/// Topics of twelve partitions.
pub async fn make_topics(kafka: &KafkaConfig, names: &[String]) -> anyhow::Result<()> {
    let topics: Vec<_> = names.iter().map(|n| NewTopic::new(n, PARTITIONS, TopicReplication::Fixed(1))).collect();
    for made in admin_client(kafka)?.create_topics(&topics, &AdminOptions::new()).await? {
        made.map_err(|(name, code)| anyhow::anyhow!("topic {name} was not made: {code}"))?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}

/// A producer with the pipeline's settings.
pub fn producer(kafka: &KafkaConfig) -> anyhow::Result<ThreadedProducer<DefaultProducerContext>> {
    Ok(client_config(kafka)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "1")
        .set("queue.buffering.max.messages", "1000000")
        .create()?)
}

/// A consumer with the pipeline's settings, in a group of its own, which begins at the end of a topic.
pub fn consumer(kafka: &KafkaConfig, topic: &str) -> anyhow::Result<BaseConsumer> {
    let group = format!("{topic}-{:016x}", rand::random::<u64>());
    let consumer: BaseConsumer =
        consumer_config(kafka, &StageConfig::default(), &group).set("auto.offset.reset", "latest").create()?;
    consumer.subscribe(&[topic])?;
    Ok(consumer)
}

fn measure(kafka: &KafkaConfig, records: u32, bytes: usize) -> anyhow::Result<Measured> {
    let stop = Arc::new(AtomicBool::new(false));
    let arrived = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    let assigned = Arc::new(AtomicU64::new(0));
    for hop in 0..HOPS {
        let (consumer, producer) = (consumer(kafka, &topic(hop))?, producer(kafka)?);
        let (stop, assigned) = (Arc::clone(&stop), Arc::clone(&assigned));
        threads.push(std::thread::spawn(move || relay(&consumer, &producer, hop, &stop, &assigned)));
    }
    wait_for_assignments(&assigned, HOPS as u64)?;
    // Its clients have learnt of all brokers, and started a thread for each.
    std::thread::sleep(Duration::from_secs(1));
    // What sends and counts the records is no part of the relay, as it is none of the pipeline.
    let relaying = usage::threads();
    let last = consumer(kafka, &topic(HOPS))?;
    {
        let (stop, arrived, assigned) = (Arc::clone(&stop), Arc::clone(&arrived), Arc::clone(&assigned));
        threads.push(std::thread::spawn(move || {
            let mut known = false;
            while !stop.load(Ordering::Relaxed) {
                if let Some(Ok(_)) = last.poll(Duration::from_millis(50)) {
                    arrived.fetch_add(1, Ordering::Release);
                }
                note_assignment(&last, &mut known, &assigned);
            }
        }));
    }
    wait_for_assignments(&assigned, HOPS as u64 + 1)?;
    // The end of each partition is asked for after the assignment.
    std::thread::sleep(Duration::from_secs(1));

    let first = producer(kafka)?;
    let payload = vec![b'x'; bytes];
    let send = |n: u32| {
        while let Err((_, _)) =
            first.send(BaseRecord::<(), [u8]>::to(&topic(0)).payload(&payload).partition(n as i32 % PARTITIONS))
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // Its threads come with the brokers that it learns of.
    first.client().fetch_metadata(Some(&topic(0)), Duration::from_secs(10))?;
    let mut load: BTreeSet<u32> = usage::threads().difference(&relaying).copied().collect();
    load.extend(this_thread());
    let cpu = || usage::of(std::process::id()).0 - usage::of_threads(&load);
    let cpu_before = cpu();
    let began = Instant::now();
    (0..records).for_each(send);
    wait_for(&arrived, u64::from(records))?;
    let wall = began.elapsed().as_secs_f64();
    let cpu_after = cpu();
    let (_, peak_mib) = usage::of(std::process::id());

    let mut alone: Vec<i64> = Vec::new();
    for n in 0..ALONE {
        let began = Instant::now();
        send(n as u32);
        wait_for(&arrived, u64::from(records) + n as u64 + 1)?;
        alone.push(began.elapsed().as_micros() as i64);
    }
    alone.sort_unstable();
    stop.store(true, Ordering::Release);
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a relay thread panicked"))?;
    }
    Ok(Measured {
        per_second: f64::from(records) / wall,
        cpu_micros: (cpu_after - cpu_before) * 1e6 / f64::from(records),
        p50_ms: quantile(&alone, 0.5) as f64 / 1000.0,
        p99_ms: quantile(&alone, 0.99) as f64 / 1000.0,
        peak_mib,
    })
}

fn wait_for_assignments(assigned: &AtomicU64, count: u64) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    while assigned.load(Ordering::Acquire) < count {
        if Instant::now() > until {
            bail!("the relay's consumers got no partitions");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The number of the thread that asks.
fn this_thread() -> Option<u32> {
    std::fs::read_link("/proc/thread-self").ok()?.file_name()?.to_str()?.parse().ok()
}

fn note_assignment(consumer: &BaseConsumer, known: &mut bool, assigned: &AtomicU64) {
    if !*known && consumer.assignment().is_ok_and(|list| list.count() > 0) {
        *known = true;
        assigned.fetch_add(1, Ordering::Release);
    }
}

fn wait_for(arrived: &AtomicU64, count: u64) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(120);
    while arrived.load(Ordering::Acquire) < count {
        if Instant::now() > until {
            bail!("{} of {count} records came through the relay", arrived.load(Ordering::Acquire));
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

fn relay(
    consumer: &BaseConsumer,
    producer: &ThreadedProducer<DefaultProducerContext>,
    hop: usize,
    stop: &AtomicBool,
    assigned: &AtomicU64,
) {
    let next = topic(hop + 1);
    let mut known = false;
    let mut committed = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) {
            let payload = message.payload().unwrap_or_default();
            while let Err((_, _)) =
                producer.send(BaseRecord::<(), [u8]>::to(&next).payload(payload).partition(message.partition()))
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            let _stored = consumer.store_offset_from_message(&message);
        }
        if committed.elapsed() > Duration::from_millis(100) {
            committed = Instant::now();
            let _asked = consumer.commit_consumer_state(CommitMode::Async);
        }
        note_assignment(consumer, &mut known, assigned);
    }
    let _flushed = producer.flush(Duration::from_secs(5)).context("flush");
}
