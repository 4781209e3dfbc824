//! A store that is lost is restored from a backup that was taken under load, and catches up from the log.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_config::Config;
use millrace_storage::Storage;
use millrace_tests::{Pipeline, TENANT_KEY, client, millrace, run};
use serde_json::{Value, json};

use crate::text;

const LOST: &str = "millrace_e2e";
const RESTORED: &str = "millrace_restored";

/// The configuration of what was restored, in the folder of the run.
pub const RESTORED_CONFIG: &str = "restored.toml";

/// What a store holds.
type Held = (u64, millrace_storage::LedgerTotals);

pub async fn a_lost_store_is_restored(pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let early = ask(pipeline, "backup-early").await?;
    let folder = pipeline.folder().join("backup");
    let args = ["backup", "create", "--dir", text(&folder)?, "--json"];
    let (report, busy) = tokio::join!(pipeline.command(&args), publish(pipeline, "during", 300));
    busy?;
    let report: Value = serde_json::from_str(&report?)?;
    ensure!(
        report["rows"]["results"].as_u64() > Some(1_000) && report["rows"]["entries"].as_u64() > Some(1_000),
        "{report}"
    );
    let late = ask(pipeline, "backup-late").await?;
    publish(pipeline, "after", 200).await?;

    let lost = settled(&config(pipeline, LOST)?).await?;
    let names = pipeline.names();
    for name in &names {
        pipeline.terminate(name).await?;
    }

    let config_file = pipeline.folder().join(RESTORED_CONFIG);
    std::fs::write(&config_file, std::fs::read_to_string(&pipeline.config)?.replace(LOST, RESTORED))?;
    let config_args = ["--config", text(&config_file)?];
    let tool = async |args: &[&str]| run(millrace()?, &[args, &config_args].concat()).await;
    tool(&["storage", "migrate"]).await?;
    let restore = ["backup", "restore", "--dir", text(&folder)?, "--json"];
    let planned: Value = serde_json::from_str(&tool(&[&restore[..], &["--dry-run"]].concat()).await?)?;
    ensure!(held(&config(pipeline, RESTORED)?).await?.0 == 0, "a dry run wrote something");
    let done: Value = serde_json::from_str(&tool(&restore).await?)?;
    ensure!(
        done["positions_set_back"] == planned["positions_set_back"] && done["dry_run"] == false,
        "{planned} {done}"
    );
    ensure!(done["positions_set_back"].as_u64() > Some(0) && done["keys_claimed_again"].as_u64() > Some(0), "{done}");
    tool(&restore).await.context("a restore may be run again")?;

    for name in &names {
        pipeline.restart_with(name, &[("MILLRACE_STORAGE__KEYSPACE", RESTORED)])?;
    }
    pipeline.until_ready().await?;
    caught_up(&config(pipeline, RESTORED)?, &lost).await?;
    let calls = pipeline.count().await?;
    ensure!(ask(pipeline, "backup-early").await? == early, "a key from before the backup gives another answer");
    ensure!(ask(pipeline, "backup-late").await? == late, "a key from after the backup gives another answer");
    ensure!(pipeline.count().await? == calls, "a key that is known was paid for again");
    Ok(())
}

/// What the store holds once nothing is written any more.
async fn settled(config: &Config) -> anyhow::Result<Held> {
    let mut before = held(config).await?;
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = held(config).await?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
}

/// Everything that the lost store held is there, and no more.
async fn caught_up(config: &Config, lost: &Held) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let now = held(config).await?;
        if now == *lost {
            ensure!(now.1.entries_sum == now.1.rollups_sum, "{now:?}");
            return Ok(());
        }
        if Instant::now() > until {
            bail!("the restored store holds {now:?}, the lost one held {lost:?}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn held(config: &Config) -> anyhow::Result<Held> {
    let storage = Storage::open(&config.storage).await?;
    Ok((storage.results.count().await?, storage.usage.totals().await?))
}

fn config(pipeline: &Pipeline, keyspace: &str) -> anyhow::Result<Config> {
    let env = [("MILLRACE_STORAGE__KEYSPACE".to_owned(), keyspace.to_owned())];
    Ok(Config::load(Some(&pipeline.config), env.into_iter(), [])?)
}

async fn publish(pipeline: &Pipeline, name: &str, requests: usize) -> anyhow::Result<()> {
    let file = pipeline.folder().join(format!("{name}.jsonl"));
    let line = |n| {
        json!({ "model": "sim-small", "max_completion_tokens": 9, "messages": [{ "role": "user", "content": format!("{name} {n}") }] }).to_string()
    };
    std::fs::write(&file, (0..requests).map(line).collect::<Vec<_>>().join("\n"))?;
    let who = ["--tenant", "acme", "--key", TENANT_KEY, "--lane", "batch", "--wait"];
    pipeline.command(&[&["publish", "--file", text(&file)?][..], &who].concat()).await.map(|_| ())
}

async fn ask(pipeline: &Pipeline, key: &str) -> anyhow::Result<Value> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": format!("Once for {key}") }] });
    let url = format!("{}/v1/chat/completions", pipeline.http);
    let answer = client()?.post(url).bearer_auth(TENANT_KEY).header("idempotency-key", key).json(&body).send().await?;
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    Ok(answer.json().await?)
}
