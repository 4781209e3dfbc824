//! A deployment: every process is told to stop and starts again, one after the other, under load; of the
//! same release, or of the next one.

use std::path::Path;
use std::time::{Duration, Instant};

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
const RATE: Rate =
    Rate { per_second: 20, clients: 2, documents: true, cancels: false, bad: true, streams: true, pictures: true };

/// How long a group may take for topics that are new to it.
const TAKEN_OVER: Duration = Duration::from_secs(30);

/// Plays and judges. Nothing is lost here, so nothing may be paid twice.
pub async fn run(from: Option<&Path>) -> anyhow::Result<Verdict> {
    eprintln!("starting Kafka, Cassandra, the registry and {COPIES} processes of every service …");
    let stack = Stack::builder().start().await?;
    let setup = Setup { binary: from, ..Setup::copies(COPIES).env(&ENV) };
    let mut pipeline = Pipeline::start(&stack, setup).await?;
    let latency = json!({ "kind": "uniform", "min_ms": LATENCY_MS.0, "max_ms": LATENCY_MS.1 });
    let answer = client()?.put(format!("{}/latency", pipeline.provider)).json(&latency).send().await?;
    answer.error_for_status().context("the provider refuses the latency")?;

    // An earlier release may not stream.
    let load = Load::start(&pipeline, Rate { streams: from.is_none(), pictures: from.is_none(), ..RATE })?;
    let began = Instant::now();
    if from.is_some() {
        // While the earlier release runs: what this one needs beside it.
        pipeline.command(&["storage", "migrate"]).await?;
        pipeline.command(&["topics", "apply"]).await?;
    }
    for name in pipeline.names() {
        restart(&mut pipeline, &name, None, began).await?;
    }
    if from.is_some() {
        until_taken_over(&pipeline).await?;
        for name in pipeline.names().into_iter().filter(|name| name.ends_with("-0")) {
            restart(&mut pipeline, &name, from, began).await?;
        }
    }
    let given = load.stop().await?;
    let storm = Storm { accepted: given.requests, bad: given.bad, documents: given.documents, losses: Vec::new() };
    let mut verdict = judge(&gather(&pipeline, &storm).await?, &storm);
    verdict.nothing_lost();
    if !verdict.broken.is_empty() {
        eprintln!("{}", pipeline.tails());
    }
    pipeline.stop().await?;
    stack.stop().await?;
    Ok(verdict)
}

/// Groups take over topics that are new in this release by themselves, as soon as all their members know them.
async fn until_taken_over(pipeline: &Pipeline) -> anyhow::Result<()> {
    let until = Instant::now() + TAKEN_OVER;
    while let Err(error) = pipeline.command(&["topics", "check"]).await {
        if Instant::now() > until {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn restart(pipeline: &mut Pipeline, name: &str, binary: Option<&Path>, began: Instant) -> anyhow::Result<()> {
    pipeline.terminate(name).await?;
    pipeline.upgrade(name, binary)?;
    pipeline.restart(name)?;
    pipeline.until_ready().await?;
    let release = if binary.is_some() { ", as it was before" } else { "" };
    eprintln!("{:6.1} s  {name} is back{release}", began.elapsed().as_secs_f64());
    Ok(())
}
