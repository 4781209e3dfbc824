//! `millrace chaos`: the pipeline under a script of faults, then the books.

mod evidence;
mod script;
mod storm;
mod verdict;

use std::time::Duration;

use anyhow::{Context, bail};
use comfy_table::Table;
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup};
use serde_json::{Value, json};

use crate::cli::ChaosArgs;
use evidence::Evidence;
use verdict::Verdict;

/// Processes of every service: one can be down while the other works.
const COPIES: usize = 2;
/// Short sessions, so that a frozen process loses its partitions soon; short calls and grace, so
/// that a call whose end was lost is booked soon.
const ENV: [(&str, &str); 3] = [
    ("MILLRACE_STAGE__SESSION_TIMEOUT_MS", "6000"),
    ("MILLRACE_LEDGER__GRACE_MS", "3000"),
    ("MILLRACE_PROVIDERS__SIM__TIMEOUT_MS", "5000"),
];
/// The longest that the books may take to close once everything runs again.
const DRAIN: Duration = Duration::from_secs(240);

/// Plays the storm and judges.
pub async fn run(args: &ChaosArgs, json: bool) -> anyhow::Result<()> {
    eprintln!("starting Kafka, Cassandra, the registry and {COPIES} processes of every service …");
    let stack = Stack::builder().start().await?;
    let setup = Setup { copies: COPIES, env: &ENV };
    let mut pipeline = Pipeline::start(&stack, setup).await?;
    spoil_the_provider(&pipeline, args.seed).await?;

    let events = script::write(args.seed, args.kills, &pipeline.names());
    let storm = storm::play(&stack, &mut pipeline, &events, args.requests).await?;
    eprintln!("the storm is over, waiting until the books close");
    let evidence = Evidence::gather(&pipeline, &storm, DRAIN).await?;
    let verdict = verdict::judge(&evidence, &storm);
    show(&verdict, json);
    if !verdict.broken.is_empty() {
        eprintln!("{}", pipeline.tails());
        bail!("{}", verdict.broken.join("; "));
    }
    pipeline.stop().await?;
    stack.stop().await
}

/// The provider fails in all the ways that providers do, by chance decided by seed, prompt and attempt.
async fn spoil_the_provider(pipeline: &Pipeline, seed: u64) -> anyhow::Result<()> {
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
    set_faults(&pipeline.provider, &rules).await
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
