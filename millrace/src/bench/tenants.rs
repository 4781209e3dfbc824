//! Many tenants beside one: whether each request being another tenant's costs anything.

use std::ops::Range;
use std::time::Duration;

use futures::stream::{StreamExt as _, TryStreamExt as _};
use millrace_config::Config;
use millrace_schemas::{DirectoryEntry, Lane, key_digest, now_micros, topics};
use millrace_stack::Stack;
use millrace_stage::{Outgoing, Producer, To};
use millrace_tests::{Pipeline, Setup};
use serde_json::{Value, json};

use super::pipeline::{Burst, SHORT, bodies, burst, burst_of};
use super::{Amounts, Row, Target, alone, middle, row, usage};
use crate::cli::BenchArgs;
use crate::publish::{Proof, Publisher};
use crate::wiring::connect_codec;

/// How many tenants take turns.
const TENANTS: [u32; 4] = [1, 10, 1_000, 100_000];
/// Each has the same.
const KEY: &str = "bench-key";
/// Entries on their way at once.
const AT_ONCE: usize = 2_000;
const ONE: &str = "one tenant";

/// Makes all tenants, then lets some of them take turns.
pub async fn run(args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    let Amounts { requests, runs, warm_up } = Amounts::of(args);
    eprintln!("starting Kafka, Cassandra, the registry and every service …");
    let stack = Stack::builder().start().await?;
    let pipeline = Pipeline::start(&stack, Setup::copies(1)).await?;
    let config = Config::load(Some(&pipeline.config), std::iter::empty(), [])?;
    burst(&pipeline, warm_up, SHORT).await?;
    let before = usage::resident(&pipeline.pids());
    let most = TENANTS.into_iter().max().unwrap_or_default();
    eprintln!("making {most} tenants");
    make(&config, most).await?;
    // The last of them is known everywhere once a request of it has gone through.
    turns(&pipeline, &config, most - 1..most, 1).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = usage::resident(&pipeline.pids());

    let mut measured = [const { Vec::new() }; TENANTS.len()];
    for run in 1..=runs {
        for (tenants, measured) in TENANTS.into_iter().zip(&mut measured) {
            eprintln!("run {run} of {runs}: {tenants} tenants");
            // Not always the same ones, where there are enough.
            let first = if tenants > requests { (run * requests) % tenants } else { 0 };
            measured.push(turns(&pipeline, &config, first..tenants, requests).await?);
        }
    }
    pipeline.stop().await?;
    stack.stop().await?;
    let of = |at: usize, of: fn(&Burst) -> f64| middle(measured[at].iter().map(of));
    let mut rows = Vec::new();
    for (at, tenants) in TENANTS.into_iter().enumerate() {
        let peer = |figure: fn(&Burst) -> f64| (at > 0).then(|| (of(0, figure).0, ONE));
        let (rate, cpu) = ("requests per second", "CPU microseconds per request");
        // No less than the runs of one tenant differ among each other.
        let spread = of(0, |b| b.per_second);
        let least = Target::RatioAtLeast(((1.0 - 2.0 * spread.1 / spread.0) * 100.0).round() / 100.0);
        let name = |what: &str| format!("{tenants} tenants taking turns: {what}");
        rows.push(row(&name(rate), of(at, |b| b.per_second), peer(|b| b.per_second), (at > 0).then_some(least)));
        rows.push(row(&name(cpu), of(at, |b| b.cpu_micros), peer(|b| b.cpu_micros), None));
    }
    let memory =
        |when: &str, mib: f64| alone(&format!("memory MiB, all services, {when} {most} tenants"), (mib, 0.0), None);
    rows.extend([memory("before there were", before), memory("with", after)]);
    Ok(rows)
}

fn name(number: u32) -> String {
    format!("tenant-{number}")
}

/// Tells all services of so many tenants, each with a key, as the administrative API does.
async fn make(config: &Config, tenants: u32) -> anyhow::Result<()> {
    let (producer, codec) = (Producer::batching(&config.kafka)?, connect_codec(config).await?);
    let key = json!({ "sha256": hex::encode(key_digest(KEY)) });
    let entries = (0..tenants).flat_map(|n| {
        let tenant = name(n);
        [(format!("tenant/{tenant}"), json!({})), (format!("key/{tenant}/default"), key.clone())]
    });
    let sent = entries.map(|(name, body): (String, Value)| {
        let entry = DirectoryEntry {
            name: name.clone(),
            body: Some(body.to_string()),
            change_id: name.clone(),
            changed_at: now_micros(),
            changed_by: "bench".to_owned(),
        };
        let (producer, value) = (&producer, codec.encode(&entry));
        async move {
            let record = Outgoing::new(topics::TENANTS, name, value?).to(To::Partition(0));
            producer.send(&record, 0, &[]).await?;
            anyhow::Ok(())
        }
    });
    futures::stream::iter(sent).buffer_unordered(AT_ONCE).try_collect::<()>().await
}

/// So many requests, in which these tenants take turns.
async fn turns(pipeline: &Pipeline, config: &Config, tenants: Range<u32>, requests: u32) -> anyhow::Result<Burst> {
    let (producer, codec) = (Producer::batching(&config.kafka)?, connect_codec(config).await?);
    let published = bodies(requests, SHORT).zip(tenants.cycle()).map(|(body, tenant)| {
        let publisher = Publisher {
            producer: producer.clone(),
            codec: codec.clone(),
            topic: topics::of(topics::REQUESTS, Lane::Batch),
            foreign: false,
            tenant: name(tenant),
            proof: Proof::Key { id: "default".to_owned(), key: KEY.to_owned() },
            user: None,
        };
        async move { publisher.publish(std::iter::once(body), || ()).await }
    });
    let published = futures::stream::iter(published).buffer_unordered(AT_ONCE);
    burst_of(pipeline, config, requests, published.try_concat()).await
}
