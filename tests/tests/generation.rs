//! From one generation of the topics to the next, with more partitions, while requests run.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup, TENANT_KEY, client, millrace, run};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};

/// Requests of each file that is published.
const REQUESTS: usize = 150;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_takes_over_under_load_and_nothing_is_lost_or_paid_twice() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let mut pipeline = Pipeline::start(&stack, Setup::copies(1)).await?;
    let (first, next) = (pipeline.config.clone(), next_generation(&pipeline)?);
    let once = ask(&pipeline.doors[0], "once").await?;
    bound(&stack, "before").await?;

    // More partitions, other topics, beside the old ones; customers' own topics stay where they are.
    let old_load = tokio::spawn(publish(first.clone(), pipeline.folder().to_owned(), "old"));
    tool(&next, &["topics", "apply"]).await?;
    tool(&next, &["topics", "check"]).await?;
    pipeline.add(".g1", &next, Setup::copies(1))?;
    pipeline.until_ready().await?;
    ensure!(
        ask(&pipeline.doors[1], "once").await? == once,
        "a key of the old generation is asked again in the new one"
    );
    let new_load = tokio::spawn(publish(next.clone(), pipeline.folder().to_owned(), "new"));
    bound(&stack, "between").await?;
    old_load.await??;

    until_drained(&first).await?;
    let early = tool(&next_alone(&pipeline)?, &["topics", "hand-over"]).await;
    ensure!(early.is_err_and(|e| e.to_string().contains("stop the builders")), "handed over under the builders' feet");
    for name in pipeline.names().into_iter().filter(|name| !name.ends_with(".g1")) {
        pipeline.retire(&name).await?;
    }
    until_drained(&first).await?;
    let alone = next_alone(&pipeline)?;
    let refused = tool(&alone, &["topics", "apply"]).await;
    ensure!(
        refused.is_err_and(|e| e.to_string().contains("hand-over")),
        "a customer's topic would be read from its start"
    );
    // Positions can be set only while the new builders rest, too: what comes meanwhile waits in the log.
    pipeline.terminate("prompt-builder-0.g1").await?;
    tool(&alone, &["topics", "hand-over"]).await?;
    tool(&alone, &["topics", "check"]).await?;
    pipeline.edit("prompt-builder-0.g1", |settings| settings.replace(", generation = 0", ""))?;
    pipeline.restart("prompt-builder-0.g1")?;
    pipeline.until_ready().await?;
    bound(&stack, "after").await?;
    new_load.await??;

    let expected = 2 * REQUESTS + 1 + 3;
    let mut ids = HashSet::new();
    let mut records = 0;
    for config in [&first, &next] {
        let tapped = [tapped(config, "outcomes.batch").await?, tapped(config, "outcomes.interactive").await?].concat();
        for line in tapped.lines() {
            let outcome: Value = serde_json::from_str(line)?;
            ensure!(outcome["value"]["status"] == "succeeded", "{outcome}");
            ids.insert(outcome["value"]["meta"]["request_id"].to_string());
            records += 1;
        }
    }
    ensure!((ids.len(), records) == (expected, expected), "{} ids and {records} records of {expected}", ids.len());
    books_close(&pipeline, expected as u64).await?;
    pipeline.stop().await?;
    stack.stop().await
}

/// The configuration of generation 1, with twice the partitions; the old builders read customers' topics.
fn next_generation(pipeline: &Pipeline) -> anyhow::Result<PathBuf> {
    let settings = std::fs::read_to_string(&pipeline.config)?
        .replace("[kafka]\n", "[kafka]\ngeneration = 1\npartitions = 24\n")
        .replace("= { tenant = \"acme\"", "= { tenant = \"acme\", generation = 0")
        .replace("= { tenant = \"rival\"", "= { tenant = \"rival\", generation = 0");
    ensure!(settings.contains("generation = 1") && settings.matches("generation = 0").count() == 3, "{settings}");
    write(pipeline, "next.toml", settings)
}

/// The same, once the old generation is gone.
fn next_alone(pipeline: &Pipeline) -> anyhow::Result<PathBuf> {
    let settings = std::fs::read_to_string(pipeline.folder().join("next.toml"))?.replace(", generation = 0", "");
    write(pipeline, "alone.toml", settings)
}

fn write(pipeline: &Pipeline, name: &str, settings: String) -> anyhow::Result<PathBuf> {
    let path = pipeline.folder().join(name);
    std::fs::write(&path, settings)?;
    Ok(path)
}

async fn tool(config: &Path, args: &[&str]) -> anyhow::Result<String> {
    let config = config.to_str().context("a path in UTF-8")?;
    run(millrace()?, &[args, &["--config", config]].concat()).await
}

async fn tapped(config: &Path, topic: &str) -> anyhow::Result<String> {
    tool(config, &["tap", topic, "--from-beginning", "--no-follow"]).await
}

/// Publishes in many small steps, so that the change comes in between.
async fn publish(config: PathBuf, folder: PathBuf, name: &'static str) -> anyhow::Result<()> {
    for step in 0..5 {
        let file = folder.join(format!("{name}-{step}.jsonl"));
        let line = |n| {
            json!({ "model": "sim-small", "max_completion_tokens": 9, "messages": [{ "role": "user", "content": format!("{name} {step} {n}") }] }).to_string()
        };
        std::fs::write(&file, (0..REQUESTS / 5).map(line).collect::<Vec<_>>().join("\n"))?;
        let file = file.to_str().context("a path in UTF-8")?;
        tool(&config, &["publish", "--file", file, "--tenant", "acme", "--key", TENANT_KEY, "--wait"]).await?;
    }
    Ok(())
}

/// A record in a customer's own topic, and its outcome in the customer's reply topic.
async fn bound(stack: &Stack, content: &str) -> anyhow::Result<()> {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", stack.bootstrap_servers()).create()?;
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": content }] }).to_string();
    let header = |key, value| Header { key, value: Some(value) };
    let headers = OwnedHeaders::new().insert(header("content-type", "application/json"));
    let record = FutureRecord::<(), [u8]>::to("acme.requests").headers(headers).payload(body.as_bytes());
    producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
    Ok(())
}

async fn until_drained(config: &Path) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match tool(config, &["topics", "drained"]).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

async fn books_close(pipeline: &Pipeline, expected: u64) -> anyhow::Result<()> {
    let storage = pipeline.storage().await?;
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let (count, totals) = (pipeline.count().await?, storage.usage.totals().await?);
        let results = storage.results.count().await?;
        let closed = results == expected
            && count["billed_calls"] == expected
            && totals.calls == expected
            && totals.unconfirmed == 0
            && totals.entries_sum == totals.rollups_sum;
        if closed {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("{expected} were accepted, {results} are stored, {totals:?}, provider {count}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn ask(door: &str, key: &str) -> anyhow::Result<Value> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Only once" }] });
    let url = format!("{door}/v1/chat/completions");
    let answer = client()?.post(url).bearer_auth(TENANT_KEY).header("idempotency-key", key).json(&body).send().await?;
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    Ok(answer.json().await?)
}
