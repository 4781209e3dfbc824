//! One replica of the front door.

use std::sync::Arc;
use std::time::Duration;

use millrace_admission::Directory;
use millrace_budgets::Budgets;
use millrace_config::{Config, hash_key};
use millrace_limits::Limiter;
use millrace_schemas::Codec;
use millrace_settings::Current;
use millrace_stage::Producer;
use millrace_storage::Storage;
use millrace_tenants::{SecretKeys, Tenants};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::batches::worker;
use crate::error::ApiError;
use crate::held::{Bounds, Held};
use crate::lag::{self, SharedPressure};
use crate::metrics::IngressMetrics;
use crate::pressure::{Overload, Reason};
use crate::ready::{self, Ready};
use crate::replies::{self, Waiters};
use crate::tls::{Tls, TlsError};
use crate::together::Together;
use crate::unsettled::Unsettled;
use crate::{limits, routes, serve};

/// How long the broker may take to acknowledge a request, before the client is told "unknown".
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(15);
/// How long clients are held after shutdown was asked for.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Between two tries to begin, while a broker is away.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// More than a process may have open anyway.
const MOST_CONNECTIONS: usize = 1 << 20;

/// What the routes work with.
pub struct Ingress {
    pub(crate) settings: Current,
    pub(crate) tenants: Tenants,
    /// One change after the other, so that none is made of what another one has just replaced.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(crate) codec: Codec,
    pub(crate) producer: Producer,
    pub(crate) storage: Storage,
    pub(crate) waiters: Waiters,
    pub(crate) unsettled: Unsettled,
    pub(crate) together: Together,
    pub(crate) replica: String,
    pub(crate) wait: Duration,
    pub(crate) inline_bytes: usize,
    /// How long a body is kept that is not in its record.
    pub(crate) body_kept: Duration,
    pub(crate) metrics: IngressMetrics,
    pub(crate) draining: CancellationToken,
    pub(crate) held: Held,
    pub(crate) pressure: SharedPressure,
    pub(crate) limiter: Limiter,
    pub(crate) max_body_bytes: usize,
    pub(crate) budgets: Budgets,
    /// Lines of one batch that are published and have no outcome.
    pub(crate) batch_in_flight: usize,
    /// The longest time that a batch may be given, seconds.
    pub(crate) longest_window: i64,
    /// What secrets of endpoints are derived from.
    pub(crate) secret_keys: SecretKeys,
    /// Whether events may go to private networks.
    pub(crate) private_webhooks: bool,
    admin_key: Option<String>,
}

/// Why the front door does not open.
#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    /// Kafka does not answer, or lacks a topic.
    #[error("kafka: {0}; is it running, and was `millrace topics apply` run?")]
    Kafka(#[from] KafkaError),
    /// There is no thread left.
    #[error("a thread can not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The certificate can not be used.
    #[error("ingress.tls: {0}")]
    Tls(#[from] TlsError),
}

impl Ingress {
    /// Who there is.
    pub(crate) fn directory(&self) -> &Directory {
        self.tenants.directory()
    }

    /// Tells a client to come back later.
    pub(crate) fn shed(&self, overload: Overload) -> ApiError {
        let reason = match overload.reason {
            Reason::Lag => "lag",
            Reason::Wait => "wait",
            Reason::Share => "share",
        };
        self.metrics.shed.with_label_values(&[reason]).inc();
        ApiError::overloaded(overload.retry_after)
    }

    /// Whether this is the administrator's key. Digests are compared, so timing tells nothing.
    pub(crate) fn is_admin(&self, key: &str) -> bool {
        self.admin_key.as_ref().is_some_and(|hash| *hash == hash_key(key))
    }
}

/// Starts to read this replica's answers, as soon as the brokers let it.
///
/// # Errors
/// When they do not know the topic.
async fn read_replies(
    config: &Config,
    replica: &str,
    (waiters, unsettled, codec): (&Waiters, &Unsettled, &Codec),
    stop: &CancellationToken,
) -> Result<std::thread::JoinHandle<()>, KafkaError> {
    loop {
        let (config, replica, stop) = (config.clone(), replica.to_owned(), stop.clone());
        let tell = (waiters.clone(), unsettled.clone(), codec.clone());
        let started = tokio::task::spawn_blocking(move || replies::start(&config, &replica, tell, stop));
        match started.await.map_err(|_| KafkaError::Canceled)? {
            Err(error) if error.rdkafka_error_code() != Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {
                tracing::warn!(%error, "waiting for kafka: `replies` can not be read yet");
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            started => return started,
        }
    }
}

/// What a replica is connected to.
pub struct Deps {
    /// Events to bytes and back.
    pub codec: Codec,
    /// Results, usage, idempotency keys.
    pub storage: Storage,
    /// Who there is.
    pub tenants: Tenants,
    /// What was spent.
    pub budgets: Budgets,
    /// What requests are judged by.
    pub settings: Current,
    /// Where requests are counted.
    pub metrics: IngressMetrics,
}

/// Serves HTTP on `listener` until `shutdown`: then accepts nothing more, answers whom it can for a
/// few seconds and tells the rest where to ask.
///
/// # Errors
/// [`IngressError`].
pub async fn run(
    config: &Config,
    listener: TcpListener,
    deps: Deps,
    ready: Ready,
    shutdown: CancellationToken,
) -> Result<(), IngressError> {
    let Deps { codec, storage, tenants, budgets, settings, metrics } = deps;
    let tls = config.ingress.tls.clone().map(|files| Tls::start(files, shutdown.clone())).transpose()?;
    let (waiters, unsettled) = (Waiters::default(), Unsettled::default());
    let replica =
        config.ingress.replica.clone().unwrap_or_else(|| format!("ingress-{}", uuid::Uuid::now_v7().simple()));
    let draining = CancellationToken::new();
    let reading = read_replies(config, &replica, (&waiters, &unsettled, &codec), &draining);
    let Some(replies) = shutdown.run_until_cancelled(reading).await else {
        draining.cancel();
        return Ok(());
    };
    let replies = replies?;
    let pressure = SharedPressure::new(config.ingress.max_lag);
    let held = Held::new(Bounds { requests: config.ingress.max_in_flight, bytes: config.ingress.max_in_flight_bytes });
    let lag = lag::start(&config.kafka, pressure.clone(), held.clone(), metrics.clone(), draining.clone())?;
    let limiter = Limiter::new(replica.clone());
    let words = (&codec, Producer::hinting(&config.kafka)?);
    limits::start(config, &limiter, (tenants.directory(), &settings), words, &draining)?;
    let ingress = Arc::new(Ingress {
        settings,
        tenants,
        changing: tokio::sync::Mutex::default(),
        codec,
        producer: Producer::with_timeout(&config.kafka, ACKNOWLEDGEMENT)?,
        storage,
        waiters,
        unsettled,
        together: Together::default(),
        replica,
        wait: Duration::from_millis(config.ingress.wait_ms),
        inline_bytes: config.limits.inline_bytes,
        body_kept: Duration::from_secs(u64::from(config.limits.body_days) * 24 * 3_600),
        metrics,
        draining: draining.clone(),
        admin_key: match &config.ingress.admin_key {
            Some(key) => Some(hash_key(key.expose())),
            None => config.ingress.admin_key_sha256.clone(),
        },
        held,
        pressure,
        limiter,
        max_body_bytes: config.ingress.max_body_bytes,
        budgets,
        batch_in_flight: config.ingress.batch_in_flight,
        longest_window: i64::try_from(config.limits.max_deadline_ms / 1_000).unwrap_or(i64::MAX),
        secret_keys: SecretKeys::new(&config.webhooks.secret_keys),
        private_webhooks: config.webhooks.allow_private,
    });
    tokio::spawn(ready::watch(Arc::clone(&ingress), ready, shutdown.clone()));
    let batches = tokio::spawn(worker::work(Arc::clone(&ingress), shutdown.clone()));
    let router = routes::router(ingress, &config.ingress.cors_origins);
    let drained = {
        let (shutdown, draining) = (shutdown.clone(), draining.clone());
        tokio::spawn(async move {
            shutdown.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS).await;
            draining.cancel();
        })
    };
    // Beside a request for every place, as many connections that are idle, or ask.
    let connections = config.ingress.max_in_flight.saturating_mul(2).min(MOST_CONNECTIONS);
    serve::serve(listener, tls, router, connections, shutdown).await;
    draining.cancel();
    drained.abort();
    let _given_back = batches.await;
    let _threads = tokio::task::spawn_blocking(move || (replies.join(), lag.join())).await;
    Ok(())
}
