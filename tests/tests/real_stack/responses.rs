//! Responses as clients know them, a stream that is read on, and the events of a job.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use millrace_stack::Stack;
use millrace_tests::{Pipeline, RIVAL_KEY, TENANT_KEY, client};
use serde_json::{Value, json};

use crate::clients::{node, python};
use crate::stream::{ask, content, data, read_on, set};
use crate::{produce_to, producer, tapped, until, until_as};

const SLOW: &str = "Wait long for this";
const BROKEN: &str = "Break off this response";

pub async fn come_as_clients_know_them(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<()> {
    let faults = json!([
        { "when": { "prompt_contains": SLOW }, "then": { "kind": "hang", "ms": 50_000 } },
        { "when": { "prompt_contains": BROKEN, "first_attempts": 1 }, "then": { "kind": "cut" } },
    ]);
    set(pipeline, "faults", &faults).await?;
    set(pipeline, "pace", &json!({ "tokens_per_second": 20 })).await?;
    let url = format!("{}/v1", pipeline.http);
    let other = format!("{}/v1", pipeline.doors.last().context("a door")?);
    let args = ["--base-url", &url, "--key", TENANT_KEY, "--other-url", &other, "--slow", SLOW];
    python("tests/clients/openai_responses.py", &args).await?;
    node("openai_responses.mjs", &[&url, TENANT_KEY, BROKEN]).await?;
    python("tests/clients/agent.py", &["--base-url", &url, "--key", TENANT_KEY, "--api", "responses"]).await?;
    set(pipeline, "faults", &json!([])).await?;
    are_redacted_before_they_are_seen(pipeline).await?;
    a_chat_is_read_on(pipeline).await?;
    set(pipeline, "pace", &json!({ "tokens_per_second": null })).await?;
    a_job_tells_its_events(pipeline).await?;
    by_a_topic(stack, pipeline).await
}

/// In the stream as in the outcome, though the tenant's rules change a word of it.
async fn are_redacted_before_they_are_seen(pipeline: &Pipeline) -> anyhow::Result<()> {
    let body = json!({ "model": "sim-small", "stream": true, "input": "Zanzibar, or the harbour?" });
    let asked = client()?.post(format!("{}/v1/responses", pipeline.http)).bearer_auth(RIVAL_KEY).json(&body);
    let text = asked.send().await?.error_for_status()?.text().await?;
    let events = data(&text)?;
    let last = events.last().context("an event")?;
    let whole = last["response"]["output"][0]["content"][0]["text"].as_str().context("a text")?;
    let told: String = events
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .filter_map(|event| event["delta"].as_str())
        .collect();
    ensure!(last["type"] == "response.completed" && told == whole, "{told} is not {whole}");
    ensure!(whole.contains("[PLACE]") && !text.contains("zanzibar"), "{text}");
    let id = last["response"]["id"].as_str().context("an id")?;
    let door = pipeline.doors.last().context("a door")?;
    let stored = until_as(RIVAL_KEY, &format!("{door}/v1/responses/{id}"), |v| v["status"] == "completed").await?;
    ensure!(stored == last["response"], "{stored}");
    Ok(())
}

/// A client of a chat leaves after a few words and reads on at another replica.
async fn a_chat_is_read_on(pipeline: &Pipeline) -> anyhow::Result<()> {
    let mut answer = ask(&pipeline.http, TENANT_KEY, "Read on").await?;
    let id = answer.headers()["x-request-id"].to_str()?.to_owned();
    let mut seen = String::new();
    while content(&seen)?.is_empty() || !seen.ends_with("\n\n") {
        seen += std::str::from_utf8(&answer.chunk().await?.context("an event")?)?;
    }
    drop(answer);
    let door = pipeline.doors.last().context("a door")?;
    let rest = read_on(door, &id, &seen).await?;
    let stored = until(&format!("{door}/v1/requests/{id}"), |v| v["status"] != "in_progress").await?;
    let whole = stored["response"]["choices"][0]["message"]["content"].as_str().context("a text")?;
    let told = [content(&seen)?, content(&rest)?].concat();
    ensure!(told == whole && rest.ends_with("data: [DONE]\n\n"), "{told} is not {whole}: {rest}");
    Ok(())
}

async fn a_job_tells_its_events(pipeline: &Pipeline) -> anyhow::Result<()> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "A job" }] });
    let asked = client()?.post(format!("{}/v1/chat/completions", pipeline.http)).bearer_auth(TENANT_KEY);
    let accepted = asked.header("prefer", "respond-async").json(&body).send().await?;
    ensure!(accepted.status() == 202, "{}", accepted.status());
    let accepted: Value = accepted.json().await?;
    let url = format!("{}{}", pipeline.doors.last().context("a door")?, accepted["events"].as_str().context("events")?);
    let text = client()?.get(&url).bearer_auth(TENANT_KEY).send().await?.error_for_status()?.text().await?;
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    let stages = names.iter().filter(|name| **name == "stage").count();
    ensure!(names.first() == Some(&"accepted") && names.last() == Some(&"succeeded") && stages == 3, "{text}");
    let foreign = client()?.get(&url).bearer_auth(RIVAL_KEY).send().await?;
    ensure!(foreign.status() == 404, "{}", foreign.status());
    Ok(())
}

async fn by_a_topic(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<()> {
    const KEY: &str = "response-by-topic";
    let body = json!({ "model": "sim-small", "input": "By a topic" });
    let headers = [("content-type", "application/json"), ("operation", "responses"), ("idempotency-key", KEY)];
    produce_to(&producer(stack)?, "acme.requests", None, &headers, body.to_string().as_bytes()).await?;
    for _ in 0..60 {
        let outcomes = tapped(pipeline, "outcomes.batch", 1).await?;
        if let Some(outcome) = outcomes.iter().find(|o| o["value"]["meta"]["idempotency_key"] == KEY) {
            let value = &outcome["value"];
            ensure!(value["meta"]["operation"] == "responses" && value["status"] == "succeeded", "{value}");
            let id = value["meta"]["request_id"].as_str().context("an id")?.replace("req_", "resp_");
            let url = format!("{}/v1/responses/{id}", pipeline.http);
            until(&url, |response| response["status"] == "completed" && response["id"] == id).await?;
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    bail!("the response asked for by a topic has no outcome")
}
