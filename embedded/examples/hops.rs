//! The embedded broker in figures: `cargo run --release --example hops`.
//!
//! One record alone and a burst, each through four relays (consume, produce), and what the broker
//! costs while twenty consumers wait for nothing. Linux only: it reads the broker's threads in /proc.

use std::{
    error::Error,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use millrace_embedded::Broker;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
    types::RDKafkaErrorCode,
};

type Failure = Box<dyn Error + Send + Sync>;
type Producer = ThreadedProducer<DefaultProducerContext>;

const HOPS: usize = 4;
const PARTITIONS: i32 = 4;
const ALONE: u64 = 300;
const BURST: u64 = 20_000;
const IDLE_CONSUMERS: usize = 20;
const IDLE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);
/// The kernel's unit of CPU time in /proc, on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() -> Result<(), Failure> {
    let directory = std::env::temp_dir().join(format!("millrace-hops-{}", std::process::id()));
    let broker = Broker::start(&directory, 0)?;
    let measured = measure(broker.bootstrap_servers());
    drop(broker);
    fs::remove_dir_all(&directory)?;
    measured
}

fn config(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("group.id", "hops")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "500");
    config
}

fn producer(servers: &str) -> Result<Producer, KafkaError> {
    config(servers).set("enable.idempotence", "true").set("linger.ms", "0").create()
}

fn consumer(servers: &str, topic: &str, from: Offset) -> Result<BaseConsumer, KafkaError> {
    let consumer: BaseConsumer = config(servers).create()?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(topic, partition, from)?;
    }
    consumer.assign(&partitions)?;
    Ok(consumer)
}

fn send(producer: &Producer, topic: &str, partition: i32, payload: &[u8]) -> Result<(), KafkaError> {
    loop {
        let record = BaseRecord::<(), _>::to(topic).partition(partition).payload(payload);
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                thread::sleep(Duration::from_millis(1))
            }
            Err((error, _)) => return Err(error),
        }
    }
}

fn relay(servers: &str, from: usize, over: &AtomicBool) -> Result<(), KafkaError> {
    let consumer = consumer(servers, &format!("hop{from}"), Offset::Beginning)?;
    let (producer, to) = (producer(servers)?, format!("hop{}", from + 1));
    while !over.load(Ordering::Relaxed) {
        if let Some(record) = consumer.poll(Duration::from_millis(100)) {
            let record = record?;
            send(&producer, &to, record.partition(), record.payload().unwrap_or_default())?;
        }
    }
    producer.flush(PATIENCE)
}

fn measure(servers: &str) -> Result<(), Failure> {
    let names: Vec<_> = (0..=HOPS).map(|hop| format!("hop{hop}")).collect();
    let topics: Vec<_> = names.iter().map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1))).collect();
    let admin: AdminClient<DefaultClientContext> = config(servers).create()?;
    tokio::runtime::Runtime::new()?.block_on(admin.create_topics(&topics, &AdminOptions::new()))?;

    let over = Arc::new(AtomicBool::new(false));
    let relays: Vec<_> = (0..HOPS)
        .map(|hop| {
            let (servers, over) = (servers.to_owned(), over.clone());
            thread::spawn(move || relay(&servers, hop, &over))
        })
        .collect();
    let (first, last) = (producer(servers)?, consumer(servers, &names[HOPS], Offset::Beginning)?);
    let payload = [7_u8; 1024];
    let receive = || last.poll(PATIENCE).ok_or("no record came through the relays")?.map_err(Failure::from);

    let mut alone = Vec::new();
    for number in 0..ALONE {
        let sent = Instant::now();
        send(&first, &names[0], i32::try_from(number % 4)?, &payload)?;
        receive()?;
        alone.push(sent.elapsed());
        thread::sleep(Duration::from_millis(5));
    }
    alone.sort_unstable();
    let at = |share: usize| alone[(alone.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!("one record alone, {HOPS} hops: p50 {:.1} ms, p99 {:.1} ms", at(50), at(99));

    let (since, before) = (Instant::now(), broker_seconds()?);
    for number in 0..BURST {
        send(&first, &names[0], i32::try_from(number % 4)?, &payload)?;
    }
    for _ in 0..BURST {
        receive()?;
    }
    let rate = BURST as f64 / since.elapsed().as_secs_f64();
    let cost = (broker_seconds()? - before) / BURST as f64 * 1e6;
    println!("{BURST} records of 1 KiB, {HOPS} hops: {rate:.0}/s, {cost:.0} us of the broker a record");
    over.store(true, Ordering::Relaxed);
    for relay in relays {
        relay.join().map_err(|_| "a relay panicked")??;
    }

    let waiting = (0..IDLE_CONSUMERS).map(|number| consumer(servers, &names[number % names.len()], Offset::End));
    let waiting = waiting.collect::<Result<Vec<_>, KafkaError>>()?;
    for consumer in &waiting {
        // Until it has found the end and asks for more.
        consumer.poll(Duration::from_millis(250)).transpose()?;
    }
    let before = broker_seconds()?;
    thread::sleep(IDLE);
    let share = (broker_seconds()? - before) / IDLE.as_secs_f64() * 100.0;
    println!("{} consumers waiting: {share:.2} % of a core for the broker", waiting.len());
    Ok(())
}

/// CPU seconds that the broker's threads have used.
fn broker_seconds() -> Result<f64, Failure> {
    let mut ticks = 0_u64;
    for task in fs::read_dir("/proc/self/task")? {
        let directory = task?.path();
        if fs::read_to_string(directory.join("comm"))?.trim() == "broker" {
            let stat = fs::read_to_string(directory.join("stat"))?;
            let times = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
            for time in times {
                ticks += time.parse::<u64>()?;
            }
        }
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}
