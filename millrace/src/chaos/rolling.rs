//! A deployment: every process is told to stop and starts again, one after the other, under load.

use std::time::Instant;

use anyhow::Context;
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup, client};
use serde_json::json;

use super::load::{Load, Rate};
use super::real::{COPIES, ENV, gather};
use super::storm::Storm;
use super::verdict::{Verdict, judge};

/// With calls this long, many are in flight at each moment, and each drain has to wait for some.
const LATENCY_MS: (u32, u32) = (1_000, 2_000);
const RATE: Rate = Rate { per_second: 20, clients: 2, documents: true, cancels: false };

/// Plays and judges. Nothing is lost here, so nothing may be paid twice.
pub async fn run() -> anyhow::Result<Verdict> {
    eprintln!("starting Kafka, Cassandra, the registry and {COPIES} processes of every service …");
    let stack = Stack::builder().start().await?;
    let mut pipeline = Pipeline::start(&stack, Setup { copies: COPIES, env: &ENV, bindings: true }).await?;
    let latency = json!({ "kind": "uniform", "min_ms": LATENCY_MS.0, "max_ms": LATENCY_MS.1 });
    let answer = client()?.put(format!("{}/latency", pipeline.provider)).json(&latency).send().await?;
    answer.error_for_status().context("the provider refuses the latency")?;

    let load = Load::start(&pipeline, RATE)?;
    let began = Instant::now();
    for name in pipeline.names() {
        pipeline.terminate(&name).await?;
        pipeline.restart(&name)?;
        pipeline.until_ready().await?;
        eprintln!("{:6.1} s  {name} is back", began.elapsed().as_secs_f64());
    }
    let given = load.stop().await?;
    let storm = Storm { accepted: given.requests, documents: given.documents, losses: Vec::new() };
    let mut verdict = judge(&gather(&pipeline, &storm).await?, &storm);
    verdict.nothing_lost();
    if !verdict.broken.is_empty() {
        eprintln!("{}", pipeline.tails());
    }
    pipeline.stop().await?;
    stack.stop().await?;
    Ok(verdict)
}
