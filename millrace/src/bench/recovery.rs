//! How soon every partition flows again after a process is killed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use millrace_config::Config;
use millrace_schemas::{Lane, topics};
use millrace_stack::Stack;
use millrace_stage::Producer;
use millrace_tests::{Pipeline, Setup, TENANT_KEY};
use rdkafka::message::{Headers, Message};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Row, alone};
use crate::cli::BenchArgs;
use crate::publish::{Proof, Publisher};
use crate::reading::{Next, next, whole_topic};
use crate::ui::quantile;
use crate::wiring::connect_codec;

/// The group learns of a death by this: a shorter one than the default, so that many fit into a run.
const SESSION_MS: &str = "10000";
/// Services that everything goes through.
const VICTIMS: [&str; 4] = ["prompt-builder", "inference-router", "moderator", "result-sink"];
/// Kills of each.
const KILLS: usize = 6;
/// Requests of one bundle, over all partitions, and the time between two.
const BUNDLE: usize = 24;
const BEAT: Duration = Duration::from_millis(200);
/// From one kill to the next, once everything flows again.
const REST: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(90);

/// A fact as it came: its partition, when its request was published, and when it came.
struct Flowed {
    partition: i32,
    published: Instant,
    came: Instant,
}

/// Kills one of two processes of each service in turn, under a steady flow.
pub async fn run(args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    let kills = if args.quick { 1 } else { KILLS };
    eprintln!("starting Kafka, Cassandra, the registry and two processes of every service …");
    let stack = Stack::builder().start().await?;
    let env = [("MILLRACE_STAGE__SESSION_TIMEOUT_MS", SESSION_MS)];
    let mut pipeline = Pipeline::start(&stack, Setup::copies(2).env(&env)).await?;
    let config = Config::load(Some(&pipeline.config), std::iter::empty(), [])?;
    let stop = CancellationToken::new();
    let mut flow = Flow::start(&config, stop.clone()).await?;
    flow.until_all_flow(Instant::now()).await?;

    let mut rows = Vec::new();
    let mut all = Vec::new();
    for service in VICTIMS {
        let mut times = Vec::new();
        for kill in 1..=kills {
            eprintln!("{service}: kill {kill} of {kills}");
            tokio::time::sleep(REST).await;
            let name = format!("{service}-{}", kill % 2);
            pipeline.kill(&name).await?;
            times.push(flow.until_all_flow(Instant::now()).await?);
            pipeline.restart(&name)?;
            pipeline.until_ready().await?;
        }
        all.extend(times.clone());
        rows.extend(rows_of(service, times));
    }
    rows.extend(rows_of("any of them", all));
    stop.cancel();
    pipeline.stop().await?;
    stack.stop().await?;
    Ok(rows)
}

fn rows_of(service: &str, times: Vec<Duration>) -> Vec<Row> {
    let mut micros: Vec<i64> = times.iter().filter_map(|time| i64::try_from(time.as_micros()).ok()).collect();
    micros.sort_unstable();
    let spread = (quantile(&micros, 1.0) - quantile(&micros, 0.0)) as f64 / 2e6;
    let row = |what: &str, q: f64| {
        let question = format!("{service} killed: seconds until every partition flows, {what} of {}", micros.len());
        alone(&question, (quantile(&micros, q) as f64 / 1e6, spread), None)
    };
    vec![row("p50", 0.5), row("p99", 0.99)]
}

/// Requests that go in steadily, and the facts that come out.
struct Flow {
    facts: mpsc::UnboundedReceiver<Flowed>,
    partitions: usize,
}

impl Flow {
    async fn start(config: &Config, stop: CancellationToken) -> anyhow::Result<Self> {
        let (known, published) = mpsc::unbounded_channel();
        let (found, facts) = mpsc::unbounded_channel();
        let topic = config.kafka.topic(topics::FACTS);
        let reader = config.clone();
        let (consumer, partitions) = tokio::task::spawn_blocking(move || {
            let (consumer, _) = whole_topic(&reader, &topic, false)?;
            let partitions = rdkafka::consumer::Consumer::assignment(&consumer)?.count();
            anyhow::Ok((consumer, partitions))
        })
        .await??;
        let reading = stop.clone();
        tokio::task::spawn_blocking(move || read(&consumer, published, &found, &reading));
        let publisher = Publisher {
            producer: Producer::new(&config.kafka)?,
            codec: connect_codec(config).await?,
            topic: topics::of(topics::REQUESTS, Lane::Batch),
            foreign: false,
            tenant: "acme".to_owned(),
            proof: Proof::Key { id: "default".to_owned(), key: TENANT_KEY.to_owned() },
            user: None,
        };
        tokio::spawn(stop.run_until_cancelled_owned(publish(publisher, known)));
        Ok(Self { facts, partitions })
    }

    /// Waits until every partition has let through something that was published since; how long after
    /// `since` that was.
    async fn until_all_flow(&mut self, since: Instant) -> anyhow::Result<Duration> {
        let mut first: HashMap<i32, Instant> = HashMap::new();
        while first.len() < self.partitions {
            let Ok(flowed) = tokio::time::timeout(PATIENCE, self.facts.recv()).await else {
                bail!("{} of {} partitions flow after {PATIENCE:?}", first.len(), self.partitions);
            };
            let flowed = flowed.context("the flow ended")?;
            if flowed.published >= since {
                first.entry(flowed.partition).or_insert(flowed.came);
            }
        }
        Ok(first.values().max().map(|last| last.duration_since(since)).unwrap_or_default())
    }
}

async fn publish(publisher: Publisher, known: mpsc::UnboundedSender<(String, Instant)>) -> anyhow::Result<()> {
    let mut number = 0_u64;
    loop {
        let at = Instant::now();
        let bodies = (0..BUNDLE).map(|n| {
            let content = format!("{} {n}", number);
            json!({ "model": "sim-small", "max_completion_tokens": 5, "messages": [{ "role": "user", "content": content }] })
                .to_string()
                .into_bytes()
        });
        for id in publisher.publish(bodies, || ()).await? {
            known.send((id, at)).context("nobody reads")?;
        }
        number += 1;
        tokio::time::sleep(BEAT.saturating_sub(at.elapsed())).await;
    }
}

fn read(
    consumer: &rdkafka::consumer::BaseConsumer,
    mut published: mpsc::UnboundedReceiver<(String, Instant)>,
    found: &mpsc::UnboundedSender<Flowed>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut known: HashMap<String, Instant> = HashMap::new();
    while !stop.is_cancelled() {
        let Some(Next::Record(message)) = next(consumer)? else { continue };
        let came = Instant::now();
        while let Ok((id, at)) = published.try_recv() {
            known.insert(id, at);
        }
        let header = message.headers().and_then(|headers| headers.iter().find(|header| header.key == "request_id"));
        let id = header.and_then(|header| std::str::from_utf8(header.value?).ok()).unwrap_or_default();
        if let Some(published) = known.remove(id)
            && found.send(Flowed { partition: message.partition(), published, came }).is_err()
        {
            break;
        }
    }
    Ok(())
}
