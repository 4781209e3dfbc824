//! Client settings, in one place: ours first, then the configuration's, which win.

use millrace_config::{KafkaConfig, StageConfig};
use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;

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
        .set("fetch.wait.max.ms", "100")
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
pub fn admin_client(kafka: &KafkaConfig) -> Result<AdminClient<DefaultClientContext>, rdkafka::error::KafkaError> {
    client_config(kafka).create()
}
