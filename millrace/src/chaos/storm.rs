//! Plays the script while requests are published.

use std::time::{Duration, Instant};

use anyhow::Context;
use millrace_config::Config;
use millrace_schemas::{Lane, now_micros, topics};
use millrace_stack::{Part, Stack};
use millrace_stage::Producer;
use millrace_tests::{Pipeline, TENANT_KEY, client};
use serde_json::{Value, json};

use super::script::{Action, Event};
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

/// Publishes `requests` over the length of the script, plays it, and leaves everything running.
pub async fn play(stack: &Stack, pipeline: &mut Pipeline, events: &[Event], requests: u32) -> anyhow::Result<Storm> {
    let config = Config::load(Some(&pipeline.config), std::iter::empty(), [])?;
    let length = Duration::from_millis(events.last().map_or(1_000, |event| event.at_ms));
    let publishing = tokio::spawn(publish(config, requests, length));
    let usual: Value = client()?.get(format!("{}/faults", pipeline.provider)).send().await?.json().await?;
    let began = Instant::now();
    let mut losses = Vec::new();
    for event in events {
        tokio::time::sleep(Duration::from_millis(event.at_ms).saturating_sub(began.elapsed())).await;
        eprintln!("{:6.1} s  {:?}", began.elapsed().as_secs_f64(), event.action);
        if event.action.can_lose_calls() {
            losses.push(now_micros());
        }
        act(stack, pipeline, &event.action, &usual).await.with_context(|| format!("{:?}", event.action))?;
    }
    let accepted = publishing.await??;
    pipeline.until_ready().await?;
    Ok(Storm { accepted, losses })
}

async fn act(stack: &Stack, pipeline: &mut Pipeline, action: &Action, usual: &Value) -> anyhow::Result<()> {
    match action {
        Action::Kill(name) => pipeline.kill(name).await,
        Action::Restart(name) => pipeline.restart(name),
        Action::Freeze(name) => pipeline.signal(name, "STOP").await,
        Action::Thaw(name) => pipeline.signal(name, "CONT").await,
        Action::KillBroker => stack.kill_broker(0).await,
        Action::StartBroker => stack.start_broker(0).await,
        Action::FreezeBroker => stack.sigstop(Part::Broker(0)).await,
        Action::ThawBroker => stack.sigcont(Part::Broker(0)).await,
        Action::FreezeDatabase => stack.sigstop(Part::Database).await,
        Action::ThawDatabase => stack.sigcont(Part::Database).await,
        Action::KillDatabase => stack.kill(Part::Database).await,
        Action::StartDatabase => stack.start_part(Part::Database).await,
        Action::KillRegistry => stack.kill(Part::Registry).await,
        Action::StartRegistry => stack.start_part(Part::Registry).await,
        Action::ProviderDown => {
            let mut rules = vec![json!({ "then": { "kind": "server_error", "status": 503 } })];
            rules.extend(usual.as_array().into_iter().flatten().cloned());
            set_faults(&pipeline.provider, &Value::from(rules)).await
        }
        Action::ProviderUp => set_faults(&pipeline.provider, usual).await,
    }
}

/// Publishes evenly over `length`, to both lanes; every id that is returned was acknowledged.
async fn publish(config: Config, requests: u32, length: Duration) -> anyhow::Result<Vec<String>> {
    const STEPS: u32 = 50;
    let codec = connect_codec(&config).await?;
    let producer = Producer::new(&config.kafka)?;
    let publisher = |lane| Publisher {
        producer: producer.clone(),
        codec: codec.clone(),
        topic: topics::of(topics::REQUESTS, lane),
        foreign: false,
        tenant: "acme".to_owned(),
        key: Some(("default".to_owned(), TENANT_KEY.to_owned())),
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
