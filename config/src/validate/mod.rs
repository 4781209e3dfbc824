//! What no single value shows: references, ranges and relations between values.

mod tenants;

use std::collections::BTreeMap;

use crate::models::is_provider_key_name;
use crate::names::{MAX_TOPIC, is_topic_char, is_topic_name};
use crate::read::written;
use crate::{Config, ConfigError, KafkaSettings, LANES, ModelConfig, StorageConfig};

pub(crate) type Checked = Result<(), ConfigError>;

/// librdkafka settings that the stage loop owns, because its guarantees rest on them, and what to
/// set instead.
const OWNED: [(&str, &str); 16] = [
    ("bootstrap.servers", "set kafka.bootstrap_servers"),
    ("metadata.broker.list", "set kafka.bootstrap_servers"),
    ("group.id", "set kafka.group_prefix"),
    ("group.protocol", "remove it: only the classic protocol is supported"),
    ("session.timeout.ms", "set stage.session_timeout_ms"),
    ("max.poll.interval.ms", "set stage.max_poll_interval_ms"),
    ("enable.auto.commit", "remove it: offsets are committed when their work is settled"),
    ("enable.auto.offset.store", "remove it: offsets are committed when their work is settled"),
    ("auto.offset.reset", "remove it: a missing commit needs an operator's word"),
    ("partition.assignment.strategy", "remove it: cooperative-sticky is required"),
    ("enable.idempotence", "remove it: producers are always idempotent"),
    ("acks", "remove it: accepted means acknowledged by all replicas"),
    ("request.required.acks", "remove it: accepted means acknowledged by all replicas"),
    ("message.timeout.ms", "remove it: what a stage writes never times out"),
    ("delivery.timeout.ms", "remove it: what a stage writes never times out"),
    ("transactional.id", "remove it: transactions are not used"),
];

/// Longest prefix: leaves room for the names that follow it.
const MAX_PREFIX: usize = 128;

pub(crate) fn check(config: &Config) -> Checked {
    kafka(config)?;
    stores(config)?;
    providers(config)?;
    models(config)?;
    tenants::plans(config)?;
    tenants::tenants(config)?;
    tenants::bindings(config)?;
    crate::issuers::check(config)?;
    ingress(config)?;
    stage(config)?;
    limits(config)?;
    moderation(config)?;
    knowledge(config)?;
    positive("ledger.flush_interval_ms", config.ledger.flush_interval_ms)?;
    positive("ledger.flush_calls", config.ledger.flush_calls.into())?;
    crate::webhooks::check_settings(config)?;
    if let Some(listen) = &config.telemetry.listen {
        host_port("telemetry.listen", listen)?;
    }
    Ok(())
}

pub(crate) fn invalid<T>(key: impl Into<String>, reason: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Invalid { key: key.into(), reason: reason.into() })
}

pub(crate) fn key_of(parts: &[&str]) -> String {
    written(&parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>())
}

pub(crate) fn positive(key: &str, value: u64) -> Checked {
    if value == 0 { invalid(key, "is 0; set it to at least 1") } else { Ok(()) }
}

fn kafka(config: &Config) -> Checked {
    let kafka = &config.kafka;
    for (key, count) in [("kafka.partitions", kafka.partitions), ("kafka.replication_factor", kafka.replication_factor)]
    {
        positive(key, count.unwrap_or(1).into())?;
    }
    for server in kafka.bootstrap_servers.split(',') {
        host_port("kafka.bootstrap_servers", server.trim())?;
    }
    for (key, prefix) in [("kafka.topic_prefix", &kafka.topic_prefix), ("kafka.group_prefix", &kafka.group_prefix)] {
        if !prefix.chars().all(is_topic_char) || prefix.len() > MAX_PREFIX {
            return invalid(
                key,
                format!("is `{prefix}`; use at most {MAX_PREFIX} letters, digits, dots, underscores and hyphens"),
            );
        }
    }
    let settings: [(&str, &KafkaSettings); 3] =
        [("client", &kafka.client), ("consumer", &kafka.consumer), ("producer", &kafka.producer)];
    for (section, settings) in settings {
        if let Some((name, instead)) = OWNED.iter().find(|(name, _)| settings.contains_key(*name)) {
            return invalid(key_of(&["kafka", section, name]), format!("is set by Millrace itself; {instead}"));
        }
    }
    Ok(())
}

fn stores(config: &Config) -> Checked {
    let registry = &config.registry;
    url("registry.url", &registry.url)?;
    pair("registry", registry.username.is_some(), registry.password.is_some())?;
    if let Some(address) = &config.vectors.url {
        url("vectors.url", address)?;
    }
    if config.vectors.collection.is_empty() {
        return invalid("vectors.collection", "is empty; name the collection for documents");
    }
    match &config.storage {
        StorageConfig::Embedded { path } if path.as_os_str().is_empty() => {
            invalid("storage.path", "is empty; name the store's directory")
        }
        StorageConfig::Embedded { .. } => Ok(()),
        StorageConfig::Cql { nodes, keyspace, replication_factor, username, password, local_datacenter: _ } => {
            if nodes.is_empty() {
                return invalid("storage.nodes", "is empty; give at least one host:port");
            }
            for node in nodes {
                host_port("storage.nodes", node)?;
            }
            let is_name = keyspace.starts_with(|c: char| c.is_ascii_alphabetic())
                && keyspace.len() <= 48
                && keyspace.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !is_name {
                return invalid(
                    "storage.keyspace",
                    format!("is `{keyspace}`; use at most 48 letters, digits and underscores, a letter first"),
                );
            }
            positive("storage.replication_factor", (*replication_factor).into())?;
            pair("storage", username.is_some(), password.is_some())
        }
    }
}

fn pair(section: &str, username: bool, password: bool) -> Checked {
    match (username, password) {
        (true, false) => invalid(format!("{section}.password"), "is missing beside `username`; set both or neither"),
        (false, true) => invalid(format!("{section}.username"), "is missing beside `password`; set both or neither"),
        (true, true) | (false, false) => Ok(()),
    }
}

fn providers(config: &Config) -> Checked {
    for (name, provider) in &config.providers {
        let key = |field| key_of(&["providers", name, field]);
        url(&key("base_url"), &provider.base_url)?;
        if provider.api_key.is_some() && !(provider.api_keys.is_empty() && provider.api_keys_file.is_none()) {
            return invalid(key("api_key"), "is beside a pool of keys; give it a name in `api_keys` or remove it");
        }
        if let Some(wrong) = provider.api_keys.keys().find(|name| !is_provider_key_name(name)) {
            return invalid(
                key_of(&["providers", name, "api_keys", wrong]),
                "is no name of a key; use 1 to 64 letters, digits, dots, hyphens and underscores",
            );
        }
        positive(&key("key_quarantine_ms"), provider.key_quarantine_ms)?;
        positive(&key("timeout_ms"), provider.timeout_ms)?;
        positive(&key("connect_timeout_ms"), provider.connect_timeout_ms)?;
        positive(&key("max_concurrency"), provider.max_concurrency.into())?;
        positive(&key("max_attempts"), provider.max_attempts.into())?;
        positive(&key("breaker_failures"), provider.breaker_failures.into())?;
        positive(&key("breaker_pause_ms"), provider.breaker_pause_ms)?;
        if provider.breaker_max_pause_ms < provider.breaker_pause_ms {
            return invalid(
                key("breaker_max_pause_ms"),
                format!(
                    "is {}; it must not be shorter than breaker_pause_ms ({})",
                    provider.breaker_max_pause_ms, provider.breaker_pause_ms
                ),
            );
        }
    }
    Ok(())
}

fn models(config: &Config) -> Checked {
    for (name, model) in &config.models {
        let key = |field| key_of(&["models", name, field]);
        known(&key("provider"), &model.provider, "provider", &config.providers)?;
        positive(&key("context_tokens"), model.context_tokens.into())?;
        if model.embedding {
            match model.dimensions {
                None | Some(0) => return invalid(key("dimensions"), "is missing; give the length of its vectors"),
                Some(_) => {}
            }
        } else {
            positive(&key("max_output_tokens"), model.max_output_tokens.into())?;
            if model.max_output_tokens >= model.context_tokens {
                return invalid(
                    key("max_output_tokens"),
                    format!(
                        "is {}; it must leave room in context_tokens ({})",
                        model.max_output_tokens, model.context_tokens
                    ),
                );
            }
            if model.dimensions.is_some() {
                return invalid(key("dimensions"), "is for embedding models; set embedding = true or remove it");
            }
        }
        for fallback in &model.fallbacks {
            let target: &ModelConfig = known(&key("fallbacks"), fallback, "model", &config.models)?;
            if fallback == name {
                return invalid(key("fallbacks"), "names the model itself; remove it");
            }
            if target.embedding || model.embedding {
                return invalid(
                    key("fallbacks"),
                    format!("names `{fallback}`, but only chat models fall back, and to chat models; remove it"),
                );
            }
        }
    }
    Ok(())
}

fn ingress(config: &Config) -> Checked {
    let ingress = &config.ingress;
    host_port("ingress.listen", &ingress.listen)?;
    positive("ingress.wait_ms", ingress.wait_ms)?;
    positive("ingress.max_body_bytes", ingress.max_body_bytes as u64)?;
    positive("ingress.max_in_flight", ingress.max_in_flight as u64)?;
    positive("ingress.max_lag", ingress.max_lag)?;
    positive("ingress.batch_in_flight", ingress.batch_in_flight as u64)?;
    if ingress.max_in_flight_bytes < ingress.max_body_bytes {
        return invalid(
            "ingress.max_in_flight_bytes",
            format!(
                "is {}; it must hold at least one body of ingress.max_body_bytes ({}): raise it or lower that",
                ingress.max_in_flight_bytes, ingress.max_body_bytes
            ),
        );
    }
    for origin in ingress.cors_origins.iter().filter(|origin| *origin != "*") {
        url("ingress.cors_origins", origin)?;
        if origin.matches('/').count() != 2 {
            return invalid("ingress.cors_origins", format!("`{origin}` has a path; name scheme, host and port only"));
        }
    }
    match &ingress.replica {
        Some(replica) if replica.is_empty() => {
            invalid("ingress.replica", "is empty; name the replica or remove the key")
        }
        Some(_) | None => Ok(()),
    }
}

fn stage(config: &Config) -> Checked {
    let stage = &config.stage;
    positive("stage.window", stage.window.into())?;
    positive("stage.max_in_flight", stage.max_in_flight as u64)?;
    positive("stage.commit_interval_ms", stage.commit_interval_ms)?;
    // What is larger than that, a record or a body beside one, goes alone.
    positive("stage.max_bytes", stage.max_bytes as u64)?;
    if stage.session_timeout_ms < 1_000 {
        return invalid(
            "stage.session_timeout_ms",
            format!("is {}; set it to at least 1000", stage.session_timeout_ms),
        );
    }
    if stage.session_timeout_ms > stage.max_poll_interval_ms {
        return invalid(
            "stage.session_timeout_ms",
            format!(
                "is {}, more than stage.max_poll_interval_ms ({}): lower it",
                stage.session_timeout_ms, stage.max_poll_interval_ms
            ),
        );
    }
    if stage.max_poll_interval_ms > 86_400_000 {
        return invalid("stage.max_poll_interval_ms", "is over 86400000 (24 h), which librdkafka refuses: lower it");
    }
    if stage.drain_ms >= stage.max_poll_interval_ms {
        return invalid(
            "stage.drain_ms",
            format!(
                "is {}; it must stay under stage.max_poll_interval_ms ({}), or the broker takes the partitions away \
                 while calls are still running: lower it or raise that",
                stage.drain_ms, stage.max_poll_interval_ms
            ),
        );
    }
    if let Some((name, slowest)) = config.providers.iter().max_by_key(|(_, provider)| provider.timeout_ms)
        && stage.drain_ms < slowest.timeout_ms
    {
        return invalid(
            "stage.drain_ms",
            format!(
                "is {}; it must cover {} ({}), or a deploy pays for calls twice: raise it or lower that",
                stage.drain_ms,
                key_of(&["providers", name, "timeout_ms"]),
                slowest.timeout_ms
            ),
        );
    }
    if stage.lanes.is_empty() {
        return invalid("stage.lanes", "is empty; name interactive, batch or both");
    }
    for (index, lane) in stage.lanes.iter().enumerate() {
        if !LANES.contains(&lane.as_str()) {
            return invalid("stage.lanes", format!("names `{lane}`; the lanes are interactive and batch"));
        }
        if stage.lanes[..index].contains(lane) {
            return invalid("stage.lanes", format!("names `{lane}` twice; remove one"));
        }
    }
    Ok(())
}

fn limits(config: &Config) -> Checked {
    let limits = &config.limits;
    positive("limits.prompt_tokens", limits.prompt_tokens.into())?;
    if limits.inline_bytes < 1_024 {
        return invalid("limits.inline_bytes", format!("is {}; set it to at least 1024", limits.inline_bytes));
    }
    if limits.body_bytes < limits.inline_bytes {
        return invalid(
            "limits.body_bytes",
            format!("is {}; set it to at least limits.inline_bytes ({})", limits.body_bytes, limits.inline_bytes),
        );
    }
    positive("limits.body_days", limits.body_days.into())?;
    for (key, deadline) in [
        ("limits.default_deadline_ms", limits.default_deadline_ms),
        ("limits.batch_deadline_ms", limits.batch_deadline_ms),
    ] {
        positive(key, deadline)?;
        if deadline > limits.max_deadline_ms {
            return invalid(
                key,
                format!(
                    "is {deadline}, more than limits.max_deadline_ms ({}): lower it or raise that",
                    limits.max_deadline_ms
                ),
            );
        }
    }
    Ok(())
}

fn moderation(config: &Config) -> Checked {
    let moderation = &config.moderation;
    if let Some((name, _)) = moderation.rule_sets.iter().find(|(_, set)| !set.is_table()) {
        return invalid(key_of(&["moderation", "rule_sets", name]), "is not a table; write a rule set");
    }
    if moderation.default == "default" && moderation.rule_sets.is_empty() {
        return Ok(());
    }
    rule_set(config, "moderation.default", &moderation.default)
}

/// Sets in a file are known only to those who read it.
fn rule_set(config: &Config, key: &str, name: &str) -> Checked {
    let moderation = &config.moderation;
    if moderation.rules_file.is_some() || (name == "default" && moderation.rule_sets.is_empty()) {
        return Ok(());
    }
    known(key, name, "rule set", &moderation.rule_sets).map(|_| ())
}

fn knowledge(config: &Config) -> Checked {
    let knowledge = &config.knowledge;
    if !knowledge.embedding_model.is_empty() {
        let model = known("knowledge.embedding_model", &knowledge.embedding_model, "model", &config.models)?;
        if !model.embedding {
            return invalid(
                "knowledge.embedding_model",
                format!("is `{}`, which does not embed; name a model with embedding = true", knowledge.embedding_model),
            );
        }
        if knowledge.chunk_tokens > model.context_tokens {
            return invalid(
                "knowledge.chunk_tokens",
                format!(
                    "is {}, more than the embedding model takes ({}): lower it",
                    knowledge.chunk_tokens, model.context_tokens
                ),
            );
        }
    }
    positive("knowledge.chunk_tokens", knowledge.chunk_tokens.into())?;
    positive("knowledge.top_k", knowledge.top_k.into())?;
    positive("knowledge.batch", knowledge.batch.into())?;
    if knowledge.chunk_overlap >= knowledge.chunk_tokens {
        return invalid(
            "knowledge.chunk_overlap",
            format!(
                "is {}; it must be less than knowledge.chunk_tokens ({})",
                knowledge.chunk_overlap, knowledge.chunk_tokens
            ),
        );
    }
    Ok(())
}

/// Looks a reference up.
fn known<'a, T>(key: &str, name: &str, what: &str, all: &'a BTreeMap<String, T>) -> Result<&'a T, ConfigError> {
    all.get(name).map_or_else(
        || {
            let names: Vec<&str> = all.keys().map(String::as_str).collect();
            let fix =
                if names.is_empty() { "define it first".to_owned() } else { format!("known: {}", names.join(", ")) };
            invalid(key, format!("names the {what} `{name}`, which is not configured; {fix}"))
        },
        Ok,
    )
}

fn topic_name(key: &str, topic: &str) -> Checked {
    if !is_topic_name(topic) {
        return invalid(
            key,
            format!(
                "`{topic}` is no topic name; use at most {MAX_TOPIC} letters, digits, dots, underscores and hyphens"
            ),
        );
    }
    Ok(())
}

fn host_port(key: &str, address: &str) -> Checked {
    let is_good = address.rsplit_once(':').is_some_and(|(host, port)| {
        let is_ipv6 = host.starts_with('[') && host.ends_with(']');
        !host.is_empty()
            && !host.contains(['/', ' ', '@'])
            && (is_ipv6 || !host.contains(':'))
            && port.parse::<u16>().is_ok()
    });
    if is_good { Ok(()) } else { invalid(key, format!("`{address}` is not host:port, such as 127.0.0.1:9092")) }
}

pub(crate) fn url(key: &str, address: &str) -> Checked {
    let Some(rest) = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://")) else {
        return invalid(key, format!("`{address}` is no URL; begin it with http:// or https://"));
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains('@') {
        return invalid(key, "has credentials in its URL, where logs would show them; use the keys made for them");
    }
    if host.is_empty() || host.starts_with(':') || address.contains(char::is_whitespace) {
        return invalid(key, format!("`{address}` is no URL; write http://host:port"));
    }
    if rest.contains(['?', '#']) {
        return invalid(key, format!("`{address}` has a query or fragment; remove it"));
    }
    Ok(())
}
