//! The HTTP door beside LiteLLM's proxy and the provider asked directly: the same clients and requests, in turn.
//! Ours is durable, moderated, stored and billed while it is measured; at its end the books have to agree.

use std::time::Duration;

use anyhow::ensure;
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup, TENANT_KEY, client};
use serde_json::json;

use super::clients::{Door, Seen, first_text, load, memory_with};
use super::pipeline::{SHORT, burst};
use super::{Amounts, Row, Target, another_provider, litellm, middle, row};
use crate::cli::BenchArgs;

const CLIENTS: [usize; 4] = [1, 16, 64, 256];
const STREAMS: usize = 1_000;
/// Tokens a second while that many streams are open, so that all are at once.
const SLOW: f64 = 1.0;
/// Calls at once that one router may have: each stream is one.
const ENV: [(&str, &str); 1] = [("MILLRACE_PROVIDERS__SIM__MAX_CONCURRENCY", "2000")];
const PEER: &str = "LiteLLM proxy, 2 workers, no database";
const DIRECT: &str = "the provider asked directly";

/// What one run of a side gave: with each number of clients, and the first text of streams.
struct Run {
    with: Vec<Seen>,
    first: (f64, f64),
}

/// Starts the real parts and the peer, measures them in turn.
pub async fn run(args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    let (runs, lasting, streams) =
        if args.quick { (1, Duration::from_secs(2), 20) } else { (args.runs.max(1), Duration::from_secs(8), 200) };
    eprintln!("starting Kafka, Cassandra, the registry, every service and LiteLLM …");
    let stack = Stack::builder().start().await?;
    let pipeline = Pipeline::start(&stack, Setup::copies(1).env(&ENV)).await?;
    let (provider, base) = another_provider(&pipeline).await?;
    let proxy = litellm::start(&base, pipeline.folder()).await?;
    let workers = proxy.pids();

    let direct = Door {
        url: base.trim_end_matches("/v1").to_owned(),
        key: TENANT_KEY,
        pids: provider.pid().into_iter().collect(),
    };
    let ours = Door { url: pipeline.http.clone(), key: TENANT_KEY, pids: pipeline.pids() };
    let other = Door { url: proxy.url.clone(), key: litellm::KEY, pids: workers.clone() };
    let records = Amounts::of(args).warm_up;
    eprintln!("warming up Kafka and Cassandra with {records} records");
    burst(&pipeline, records, SHORT).await?;
    let warm_up = if args.quick { lasting } else { Duration::from_secs(60) };
    eprintln!("warming up each for {} s", warm_up.as_secs());
    let mut asked = u64::from(records);
    for door in [&direct, &ours, &other] {
        let seen = load(door, 64, warm_up).await?;
        asked += if std::ptr::eq(door, &ours) { seen.requests } else { 0 };
    }
    let mut measured: [Vec<Run>; 3] = [Vec::new(), Vec::new(), Vec::new()];
    for run in 1..=runs {
        for (side, door) in [&direct, &ours, &other].into_iter().enumerate() {
            eprintln!("run {run} of {runs}: {}", [DIRECT, "ours", PEER][side]);
            let mut with = Vec::new();
            for clients in CLIENTS {
                with.push(load(door, clients, lasting).await?);
            }
            measured[side].push(Run { with, first: first_text(door, streams).await? });
        }
    }
    let [_, mine, _] = &measured;
    asked += mine.iter().flat_map(|run| &run.with).map(|seen| seen.requests).sum::<u64>();
    asked += (runs as usize * streams) as u64;

    eprintln!("{STREAMS} streams at once");
    for root in [&pipeline.provider, &direct.url] {
        let pace = json!({ "tokens_per_second": SLOW });
        let set = client()?.put(format!("{root}/pace")).json(&pace).send().await?;
        ensure!(set.status().is_success(), "the provider's pace: {}", set.text().await?);
    }
    let door_alone = memory_with(&ours, STREAMS, &pipeline.pids_of("ingress")).await?;
    let theirs = memory_with(&other, STREAMS, &workers).await?;
    asked += STREAMS as u64;
    verdict(&pipeline, asked).await?;

    let mut rows = rows(&measured);
    let streams = format!("memory MiB of the HTTP processes with {STREAMS} streams open");
    rows.push(row(&streams, (door_alone, 0.0), Some((theirs, PEER)), None));
    proxy.terminate().await?;
    provider.terminate().await?;
    pipeline.stop().await?;
    stack.stop().await?;
    Ok(rows)
}

/// One outcome and one call for each request that was answered, each call booked once.
async fn verdict(pipeline: &Pipeline, asked: u64) -> anyhow::Result<()> {
    let storage = pipeline.storage().await?;
    let mut last = String::new();
    for _ in 0..120 {
        let (stored, totals) = (storage.results.count().await?, storage.usage.totals().await?);
        let calls = pipeline.count().await?["billed_calls"].as_u64().unwrap_or(0);
        if (stored, calls, totals.calls) == (asked, asked, asked) {
            ensure!(totals.entries_sum == totals.rollups_sum, "the ledger's sums differ: {totals:?}");
            eprintln!("{asked} requests, {stored} outcomes stored, {calls} calls, each booked once");
            return Ok(());
        }
        last = format!("{asked} requests, {stored} outcomes stored, {calls} calls, {} booked", totals.calls);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    anyhow::bail!("the books do not agree: {last}")
}

fn rows([direct, ours, other]: &[Vec<Run>; 3]) -> Vec<Row> {
    type Of<'a> = &'a dyn Fn(&Run) -> f64;
    let all = |runs: &[Run], of: Of<'_>| middle(runs.iter().map(of));
    let beside = |question: &str, of: Of<'_>, target: Option<Target>| {
        row(question, all(ours, of), Some((all(other, of).0, PEER)), target)
    };
    // Beyond what the provider takes when it is asked directly.
    let added = |question: &str, of: Of<'_>, target: Option<Target>| {
        let base = all(direct, of).0;
        beside(question, &|run: &Run| of(run) - base, target)
    };
    let mut rows = Vec::new();
    for (at, clients) in CLIENTS.into_iter().enumerate() {
        let question = |what: &str| format!("{clients} client{}: {what}", if clients == 1 { "" } else { "s" });
        let per_second = question("requests per second");
        let rate: Of<'_> = &|run: &Run| run.with[at].per_second;
        let ten_times = (clients == 64).then_some(Target::RatioAtLeast(10.0));
        let near = (clients == 64).then_some(Target::RatioAtLeast(0.7));
        let half = (clients == 1).then_some(Target::RatioAtMost(0.5));
        rows.push(beside(&per_second, rate, ten_times));
        rows.push(row(&per_second, all(ours, rate), Some((all(direct, rate).0, DIRECT)), near));
        rows.push(added(&question("p50 ms added"), &|run: &Run| run.with[at].p50_ms, half));
        rows.push(added(&question("p99 ms added"), &|run: &Run| run.with[at].p99_ms, None));
        rows.push(beside(&question("CPU µs per request"), &|run: &Run| run.with[at].cpu_micros, None));
    }
    let within = Some(Target::OursAtMost(8.0));
    rows.push(added("first text of a stream: p50 ms added", &|run: &Run| run.first.0, within));
    rows.push(added("first text of a stream: p99 ms added", &|run: &Run| run.first.1, None));
    rows
}
