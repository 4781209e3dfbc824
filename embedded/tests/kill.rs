//! kill -9 of the embedded servers under load, three times on one directory: what was
//! acknowledged is there, once and in order, and what was committed stays committed.
#![expect(clippy::unwrap_used, reason = "tests")]

#[expect(dead_code, reason = "the other tests use the rest")]
mod kafka;

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kafka::{commit, create, producer};
use millrace_embedded::{Broker, Registry, Vectors};
use qdrant_client::{
    Qdrant,
    qdrant::{
        CountPointsBuilder, CreateCollectionBuilder, Distance, PointStruct, UpsertPointsBuilder, VectorParamsBuilder,
    },
};
use rdkafka::{
    ClientContext, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance},
    producer::FutureRecord,
};

const ROUNDS: u32 = 3;
const LOAD: Duration = Duration::from_secs(3);
/// After this long without a record there is none left. Longer than a rejoin takes.
const QUIET: Duration = Duration::from_secs(10);
const TOPIC: &str = "t";

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "serve") {
        let directory = arguments.next().unwrap();
        let port = arguments.next().unwrap().to_str().unwrap().parse().unwrap();
        serve(Path::new(&directory), port);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(kills_lose_nothing());
    println!("test kills_lose_nothing ... ok");
}

#[tokio::main]
async fn serve(directory: &Path, port: u16) -> ! {
    let broker = Broker::start(&directory.join("broker"), port).unwrap();
    let registry = Registry::start(&directory.join("registry"), 0).unwrap();
    let vectors = Vectors::start(&directory.join("vectors"), 0).unwrap();
    println!("{} {} {}", broker.bootstrap_servers(), registry.url(), vectors.url());
    std::future::pending().await
}

struct Servers {
    process: Process,
    kafka: String,
    registry: String,
    vectors: String,
}

/// Killed when dropped, so that a failing test leaves nothing behind.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn start(directory: &Path, port: &str) -> Servers {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["serve", directory.to_str().unwrap(), port])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut addresses = line.split_whitespace().map(str::to_owned);
    let mut next = || addresses.next().expect("the servers did not start");
    Servers { kafka: next(), registry: next(), vectors: next(), process: Process(process) }
}

async fn kills_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut servers = start(directory.path(), "0");
    let kafka = servers.kafka.clone();
    let port = kafka.rsplit(':').next().unwrap().to_owned();
    create(&kafka, TOPIC, &[]).await;
    commit(&kafka, "g", TOPIC, 0);
    let vectors = VectorParamsBuilder::new(4, Distance::Cosine);
    let client = Qdrant::from_url(&servers.vectors).build().unwrap();
    client.create_collection(CreateCollectionBuilder::new("c").vectors_config(vectors)).await.unwrap();

    // Clients that go on through every kill.
    let acknowledged = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let producing = tokio::spawn(produce(kafka.clone(), acknowledged.clone(), over.clone()));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let consuming = std::thread::spawn({
        let (kafka, seen, over) = (kafka.clone(), seen.clone(), over.clone());
        move || consume(&kafka, &seen, &over)
    });

    let (mut points, mut ids) = (0, Vec::new());
    for round in 0..ROUNDS {
        let until = Instant::now() + LOAD;
        ids.push(register(&servers.registry, round).await);
        let client = Qdrant::from_url(&servers.vectors).build().unwrap();
        while Instant::now() < until {
            let point =
                PointStruct::new(points, vec![0.1, 0.2, 0.3, 0.4], [("n", i64::try_from(points).unwrap().into())]);
            client.upsert_points(UpsertPointsBuilder::new("c", vec![point]).wait(round % 2 == 0)).await.unwrap();
            points += 1;
        }
        let committed = seen.lock().unwrap().committed.clone();
        drop(servers.process);
        servers = start(directory.path(), &port);
        for (partition, after) in self::committed(&kafka).await {
            let before = committed.get(&partition).copied().unwrap_or_default();
            assert!(
                after >= before,
                "partition {partition}: {before} was committed, {after} is there after kill {round}"
            );
        }

        let client = Qdrant::from_url(&servers.vectors).build().unwrap();
        let count = client.count(CountPointsBuilder::new("c").exact(true)).await.unwrap().result.unwrap().count;
        assert_eq!(count, points, "points after kill {round}");
        for (version, id) in ids.iter().enumerate() {
            assert_eq!(register(&servers.registry, u32::try_from(version).unwrap()).await, *id);
        }
    }
    tokio::time::sleep(LOAD).await;
    over.store(true, Ordering::SeqCst);
    let sent = producing.await.unwrap();
    consuming.join().unwrap();

    let acknowledged = acknowledged.load(Ordering::SeqCst);
    let seen = seen.lock().unwrap();
    println!("{sent} sent, {acknowledged} acknowledged, {} read, {points} points", seen.numbers.len());
    assert!(acknowledged > 1_000, "too little load to mean anything");
    assert_eq!(sent, acknowledged, "an idempotent producer delivers everything in the end");
    let missing = (0..sent).filter(|number| !seen.numbers.contains_key(number)).count();
    assert_eq!(missing, 0, "acknowledged records are gone");
    // Read twice is possible (what was not committed), stored twice is not.
    assert!(seen.numbers.values().all(|places| places.len() == 1), "a record is stored twice");
    assert_eq!(seen.committed.len(), 4, "too few commits to mean anything");
}

async fn register(url: &str, version: u32) -> u64 {
    let fields: Vec<_> = (0..=version).map(|n| format!(r#"{{"name":"f{n}","type":"long","default":0}}"#)).collect();
    let schema = format!(r#"{{"type":"record","name":"R","fields":[{}]}}"#, fields.join(","));
    let response = reqwest::Client::new()
        .post(format!("{url}/subjects/s/versions"))
        .json(&serde_json::json!({ "schema": schema }))
        .send()
        .await
        .unwrap();
    let answer: serde_json::Value = response.json().await.unwrap();
    answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

async fn produce(servers: String, acknowledged: Arc<AtomicU64>, over: Arc<AtomicBool>) -> u64 {
    let producer = producer(&servers);
    let mut sent = 0_u64;
    let mut sending = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let payload = [sent.to_le_bytes(), kafka::now_micros().to_le_bytes()].concat();
        let partition = i32::try_from(sent % 4).unwrap();
        let record = FutureRecord::<(), _>::to(TOPIC).payload(&payload).partition(partition);
        let delivery = producer.send_result(record).map_err(|(error, _)| error).unwrap();
        let acknowledged = acknowledged.clone();
        sending.push(tokio::spawn(async move {
            delivery.await.unwrap().unwrap();
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }));
        sent += 1;
        if sent.is_multiple_of(10) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    for sending in sending {
        sending.await.unwrap();
    }
    sent
}

/// What the broker has as the group's commits.
async fn committed(servers: &str) -> Vec<(i32, i64)> {
    let servers = servers.to_owned();
    let ask = move || {
        let consumer: BaseConsumer = kafka::config(&servers, "g").create().unwrap();
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(TOPIC, 0, kafka::PARTITIONS - 1);
        let found = consumer.committed_offsets(asked, Duration::from_secs(20)).unwrap();
        found.elements().iter().map(|found| (found.partition(), found.offset().to_raw().unwrap())).collect()
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

#[derive(Default)]
struct Seen {
    /// Where each number was read.
    numbers: HashMap<u64, Vec<(i32, i64)>>,
    /// The last acknowledged commit of each partition.
    committed: HashMap<i32, i64>,
}

/// Notes rebalances: what was read before one must not be committed after it.
#[derive(Default)]
struct Rebalances(AtomicBool);

impl ClientContext for Rebalances {}

impl ConsumerContext for Rebalances {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, _: &Rebalance<'_>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Reads and commits until nothing comes any more.
fn consume(servers: &str, seen: &Mutex<Seen>, over: &AtomicBool) {
    let consumer: BaseConsumer<Rebalances> =
        kafka::config(servers, "g").create_with_context(Rebalances::default()).unwrap();
    consumer.subscribe(&[TOPIC]).unwrap();
    let mut quiet_since = Instant::now();
    let mut batch: HashMap<i32, i64> = HashMap::new();
    while !over.load(Ordering::SeqCst) || quiet_since.elapsed() < QUIET {
        let polled = consumer.poll(Duration::from_millis(100));
        if consumer.context().0.swap(false, Ordering::SeqCst) {
            batch.clear();
        }
        // Errors are the broker being away.
        if let Some(Ok(record)) = polled {
            quiet_since = Instant::now();
            let place = (record.partition(), record.offset());
            let mut seen = seen.lock().unwrap();
            let places = seen.numbers.entry(kafka::number(&record)).or_default();
            if !places.contains(&place) {
                places.push(place);
            }
            batch.insert(place.0, place.1 + 1);
        }
        if batch.len() == 4 {
            let mut offsets = TopicPartitionList::new();
            for (partition, offset) in &batch {
                offsets.add_partition_offset(TOPIC, *partition, Offset::Offset(*offset)).unwrap();
            }
            if consumer.commit(&offsets, CommitMode::Sync).is_ok() {
                seen.lock().unwrap().committed.extend(batch.iter());
            }
            batch.clear();
        }
    }
}
