//! Plays the script while requests are published.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use millrace_config::Config;
use millrace_schemas::{Lane, now_micros, topics};
use millrace_stack::Stack;
use millrace_stage::Producer;
use millrace_tests::{Pipeline, TENANT_KEY, client};
use serde_json::{Value, json};

use super::script::{Action, Event, Target};
use super::set_faults;
use crate::publish::Publisher;
use crate::wiring::connect_codec;

/// What was done and accepted.
pub struct Storm {
    /// Ids of the requests that the broker acknowledged.
    pub accepted: Vec<String>,
    /// When something happened that can lose calls, microseconds since the epoch.
    pub losses: Vec<i64>,
}

/// The tenant that publishes.
pub const TENANT: &str = "acme";

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
        while let Ok(started) = tokio::time::timeout_at(until, next(&mut starting)).await {
            started?;
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
    let accepted = publishing.await??;
    pipeline.until_ready().await?;
    Ok(Storm { accepted, losses })
}

/// The next start that ends; for ever pending when nothing starts.
async fn next(starting: &mut FuturesUnordered<BoxFuture<'_, anyhow::Result<()>>>) -> anyhow::Result<()> {
    match starting.next().await {
        Some(started) => started,
        None => std::future::pending().await,
    }
}

async fn act(stack: &Stack, pipeline: &mut Pipeline, action: &Action, usual: &Value) -> anyhow::Result<()> {
    match action {
        Action::Kill(Target::Process(name)) => pipeline.kill(name).await,
        Action::Start(Target::Process(name)) => pipeline.restart(name),
        Action::Freeze(Target::Process(name)) => pipeline.signal(name, "STOP").await,
        Action::Thaw(Target::Process(name)) => pipeline.signal(name, "CONT").await,
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

/// Who publishes.
pub struct Tenant {
    pub id: String,
    pub key: String,
}

/// Publishes evenly over `length`, to both lanes; every id that is returned was acknowledged.
pub async fn publish(config: Config, tenant: Tenant, requests: u32, length: Duration) -> anyhow::Result<Vec<String>> {
    const STEPS: u32 = 50;
    let codec = connect_codec(&config).await?;
    let producer = Producer::new(&config.kafka)?;
    let publisher = |lane| Publisher {
        producer: producer.clone(),
        codec: codec.clone(),
        topic: topics::of(topics::REQUESTS, lane),
        foreign: false,
        tenant: tenant.id.clone(),
        key: Some(("default".to_owned(), tenant.key.clone())),
        user: None,
    };
    let (interactive, batch) = (publisher(Lane::Interactive), publisher(Lane::Batch));
    let body = |n: u32| {
        let content = format!("Write a sentence about item {n}.");
        let message = json!({ "role": "user", "content": content });
        json!({ "model": "sim-small", "max_completion_tokens": 20, "messages": [message] }).to_string().into_bytes()
    };
    let began = Instant::now();
    let mut accepted = Vec::new();
    for step in 0..STEPS {
        tokio::time::sleep((length * step / STEPS).saturating_sub(began.elapsed())).await;
        let numbers = requests * step / STEPS..requests * (step + 1) / STEPS;
        let to = if step % 4 == 0 { &interactive } else { &batch };
        accepted.extend(to.publish(numbers.map(body), || ()).await?);
    }
    Ok(accepted)
}
