//! Client settings, in one place: ours first, then the configuration's, which win.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use millrace_config::{KafkaConfig, StageConfig};
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::{ClientConfig, ClientContext};

/// Settings that every client shares.
#[must_use]
pub fn client_config(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        .set("client.id", "millrace")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "500")
        .set("socket.nagle.disable", "true");
    for (name, value) in &kafka.client {
        config.set(name, value);
    }
    config
}

/// Settings of a consumer of `group` (already prefixed).
#[must_use]
pub fn consumer_config(kafka: &KafkaConfig, stage: &StageConfig, group: &str) -> ClientConfig {
    let mut config = client_config(kafka);
    config
        .set("group.id", group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("session.timeout.ms", stage.session_timeout_ms.to_string())
        .set("heartbeat.interval.ms", (stage.session_timeout_ms / 10).clamp(100, 3000).to_string())
        .set("max.poll.interval.ms", stage.max_poll_interval_ms.to_string())
        .set("fetch.wait.max.ms", "500")
        .set("fetch.error.backoff.ms", "50")
        .set("queued.max.messages.kbytes", "16384")
        .set("statistics.interval.ms", "5000");
    for (name, value) in &kafka.consumer {
        config.set(name, value);
    }
    config
}

/// Settings of a stage's producer: idempotent, acknowledged by all, and its records never time out,
/// unless `settings` say otherwise.
#[must_use]
pub fn producer_config(kafka: &KafkaConfig, settings: &[(&str, &str)]) -> ClientConfig {
    let mut config = client_config(kafka);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", "0")
        .set("linger.ms", "0")
        .set("message.max.bytes", "8388608")
        .set("queue.buffering.max.kbytes", "262144")
        .set("queue.buffering.max.messages", "200000");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    for (name, value) in &kafka.producer {
        config.set(name, value);
    }
    config
}

/// A client for administration.
///
/// # Errors
/// When the settings are refused by librdkafka.
pub fn admin_client(kafka: &KafkaConfig) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
    client_config(kafka).create()
}

/// No broker answers; the text says why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(String);

/// The brokers and their topics. Blocks for at most `patience`.
///
/// # Errors
/// [`Unreachable`], such as for a refused password.
pub fn fetch_metadata(kafka: &KafkaConfig, patience: Duration) -> Result<Metadata, Unreachable> {
    let unreachable = |error: KafkaError| Unreachable(error.to_string());
    let client: BaseConsumer<Reasons> =
        client_config(kafka).create_with_context(Reasons::default()).map_err(unreachable)?;
    client.fetch_metadata(None, patience).map_err(|error| {
        // The request only timed out: why is among the events that nobody has read yet.
        while client.poll(Duration::from_millis(10)).is_some() {}
        client.context().reason().map_or_else(|| unreachable(error), Unreachable)
    })
}

/// What librdkafka said of its connections.
#[derive(Default)]
struct Reasons(Mutex<Option<String>>);

impl Reasons {
    fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Reasons {
    fn log(&self, _: RDKafkaLogLevel, _: &str, line: &str) {
        // The caller tells the reason, once.
        tracing::debug!(line, "kafka client");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // "All brokers are down" follows the reason and explains nothing.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Reasons {}
