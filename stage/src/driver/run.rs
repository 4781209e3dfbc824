//! Putting a loop together and keeping it until it ends.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use millrace_config::{KafkaConfig, StageConfig};
use millrace_schemas::Codec;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio_util::sync::CancellationToken;

use super::committer::Committer;
use super::consumer::{Names, PollLoop, Shared, State};
use super::context::Notes;
use super::customers::Customers;
use super::handler::{Handler, StageHandler};
use super::kafka::consumer_config;
use super::lost::{Lost, Way};
use super::producer::Producer;
use super::restore::Restorer;
use crate::core::{Lease, Limits, Moment, Tracker};
use crate::{Stage, StageMetrics};

/// Called with whether the loop is able to work, and a word why.
pub type Ready = Arc<dyn Fn(bool, &str) + Send + Sync>;

/// What a loop consumes and how.
#[derive(Debug, Clone)]
pub struct DriverSpec {
    /// Name of the service, as in metrics and logs.
    pub stage: &'static str,
    /// `interactive`, `batch`, or `all` where there are no lanes.
    pub lane: String,
    /// Consumer group, without prefix.
    pub group: String,
    /// Topics of ours, without prefix.
    pub topics: Vec<String>,
    /// Customers' topics, by their names on the broker.
    pub foreign_topics: Vec<String>,
    /// Whether records carry the `source` header of exactly one primary output each.
    pub drop_duplicates: bool,
    /// For a stage that pays: the topic of its primary output.
    pub own_output: Option<String>,
}

impl DriverSpec {
    pub(super) fn on_broker(&self, logical: &str, kafka: &KafkaConfig) -> String {
        if self.foreign_topics.iter().any(|t| t == logical) { logical.to_owned() } else { kafka.topic(logical) }
    }
}

/// What every loop of a process shares.
#[derive(Clone)]
pub struct StageEnv {
    /// The brokers.
    pub kafka: KafkaConfig,
    /// Bounds and times.
    pub stage: StageConfig,
    /// Metrics.
    pub metrics: StageMetrics,
    /// Events to bytes and back.
    pub codec: Codec,
    /// Hook for readiness.
    pub ready: Ready,
    /// Cancelled to drain and stop.
    pub shutdown: CancellationToken,
}

/// Why a loop ended.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The stage or one of its records ended it.
    #[error("{0}")]
    Stage(String),
    /// A committed offset is missing or makes no sense: an operator's word is needed.
    #[error("{0}")]
    NoCommit(String),
    /// Kafka refuses us.
    #[error("kafka refuses: {0}")]
    Kafka(String),
    /// The consumer's client does not find its way back to the brokers, where another client does.
    #[error("the client does not find its group's coordinator any more, and another one does")]
    Lost,
}

/// Drives a [`Stage`] until shutdown or failure. Everything in flight at shutdown is drained.
///
/// # Errors
/// [`DriverError`]; the caller may start it again: recovery decides what is left to do.
pub async fn run_stage<S: Stage>(
    spec: DriverSpec,
    env: &StageEnv,
    producer: Producer,
    stage: S,
) -> Result<(), DriverError> {
    let handler = StageHandler {
        stage: Arc::new(stage),
        name: spec.stage,
        producer: producer.clone(),
        customers: Customers::new(&env.kafka),
        codec: env.codec.clone(),
        runtime: tokio::runtime::Handle::current(),
    };
    let result = run_handler(spec, env, handler).await;
    if let Err(error) = producer.flush(Duration::from_secs(5)).await {
        tracing::warn!(%error, "not everything sent was acknowledged");
    }
    result
}

/// Drives any [`Handler`] until shutdown or failure. A client that is lost is replaced: for the handler, its partitions were
/// taken away and come back.
///
/// # Errors
/// [`DriverError`].
pub async fn run_handler<H: Handler>(spec: DriverSpec, env: &StageEnv, handler: H) -> Result<(), DriverError> {
    let (spec, handler) = (Arc::new(spec), Arc::new(handler));
    loop {
        match run_client(Arc::clone(&spec), env, Arc::clone(&handler)).await {
            Err(error @ DriverError::Lost) => {
                env.metrics.errors_of(spec.stage, &spec.lane, "lost_client").inc();
                tracing::error!(stage = spec.stage, lane = spec.lane, %error, "the client is replaced");
            }
            ended => return ended,
        }
    }
}

/// Until shutdown or failure, or until the client is lost.
async fn run_client<H: Handler>(spec: Arc<DriverSpec>, env: &StageEnv, handler: Arc<H>) -> Result<(), DriverError> {
    let logical: BTreeMap<String, Arc<str>> = spec
        .topics
        .iter()
        .map(|t| (env.kafka.topic(t), Arc::from(t.as_str())))
        .chain(spec.foreign_topics.iter().map(|t| (t.clone(), Arc::from(t.as_str()))))
        .collect();
    let refused = |e: rdkafka::error::KafkaError| DriverError::Kafka(e.to_string());
    let consumer: BaseConsumer<Notes> = consumer_config(&env.kafka, &env.stage, &env.kafka.group(&spec.group))
        .create_with_context(Notes::default())
        .map_err(refused)?;
    let names: Vec<&str> = logical.keys().map(String::as_str).collect();
    consumer.subscribe(&names).map_err(refused)?;
    let way = Way {
        kafka: env.kafka.clone(),
        stage: env.stage.clone(),
        group: env.kafka.group(&spec.group),
        topic: logical.keys().next().cloned().unwrap_or_default(),
    };

    let limits = Limits { window: env.stage.window, records: env.stage.max_in_flight, bytes: env.stage.max_bytes };
    let shared = Arc::new(Shared::new(Tracker::new(limits), env.metrics.clone(), spec.stage, spec.lane.clone()));
    let (results, restored) = mpsc::channel();
    let consumer = Arc::new(consumer);
    let committer = Committer::start(Arc::clone(&consumer), format!("{}.{}.commits", spec.stage, spec.lane))
        .map_err(|e| DriverError::Kafka(format!("no thread for the commits: {e}")))?;
    let poll_loop = PollLoop {
        consumer,
        committer,
        shared,
        handler: Arc::clone(&handler),
        restorer: Restorer {
            spec: Arc::clone(&spec),
            kafka: env.kafka.clone(),
            config: env.stage.clone(),
            handler,
            results,
            runtime: tokio::runtime::Handle::current(),
        },
        restored,
        names: Names { logical, kafka: env.kafka.clone() },
        window: env.stage.window,
        drop_duplicates: spec.drop_duplicates,
        commit_interval: Duration::from_millis(env.stage.commit_interval_ms),
        drain: Duration::from_millis(env.stage.drain_ms),
        shutdown: env.shutdown.clone(),
        ready: Arc::clone(&env.ready),
        // The broker gives a silent member up after a session; half of it is safe to be silent for.
        lease: Lease::new(Duration::from_millis(env.stage.session_timeout_ms / 2), Moment::now()),
        lost: Lost::new(way, tokio::runtime::Handle::current()),
        state: State::default(),
    };
    let (ended, end) = tokio::sync::oneshot::channel();
    let client = Arc::clone(&poll_loop.consumer);
    std::thread::Builder::new()
        .name(format!("{}.{}", spec.stage, spec.lane))
        .spawn(move || {
            let result = poll_loop.run();
            // Nobody waits for the end of a client that is lost: it may not find that either.
            let lost = matches!(result, Err(DriverError::Lost)).then_some(client);
            // The receiver is gone when the caller was cancelled: the loop still drains.
            let _gone = ended.send(result);
            drop(lost);
        })
        .map_err(|e| DriverError::Kafka(format!("no thread for the poll loop: {e}")))?;
    end.await.unwrap_or_else(|_| Err(DriverError::Stage("the poll loop panicked".to_owned())))
}
