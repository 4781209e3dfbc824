//! Files and batches: as OpenAI's library knows them, and while the replicas that work on them are killed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use millrace_tests::{Pipeline, RIVAL_KEY, TENANT_KEY, client, form_of};
use serde_json::{Value, json};

use crate::clients::python;
use crate::until;

/// With [`IN_FLIGHT`] at a time, more than are answered before both replicas have drained, were killed and have come back.
const LINES: usize = 1_200;
/// `ingress.batch_in_flight` of this pipeline.
pub const IN_FLIGHT: &str = "20";
/// How long a provider's call takes meanwhile, and otherwise, milliseconds.
const SLOW: f64 = 1_000.0;
const AS_BEFORE: f64 = 20.0;
/// A batch is left to a replica that was killed for 25 seconds.
const WITHIN: Duration = Duration::from_secs(240);

pub async fn flow_as_clients_know_them(pipeline: &Pipeline) -> anyhow::Result<()> {
    python("tests/clients/openai_batch.py", &[pipeline.http.as_str(), TENANT_KEY, RIVAL_KEY]).await?;
    Ok(())
}

/// Whichever replica works on the batch: each drains once in the middle of it and gives it to the other, and each is killed
/// once.
pub async fn survive_the_death_of_every_replica(pipeline: &mut Pipeline) -> anyhow::Result<()> {
    set_latency(pipeline, SLOW).await?;
    let calls = pipeline.count().await?["billed_calls"].as_u64().context("calls")?;
    let file: String = (0..LINES).map(line).collect();
    let batch = create(&pipeline.doors[1], &upload(&pipeline.doors[1], &file).await?).await?;
    let mut done = 0;
    for (drained, other) in [(0, 1), (1, 0)] {
        let url = format!("{}/v1/batches/{batch}", pipeline.doors[other]);
        progress(&url, done + 10).await?;
        let name = format!("ingress-{drained}");
        pipeline.terminate(&name).await?;
        done = progress(&url, done + 40).await?;
        pipeline.restart(&name)?;
        pipeline.until_ready().await?;
    }
    ensure!(given_away(pipeline, &batch)?, "no replica gave the batch away when it drained");
    for (killed, other) in [(0, 1), (1, 0)] {
        let url = format!("{}/v1/batches/{batch}", pipeline.doors[other]);
        progress(&url, done + 10).await?;
        let name = format!("ingress-{killed}");
        pipeline.kill(&name).await?;
        let left = until(&url, |batch| batch["id"].is_string()).await?;
        ensure!(left["status"] == "in_progress", "{name} was killed too late: {left}");
        done = progress(&url, done + 40).await?;
        pipeline.restart(&name)?;
        pipeline.until_ready().await?;
    }
    set_latency(pipeline, AS_BEFORE).await?;
    let url = format!("{}/v1/batches/{batch}", pipeline.doors[0]);
    let batch = progress_until(&url, |batch| batch["status"] == "completed").await?;
    let counts = json!({ "total": LINES, "completed": LINES, "failed": 0 });
    ensure!(batch["request_counts"] == counts && batch["error_file_id"].is_null(), "{batch}");
    let output = batch["output_file_id"].as_str().context("an output file")?;
    let url = format!("{}/v1/files/{output}/content", pipeline.doors[1]);
    let answers = client()?.get(url).bearer_auth(TENANT_KEY).send().await?.error_for_status()?.text().await?;
    let answers: Vec<Value> = answers.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let names: BTreeSet<&str> = answers.iter().filter_map(|answer| answer["custom_id"].as_str()).collect();
    ensure!(answers.len() == LINES && names.len() == LINES, "{} lines, {} names", answers.len(), names.len());
    // Requests were published again, and none of them was paid for again.
    let paid = pipeline.count().await?["billed_calls"].as_u64().context("calls")? - calls;
    ensure!(paid == LINES as u64, "{LINES} lines were {paid} calls");
    Ok(())
}

/// Whether a replica that drained has given this batch away.
fn given_away(pipeline: &Pipeline, batch: &str) -> anyhow::Result<bool> {
    for replica in ["ingress-0", "ingress-1"] {
        let log = std::fs::read_to_string(pipeline.folder().join(format!("{replica}.log")))?;
        if log.lines().any(|line| line.contains("a batch is left to another replica") && line.contains(batch)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is not executed in time is said line by line, and nothing of it is published any more.
pub async fn end_when_their_time_is_over(pipeline: &Pipeline) -> anyhow::Result<()> {
    set_latency(pipeline, 20_000.0).await?;
    let file: String = (0..40).map(line).collect();
    let file = upload(&pipeline.http, &file).await?;
    let new = json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "8s" });
    let batch = post(&pipeline.http, "/v1/batches", &new).await?;
    let url = format!("{}/v1/batches/{}", pipeline.http, batch["id"].as_str().context("an id")?);
    let batch = progress_until(&url, |batch| !batch["expired_at"].is_null()).await?;
    set_latency(pipeline, AS_BEFORE).await?;
    ensure!(batch["status"] == "expired" && batch["request_counts"]["failed"] == 40, "{batch}");
    let errors = batch["error_file_id"].as_str().context("an error file")?;
    let url = format!("{}/v1/files/{errors}/content", pipeline.http);
    let errors = client()?.get(url).bearer_auth(TENANT_KEY).send().await?.error_for_status()?.text().await?;
    for error in errors.lines() {
        let error: Value = serde_json::from_str(error)?;
        ensure!(error["error"]["code"] == "batch_expired" && error["response"].is_null(), "{error}");
    }
    Ok(())
}

fn line(n: usize) -> String {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": format!("Line {n}") }] });
    let line =
        json!({ "custom_id": format!("line-{n}"), "method": "POST", "url": "/v1/chat/completions", "body": body });
    format!("{line}\n")
}

async fn set_latency(pipeline: &Pipeline, ms: f64) -> anyhow::Result<()> {
    let latency = json!({ "kind": "constant", "ms": ms });
    client()?.put(format!("{}/latency", pipeline.provider)).json(&latency).send().await?.error_for_status()?;
    Ok(())
}

async fn upload(door: &str, content: &str) -> anyhow::Result<String> {
    let (kind, form) = form_of("batch", content);
    let request = client()?.post(format!("{door}/v1/files")).bearer_auth(TENANT_KEY);
    let request = request.header("content-type", kind).body(form);
    let answer: Value = request.send().await?.json().await?;
    answer["id"].as_str().map(str::to_owned).with_context(|| answer.to_string())
}

async fn create(door: &str, file: &str) -> anyhow::Result<String> {
    let new = json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" });
    let batch = post(door, "/v1/batches", &new).await?;
    batch["id"].as_str().map(str::to_owned).with_context(|| batch.to_string())
}

async fn post(door: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    Ok(client()?.post(format!("{door}{path}")).bearer_auth(TENANT_KEY).json(body).send().await?.json().await?)
}

/// Waits until so many lines are answered.
async fn progress(url: &str, at_least: u64) -> anyhow::Result<u64> {
    let answered = |batch: &Value| batch["request_counts"]["completed"].as_u64().unwrap_or(0);
    let batch = progress_until(url, |batch| answered(batch) >= at_least).await?;
    Ok(answered(&batch))
}

/// A patient [`until`].
async fn progress_until(url: &str, done: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let began = Instant::now();
    loop {
        match until(url, &done).await {
            Ok(batch) => return Ok(batch),
            Err(error) => ensure!(began.elapsed() < WITHIN, "{error}"),
        }
    }
}
