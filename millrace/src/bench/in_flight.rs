//! Thousands of slow calls at once in one router.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use millrace_config::Config;
use millrace_schemas::Lane;
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup};

use super::{Row, Target, alone, pipeline, set_latency, usage};
use crate::cli::BenchArgs;
use crate::outcomes::Follower;

const CALLS: u32 = 5_000;
const LASTING: Duration = Duration::from_secs(10);
const ENV: [(&str, &str); 1] = [("MILLRACE_PROVIDERS__SIM__MAX_CONCURRENCY", "6000")];

/// Memory and CPU of the router while all of them wait.
pub async fn run(args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    let calls = if args.quick { CALLS / 50 } else { CALLS };
    eprintln!("starting Kafka, Cassandra, the registry and every service …");
    let stack = Stack::builder().start().await?;
    let pipeline = Pipeline::start(&stack, Setup::copies(1).env(&ENV)).await?;
    pipeline::burst(&pipeline, if args.quick { calls } else { 20_000 }, pipeline::SHORT).await?;
    set_latency(&pipeline, LASTING).await?;
    let config = Config::load(Some(&pipeline.config), std::iter::empty(), [])?;
    let mut follower = Follower::start(&config, Lane::Batch).await?;
    let router = pipeline.pids_of("inference-router");
    let rebalances_before = rebalances(&pipeline).await?;
    let before = pipeline.count().await?["requests"].as_u64().unwrap_or(0);
    let began = Instant::now();
    let ids: HashSet<String> = pipeline::publish(&config, calls, pipeline::SHORT).await?.into_iter().collect();
    // All have come to the provider, and the first of them wait yet.
    while pipeline.count().await?["requests"].as_u64().unwrap_or(0) < before + u64::from(calls) {
        ensure!(began.elapsed() < LASTING, "not all of {calls} calls were in flight within {LASTING:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let memory = usage::resident(&router);
    let (cpu_before, _) = usage::sum(&router);
    let looked = Instant::now();
    tokio::time::sleep((LASTING / 2).min(LASTING.saturating_sub(began.elapsed()))).await;
    let waiting = (usage::sum(&router).0 - cpu_before) / looked.elapsed().as_secs_f64() * 100.0;
    follower.wait(ids, Duration::from_secs(120), || ()).await?;
    let took = began.elapsed().as_secs_f64();
    pipeline::settle(&pipeline, &config).await?;
    let rebalanced = rebalances(&pipeline).await? - rebalances_before;
    pipeline.stop().await?;
    stack.stop().await?;
    let of = |what: &str| format!("{calls} calls of {} s at once in one router: {what}", LASTING.as_secs());
    Ok(vec![
        alone(&of("memory MiB"), (memory, 0.0), Some(Target::OursAtMost(300.0))),
        alone(&of("rebalances"), (rebalanced, 0.0), Some(Target::OursAtMost(0.0))),
        alone(&of("% of a core while they wait"), (waiting, 0.0), None),
        alone(&of("seconds until all are answered"), (took, 0.0), None),
    ])
}

/// Times that partitions came to the router or left it.
async fn rebalances(pipeline: &Pipeline) -> anyhow::Result<f64> {
    let pages = pipeline.metrics().await?;
    let Some((_, page)) = pages.iter().find(|(name, _)| name.starts_with("inference-router")) else {
        bail!("there is no router");
    };
    let lines = page.lines().filter(|line| line.starts_with("millrace_stage_rebalances_total"));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}
