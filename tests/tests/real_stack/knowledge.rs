//! Documents: indexed, found by their own tenant, and billed.

use std::time::Duration;

use anyhow::{bail, ensure};
use millrace_tests::{Pipeline, RIVAL_KEY, TENANT_KEY, client};
use serde_json::{Value, json};

const PASSAGE: &str = "Opened kettles may be returned within thirty-one days.";

pub async fn documents_are_found_by_their_own_tenant(pipeline: &Pipeline) -> anyhow::Result<()> {
    let document = json!({ "collection": "handbook", "id": "returns", "title": "Returns", "text": PASSAGE });
    let url = format!("{}/v1/documents", pipeline.http);
    let answer = client()?.post(url).bearer_auth(TENANT_KEY).json(&document).send().await?;
    ensure!(answer.status() == 202, "{}", answer.text().await?);

    let mut with = prompt_tokens(pipeline, TENANT_KEY).await?;
    let without = prompt_tokens(pipeline, RIVAL_KEY).await?;
    for _ in 0..100 {
        if with > without {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        with = prompt_tokens(pipeline, TENANT_KEY).await?;
    }
    bail!("the passage never came into the prompt: {with} tokens, {without} without it")
}

/// How long the prompt became: a passage that was found makes it longer.
async fn prompt_tokens(pipeline: &Pipeline, key: &str) -> anyhow::Result<u64> {
    let body = json!({ "model": "sim-small", "millrace": { "collection": "handbook" },
        "messages": [{ "role": "user", "content": "Until when may I return a kettle?" }] });
    let url = format!("{}/v1/chat/completions", pipeline.http);
    let answer = client()?.post(url).bearer_auth(key).json(&body).send().await?;
    let status = answer.status();
    let completion: Value = answer.json().await?;
    ensure!(status == 200, "{completion}");
    Ok(completion["usage"]["prompt_tokens"].as_u64().unwrap_or_default())
}
