//! Plays the script while requests are published.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use millrace_config::Config;
use millrace_schemas::now_micros;
use millrace_stack::{Part, Stack};
use millrace_tests::{Pipeline, State, TENANT_KEY, client};
use serde_json::{Value, json};

use super::load::{TENANT, Tenant, publish};
use super::script::{Action, Event, Target};
use super::set_faults;

/// What was done and accepted.
#[derive(Default)]
pub struct Storm {
    /// Ids of the requests that the broker acknowledged.
    pub accepted: Vec<String>,
    /// Of these, the ones that can never succeed.
    pub bad: Vec<String>,
    /// Ids of the documents that were accepted.
    pub documents: Vec<String>,
    /// When something happened that can lose calls, microseconds since the epoch.
    pub losses: Vec<i64>,
}

/// Time between two looks at processes that drain.
const TICK: Duration = Duration::from_millis(100);

/// Publishes `requests` over the length of the script, plays it, and leaves everything running.
pub async fn play(stack: &Stack, pipeline: &mut Pipeline, events: &[Event], requests: u32) -> anyhow::Result<Storm> {
    let config = Config::load(Some(&pipeline.config), std::iter::empty(), [])?;
    let length = Duration::from_millis(events.last().map_or(1_000, |event| event.at_ms));
    let as_tenant = Tenant { id: TENANT.to_owned(), key: TENANT_KEY.to_owned() };
    let publishing = tokio::spawn(publish(config, as_tenant, requests, length));
    let usual: Value = client()?.get(format!("{}/faults", pipeline.provider)).send().await?.json().await?;
    let began = Instant::now();
    let mut losses = Vec::new();
    // A server takes its time to start; the storm does not wait for it.
    let mut starting: FuturesUnordered<BoxFuture<'_, anyhow::Result<()>>> = FuturesUnordered::new();
    for event in events {
        let until = tokio::time::Instant::from_std(began + Duration::from_millis(event.at_ms));
        while tokio::time::Instant::now() < until {
            let tick = until.min(tokio::time::Instant::now() + TICK);
            if let Ok(started) = tokio::time::timeout_at(tick, next(&mut starting)).await {
                started?;
            }
            pipeline.revive()?;
        }
        if matches!(
            event.action,
            Action::Kill(Target::Part(Part::Broker(_))) | Action::Freeze(Target::Part(Part::Broker(_)))
        ) {
            // Never two brokers down at once, however long the last one took to start.
            while let Some(started) = starting.next().await {
                started?;
            }
        }
        eprintln!("{:6.1} s  {:?}", began.elapsed().as_secs_f64(), event.action);
        if event.action.can_lose_calls() {
            losses.push(now_micros());
        }
        if let Action::Start(Target::Part(part)) = event.action {
            starting.push(stack.start_part(part).boxed());
        } else {
            act(stack, pipeline, &event.action, &usual).await.with_context(|| format!("{:?}", event.action))?;
        }
    }
    while let Some(started) = starting.next().await {
        started?;
    }
    while pipeline.any_returns() {
        pipeline.revive()?;
        tokio::time::sleep(TICK).await;
    }
    let accepted = publishing.await??;
    pipeline.until_ready().await?;
    Ok(Storm { accepted, losses, ..Storm::default() })
}

/// The next start that ends; for ever pending when nothing starts.
async fn next(starting: &mut FuturesUnordered<BoxFuture<'_, anyhow::Result<()>>>) -> anyhow::Result<()> {
    match starting.next().await {
        Some(started) => started,
        None => std::future::pending().await,
    }
}

fn is(pipeline: &mut Pipeline, name: &str, state: State) -> anyhow::Result<bool> {
    Ok(pipeline.state(name)? == state)
}

async fn act(stack: &Stack, pipeline: &mut Pipeline, action: &Action, usual: &Value) -> anyhow::Result<()> {
    match action {
        // A process that still drains, or has not come back yet, is left alone.
        Action::Drain(name) if is(pipeline, name, State::Running)? => pipeline.drain(name).await,
        Action::Kill(Target::Process(name)) if is(pipeline, name, State::Running)? => pipeline.kill(name).await,
        Action::Freeze(Target::Process(name)) if is(pipeline, name, State::Running)? => {
            pipeline.signal(name, "STOP").await
        }
        Action::Thaw(Target::Process(name)) if is(pipeline, name, State::Frozen)? => {
            pipeline.signal(name, "CONT").await
        }
        Action::Drain(_)
        | Action::Kill(Target::Process(_))
        | Action::Freeze(Target::Process(_))
        | Action::Thaw(Target::Process(_)) => Ok(()),
        // One that still drains is started when it has ended.
        Action::Start(Target::Process(name)) => pipeline.restart_once_ended(name).and_then(|()| pipeline.revive()),
        Action::Kill(Target::Part(part)) => stack.kill(*part).await,
        Action::Start(Target::Part(part)) => stack.start_part(*part).await,
        Action::Freeze(Target::Part(part)) => stack.sigstop(*part).await,
        Action::Thaw(Target::Part(part)) => stack.sigcont(*part).await,
        Action::ProviderDown => {
            let mut rules = vec![json!({ "then": { "kind": "server_error", "status": 503 } })];
            rules.extend(usual.as_array().into_iter().flatten().cloned());
            set_faults(&pipeline.provider, &Value::from(rules)).await
        }
        Action::ProviderUp => set_faults(&pipeline.provider, usual).await,
    }
}
