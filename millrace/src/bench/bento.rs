//! The whole arrow beside one hop of Bento: from a topic through one call to another topic, where nothing is judged,
//! stored or booked.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use millrace_config::{Config, KafkaConfig};
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Process, Setup, client, run as run_tool};
use rdkafka::consumer::Consumer as _;
use rdkafka::producer::BaseRecord;
use serde_json::{Value, json};

use super::pipeline::{Burst, SHORT, bodies, burst};
use super::relay::{consumer, make_topics, producer};
use super::{Amounts, Row, Target, another_provider, middle, row, usage};
use crate::cli::BenchArgs;

/// Threads of its pipeline, each with a call, what that is called, and how much of its rate we want.
const SIDES: [(usize, &str, f64); 2] =
    [(64, "Bento, one hop, 64 in flight", 1.0), (512, "Bento, one hop, 512 in flight", 0.8)];
/// The longest that a burst, and that a consumer's assignment may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A Bento that runs.
struct Hop {
    process: Process,
    input: String,
    output: String,
}

/// Starts the real parts and the peer, measures them in turn.
pub async fn run(args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    let Amounts { requests, runs, warm_up } = Amounts::of(args);
    eprintln!("starting Kafka, Cassandra, the registry, every service and Bento …");
    let stack = Stack::builder().start().await?;
    let pipeline = Pipeline::start(&stack, Setup::copies(1)).await?;
    let (provider, base) = another_provider(&pipeline).await?;
    let root = base.trim_end_matches("/v1").to_owned();
    let kafka = KafkaConfig { bootstrap_servers: stack.bootstrap_servers(), ..Config::default().kafka };
    let mut hops = Vec::new();
    for (threads, _, _) in SIDES {
        hops.push(start(&kafka, threads, &base, pipeline.folder()).await?);
    }
    eprintln!("warming up with {warm_up} requests on each side");
    burst(&pipeline, warm_up, SHORT).await?;
    for hop in &hops {
        through(&kafka, hop, warm_up, &root).await?;
    }
    let (mut ours, mut theirs) = (Vec::new(), [const { Vec::new() }; SIDES.len()]);
    for run in 1..=runs {
        eprintln!("run {run} of {runs}");
        ours.push(burst(&pipeline, requests, SHORT).await?);
        for (hop, measured) in hops.iter().zip(&mut theirs) {
            measured.push(through(&kafka, hop, requests, &root).await?);
        }
    }
    for hop in hops {
        hop.process.terminate().await?;
    }
    provider.terminate().await?;
    pipeline.stop().await?;
    stack.stop().await?;
    let mut rows = Vec::new();
    for ((_, name, share), theirs) in SIDES.into_iter().zip(&theirs) {
        let beside = |question: &str, of: fn(&Burst) -> f64, target: Option<Target>| {
            row(question, middle(ours.iter().map(of)), Some((middle(theirs.iter().map(of)).0, name)), target)
        };
        rows.push(beside("requests per second, provider 20 ms", |b| b.per_second, Some(Target::RatioAtLeast(share))));
        rows.push(beside("CPU microseconds per request", |b| b.cpu_micros, Some(Target::RatioAtMost(1.0))));
        rows.push(beside("peak memory MiB", |b| b.peak_mib, None));
    }
    Ok(rows)
}

/// Starts one with topics of its own before the provider at `base`.
async fn start(kafka: &KafkaConfig, threads: usize, base: &str, folder: &Path) -> anyhow::Result<Hop> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bench/peers/bento.sh");
    let command = run_tool(&script, &[]).await?;
    let [input, output] = ["in", "out"].map(|end| format!("bento-{threads}-{end}"));
    make_topics(kafka, &[input.clone(), output.clone()]).await?;
    let config = folder.join(format!("bento-{threads}.json"));
    std::fs::write(&config, settings(kafka, threads, base, &input, &output).to_string())?;
    let args = ["-c", config.to_str().context("a path in UTF-8")?];
    let log = folder.join(format!("bento-{threads}.log"));
    let process = Process::start_binary(Path::new(command.trim()), "bento", &args, &[], log)?;
    Ok(Hop { process, input, output })
}

/// As many calls and as many writes at once as it has threads; the rest is as it comes.
fn settings(kafka: &KafkaConfig, threads: usize, base: &str, input: &str, output: &str) -> Value {
    let brokers = [&kafka.bootstrap_servers];
    let call = json!({ "url": format!("{base}/chat/completions"), "verb": "POST", "timeout": "60s",
        "headers": { "Content-Type": "application/json" } });
    json!({
        "http": { "enabled": false },
        "logger": { "level": "WARN" },
        "input": { "kafka_franz": { "seed_brokers": brokers, "topics": [input], "consumer_group": input } },
        "pipeline": { "threads": threads, "processors": [{ "http": call }] },
        "output": { "kafka_franz": { "seed_brokers": brokers, "topic": output, "max_in_flight": threads } },
    })
}

/// Sends `records` through it, each with one call that is charged.
async fn through(kafka: &KafkaConfig, hop: &Hop, records: u32, provider: &str) -> anyhow::Result<Burst> {
    let before = charged(provider).await?;
    let (kafka, pid) = (kafka.clone(), hop.process.pid().context("Bento has ended")?);
    let (input, output) = (hop.input.clone(), hop.output.clone());
    let burst = tokio::task::spawn_blocking(move || measure(&kafka, &input, &output, records, pid)).await?;
    let burst = burst.with_context(|| hop.process.tail())?;
    let calls = charged(provider).await? - before;
    ensure!(calls == u64::from(records), "{records} records were {calls} calls:\n{}", hop.process.tail());
    Ok(burst)
}

async fn charged(provider: &str) -> anyhow::Result<u64> {
    let count: Value = client()?.get(format!("{provider}/count")).send().await?.error_for_status()?.json().await?;
    count["billed_calls"].as_u64().context("a count of calls")
}

fn measure(kafka: &KafkaConfig, input: &str, output: &str, records: u32, pid: u32) -> anyhow::Result<Burst> {
    let (first, last) = (producer(kafka)?, consumer(kafka, output)?);
    let until = Instant::now() + PATIENCE;
    while last.assignment()?.count() == 0 {
        ensure!(Instant::now() < until, "nobody assigns {output}");
        let _nothing_yet = last.poll(Duration::from_millis(50));
    }
    // The end of each partition is asked for after the assignment.
    let _nothing_yet = last.poll(Duration::from_secs(1));
    let (cpu_before, _) = usage::of(pid);
    let began = Instant::now();
    for body in bodies(records, SHORT) {
        first.send(BaseRecord::<(), [u8]>::to(input).payload(&body)).map_err(|(error, _)| error)?;
    }
    let mut arrived = 0;
    while arrived < records {
        ensure!(began.elapsed() < PATIENCE, "{arrived} of {records} records came through");
        if let Some(Ok(_)) = last.poll(Duration::from_millis(50)) {
            arrived += 1;
        }
    }
    let wall = began.elapsed().as_secs_f64();
    let (cpu_after, peak_mib) = usage::of(pid);
    let records = f64::from(records);
    Ok(Burst { per_second: records / wall, cpu_micros: (cpu_after - cpu_before) * 1e6 / records, peak_mib })
}
