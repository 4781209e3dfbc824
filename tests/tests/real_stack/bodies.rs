//! Requests that are larger than a record: a picture over HTTP, and one in a file that a record names.

use anyhow::{Context, ensure};
use millrace_schemas::{Coordinates, RequestId, SIGNATURE_HEADER, Signature, key_digest};
use millrace_stack::Stack;
use millrace_tests::{Pipeline, RIVAL_KEY, TENANT_KEY, client, form_of};
use serde_json::{Value, json};

use crate::{produce_to, producer, until};

const PARTITION: i32 = 2;

pub async fn are_answered_at_both_doors(stack: &Stack, pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let before = pipeline.count().await?["billed_calls"].as_u64().context("calls")?;
    // One key, at both doors over HTTP and over a topic, is one call.
    let (key, asked) = ("a-picture", picture(2 << 20));
    for door in [&pipeline.doors[0], &pipeline.doors[1]] {
        let request = client()?.post(format!("{door}/v1/chat/completions")).bearer_auth(TENANT_KEY);
        let request = request.header("idempotency-key", key).header("content-type", "application/json");
        let answer = request.body(asked.clone()).send().await?;
        ensure!(answer.status() == 200, "{}", answer.text().await?);
    }
    let own = upload(&pipeline.http, TENANT_KEY, &asked).await?;
    let again = publish(stack, &own, Some(key)).await?;
    let largest = pipeline.count().await?["largest_request"].as_u64().context("bytes")?;
    ensure!(largest >= 2 << 20, "the provider has seen {largest} bytes");

    // It waits while some of those who read it are gone.
    let larger = upload(&pipeline.http, TENANT_KEY, &picture(3 << 20)).await?;
    for name in ["prompt-builder-0", "inference-router-0"] {
        pipeline.kill(name).await?;
    }
    let id = publish(stack, &larger, None).await?;
    for name in ["prompt-builder-0", "inference-router-0"] {
        pipeline.restart(name)?;
    }
    pipeline.until_ready().await?;
    let outcome = ended(pipeline, &id).await?;
    ensure!(outcome["status"] == "succeeded", "{outcome}");
    let count = pipeline.count().await?;
    ensure!(count["largest_request"].as_u64() >= Some(3 << 20), "{count}");
    ensure!(count["billed_calls"] == before + 2, "{again} was paid for again: {count}");

    let foreign = upload(&pipeline.http, RIVAL_KEY, &asked).await?;
    let outcome = ended(pipeline, &publish(stack, &foreign, None).await?).await?;
    ensure!(outcome["status"] == "failed" && outcome["error"]["code"] == "body_file_not_found", "{outcome}");
    Ok(())
}

/// A chat with a picture of so many bytes.
fn picture(bytes: usize) -> String {
    let url = format!("data:image/png;base64,{}", "A".repeat(bytes));
    let content =
        json!([{ "type": "text", "text": "What is this?" }, { "type": "image_url", "image_url": { "url": url } }]);
    json!({ "model": "sim-small", "messages": [{ "role": "user", "content": content }] }).to_string()
}

async fn upload(door: &str, key: &str, content: &str) -> anyhow::Result<String> {
    let (kind, form) = form_of("user_data", content);
    let request = client()?.post(format!("{door}/v1/files")).bearer_auth(key).header("content-type", kind);
    let answer: Value = request.body(form).send().await?.json().await?;
    answer["id"].as_str().map(str::to_owned).with_context(|| answer.to_string())
}

/// A record of `acme` on the shared topic that names a file; returns the request's id.
async fn publish(stack: &Stack, file: &str, key: Option<&str>) -> anyhow::Result<String> {
    let value = json!({ "body_file": file }).to_string();
    let signature = Signature::sign("acme/default", &key_digest(TENANT_KEY), value.as_bytes());
    let mut headers = vec![("content-type", "application/json"), (SIGNATURE_HEADER, signature.as_str())];
    headers.extend(key.map(|key| ("idempotency-key", key)));
    let offset =
        produce_to(&producer(stack)?, "e2e.requests.batch", Some(PARTITION), &headers, value.as_bytes()).await?;
    let at = Coordinates { topic: "requests.batch".to_owned(), generation: 0, partition: PARTITION, offset };
    Ok(key.map_or_else(|| RequestId::of_coordinates("acme", &at), |key| RequestId::of_key("acme", key)).into_string())
}

async fn ended(pipeline: &Pipeline, id: &str) -> anyhow::Result<Value> {
    let url = format!("{}/v1/requests/{id}", pipeline.http);
    until(&url, |request| request["status"].is_string() && request["status"] != "in_progress").await
}
