//! Libraries that give up waiting and ask again by themselves, without a key: one call, one charge.

use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_tests::{Pipeline, TENANT_KEY, client};
use serde_json::{Value, json};

use crate::cancel::in_flight;
use crate::clients::python;

pub async fn join_what_is_running(pipeline: &Pipeline) -> anyhow::Result<()> {
    let slow = json!([{ "when": { "prompt_contains": "take your time" }, "then": { "kind": "hang", "ms": 4_000 } }]);
    set_faults(pipeline, &slow).await?;
    let url = format!("{}/v1", pipeline.http);
    let before = calls(pipeline).await?;
    python("tests/clients/openai_retry.py", &["--base-url", &url, "--key", TENANT_KEY]).await?;
    ensure!(calls(pipeline).await? == before + 2, "two questions of the library were not two calls");
    at_another_door(pipeline).await?;
    set_faults(pipeline, &json!([])).await
}

/// As the library does it, through a balancer that knows nothing.
async fn at_another_door(pipeline: &Pipeline) -> anyhow::Result<()> {
    let before = calls(pipeline).await?;
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Do take your time, door" }] });
    let post = |door: usize, count: &'static str| {
        let url = format!("{}/v1/chat/completions", pipeline.doors[door]);
        let asked = client().map(|c| c.post(url).bearer_auth(TENANT_KEY).header("x-stainless-retry-count", count));
        asked.map(|asked| asked.json(&body))
    };
    let first = post(0, "0")?.timeout(Duration::from_secs(1)).send().await;
    ensure!(first.is_err_and(|error| error.is_timeout()), "it was not held back");
    in_flight(pipeline, 1).await?;
    let joined = post(1, "1")?.send().await?;
    ensure!(joined.status() == 200 && !joined.headers().contains_key("idempotent-replayed"), "{joined:?}");
    let id = joined.headers()["x-request-id"].to_str()?.to_owned();
    let answer: Value = joined.json().await?;

    // Once more, when it is over; and as a new request.
    let replayed = post(1, "2")?.send().await?;
    let header = |name: &str| replayed.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    ensure!(header("idempotent-replayed").as_deref() == Some("true"), "{replayed:?}");
    ensure!(header("x-request-id").context("an id")? == id, "{replayed:?}");
    ensure!(replayed.json::<Value>().await? == answer, "another answer than {answer}");
    ensure!(calls(pipeline).await? == before + 1, "a retry was paid for");
    let anew = post(1, "0")?.send().await?;
    ensure!(anew.status() == 200 && anew.headers()["x-request-id"] != id.as_str(), "{anew:?}");
    ensure!(calls(pipeline).await? == before + 2, "a new request was taken for a retry");
    Ok(())
}

async fn set_faults(pipeline: &Pipeline, faults: &Value) -> anyhow::Result<()> {
    client()?.put(format!("{}/faults", pipeline.provider)).json(faults).send().await?.error_for_status()?;
    Ok(())
}

async fn calls(pipeline: &Pipeline) -> anyhow::Result<u64> {
    pipeline.count().await?["billed_calls"].as_u64().context("a count")
}
