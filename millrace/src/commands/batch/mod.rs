//! `millrace batch`

mod batches;
mod plan;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use millrace_config::Config;
use serde_json::{Value, json};

use crate::cli::{BatchAction, BatchArgs, FollowArgs};
use crate::ui::progress;
use batches::Batches;

/// Between two questions how far a batch is.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// An ingress that does not answer is asked again for so long, in questions.
const PATIENCE: u32 = 120;

/// Does what was typed.
pub async fn run(args: BatchArgs, config: Config, json: bool) -> anyhow::Result<()> {
    match args.action {
        BatchAction::Plan { file, tenant, rate, door } => {
            // Without a key there is nobody to ask how fast the last batch was.
            let door = Batches::open(door, &config).ok();
            plan::run(&file, &tenant, rate, door.as_ref(), &config, json).await
        }
        BatchAction::Run { file, window, follow, door } => {
            let door = Batches::open(door, &config)?;
            let endpoint = plan::endpoint_of(&file)?;
            let uploaded = door.upload(&file).await?;
            let new = json!({ "input_file_id": uploaded, "endpoint": endpoint, "completion_window": window });
            let batch = door.create(&new).await?;
            show(&door, batch, follow, json).await
        }
        BatchAction::Status { id, follow, door } => {
            let door = Batches::open(door, &config)?;
            let batch = door.batch(&id).await?;
            show(&door, batch, follow, json).await
        }
        BatchAction::Cancel { id, door } => {
            let batch = Batches::open(door, &config)?.cancel(&id).await?;
            print(&batch, json);
            Ok(())
        }
    }
}

/// Follows a batch as far as was asked, and prints how far it is.
async fn show(door: &Batches, batch: Value, follow: FollowArgs, json: bool) -> anyhow::Result<()> {
    let FollowArgs { wait, out } = follow;
    if !wait && out.is_none() {
        print(&batch, json);
        return Ok(());
    }
    let id = id_of(&batch)?;
    let shutdown = millrace_telemetry::shutdown_signal()?;
    let Some(batch) = shutdown.run_until_cancelled(until_the_end(door, batch)).await else {
        let out = out.map(|out| format!(" --out {}", out.display())).unwrap_or_default();
        bail!(
            "the batch goes on; come back with `millrace batch status {id} --wait{out}`, or `millrace batch cancel {id}`"
        );
    };
    let batch = batch?;
    if let Some(out) = out {
        download(door, &batch, "output_file_id", &out).await?;
        let mut beside = out.into_os_string();
        beside.push(".errors");
        download(door, &batch, "error_file_id", &PathBuf::from(beside)).await?;
    }
    print(&batch, json);
    match batch["status"].as_str() {
        Some("completed") => Ok(()),
        other => bail!("the batch {id} ended as {}", other.unwrap_or("nobody knows what")),
    }
}

async fn until_the_end(door: &Batches, mut batch: Value) -> anyhow::Result<Value> {
    let id = id_of(&batch)?;
    let bar = progress(0, "answered");
    let mut failures = 0;
    loop {
        let counts = &batch["request_counts"];
        let count = |name: &str| counts[name].as_u64().unwrap_or(0);
        bar.set_length(count("total"));
        bar.set_position(count("completed") + count("failed"));
        if matches!(batch["status"].as_str(), Some("completed" | "failed" | "expired" | "cancelled")) {
            bar.finish_and_clear();
            return Ok(batch);
        }
        tokio::time::sleep(ASK_EVERY).await;
        match door.batch(&id).await {
            Ok(now) => (batch, failures) = (now, 0),
            Err(error) if failures >= PATIENCE => return Err(error),
            Err(_) => failures += 1,
        }
    }
}

async fn download(door: &Batches, batch: &Value, which: &str, to: &Path) -> anyhow::Result<()> {
    match batch[which].as_str() {
        Some(file) => door.download(file, to).await,
        None => Ok(()),
    }
}

fn id_of(batch: &Value) -> anyhow::Result<String> {
    batch["id"].as_str().map(str::to_owned).context("ingress gave the batch no id")
}

fn print(batch: &Value, json: bool) {
    if json {
        println!("{batch}");
        return;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let counts = &batch["request_counts"];
    println!("{} {}", text(&batch["id"]), text(&batch["status"]));
    println!("{} requests, {} completed, {} failed", counts["total"], counts["completed"], counts["failed"]);
    println!("{} input tokens, {} output tokens", batch["usage"]["input_tokens"], batch["usage"]["output_tokens"]);
    for (name, what) in [("output_file_id", "answers"), ("error_file_id", "what failed")] {
        if let Some(file) = batch[name].as_str() {
            println!("{what}: {file}");
        }
    }
    for error in batch["errors"]["data"].as_array().into_iter().flatten() {
        let line = error["line"].as_u64().map(|line| format!("line {line}: ")).unwrap_or_default();
        println!("{line}{} ({})", text(&error["message"]), text(&error["code"]));
    }
}
