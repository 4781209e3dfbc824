//! `millrace chaos`: the pipeline under a script of faults, then the books.

mod embedded;
mod evidence;
mod full_disk;
mod load;
mod points;
mod real;
mod rolling;
mod script;
mod shots;
mod storm;
mod verdict;

use std::time::Duration;

use anyhow::{Context, bail};
use comfy_table::Table;
use serde_json::{Value, json};

use crate::cli::{ChaosArgs, ChaosStack};
use verdict::Verdict;

/// The longest that the books may take to close once everything runs again.
const DRAIN: Duration = Duration::from_secs(240);
/// Time between two looks at the books.
const LOOK: Duration = Duration::from_secs(3);

/// Plays the storm and judges.
pub async fn run(args: &ChaosArgs, json: bool) -> anyhow::Result<()> {
    let verdict = match (args.stack, &args.full_disk) {
        (ChaosStack::Real, Some(disk)) => full_disk::run(args, disk).await?,
        (ChaosStack::Real, None) if args.points => points::run(args).await?,
        (ChaosStack::Real, None) if args.rolling => rolling::run(args.from.as_deref()).await?,
        (ChaosStack::Real, None) => real::run(args).await?,
        (ChaosStack::Embedded, _) => embedded::run(args).await?,
    };
    show(&verdict, json);
    if !verdict.broken.is_empty() {
        bail!("{}", verdict.broken.join("; "));
    }
    Ok(())
}

/// The provider fails in all the ways that providers do, by chance decided by seed, prompt and attempt.
async fn spoil(provider: &str, seed: u64) -> anyhow::Result<()> {
    let rule = |probability: f64, then: Value| json!({ "when": { "probability": probability }, "then": then });
    let rules = json!([
        rule(0.02, json!({ "kind": "rate_limited", "retry_after_ms": 200 + seed % 7 })),
        rule(0.01, json!({ "kind": "server_error", "status": 500 })),
        rule(0.01, json!({ "kind": "connection_reset" })),
        rule(0.005, json!({ "kind": "cut" })),
        rule(0.005, json!({ "kind": "malformed_json" })),
        rule(0.005, json!({ "kind": "usage_missing" })),
        rule(0.005, json!({ "kind": "wrong_usage", "factor": 3.0 })),
        rule(0.002, json!({ "kind": "hang", "ms": 8_000 })),
    ]);
    set_faults(provider, &rules).await
}

/// Replaces the provider's fault script.
async fn set_faults(provider: &str, rules: &Value) -> anyhow::Result<()> {
    let answer = millrace_tests::client()?.put(format!("{provider}/faults")).json(rules).send().await?;
    answer.error_for_status().context("the provider refuses the fault script")?;
    Ok(())
}

fn show(verdict: &Verdict, json: bool) {
    if json {
        println!("{}", verdict.to_json());
        return;
    }
    let mut table = Table::new();
    table.set_header(["count", ""]);
    if let Value::Object(fields) = verdict.to_json() {
        for (name, value) in fields {
            table.add_row([name.replace('_', " "), value.to_string()]);
        }
    }
    println!("{table}");
}
