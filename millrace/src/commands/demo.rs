//! `millrace demo`: the main job on embedded parts, from nothing, with no key.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use comfy_table::Table;
use millrace_schemas::{Lane, Outcome, topics};
use millrace_stage::Producer;
use millrace_storage::LedgerTotals;
use millrace_telemetry::shutdown_signal;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cli::DemoArgs;
use crate::outcomes::Follower;
use crate::publish::{Proof, Publisher};
use crate::stack::{KEY_ID, Options, Stack, TENANT};
use crate::ui::{money, progress, quantile};

const REQUESTS: &str = include_str!("../../../examples/requests.jsonl");
const DOCUMENTS: &str = include_str!("../../../examples/documents.jsonl");
/// Requests that go through HTTP, the last of which asks about a document.
const OVER_HTTP: usize = 4;
const USERS: [&str; 3] = ["ada", "grace", "linus"];

/// What the outcomes add up to.
#[derive(Default)]
struct Tally {
    by_status: BTreeMap<String, u64>,
    by_user: BTreeMap<String, User>,
    stages: BTreeMap<String, Vec<i64>>,
    end_to_end: Vec<i64>,
}

#[derive(Default)]
struct User {
    requests: u64,
    input_tokens: i64,
    output_tokens: i64,
    charge_nanos: i64,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        *self.by_status.entry(outcome.status.to_string()).or_default() += 1;
        let user = self.by_user.entry(outcome.meta.user.clone()).or_default();
        user.requests += 1;
        user.input_tokens += outcome.input_tokens;
        user.output_tokens += outcome.output_tokens;
        user.charge_nanos += outcome.charge_nanos;
        for stage in &outcome.stages {
            self.stages.entry(stage.stage.clone()).or_default().push(stage.finished_at - stage.started_at);
        }
        self.end_to_end.push(outcome.finished_at - outcome.meta.received_at);
    }
}

/// Runs the demo.
pub async fn run(args: DemoArgs, json: bool) -> anyhow::Result<()> {
    let began = Instant::now();
    let shutdown = shutdown_signal()?;
    let folder = tempfile::Builder::new().prefix("millrace-demo-").tempdir()?;
    eprintln!("starting the embedded broker, registry, vectors, store, the simulated provider and all services …");
    let options =
        Options { data_dir: folder.path().to_path_buf(), http_port: 0, kafka_port: 0, provider: None, config: None };
    let stop = shutdown.child_token();
    let stack = Stack::start(options, stop.clone()).await?;
    let result = work(&stack, &args, &stop).await;
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            stack.stop().await?;
            return Err(error);
        }
    };
    let wall = began.elapsed().as_secs_f64();
    show(&report, wall, json);
    if args.keep {
        keep(&stack, &shutdown, json).await;
    }
    stack.stop().await?;
    if json {
        println!("{}", summary(&report, wall));
    }
    check(&report)
}

struct Report {
    requests: u64,
    tally: Tally,
    provider_calls: u64,
    totals: LedgerTotals,
    stored: u64,
}

async fn work(stack: &Stack, args: &DemoArgs, stop: &CancellationToken) -> anyhow::Result<Report> {
    let config = &stack.wiring.config;
    let key = stack.new_keys.tenant.clone().context("a new stack has a new key")?;
    let mut batch = Follower::start(config, Lane::Batch).await?;
    let mut interactive = Follower::start(config, Lane::Interactive).await?;
    let mut tally = Tally::default();

    let documents = put_documents(stack, &key).await?;
    let total = u64::from(args.requests);
    let bar = progress(total, "outcomes");
    let producer = Producer::batching(&config.kafka)?;
    let mut ids = HashSet::new();
    for (index, user) in USERS.iter().enumerate() {
        let publisher = Publisher {
            producer: producer.clone(),
            codec: stack.wiring.codec.clone(),
            topic: topics::of(topics::REQUESTS, Lane::Batch),
            foreign: false,
            tenant: TENANT.to_owned(),
            proof: Proof::Key { id: KEY_ID.to_owned(), key: key.clone() },
            user: Some((*user).to_owned()),
        };
        let share = (0..args.requests as usize).filter(|n| n % USERS.len() == index);
        let lines: Vec<&str> = REQUESTS.lines().collect();
        let bodies = share.map(|n| lines[n % lines.len()].as_bytes().to_vec());
        ids.extend(publisher.publish(bodies, || ()).await?);
    }
    let patience = Duration::from_secs(30 + total / 50);
    let collecting = batch.collect(&stack.wiring.codec, ids, patience, |outcome, _| {
        bar.inc(1);
        tally.add(outcome);
        Ok(())
    });
    stop.run_until_cancelled(collecting).await.context("stopped")??;
    bar.finish_and_clear();

    until_indexed(stack, documents).await?;
    let http = over_http(stack, &key).await?;
    let collecting = interactive.collect(&stack.wiring.codec, http, Duration::from_secs(30), |outcome, _| {
        tally.add(outcome);
        Ok(())
    });
    stop.run_until_cancelled(collecting).await.context("stopped")??;
    let requests = total + OVER_HTTP as u64;
    let (provider_calls, totals, stored) = settle(stack, requests, requests + documents + 1).await?;
    Ok(Report { requests, tally, provider_calls, totals, stored })
}

/// Waits until store and ledger have caught up with the provider's own count.
async fn settle(stack: &Stack, requests: u64, at_least: u64) -> anyhow::Result<(u64, LedgerTotals, u64)> {
    let storage = stack.wiring.storage()?;
    let provider = stack.simulated.as_ref().context("the demo has a simulated provider")?;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let (totals, stored) = (storage.usage.totals().await?, storage.results.count().await?);
        let calls = provider.count().billed_calls;
        if (totals.calls == calls && stored == requests && calls >= at_least) || Instant::now() >= until {
            return Ok((calls, totals, stored));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the documents are embedded, so that the question about them finds something.
async fn until_indexed(stack: &Stack, documents: u64) -> anyhow::Result<()> {
    let provider = stack.simulated.as_ref().context("the demo has a simulated provider")?;
    let until = Instant::now() + Duration::from_secs(20);
    while provider.count().embedding_calls < documents {
        if Instant::now() >= until {
            bail!("the documents were not indexed; `millrace tap dead-letters` of a kept demo says why");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build()?)
}

/// Puts the bundled documents and waits until they can be found; returns how many calls that took.
async fn put_documents(stack: &Stack, key: &str) -> anyhow::Result<u64> {
    let client = client()?;
    let mut count = 0;
    for line in DOCUMENTS.lines() {
        let response = client
            .post(format!("{}/v1/documents", stack.http))
            .bearer_auth(key)
            .header("content-type", "application/json")
            .body(line)
            .send()
            .await?;
        if !response.status().is_success() {
            bail!("a document was refused: {}", response.text().await?);
        }
        count += 1;
    }
    Ok(count)
}

/// A few requests through the front door; returns their ids.
async fn over_http(stack: &Stack, key: &str) -> anyhow::Result<HashSet<String>> {
    let client = client()?;
    let mut ids = HashSet::new();
    for (n, line) in REQUESTS.lines().take(OVER_HTTP).enumerate() {
        let mut body: Value = serde_json::from_str(line)?;
        if n + 1 == OVER_HTTP {
            body["messages"] =
                json!([{ "role": "user", "content": "How long may a customer return an opened tea kettle?" }]);
            body["millrace"] = json!({ "collection": "handbook" });
        }
        let response = client
            .post(format!("{}/v1/chat/completions", stack.http))
            .bearer_auth(key)
            .header("x-millrace-user", USERS[n % USERS.len()])
            .json(&body)
            .send()
            .await?;
        let status = response.status();
        let id = response.headers().get("x-request-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
        if !status.is_success() {
            bail!("an HTTP request was answered {status}: {}", response.text().await?);
        }
        ids.insert(id.context("an answer names its request")?);
    }
    Ok(ids)
}

fn show(report: &Report, wall: f64, json: bool) {
    if json {
        return;
    }
    let tally = &report.tally;
    let mut outcomes = Table::new();
    outcomes.set_header(["outcome", "requests"]);
    for (status, count) in &tally.by_status {
        outcomes.add_row([status.clone(), count.to_string()]);
    }
    println!("{outcomes}");

    let mut latencies = Table::new();
    latencies.set_header(["stage", "p50 ms", "p99 ms"]);
    let mut row = |name: &str, values: &[i64]| {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let ms = |q| format!("{:.1}", quantile(&sorted, q) as f64 / 1000.0);
        latencies.add_row([name.to_owned(), ms(0.5), ms(0.99)]);
    };
    for name in ["prompt-builder", "inference-router", "moderator"] {
        row(name, tally.stages.get(name).map_or(&[][..], Vec::as_slice));
    }
    row("accepted to outcome", &tally.end_to_end);
    println!("{latencies}");

    let mut users = Table::new();
    users.set_header(["user", "requests", "input tokens", "output tokens", "cost USD"]);
    for (name, user) in &tally.by_user {
        users.add_row([
            name.clone(),
            user.requests.to_string(),
            user.input_tokens.to_string(),
            user.output_tokens.to_string(),
            money(user.charge_nanos),
        ]);
    }
    println!("{users}");
    println!(
        "{} requests, {} outcomes stored, {} calls at the provider, {} calls in the ledger, sum of entries {} = sum of rollups {}, {wall:.1} s",
        report.requests,
        report.stored,
        report.provider_calls,
        report.totals.calls,
        money(report.totals.entries_sum),
        money(report.totals.rollups_sum),
    );
}

fn summary(report: &Report, wall: f64) -> Value {
    json!({
        "requests": report.requests,
        "outcomes": report.tally.by_status,
        "outcomes_stored": report.stored,
        "provider_calls": report.provider_calls,
        "ledger_calls": report.totals.calls,
        "entries_sum": report.totals.entries_sum,
        "rollups_sum": report.totals.rollups_sum,
        "wall_seconds": (wall * 1000.0).round() / 1000.0,
    })
}

/// The demo fails when what it shows is not what is promised.
fn check(report: &Report) -> anyhow::Result<()> {
    let outcomes: u64 = report.tally.by_status.values().sum();
    if outcomes != report.requests || report.stored != report.requests {
        bail!("{} requests have {outcomes} outcomes, {} of them stored", report.requests, report.stored);
    }
    // The documents and the question about them were embedded, beside one call a request.
    if report.provider_calls <= report.requests {
        bail!("{} requests made only {} calls", report.requests, report.provider_calls);
    }
    if report.provider_calls != report.totals.calls || report.totals.entries_sum != report.totals.rollups_sum {
        bail!("the ledger does not agree with the provider: {:?}, {} calls", report.totals, report.provider_calls);
    }
    Ok(())
}

async fn keep(stack: &Stack, shutdown: &CancellationToken, as_json: bool) {
    let key = stack.new_keys.tenant.clone().unwrap_or_default();
    let kafka = &stack.wiring.config.kafka.bootstrap_servers;
    if as_json {
        println!("{}", json!({ "http": stack.http, "kafka": kafka, "api_key": key }));
    } else {
        eprintln!("\nstill running until ctrl-C: {}/v1 with key {key}, Kafka at {kafka}", stack.http);
    }
    shutdown.cancelled().await;
}
