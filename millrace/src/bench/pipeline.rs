//! The whole arrow: every service a process, provider at 20 ms, persistence and ledger on.

use std::time::{Duration, Instant};

use anyhow::ensure;
use millrace_config::Config;
use millrace_schemas::{Lane, topics};
use millrace_simulated_provider::{Server, SimulatedProviderConfig};
use millrace_stage::Producer;
use millrace_tests::{Pipeline, TENANT_KEY, client};
use serde_json::json;

use super::{Measured, usage};
use crate::outcomes::Follower;
use crate::publish::{Proof, Publisher};
use crate::ui::quantile;
use crate::wiring::connect_codec;

const ALONE: usize = 200;
const REST: Duration = Duration::from_secs(3);
/// The longest that a burst may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Characters that make a request of about 1 KB.
pub const SHORT: usize = 900;

/// What a burst through the batch lane gave.
#[derive(Debug, Clone, Copy)]
pub struct Burst {
    /// From the first record published to the last outcome read.
    pub per_second: f64,
    /// User and system time of our own processes, until everything was booked.
    pub cpu_micros: f64,
    /// Of our own processes together.
    pub peak_mib: f64,
}

/// Publishes `requests` to the batch lane, then asks some one by one over HTTP.
pub async fn run(pipeline: &Pipeline, requests: u32) -> anyhow::Result<Measured> {
    let Burst { per_second, cpu_micros, peak_mib } = burst(pipeline, requests, SHORT).await?;
    // What the burst left to do (compaction, log cleaning) is no part of one request's latency.
    tokio::time::sleep(REST).await;
    let provider = Server::start(SimulatedProviderConfig::default(), ([127, 0, 0, 1], 0).into()).await?;
    let direct = alone(&format!("{}/chat/completions", provider.url())).await?;
    provider.shutdown().await?;
    let through = alone(&format!("{}/v1/chat/completions", pipeline.http)).await?;
    let added = |q: f64| (quantile(&through, q) - quantile(&direct, q)) as f64 / 1000.0;
    Ok(Measured { per_second, cpu_micros, p50_ms: added(0.5), p99_ms: added(0.99), peak_mib })
}

/// Publishes `requests` with prompts of `characters` to the batch lane, and waits until all are answered and booked.
pub async fn burst(pipeline: &Pipeline, requests: u32, characters: usize) -> anyhow::Result<Burst> {
    let config = Config::load(Some(&pipeline.config), std::iter::empty(), [])?;
    burst_of(pipeline, &config, requests, publish(&config, requests, characters)).await
}

/// The same with `requests` that something else publishes to the batch lane; it returns their ids.
pub async fn burst_of(
    pipeline: &Pipeline,
    config: &Config,
    requests: u32,
    publish: impl Future<Output = anyhow::Result<Vec<String>>>,
) -> anyhow::Result<Burst> {
    let mut follower = Follower::start(config, Lane::Batch).await?;
    let calls_before = calls(pipeline).await?;
    let pids = pipeline.pids();
    let (cpu_before, _) = usage::sum(&pids);
    let began = Instant::now();
    let ids = publish.await?;
    follower.wait(ids.into_iter().collect(), PATIENCE, || ()).await?;
    let wall = began.elapsed().as_secs_f64();
    // What is still to be stored and booked belongs to these requests.
    settle(pipeline, config).await?;
    let (cpu_after, peak_mib) = usage::sum(&pids);
    let made = calls(pipeline).await? - calls_before;
    ensure!(made == u64::from(requests), "{requests} requests made {made} calls");
    Ok(Burst {
        per_second: f64::from(requests) / wall,
        cpu_micros: (cpu_after - cpu_before) * 1e6 / f64::from(requests),
        peak_mib,
    })
}

/// Publishes so many requests of the tenant `acme` to the batch lane; their ids.
pub async fn publish(config: &Config, requests: u32, characters: usize) -> anyhow::Result<Vec<String>> {
    let publisher = Publisher {
        producer: Producer::batching(&config.kafka)?,
        codec: connect_codec(config).await?,
        topic: topics::of(topics::REQUESTS, Lane::Batch),
        foreign: false,
        tenant: "acme".to_owned(),
        proof: Proof::Key { id: "default".to_owned(), key: TENANT_KEY.to_owned() },
        user: None,
    };
    publisher.publish(bodies(requests, characters), || ()).await
}

/// So many requests with prompts of `characters`.
pub fn bodies(requests: u32, characters: usize) -> impl Iterator<Item = Vec<u8>> {
    let filler = "word ".repeat(characters / 5);
    (0..requests).map(move |n| {
        json!({ "model": "sim-small", "max_completion_tokens": 20, "messages": [{ "role": "user", "content": format!("{n} {filler}") }] })
            .to_string()
            .into_bytes()
    })
}

/// Calls that the provider has answered and charged.
async fn calls(pipeline: &Pipeline) -> anyhow::Result<u64> {
    Ok(pipeline.count().await?["billed_calls"].as_u64().unwrap_or(0))
}

/// Waits until the ledger agrees with the provider's own count.
pub async fn settle(pipeline: &Pipeline, config: &Config) -> anyhow::Result<()> {
    let storage = millrace_storage::Storage::open(&config.storage).await?;
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let totals = storage.usage.totals().await?;
        if pipeline.count().await?["billed_calls"] == totals.calls {
            ensure!(totals.entries_sum == totals.rollups_sum, "the ledger's sums differ: {totals:?}");
            return Ok(());
        }
        ensure!(Instant::now() < until, "the ledger does not catch up with the provider: {totals:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Sorted latencies in microseconds of requests to `url`, one at a time.
async fn alone(url: &str) -> anyhow::Result<Vec<i64>> {
    let client = client()?;
    let mut latencies = Vec::new();
    for n in 0..ALONE {
        let body = json!({ "model": "sim-small", "max_completion_tokens": 20, "messages": [{ "role": "user", "content": format!("alone {n}") }] });
        let began = Instant::now();
        let answer = client.post(url).bearer_auth(TENANT_KEY).json(&body).send().await?;
        ensure!(answer.status() == 200, "{}", answer.text().await?);
        answer.bytes().await?;
        latencies.push(began.elapsed().as_micros() as i64);
    }
    latencies.sort_unstable();
    Ok(latencies)
}
