//! Answers that are read while they are written.

use anyhow::{Context, bail, ensure};
use millrace_schemas::RequestId;
use millrace_tests::{Pipeline, RIVAL_KEY, TENANT_KEY, client, run};
use serde_json::{Value, json};

use crate::cancel::in_flight;
use crate::clients::{node, python};
use crate::{until, until_as};

/// Their first answers break in the middle.
const BROKEN: [&str; 2] = ["Break off for Python", "Break off for Node"];

pub async fn flows_as_clients_know_it(pipeline: &Pipeline) -> anyhow::Result<()> {
    let cut = |prompt| json!({ "when": { "prompt_contains": prompt, "first_attempts": 1 }, "then": { "kind": "cut" } });
    set(pipeline, "faults", &json!(BROKEN.map(cut))).await?;
    // An answer that the provider says at once may be there before any part of it.
    set(pipeline, "pace", &json!({ "tokens_per_second": 20 })).await?;
    let url = format!("{}/v1", pipeline.http);
    python("tests/clients/openai_stream.py", &["--base-url", &url, "--key", TENANT_KEY, "--broken", BROKEN[0]]).await?;
    node("openai_stream.mjs", &[&url, TENANT_KEY, BROKEN[1]]).await?;
    python("tests/clients/agent.py", &["--base-url", &url, "--key", TENANT_KEY]).await?;
    by_curl(&url).await?;
    set(pipeline, "faults", &json!([])).await?;

    // Slowly enough for any machine to look in between.
    set(pipeline, "pace", &json!({ "tokens_per_second": 5 })).await?;
    is_seen_while_it_is_written(pipeline).await?;
    is_redacted_before_it_is_seen(pipeline).await?;
    ends_with_a_client_who_asked_for_that(pipeline).await?;
    set(pipeline, "pace", &json!({ "tokens_per_second": 20 })).await?;
    goes_on_without_its_client(pipeline).await?;
    is_restored_before_it_is_seen(pipeline).await?;
    set(pipeline, "pace", &json!({ "tokens_per_second": null })).await
}

async fn by_curl(url: &str) -> anyhow::Result<()> {
    let url = format!("{url}/chat/completions");
    let body =
        json!({ "model": "sim-small", "stream": true, "messages": [{ "role": "user", "content": "Hello, curl" }] });
    let (authorization, body) = (format!("authorization: Bearer {TENANT_KEY}"), body.to_string());
    let headers = ["-H", &authorization, "-H", "content-type: application/json"];
    let args = [&["--no-progress-meter", "--no-buffer", "--fail", &url, "--data", &body], &headers[..]].concat();
    let text = run("curl", &args).await?;
    ensure!(!content(&text)?.is_empty() && text.ends_with("data: [DONE]\n\n"), "{text}");
    Ok(())
}

async fn is_seen_while_it_is_written(pipeline: &Pipeline) -> anyhow::Result<()> {
    let mut answer = ask(&pipeline.http, TENANT_KEY, "Tell me slowly").await?;
    let id = answer.headers()["x-request-id"].to_str()?.to_owned();
    let kind = answer.headers()["content-type"].to_str()?;
    ensure!(kind.starts_with("text/event-stream"), "{kind}");
    let mut text = String::new();
    while content(&text)?.is_empty() {
        text += std::str::from_utf8(&answer.chunk().await?.context("an event")?)?;
    }
    let (begun, running) = (content(&text)?, pipeline.count().await?);
    ensure!(running["in_flight"].as_u64() > Some(0), "the provider has said everything before anything was seen");
    let stored = client()?.get(format!("{}/v1/requests/{id}", pipeline.http)).bearer_auth(TENANT_KEY).send().await?;
    let stored: Value = stored.json().await?;
    ensure!(stored["status"] == "in_progress", "{stored}");
    while let Some(more) = answer.chunk().await? {
        text += std::str::from_utf8(&more)?;
    }
    let stored = until(&format!("{}/v1/requests/{id}", pipeline.http), |v| v["status"] != "in_progress").await?;
    let whole = stored["response"]["choices"][0]["message"]["content"].as_str().context("a text")?;
    ensure!(text.ends_with("data: [DONE]\n\n") && content(&text)? == whole, "{text} is not {whole}");
    ensure!(begun.len() < whole.len() && whole.starts_with(&begun), "{begun} is not the beginning of {whole}");
    Ok(())
}

/// At one door a client leaves after the first words; at the other the outcome is there in the end.
async fn goes_on_without_its_client(pipeline: &Pipeline) -> anyhow::Result<()> {
    let mut answer = ask(&pipeline.http, TENANT_KEY, "Go on without me").await?;
    let id = answer.headers()["x-request-id"].to_str()?.to_owned();
    answer.chunk().await?.context("an event")?;
    drop(answer);
    let door = pipeline.doors.last().context("a door")?;
    let stored = until(&format!("{door}/v1/requests/{id}"), |v| v["status"] != "in_progress").await?;
    ensure!(stored["status"] == "succeeded" && stored["calls"].as_array().map(Vec::len) == Some(1), "{stored}");
    Ok(())
}

/// In the middle of a stream, and while the answer in one piece is waited for.
async fn ends_with_a_client_who_asked_for_that(pipeline: &Pipeline) -> anyhow::Result<()> {
    let hang = json!([{ "when": { "prompt_contains": "Wait for me" }, "then": { "kind": "hang", "ms": 50_000 } }]);
    set(pipeline, "faults", &hang).await?;
    for (key, prompt, streams) in [("leave-1", "Stop when I leave", true), ("leave-2", "Wait for me in vain", false)] {
        leave(pipeline, key, prompt, streams).await?;
        let url = format!("{}/v1/requests/{}", pipeline.http, RequestId::of_key("acme", key).as_str());
        let stored = until(&url, |v| v["status"] != "in_progress").await?;
        ensure!(stored["status"] == "cancelled", "{key}: {stored}");
        in_flight(pipeline, 0).await?;
    }
    set(pipeline, "faults", &json!([])).await
}

async fn leave(pipeline: &Pipeline, key: &str, prompt: &str, streams: bool) -> anyhow::Result<()> {
    let body = json!({ "model": "sim-small", "stream": streams,
        "messages": [{ "role": "user", "content": prompt }] });
    let asked = client()?
        .post(format!("{}/v1/chat/completions", pipeline.http))
        .bearer_auth(TENANT_KEY)
        .header("idempotency-key", key)
        .header("x-millrace-cancel-on-disconnect", "true")
        .json(&body);
    if streams {
        asked.send().await?.chunk().await?.context("an event")?;
        return Ok(());
    }
    tokio::select! {
        answer = asked.send() => bail!("it was not held back: {:?}", answer?),
        running = in_flight(pipeline, 1) => running,
    }
}

/// Answers mention words of their prompts, and this tenant's rules redact one of them.
async fn is_redacted_before_it_is_seen(pipeline: &Pipeline) -> anyhow::Result<()> {
    const PROMPT: &str = "Zanzibar, or the harbour?";
    let mut answer = ask(&pipeline.http, RIVAL_KEY, PROMPT).await?;
    let id = answer.headers()["x-request-id"].to_str()?.to_owned();
    let mut text = String::new();
    while content(&text)?.is_empty() {
        text += std::str::from_utf8(&answer.chunk().await?.context("an event")?)?;
    }
    ensure!(pipeline.count().await?["in_flight"].as_u64() > Some(0), "it was held back to its end");
    while let Some(more) = answer.chunk().await? {
        text += std::str::from_utf8(&more)?;
    }
    let door = pipeline.doors.last().context("a door")?;
    let stored = until_as(RIVAL_KEY, &format!("{door}/v1/requests/{id}"), |v| v["status"] != "in_progress").await?;
    let whole = stored["response"]["choices"][0]["message"]["content"].as_str().context("a text")?;
    ensure!(stored["moderation"]["action"] == "redact" && whole.contains("[PLACE]"), "{stored}");
    ensure!(content(&text)? == whole && !text.contains("Zanzibar"), "{text} is not {whole}");
    Ok(())
}

/// This tenant's rules redact e-mail addresses in prompts and put them back into answers.
async fn is_restored_before_it_is_seen(pipeline: &Pipeline) -> anyhow::Result<()> {
    let answer = ask(&pipeline.http, RIVAL_KEY, "Write to ann@example.com and to Zanzibar").await?;
    let id = answer.headers()["x-request-id"].to_str()?.to_owned();
    let text = answer.text().await?;
    let url = format!("{}/v1/requests/{id}", pipeline.http);
    let stored = until_as(RIVAL_KEY, &url, |v| v["status"] != "in_progress").await?;
    let whole = stored["response"]["choices"][0]["message"]["content"].as_str().context("a text")?;
    ensure!(stored["prompt_moderation"]["action"] == "redact" && whole.contains("ann@example.com"), "{stored}");
    ensure!(content(&text)? == whole && !text.contains("[EMAIL"), "{text} is not {whole}");
    ensure!(data(&text)?.len() > 4, "it came in one piece: {text}");
    Ok(())
}

/// The rest of a chat of which a client has seen a part, at a door of its choice.
pub async fn read_on(door: &str, id: &str, seen: &str) -> anyhow::Result<String> {
    let complete = seen.rfind("\n\n").map_or("", |end| &seen[..end]);
    let last = complete.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().context("an id")?;
    let url = format!("{door}/v1/requests/{id}?stream=true&starting_after={last}");
    Ok(client()?.get(url).bearer_auth(TENANT_KEY).send().await?.error_for_status()?.text().await?)
}

pub async fn ask(door: &str, key: &str, prompt: &str) -> anyhow::Result<reqwest::Response> {
    let body = json!({ "model": "sim-small", "stream": true, "max_completion_tokens": 100,
        "messages": [{ "role": "user", "content": prompt }] });
    let answer = client()?.post(format!("{door}/v1/chat/completions")).bearer_auth(key).json(&body).send().await?;
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    Ok(answer)
}

/// The data of the events that are complete, without the end.
pub fn data(text: &str) -> anyhow::Result<Vec<Value>> {
    let complete = text.rfind("\n\n").map_or("", |end| &text[..end]);
    let data = complete.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    Ok(data.map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// What the events that are complete say.
pub fn content(text: &str) -> anyhow::Result<String> {
    Ok(data(text)?.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect())
}

/// Tells the simulated provider how to behave.
pub async fn set(pipeline: &Pipeline, what: &str, value: &Value) -> anyhow::Result<()> {
    client()?.put(format!("{}/{what}", pipeline.provider)).json(value).send().await?.error_for_status()?;
    Ok(())
}
