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
use crate::publish::Publisher;
use crate::ui::quantile;
use crate::wiring::connect_codec;

const ALONE: usize = 200;
const REST: Duration = Duration::from_secs(3);

/// Publishes `requests` to the batch lane, then asks some one by one over HTTP.
pub async fn run(pipeline: &Pipeline, requests: u32) -> anyhow::Result<Measured> {
    let config = Config::load(Some(&pipeline.config), std::iter::empty(), [])?;
    let codec = connect_codec(&config).await?;
    let mut follower = Follower::start(&config, Lane::Batch).await?;
    let publisher = Publisher {
        producer: Producer::batching(&config.kafka)?,
        codec: codec.clone(),
        topic: topics::of(topics::REQUESTS, Lane::Batch),
        foreign: false,
        tenant: "acme".to_owned(),
        key: Some(("default".to_owned(), TENANT_KEY.to_owned())),
        user: None,
    };
    let filler = "word ".repeat(180);
    let bodies = (0..requests).map(|n| {
        json!({ "model": "sim-small", "max_completion_tokens": 20, "messages": [{ "role": "user", "content": format!("{n} {filler}") }] })
            .to_string()
            .into_bytes()
    });
    let calls_before = pipeline.count().await?["billed_calls"].as_u64().unwrap_or(0);
    let pids = pipeline.pids();
    let (cpu_before, _) = usage::sum(&pids);
    let began = Instant::now();
    let ids = publisher.publish(bodies, || ()).await?;
    follower.wait(ids.into_iter().collect(), Duration::from_secs(300)).await?;
    let wall = began.elapsed().as_secs_f64();
    // What is still to be stored and booked belongs to these requests.
    settle(pipeline, &config).await?;
    let (cpu_after, peak_mib) = usage::sum(&pids);
    let calls = pipeline.count().await?["billed_calls"].as_u64().unwrap_or(0) - calls_before;
    ensure!(calls == u64::from(requests), "{requests} requests made {calls} calls");
    // What the burst left to do (compaction, log cleaning) is no part of one request's latency.
    tokio::time::sleep(REST).await;
    let provider = Server::start(SimulatedProviderConfig::default(), ([127, 0, 0, 1], 0).into()).await?;
    let direct = alone(&format!("{}/chat/completions", provider.url())).await?;
    provider.shutdown().await?;
    let through = alone(&format!("{}/v1/chat/completions", pipeline.http)).await?;
    let added = |q: f64| (quantile(&through, q) - quantile(&direct, q)) as f64 / 1000.0;
    Ok(Measured {
        per_second: f64::from(requests) / wall,
        cpu_micros: (cpu_after - cpu_before) * 1e6 / f64::from(requests),
        p50_ms: added(0.5),
        p99_ms: added(0.99),
        peak_mib,
    })
}

/// Waits until the ledger agrees with the provider's own count.
async fn settle(pipeline: &Pipeline, config: &Config) -> anyhow::Result<()> {
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
