//! Limits that hold over all doors together.

use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_tests::{Pipeline, client};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::tenants::{Admin, until_status};

/// The tenant that is limited here.
pub const TENANT: &str = "contoso";
/// Requests in a minute.
const LIMIT: u64 = 30;
/// So many times that many are sent at once.
const FLOOD: usize = 4;

pub async fn hold_over_all_doors(pipeline: &Pipeline) -> anyhow::Result<()> {
    let admin = Admin::new(pipeline);
    let limits = json!({ "limits": { "requests_per_minute": LIMIT } });
    admin.ok(Method::PUT, &format!("tenants/{TENANT}"), limits).await?;
    let made = admin.ok(Method::POST, &format!("tenants/{TENANT}/keys"), json!({ "id": "k" })).await?;
    let key = made["key"].as_str().context("a new key is shown")?;
    for door in &pipeline.doors {
        until_status(door, key, reqwest::StatusCode::OK).await?;
    }
    requests_in_a_minute(pipeline, key).await?;
    let limits = json!({ "limits": { "requests_per_minute": null, "concurrent_requests": 2 } });
    admin.ok(Method::PATCH, &format!("tenants/{TENANT}"), limits).await?;
    // Until every door has heard of that: what it lets in before is under no limit.
    tokio::time::sleep(Duration::from_secs(2)).await;
    requests_at_the_same_time(pipeline, key).await
}

async fn ask(door: &str, key: &str, content: &str, prefer: &str) -> anyhow::Result<Response> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": content }] });
    let url = format!("{door}/v1/chat/completions");
    Ok(client()?.post(url).bearer_auth(key).header("prefer", prefer).json(&body).send().await?)
}

async fn requests_in_a_minute(pipeline: &Pipeline, key: &str) -> anyhow::Result<()> {
    let count = usize::try_from(LIMIT)? * FLOOD;
    let doors = pipeline.doors.iter().cycle().take(count);
    let sent: Vec<_> = doors
        .map(|door| {
            let (door, key) = (door.clone(), key.to_owned());
            tokio::spawn(async move { ask(&door, &key, "Say hello", "respond-async").await })
        })
        .collect();
    let mut accepted = 0;
    for answer in sent {
        let answer = answer.await??;
        if answer.status() == 202 {
            let limit = answer.headers().get("x-ratelimit-limit-requests").context("what is left is told")?;
            ensure!(limit.to_str()? == LIMIT.to_string(), "{limit:?}");
            accepted += 1;
            continue;
        }
        let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        ensure!(answer.status() == 429 && header("x-should-retry") == "true", "{answer:?}");
        ensure!(header("retry-after-ms").parse::<u64>()? <= 120_000, "{answer:?}");
        let error: Value = answer.json().await?;
        ensure!(error["error"]["code"] == "rate_limit_exceeded", "{error}");
    }
    println!(
        "of {count} requests at once, {accepted} were accepted by {} doors; the limit is {LIMIT}",
        pipeline.doors.len()
    );
    // What is late between doors lets through once more what was left; words are rarely two ticks late here.
    ensure!((LIMIT..=3 * LIMIT).contains(&accepted), "{accepted} of {LIMIT}");
    Ok(())
}

async fn requests_at_the_same_time(pipeline: &Pipeline, key: &str) -> anyhow::Result<()> {
    let faults = |faults: Value| client().map(|c| c.put(format!("{}/faults", pipeline.provider)).json(&faults));
    let slow = json!([{ "when": { "prompt_contains": "take your time" }, "then": { "kind": "hang", "ms": 4_000 } }]);
    faults(slow)?.send().await?.error_for_status()?;
    let held: Vec<_> = pipeline.doors[..2]
        .iter()
        .map(|door| {
            let (door, key) = (door.clone(), key.to_owned());
            tokio::spawn(async move { ask(&door, &key, "Do take your time", "").await })
        })
        .collect();
    // Until every door has heard of both.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for door in &pipeline.doors {
        let refused = ask(door, key, "Say hello", "").await?;
        let (status, text) = (refused.status(), refused.text().await?);
        ensure!(status == 429 && text.contains("concurrent requests"), "{status} {text}");
    }
    for answer in held {
        ensure!(answer.await??.status() == 200, "a request that was let in was not answered");
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for door in &pipeline.doors {
        let answer = ask(door, key, "Say hello", "").await?;
        ensure!(answer.status() == 200, "its place is not free: {}", answer.text().await?);
    }
    faults(json!([]))?.send().await?.error_for_status()?;
    Ok(())
}
