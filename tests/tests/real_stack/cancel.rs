//! A request that is taken back while the model is being asked.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use millrace_schemas::RequestId;
use millrace_tests::{Pipeline, RIVAL_KEY, TENANT_KEY, client};
use serde_json::{Value, json};

use crate::until;

const KEY: &str = "take-me-back";

pub async fn a_running_call_is_broken_off_and_on_the_bill(pipeline: &Pipeline) -> anyhow::Result<()> {
    let client = client()?;
    let set_faults = |faults: Value| client.put(format!("{}/faults", pipeline.provider)).json(&faults).send();
    set_faults(json!([{ "when": { "prompt_contains": "Take me back" }, "then": { "kind": "hang", "ms": 50_000 } }]))
        .await?
        .error_for_status()?;
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Take me back" }] });
    let post = || {
        client
            .post(format!("{}/v1/chat/completions", pipeline.http))
            .bearer_auth(TENANT_KEY)
            .header("idempotency-key", KEY)
            .json(&body)
            .send()
    };
    let door = pipeline.doors.last().context("a door")?;
    let id = RequestId::of_key("acme", KEY).into_string();
    let url = format!("{door}/v1/requests/{id}");
    let waiting = tokio::spawn(post());
    in_flight(pipeline, 1).await?;

    let running: Value = client.get(&url).bearer_auth(TENANT_KEY).send().await?.json().await?;
    ensure!(running["status"] == "in_progress", "{running}");
    let foreign = client.delete(&url).bearer_auth(RIVAL_KEY).send().await?;
    ensure!(foreign.status() == 404, "{}", foreign.text().await?);
    let cancelled = client.delete(&url).bearer_auth(TENANT_KEY).send().await?;
    ensure!(cancelled.status() == 202, "{}", cancelled.text().await?);
    let answer: Value = cancelled.json().await?;
    ensure!(answer == json!({ "id": id, "object": "request", "status": "cancelling" }), "{answer}");

    // The client that waits is told, and the provider sees its connection closed.
    let told = waiting.await??;
    ensure!(told.status() == 499, "{}", told.text().await?);
    let told: Value = told.json().await?;
    ensure!(told["error"]["code"] == "request_cancelled", "{told}");
    in_flight(pipeline, 0).await?;
    let stored = until(&url, |v| v["status"] != "in_progress").await?;
    ensure!(stored["status"] == "cancelled" && stored["error"]["status"] == 499, "{stored}");
    let calls = stored["calls"].as_array().context("calls")?;
    ensure!(calls.len() == 1 && calls[0]["status"] == "unconfirmed" && calls[0]["charge_nanos"] == 0, "{stored}");

    // The outcome is the key's own, and cancelling it again changes nothing.
    let before = pipeline.count().await?["requests"].clone();
    let replay = post().await?;
    ensure!(replay.status() == 499, "{}", replay.text().await?);
    let again = client.delete(&url).bearer_auth(TENANT_KEY).send().await?;
    ensure!(again.status() == 200);
    let again: Value = again.json().await?;
    ensure!(again == stored, "{again}");
    ensure!(pipeline.count().await?["requests"] == before, "a cancelled request is not asked again");
    set_faults(json!([])).await?.error_for_status()?;
    Ok(())
}

/// Waits until the provider works on so many calls.
pub async fn in_flight(pipeline: &Pipeline, calls: u64) -> anyhow::Result<()> {
    for _ in 0..200 {
        if pipeline.count().await?["in_flight"] == calls {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the provider has not {calls} calls in flight: {}", pipeline.count().await?)
}
