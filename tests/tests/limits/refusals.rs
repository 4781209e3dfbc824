//! Positions that make no sense: the service that would have to guess ends, with a sentence that says what to do.

use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_stack::Stack;
use millrace_tests::{Pipeline, State, TENANT_KEY, client, millrace, run};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::json;

use crate::eventually;

const ANSWER: Duration = Duration::from_secs(15);
const GROUP: &str = "e2e.moderator.interactive";
const TOPIC: &str = "e2e.completions.interactive";

/// A group that lost its position: the stage ends rather than skip or repeat. `topics apply` mends it where
/// nothing was worked off yet.
pub async fn a_missing_commit(stack: &Stack, pipeline: &mut Pipeline) -> anyhow::Result<()> {
    down(pipeline, "moderator").await?;
    let admin = admin(stack)?;
    let deleted = admin.delete_groups(&[GROUP], &AdminOptions::new().request_timeout(Some(ANSWER))).await?;
    ensure!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    let sentence = ["has no committed offset", GROUP, TOPIC, "millrace topics apply", "--reset-offsets"];
    refuses(pipeline, "moderator-0", &sentence).await?;
    pipeline.command(&["topics", "apply"]).await?;
    works_again(pipeline, "moderator").await
}

/// A position beyond the log's end: the topic is not the one that the position was committed for.
pub async fn a_commit_beyond_the_end(stack: &Stack, pipeline: &mut Pipeline) -> anyhow::Result<()> {
    down(pipeline, "moderator").await?;
    let bootstrap = stack.bootstrap_servers();
    let (partition, end) = tokio::task::spawn_blocking({
        let bootstrap = bootstrap.clone();
        move || {
            let (_, end) = group(&bootstrap)?.fetch_watermarks(TOPIC, 3, ANSWER)?;
            commit(&bootstrap, 3, end + 5)?;
            anyhow::Ok((3, end))
        }
    })
    .await??;
    let place = format!("partition {partition} is committed at {}, beyond the end of the log at {end}", end + 5);
    refuses(pipeline, "moderator-0", &[&place, GROUP, TOPIC, "kafka.generation", "--delete-offsets"]).await?;
    tokio::task::spawn_blocking(move || commit(&bootstrap, partition, end)).await??;
    works_again(pipeline, "moderator").await
}

/// The bill's log was made anew and the store was not: the ledger does not fold one on top of the other.
pub async fn a_topic_made_anew_under_an_old_store(stack: &Stack, pipeline: &mut Pipeline) -> anyhow::Result<()> {
    // Whoever writes calls is down, too.
    for service in ["cost-ledger", "prompt-builder", "inference-router", "indexer"] {
        down(pipeline, service).await?;
    }
    let before = pipeline.storage().await?.usage.totals().await?;
    ensure!(before.calls > 0, "there is something to lose");
    let deleted =
        admin(stack)?.delete_topics(&["e2e.calls"], &AdminOptions::new().operation_timeout(Some(ANSWER))).await?;
    ensure!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    // The broker goes on deleting for a moment.
    eventually(Duration::from_secs(30), "the topic is made anew", async || {
        Ok(pipeline.command(&["topics", "apply"]).await.is_ok())
    })
    .await?;
    let sentence = ["the topic was made anew", "`calls`", "kafka.generation"];
    refuses(pipeline, "cost-ledger-0", &sentence).await?;
    let after = pipeline.storage().await?.usage.totals().await?;
    ensure!(after.calls == before.calls && after.entries_sum == before.entries_sum, "{before:?} became {after:?}");

    // As it says: a new generation goes on beside the books of the old one.
    for service in ["ingress", "moderator", "result-sink", "webhooks"] {
        down(pipeline, service).await?;
    }
    let raised = |settings: String| settings.replace("[kafka]\n", "[kafka]\ngeneration = 1\n");
    let next = pipeline.folder().join("next.toml");
    std::fs::write(&next, raised(std::fs::read_to_string(&pipeline.config)?))?;
    let next = next.to_str().context("a path in UTF-8")?;
    for action in ["hand-over", "apply", "check"] {
        run(millrace()?, &["topics", action, "--config", next]).await?;
    }
    for name in pipeline.names() {
        pipeline.edit(&name, raised)?;
        pipeline.restart(&name)?;
    }
    pipeline.until_ready().await?;
    let accepted = answered(pipeline).await?;
    let storage = pipeline.storage().await?;
    eventually(Duration::from_secs(30), "the next call is booked", async || {
        let now = storage.usage.totals().await?;
        Ok(now.calls == before.calls + accepted && now.entries_sum == now.rollups_sum)
    })
    .await
}

/// Starts a process and waits until it has failed with one line that holds all of `sentence`.
async fn refuses(pipeline: &mut Pipeline, name: &str, sentence: &[&str]) -> anyhow::Result<()> {
    pipeline.restart(name)?;
    for _ in 0..300 {
        if pipeline.state(name)? == State::Failed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let log = std::fs::read_to_string(pipeline.folder().join(format!("{name}.log")))?;
    ensure!(pipeline.state(name)? == State::Failed, "{name} goes on:\n{}", tail(&log));
    let said = log.lines().rfind(|line| line.starts_with("millrace: ")).context(tail(&log))?;
    let missing: Vec<_> = sentence.iter().filter(|part| !said.contains(**part)).collect();
    ensure!(missing.is_empty(), "{missing:?} is not in: {said}");
    Ok(())
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

async fn down(pipeline: &mut Pipeline, service: &str) -> anyhow::Result<()> {
    for copy in 0..2 {
        pipeline.terminate(&format!("{service}-{copy}")).await?;
    }
    Ok(())
}

fn up(pipeline: &mut Pipeline, service: &str) -> anyhow::Result<()> {
    (0..2).try_for_each(|copy| pipeline.restart(&format!("{service}-{copy}")))
}

async fn works_again(pipeline: &mut Pipeline, service: &str) -> anyhow::Result<()> {
    up(pipeline, service)?;
    pipeline.until_ready().await?;
    answered(pipeline).await?;
    Ok(())
}

/// A request is served, as soon as what the stage has to read again is no longer too much, and in time. How many
/// were accepted until then.
async fn answered(pipeline: &Pipeline) -> anyhow::Result<u64> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Is it served again?" }] });
    let url = format!("{}/v1/chat/completions", pipeline.http);
    let client = client()?;
    let mut accepted = 0;
    eventually(Duration::from_secs(60), "a request is served", async || {
        let answer = client.post(&url).bearer_auth(TENANT_KEY).json(&body).send().await?;
        let status = answer.status();
        ensure!(matches!(status.as_u16(), 200 | 429 | 504), "{}", answer.text().await?);
        accepted += u64::from(status != 429);
        Ok(status == 200)
    })
    .await?;
    Ok(accepted)
}

fn admin(stack: &Stack) -> anyhow::Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", stack.bootstrap_servers()).create()?)
}

fn group(bootstrap: &str) -> anyhow::Result<BaseConsumer> {
    Ok(ClientConfig::new().set("bootstrap.servers", bootstrap).set("group.id", GROUP).create()?)
}

fn commit(bootstrap: &str, partition: i32, offset: i64) -> anyhow::Result<()> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(TOPIC, partition, Offset::Offset(offset))?;
    Ok(group(bootstrap)?.commit(&list, CommitMode::Sync)?)
}
