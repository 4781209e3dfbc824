//! What the services take while nothing happens.

use std::time::Duration;

use anyhow::Context;
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Process, Setup};

use super::{Row, Target, alone, middle, usage};
use crate::cli::BenchArgs;

/// After a start there is something to do for a while: groups form, caches fill.
const SETTLE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_secs(20);

/// Shares of a core, in per cent.
pub async fn run(args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    let runs = if args.quick { 1 } else { args.runs.max(1) };
    eprintln!("starting Kafka, Cassandra, the registry and every service …");
    let stack = Stack::builder().start().await?;
    let pipeline = Pipeline::start(&stack, Setup::copies(1)).await?;
    let real = shares(&pipeline.pids(), runs).await;
    pipeline.stop().await?;
    stack.stop().await?;

    eprintln!("starting `millrace up` …");
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let args = ["up", "--data-dir", data.to_str().context("a path in UTF-8")?, "--json"];
    let ports = ["--http-port", "0", "--kafka-port", "0"];
    let mut up = Process::start("up", &[&args[..], &ports].concat(), folder.path().join("up.log"))?;
    up.line("{").await?;
    let embedded = shares(&up.pid().into_iter().collect::<Vec<_>>(), runs).await;
    up.terminate().await?;
    Ok(vec![
        alone("idle on real Kafka: % of a core, all services", middle(real.into_iter()), Some(Target::OursAtMost(1.0))),
        alone("idle, embedded: % of a core", middle(embedded.into_iter()), Some(Target::OursAtMost(5.0))),
    ])
}

async fn shares(pids: &[u32], runs: u32) -> Vec<f64> {
    tokio::time::sleep(SETTLE).await;
    let mut shares = Vec::new();
    for _ in 0..runs {
        let (before, _) = usage::sum(pids);
        tokio::time::sleep(LOOK).await;
        let (after, _) = usage::sum(pids);
        shares.push((after - before) / LOOK.as_secs_f64() * 100.0);
    }
    shares
}
