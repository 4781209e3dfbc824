//! Vectors, over HTTP and by a topic.

use anyhow::{Context, ensure};
use millrace_stack::Stack;
use millrace_tests::{Pipeline, TENANT_KEY};
use serde_json::{Value, json};

use crate::clients::python;
use crate::{produce_to, producer, tapped};

pub async fn come_as_clients_know_them(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<()> {
    let url = format!("{}/v1", pipeline.http);
    python("tests/clients/openai_embeddings.py", &["--base-url", &url, "--key", TENANT_KEY]).await?;
    by_a_topic(stack, pipeline).await
}

async fn by_a_topic(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<()> {
    const KEY: &str = "vectors-by-topic";
    let body = json!({ "model": "sim-embed", "input": ["a harbour", "a lighthouse"], "dimensions": 8 });
    let headers = [("content-type", "application/json"), ("operation", "embeddings"), ("idempotency-key", KEY)];
    produce_to(&producer(stack)?, "acme.requests", None, &headers, body.to_string().as_bytes()).await?;
    let found = |outcomes: &[Value]| outcomes.iter().find(|o| o["value"]["meta"]["idempotency_key"] == KEY).cloned();
    for _ in 0..60 {
        if let Some(outcome) = found(&tapped(pipeline, "outcomes.batch", 1).await?) {
            let value = &outcome["value"];
            ensure!(value["meta"]["operation"] == "embeddings" && value["status"] == "succeeded", "{value}");
            let bill = value["bill"].as_array().context("a bill")?;
            ensure!(
                bill.len() == 1 && bill[0]["operation"] == "embeddings" && bill[0]["status"] == "finished",
                "{value}"
            );
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    anyhow::bail!("the vectors asked for by a topic have no outcome")
}
