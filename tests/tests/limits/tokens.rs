//! Tokens of a day: of answers that nobody waits for, and of batches.

use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_schemas::now_micros;
use millrace_tests::{ADMIN_KEY, Pipeline, client, form_of};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::eventually;

const TENANT: &str = "tenants/contoso";
/// In a day.
const LIMIT: u64 = 2_000;
/// Of UTC, in microseconds.
const DAY: u64 = 86_400_000_000;
const LONG_BEFORE: Duration = Duration::from_secs(120);
const WITHIN: Duration = Duration::from_secs(30);

pub async fn count_by_what_they_became(pipeline: &Pipeline) -> anyhow::Result<()> {
    // The count begins anew at midnight, which must not be meanwhile.
    let rest = Duration::from_micros(DAY - u64::try_from(now_micros())? % DAY);
    if rest < LONG_BEFORE {
        tokio::time::sleep(rest).await;
    }
    admin(pipeline, Method::PUT, TENANT, json!({ "limits": { "tokens_per_day": LIMIT } })).await?;
    let made = admin(pipeline, Method::POST, &format!("{TENANT}/keys"), json!({ "id": "k" })).await?;
    let key = made["key"].as_str().context("a new key is shown")?;
    for door in &pipeline.doors {
        eventually(WITHIN, "the key is known", async || Ok(ask(door, key, "/v1/models").send().await?.status() == 200))
            .await?;
    }
    let used = answers_that_nobody_waits_for(pipeline, key).await?;
    a_batch_goes_on_when_there_is_room(pipeline, key, used).await
}

/// Returns what they used.
async fn answers_that_nobody_waits_for(pipeline: &Pipeline, key: &str) -> anyhow::Result<u64> {
    let mut ids = Vec::new();
    for door in pipeline.doors.iter().cycle().take(6) {
        ids.push(accepted(chat(door, key, 100).header("prefer", "respond-async")).await?);
    }
    // A client that leaves, and then comes back by its key: the same request, which costs nothing more.
    let named = || chat(&pipeline.doors[0], key, 100).header("idempotency-key", "left");
    let left = named().timeout(Duration::from_millis(60)).send().await;
    ensure!(left.is_err_and(|error| error.is_timeout()), "it was answered before it left");
    let again = named().header("prefer", "respond-async");
    eventually(WITHIN, "its request was written", async || {
        let clone = again.try_clone().context("a text")?;
        Ok(accepted(clone).await.map(|id| ids.push(id)).is_ok())
    })
    .await?;
    let mut sum = 0;
    for id in &ids {
        let url = format!("/v1/requests/{id}");
        eventually(WITHIN, "it is answered", async || {
            let request: Value = ask(&pipeline.http, key, &url).send().await?.json().await?;
            let usage = &request["usage"];
            sum += usage["input_tokens"].as_u64().unwrap_or(0) + usage["output_tokens"].as_u64().unwrap_or(0);
            Ok(request["status"] == "succeeded")
        })
        .await?;
    }
    ensure!(sum > 0, "nothing was used");
    until_used(pipeline, key, (sum, LIMIT)).await?;
    Ok(sum)
}

async fn a_batch_goes_on_when_there_is_room(pipeline: &Pipeline, key: &str, used: u64) -> anyhow::Result<()> {
    let limit = async |limit: u64| -> anyhow::Result<()> {
        admin(pipeline, Method::PATCH, TENANT, json!({ "limits": { "tokens_per_day": limit } })).await?;
        Ok(())
    };
    let tight = used + 20;
    limit(tight).await?;
    until_used(pipeline, key, (used, tight)).await?;
    let batch = created(pipeline, key, 60).await?;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let waiting: Value = ask(&pipeline.http, key, &batch).send().await?.json().await?;
    ensure!(waiting["status"] == "in_progress" && waiting["request_counts"]["completed"] == 0, "{waiting}");
    limit(LIMIT).await?;
    let mut total = 0;
    eventually(WITHIN, "the batch is answered", async || {
        let done: Value = ask(&pipeline.http, key, &batch).send().await?.json().await?;
        total = done["usage"]["total_tokens"].as_u64().unwrap_or(0);
        Ok(done["status"] == "completed" && done["request_counts"]["completed"] == 3)
    })
    .await?;
    until_used(pipeline, key, (used + total, LIMIT)).await?;
    // What no day has room for is said at once.
    let batch = created(pipeline, key, LIMIT).await?;
    eventually(WITHIN, "the batch has failed", async || {
        let done: Value = ask(&pipeline.http, key, &batch).send().await?.json().await?;
        Ok(done["status"] == "failed" && done["errors"]["data"][0]["code"] == "rate_limit_exceeded")
    })
    .await
}

/// Every door says that so much is used of the limit.
async fn until_used(pipeline: &Pipeline, key: &str, (used, limit): (u64, u64)) -> anyhow::Result<()> {
    let expected = format!("on tokens per day: Limit {limit}, Used {used}, ");
    for door in &pipeline.doors {
        let mut said = String::new();
        let is_used = eventually(WITHIN, "all of it is counted", async || {
            // More than there is in a day: it is refused, and the refusal says what is used.
            let refused = chat(door, key, limit.max(LIMIT)).send().await?;
            ensure!(refused.status() == 429, "{}", refused.text().await?);
            said = refused.text().await?;
            Ok(said.contains(&expected))
        });
        is_used.await.with_context(|| format!("{expected} is not in {said}"))?;
    }
    Ok(())
}

async fn created(pipeline: &Pipeline, key: &str, max_tokens: u64) -> anyhow::Result<String> {
    let line = |n: u32| {
        let line = json!({
            "custom_id": n.to_string(), "method": "POST", "url": "/v1/chat/completions", "body": body(max_tokens),
        });
        format!("{line}\n")
    };
    let (kind, form) = form_of("batch", &(0..3).map(line).collect::<String>());
    let upload = client()?.post(format!("{}/v1/files", pipeline.http)).bearer_auth(key);
    let file: Value = upload.header("content-type", kind).body(form).send().await?.json().await?;
    let new = json!({ "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "1h" });
    let url = format!("{}/v1/batches", pipeline.http);
    let batch: Value = client()?.post(url).bearer_auth(key).json(&new).send().await?.json().await?;
    Ok(format!("/v1/batches/{}", batch["id"].as_str().with_context(|| batch.to_string())?))
}

fn body(max_tokens: u64) -> Value {
    json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Say hello" }], "max_tokens": max_tokens })
}

fn chat(door: &str, key: &str, max_tokens: u64) -> RequestBuilder {
    let url = format!("{door}/v1/chat/completions");
    reqwest::Client::new().post(url).bearer_auth(key).json(&body(max_tokens))
}

fn ask(door: &str, key: &str, path: &str) -> RequestBuilder {
    reqwest::Client::new().get(format!("{door}{path}")).bearer_auth(key)
}

async fn accepted(request: RequestBuilder) -> anyhow::Result<String> {
    let answer = request.send().await?;
    let (status, id) = (answer.status(), answer.headers().get("x-request-id").cloned());
    ensure!(status == 202, "{status} {}", answer.text().await?);
    Ok(id.context("an id")?.to_str()?.to_owned())
}

async fn admin(pipeline: &Pipeline, method: Method, path: &str, body: Value) -> anyhow::Result<Value> {
    let url = format!("{}/admin/v1/{path}", pipeline.doors[0]);
    let answer = client()?.request(method, url).bearer_auth(ADMIN_KEY).json(&body).send().await?;
    ensure!(answer.status().is_success(), "{path}: {}", answer.text().await?);
    Ok(answer.json().await?)
}
