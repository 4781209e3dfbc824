//! No secret of the whole run is in anything that was written.

use anyhow::{Context, ensure};
use millrace_stack::Stack;
use millrace_tests::{ADMIN_KEY, Pipeline, RIVAL_KEY, Search, TENANT_KEY, client, millrace, run};
use reqwest::Method;
use serde_json::{Value, json};

use crate::backup::RESTORED_CONFIG;
use crate::{keys, text, until};

const REQUEST: &str = "a request";
const COMPLETION: &str = "a completion";
const KEY_NAME: &str = "a key's name";

pub async fn are_in_nothing_that_was_written(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<()> {
    let (request, completion) = asked(pipeline).await?;
    let witnesses = [(REQUEST, request.as_str()), (COMPLETION, &completion), (KEY_NAME, keys::STEADY)];
    let mut search = pipeline.secrets.search(&witnesses)?;
    refusals(pipeline, &mut search).await?;
    let (folder, config) = (pipeline.folder().join("searched"), pipeline.folder().join(RESTORED_CONFIG));
    run(millrace()?, &["backup", "create", "--dir", text(&folder)?, "--config", text(&config)?]).await?;
    pipeline.look_through(stack, &mut search).await?;
    search.finds_no_secret()?;

    let topics = ["requests", "prompts", "outcomes"].map(|topic| format!("topic e2e.{topic}.interactive"));
    for topic in topics.iter().map(String::as_str).chain(["topic e2e.calls"]) {
        search.finds(REQUEST, topic)?;
    }
    search.finds(REQUEST, "file searched/store.jsonl")?;
    // Only in an outcome, whose bytes the backup holds as base64.
    search.finds(COMPLETION, "file searched/store.jsonl")?;
    search.finds(KEY_NAME, "topic e2e.calls")?;
    search.finds(KEY_NAME, "file inference-router-0.log")
}

/// A request that is over, and the id of its completion.
async fn asked(pipeline: &Pipeline) -> anyhow::Result<(String, String)> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "What the search finds" }] });
    let asked = client()?.post(format!("{}/v1/chat/completions", pipeline.http)).bearer_auth(TENANT_KEY).json(&body);
    let answer = asked.send().await?.error_for_status()?;
    let request = answer.headers()["x-request-id"].to_str()?.to_owned();
    let said: Value = answer.json().await?;
    let completion = said["id"].as_str().context("an id")?.to_owned();
    until(&format!("{}/v1/requests/{request}", pipeline.http), |v| v["status"] != "in_progress").await?;
    Ok((request, completion))
}

/// What is said to whoever asks wrongly, with a key that is good somewhere, or nearly is.
async fn refusals(pipeline: &Pipeline, search: &mut Search) -> anyhow::Result<()> {
    let nearly = format!("{TENANT_KEY}x");
    let chat = "v1/chat/completions";
    let bad = json!({ "model": "sim-small", "messages": "hello" });
    let unknown = json!({ "model": "no-such-model", "messages": [{ "role": "user", "content": "Hello" }] });
    for (method, path, key, body) in [
        (Method::POST, chat, nearly.as_str(), &bad),
        (Method::POST, chat, ADMIN_KEY, &bad),
        (Method::POST, chat, TENANT_KEY, &bad),
        (Method::POST, chat, RIVAL_KEY, &unknown),
        (Method::POST, "v1/responses", TENANT_KEY, &unknown),
        (Method::POST, "v1/embeddings", TENANT_KEY, &unknown),
        (Method::GET, "v1/requests/req_0", TENANT_KEY, &Value::Null),
        (Method::PUT, chat, TENANT_KEY, &bad),
        (Method::GET, "admin/v1/tenants/acme", TENANT_KEY, &Value::Null),
        (Method::GET, "admin/v1/tenants/nobody", ADMIN_KEY, &Value::Null),
        (Method::PATCH, "admin/v1/tenants/acme", ADMIN_KEY, &bad),
    ] {
        let place = format!("{method} {path} with {} characters", key.len());
        let asked = client()?.request(method, format!("{}/{path}", pipeline.http)).bearer_auth(key).json(body);
        let (status, said) = search.answer(&place, asked.send().await?).await?;
        ensure!(status.is_client_error() && said.contains("error"), "{place}: {status} {said}");
    }
    Ok(())
}
