//! Volume: two thousand requests, counted in every place where they leave a trace.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use millrace_tests::{Pipeline, TENANT_KEY};
use serde_json::{Value, json};

use crate::text;

pub const REQUESTS: usize = 2000;

/// Exactly 2,000 outcomes in the topic and in Cassandra, 2,000 calls, and a ledger that says so.
pub async fn two_thousand_from_a_file(pipeline: &Pipeline) -> anyhow::Result<()> {
    let file = pipeline.folder().join("requests.jsonl");
    let lines: Vec<String> = (0..REQUESTS)
        .map(|n| {
            json!({ "model": "sim-small", "messages": [{ "role": "user", "content": format!("Describe product {n}.") }],
                    "max_completion_tokens": 20, "next_months_field": { "b": 1, "a": [1.50] } })
            .to_string()
        })
        .collect();
    std::fs::write(&file, lines.join("\n"))?;
    let out = pipeline.folder().join("outcomes.jsonl");
    let args = [
        "publish",
        "--file",
        text(&file)?,
        "--lane",
        "batch",
        "--tenant",
        "acme",
        "--key",
        TENANT_KEY,
        "--user",
        "ada",
        "--out",
        text(&out)?,
        "--timeout",
        "240",
        "--json",
    ];
    let report: Value = serde_json::from_str(&pipeline.command(&args).await?)?;
    ensure!(report["outcomes"] == json!({ "succeeded": REQUESTS }), "{report}");
    let written = std::fs::read_to_string(&out)?;
    ensure!(written.lines().count() == REQUESTS);

    // Every record of the topic, not only the first of each request: no copy is in the log either.
    let tapped = pipeline.command(&["tap", "outcomes.batch", "--from-beginning", "--no-follow"]).await?;
    let ids: Vec<String> = tapped
        .lines()
        .map(|line| {
            Ok(serde_json::from_str::<Value>(line)?["value"]["meta"]["request_id"]
                .as_str()
                .unwrap_or_default()
                .to_owned())
        })
        .collect::<anyhow::Result<_>>()?;
    ensure!(ids.len() == REQUESTS, "{} records in outcomes.batch", ids.len());
    ensure!(ids.iter().collect::<HashSet<_>>().len() == REQUESTS, "an outcome is there twice");

    let count = reconciled(pipeline, REQUESTS as u64).await?;
    ensure!(count["billed_calls"] == REQUESTS, "{count}");
    Ok(())
}

/// Waits until store and ledger agree with the provider's own count.
async fn reconciled(pipeline: &Pipeline, stored: u64) -> anyhow::Result<Value> {
    let storage = pipeline.storage().await?;
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let count = pipeline.count().await?;
        let (totals, results) = (storage.usage.totals().await?, storage.results.count().await?);
        let agrees = results == stored
            && count["billed_calls"] == totals.calls
            && count["tokens_total"] == totals.tokens
            && totals.entries_sum == totals.rollups_sum
            && totals.unconfirmed == 0
            && totals.entries_sum > 0;
        if agrees {
            return Ok(count);
        }
        if Instant::now() >= until {
            bail!("the books do not close: {results} results of {stored}, {totals:?}, provider {count}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
