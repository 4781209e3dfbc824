//! The storm over separate processes on real Kafka and Cassandra.

use std::collections::HashSet;
use std::time::Instant;

use millrace_config::Config;
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup};

use super::evidence::{Books, Evidence, Topics, provider_calls};
use super::load::TENANT;
use super::storm::{self, Storm};
use super::verdict::{Verdict, judge};
use super::{DRAIN, LOOK, script, spoil};
use crate::cli::ChaosArgs;
use crate::wiring::connect_codec;

/// Processes of every service: one can be down while the other works.
pub const COPIES: usize = 2;
/// Short sessions, so that a frozen process loses its partitions soon; short calls and grace, so
/// that a call whose end was lost is booked soon.
pub const ENV: [(&str, &str); 3] = [
    ("MILLRACE_STAGE__SESSION_TIMEOUT_MS", "6000"),
    ("MILLRACE_LEDGER__GRACE_MS", "3000"),
    ("MILLRACE_PROVIDERS__SIM__TIMEOUT_MS", "5000"),
];

/// More than a storm can use: what is published of the budget is held against the ledger, and who has limits is counted.
pub const PLENTY: [(&str, &str); 2] = [
    ("MILLRACE_TENANTS__ACME__BUDGET", "{ amount = \"1000000\" }"),
    ("MILLRACE_TENANTS__ACME__LIMITS", "{ requests_per_minute = 1000000, tokens_per_day = 1000000000 }"),
];

/// Plays and judges.
pub async fn run(args: &ChaosArgs) -> anyhow::Result<Verdict> {
    eprintln!("starting Kafka, Cassandra, the registry and {COPIES} processes of every service …");
    let stack = Stack::builder().brokers(args.brokers).synced().start().await?;
    let env = [&ENV[..], &PLENTY].concat();
    let mut pipeline = Pipeline::start(&stack, Setup::copies(COPIES).env(&env)).await?;
    spoil(&pipeline.provider, args.seed).await?;

    let events = script::write(args.seed, args.kills, &pipeline.names(), args.brokers);
    let storm = storm::play(&stack, &mut pipeline, &events, args.requests).await?;
    eprintln!("the storm is over, waiting until the books close");
    let evidence = gather(&pipeline, &storm).await?;
    let mut verdict = judge(&evidence, &storm);
    if evidence.topics.budgets.is_empty() {
        verdict.broken.push("nothing was published of what a budget was spent on".to_owned());
    }
    if !verdict.broken.is_empty() {
        eprintln!("{}", pipeline.tails());
    }
    pipeline.stop().await?;
    stack.stop().await?;
    Ok(verdict)
}

/// Looks until the books are closed or patience is over; the last look is the evidence.
pub async fn gather(pipeline: &Pipeline, storm: &Storm) -> anyhow::Result<Evidence> {
    let config = Config::load(Some(&pipeline.config), std::iter::empty(), [])?;
    let codec = connect_codec(&config).await?;
    let storage = pipeline.storage().await?;
    let until = Instant::now() + DRAIN;
    loop {
        let provider = provider_calls(&pipeline.provider).await?;
        let topics = Topics::read(&config, &codec).await?;
        let books = Books::read(&storage, TENANT, &storm.accepted, &topics).await?;
        let documents = if storm.documents.is_empty() { HashSet::new() } else { pipeline.documents().await? };
        let evidence = Evidence { topics, books, provider, documents };
        if evidence.is_closed(storm) || Instant::now() >= until {
            return Ok(evidence);
        }
        tokio::time::sleep(LOOK).await;
    }
}
