//! `millrace bench`: the pipeline beside a raw relay of the same hops, beside another gateway, or beside itself
//! with a promise left out, interleaved in one run on the same real Kafka and Cassandra; how soon it flows
//! again after a kill; and what it takes when it has nothing to do, or very much.

mod backlog;
mod batch;
mod bento;
mod clients;
mod gateway;
mod idle;
mod in_flight;
mod litellm;
mod machine;
mod pipeline;
mod price;
mod recovery;
mod relay;
mod routers;
mod sizes;
mod tenants;
mod usage;

use std::time::Duration;

use clap::ValueEnum as _;
use comfy_table::Table;
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Process, Setup, client};
use serde::Serialize;
use serde_json::json;

use crate::cli::{BenchArgs, BenchQuestion};

/// What one run of one side gave.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// End to end.
    pub per_second: f64,
    /// User and system time of our own processes.
    pub cpu_micros: f64,
    /// One record at a time.
    pub p50_ms: f64,
    /// One record at a time.
    pub p99_ms: f64,
    /// Of our own processes together.
    pub peak_mib: f64,
}

/// One answer.
#[derive(Debug, Serialize)]
struct Row {
    question: String,
    /// The pipeline; in `bench relay`, the relay itself.
    ours: f64,
    /// None in `bench relay`, which has nothing beside it.
    peer: Option<f64>,
    peer_name: Option<&'static str>,
    /// `ours` over `peer`.
    ratio: Option<f64>,
    spread: f64,
    target: Option<f64>,
    /// What `target` is compared with.
    target_is: Option<&'static str>,
    met: Option<bool>,
}

/// What is wanted of a row.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// So much of the peer at least.
    RatioAtLeast(f64),
    /// So much of the peer at most.
    RatioAtMost(f64),
    /// So much at most, whatever the peer does.
    OursAtMost(f64),
}

impl Target {
    fn value(self) -> f64 {
        match self {
            Self::RatioAtLeast(value) | Self::RatioAtMost(value) | Self::OursAtMost(value) => value,
        }
    }

    fn says(self) -> &'static str {
        match self {
            Self::RatioAtLeast(_) => "ratio, at least",
            Self::RatioAtMost(_) => "ratio, at most",
            Self::OursAtMost(_) => "ours, at most",
        }
    }

    fn is_met(self, ours: f64, ratio: Option<f64>) -> bool {
        match self {
            Self::RatioAtLeast(least) => ratio.is_some_and(|ratio| ratio >= least),
            Self::RatioAtMost(most) => ratio.is_some_and(|ratio| ratio <= most),
            Self::OursAtMost(most) => ours <= most,
        }
    }
}

/// How much is measured.
struct Amounts {
    /// Of each run.
    requests: u32,
    runs: u32,
    /// Requests before the first run.
    warm_up: u32,
}

impl Amounts {
    fn of(args: &BenchArgs) -> Self {
        if args.quick {
            let requests = args.requests.min(2_000);
            return Self { requests, runs: 1, warm_up: requests };
        }
        Self { requests: args.requests, runs: args.runs.max(1), warm_up: args.warm_up }
    }
}

/// Starts the real parts, measures, shows.
pub async fn run(args: &BenchArgs, json: bool) -> anyhow::Result<()> {
    if args.question != BenchQuestion::All {
        print(&answer(args.question, args).await?, json)?;
        return Ok(());
    }
    // Each is printed when it is known: all of them take hours.
    for question in BenchQuestion::value_variants().iter().filter(|question| **question != BenchQuestion::All) {
        print(&answer(*question, args).await?, json)?;
    }
    Ok(())
}

/// The rows of one question, and what has to be known of the machine to compare them with another's.
async fn answer(question: BenchQuestion, args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    let mut rows = measure(question, args).await?;
    let round_trip = tokio::task::spawn_blocking(machine::round_trip_micros).await??;
    rows.push(alone("this machine: microseconds to wake another thread and be woken", (round_trip, 0.0), None));
    Ok(rows)
}

async fn measure(question: BenchQuestion, args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    match question {
        BenchQuestion::Relay => beside_the_relay(args, false).await,
        BenchQuestion::Pipeline => beside_the_relay(args, true).await,
        BenchQuestion::Bento => bento::run(args).await,
        BenchQuestion::Gateway => gateway::run(args).await,
        BenchQuestion::Price => price::run(args).await,
        BenchQuestion::Recovery => recovery::run(args).await,
        BenchQuestion::Idle => idle::run(args).await,
        BenchQuestion::InFlight => in_flight::run(args).await,
        BenchQuestion::Sizes => sizes::run(args).await,
        BenchQuestion::Routers => routers::run(args).await,
        BenchQuestion::Tenants => tenants::run(args).await,
        BenchQuestion::Batch => batch::run(args).await,
        BenchQuestion::Backlog => backlog::run(args).await,
        BenchQuestion::All => anyhow::bail!("all is no question of its own"),
    }
}

fn print(rows: &[Row], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(rows)?);
    } else {
        show(rows);
    }
    Ok(())
}

async fn beside_the_relay(args: &BenchArgs, with_pipeline: bool) -> anyhow::Result<Vec<Row>> {
    let Amounts { requests, runs, warm_up } = Amounts::of(args);
    eprintln!("starting Kafka, Cassandra and the registry …");
    let stack = Stack::builder().kafka(true).cassandra(with_pipeline).registry(with_pipeline).start().await?;
    let relay = relay::Relay::prepare(&stack.bootstrap_servers()).await?;
    let pipeline = if with_pipeline { Some(Pipeline::start(&stack, Setup::copies(1)).await?) } else { None };
    eprintln!("warming up with {warm_up} records on each side");
    relay.run(warm_up, relay::SHORT).await?;
    if let Some(pipeline) = &pipeline {
        pipeline::run(pipeline, warm_up).await?;
    }
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        eprintln!("run {run} of {runs}");
        raw.push(relay.run(requests, relay::SHORT).await?);
        if let Some(pipeline) = &pipeline {
            ours.push(pipeline::run(pipeline, requests).await?);
        }
    }
    let rows = rows(&raw, &ours);
    if let Some(pipeline) = pipeline {
        pipeline.stop().await?;
    }
    stack.stop().await?;
    Ok(rows)
}

/// The relay's name in every row.
const PEER: &str = "raw rdkafka relay, 4 hops, 1 KB";

fn rows(raw: &[Measured], ours: &[Measured]) -> Vec<Row> {
    if ours.is_empty() {
        let alone = |question: &str, of: fn(&Measured) -> f64| alone(question, middle(raw.iter().map(of)), None);
        return vec![
            alone("relay records per second", |m| m.per_second),
            alone("relay CPU microseconds per record, without its load", |m| m.cpu_micros),
            alone("relay, one record at a time: p50 ms", |m| m.p50_ms),
            alone("relay, one record at a time: p99 ms", |m| m.p99_ms),
            alone("relay peak memory MiB, with its load", |m| m.peak_mib),
        ];
    }
    let sides = |question: &str, of: fn(&Measured) -> f64, target: Option<Target>| {
        row(question, middle(ours.iter().map(of)), Some((middle(raw.iter().map(of)).0, PEER)), target)
    };
    let (share, added) = (Some(Target::RatioAtLeast(0.12)), Some(Target::OursAtMost(10.0)));
    vec![
        sides("requests per second, whole arrow, provider 20 ms", |m| m.per_second, share),
        sides("CPU microseconds per request, our processes; the relay's without its load", |m| m.cpu_micros, None),
        sides("one alone over HTTP: p50 ms added to the provider asked directly", |m| m.p50_ms, added),
        sides("one alone over HTTP: p99 ms added to the provider asked directly", |m| m.p99_ms, None),
        sides("peak memory MiB, our processes; the relay's with its load", |m| m.peak_mib, None),
    ]
}

fn row(question: &str, (ours, spread): (f64, f64), peer: Option<(f64, &'static str)>, target: Option<Target>) -> Row {
    let (peer, peer_name) = peer.unzip();
    let ratio = peer.filter(|peer| *peer > 0.0).map(|peer| ours / peer);
    Row {
        question: question.to_owned(),
        ours,
        peer,
        peer_name,
        ratio,
        spread,
        target: target.map(Target::value),
        target_is: target.map(Target::says),
        met: target.map(|target| target.is_met(ours, ratio)),
    }
}

/// A figure that nothing stands beside.
fn alone(question: &str, measured: (f64, f64), target: Option<Target>) -> Row {
    row(question, measured, None, target)
}

/// A provider for a peer, as another process, and its base URL (with `/v1`): the pipeline's has to count the
/// pipeline's calls alone.
async fn another_provider(pipeline: &Pipeline) -> anyhow::Result<(Process, String)> {
    let listen = ["run", "simulated-provider", "--listen", "127.0.0.1:0"];
    let mut provider = Process::start("another-provider", &listen, pipeline.folder().join("another-provider.log"))?;
    let base = provider.line("http://").await?;
    Ok((provider, base))
}

/// How long the provider takes for an answer from now on.
async fn set_latency(pipeline: &Pipeline, latency: Duration) -> anyhow::Result<()> {
    let latency = json!({ "kind": "constant", "ms": latency.as_secs_f64() * 1_000.0 });
    client()?.put(format!("{}/latency", pipeline.provider)).json(&latency).send().await?.error_for_status()?;
    Ok(())
}

/// Median, and half the distance between the extremes.
fn middle(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return (0.0, 0.0) };
    (values[values.len() / 2], (last - first) / 2.0)
}

fn show(rows: &[Row]) {
    let mut table = Table::new();
    table.set_header(["question", "ours", "±", "peer", "ratio", "target", "met"]);
    for row in rows {
        table.add_row([
            row.question.clone(),
            format!("{:.1}", row.ours),
            format!("{:.1}", row.spread),
            row.peer.zip(row.peer_name).map(|(peer, name)| format!("{peer:.1} ({name})")).unwrap_or_default(),
            row.ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default(),
            row.target.zip(row.target_is).map(|(target, is)| format!("{is} {target}")).unwrap_or_default(),
            row.met.map(|met| if met { "yes" } else { "no" }).unwrap_or_default().to_owned(),
        ]);
    }
    println!("{table}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(value: f64) -> Measured {
        Measured { per_second: value, cpu_micros: value, p50_ms: value, p99_ms: value, peak_mib: value }
    }

    #[test]
    fn a_target_is_held_against_what_it_says() {
        let check = |ours: f64, peer: f64, share: bool, added: bool| {
            let rows = rows(&[measured(peer)], &[measured(ours)]);
            assert_eq!(rows[0].ratio, Some(ours / peer));
            assert_eq!((rows[0].target_is, rows[0].met), (Some("ratio, at least"), Some(share)), "{ours} {peer}");
            assert_eq!((rows[2].target_is, rows[2].met), (Some("ours, at most"), Some(added)), "{ours} {peer}");
        };
        check(9.0, 10.0, true, true);
        check(9.0, 100.0, false, true);
        check(11.0, 10.0, true, false);
    }

    #[test]
    fn the_relay_alone_has_no_peer() {
        for row in rows(&[measured(3.0)], &[]) {
            assert!(row.question.starts_with("relay") && row.ours == 3.0, "{row:?}");
            assert_eq!((row.peer, row.peer_name, row.ratio, row.target, row.met), (None, None, None, None, None));
        }
    }
}
