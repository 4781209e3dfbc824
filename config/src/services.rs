//! The settings of the services themselves.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Secret;
use crate::secret;

/// The HTTP front door.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngressConfig {
    /// `host:port` to listen on. Default `127.0.0.1:8080`.
    pub listen: String,
    /// Names this replica in requests, so that answers find it. None: host, process id and a
    /// random part. Two replicas must never share a name.
    pub replica: Option<String>,
    /// How long a synchronous caller is held before it is told to ask again, in milliseconds.
    /// Default 120,000.
    pub wait_ms: u64,
    /// The largest request body. Default 20 MiB.
    pub max_body_bytes: usize,
    /// Requests held at once; above it the answer is 503 with Retry-After. Default 10,000.
    pub max_in_flight: usize,
    /// Bytes of their bodies held at once, from before they are read until the answer; above it the answer is
    /// 503 with Retry-After. The process needs about five times as much. Default 256 MiB.
    pub max_in_flight_bytes: usize,
    /// Requests of the interactive lane accepted and not worked off yet, over all replicas; from there on the
    /// answer is 429 with Retry-After, and sooner when the stages' rate says that a request would wait for
    /// longer than `wait_ms` or its deadline. Default 20,000.
    pub max_lag: u64,
    /// Lines of one batch that are published and have no outcome yet. Default 1,000.
    pub batch_in_flight: usize,
    /// Opens the administrative API. None: it is closed.
    #[serde(deserialize_with = "secret::optional")]
    pub admin_key: Option<Secret>,
    /// The same as its SHA-256 in hexadecimal, for a key that is not to be written down.
    pub admin_key_sha256: Option<String>,
    /// Origins such as `https://app.example.com` whose pages' scripts may call the API; `*` for any.
    /// Default none.
    pub cors_origins: Vec<String>,
    /// Encrypts connections. None: plain HTTP, for loopback or behind a proxy that does it.
    pub tls: Option<TlsConfig>,
}

/// Files in PEM, read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate, then those that signed it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for IngressConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            replica: None,
            wait_ms: 120_000,
            max_body_bytes: 20 * 1024 * 1024,
            max_in_flight: 10_000,
            max_in_flight_bytes: 256 * 1024 * 1024,
            max_lag: 20_000,
            batch_in_flight: 1_000,
            admin_key: None,
            admin_key_sha256: None,
            cors_origins: Vec::new(),
            tls: None,
        }
    }
}

/// The consumer loop that all stages share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StageConfig {
    /// S: how many offsets of one partition may be in flight beyond its contiguous head.
    /// Written into each record, so that readers need no shared setting. Default 1,024.
    pub window: u32,
    /// Records in flight per consumer. Default 8,192.
    pub max_in_flight: usize,
    /// Bytes in flight per consumer. Default 256 MiB.
    pub max_bytes: usize,
    /// How often offsets are committed, in milliseconds. Default 100.
    pub commit_interval_ms: u64,
    /// How long a revoked partition or a shutdown waits for calls to end, in milliseconds. Covers
    /// the longest provider timeout and stays under `max_poll_interval_ms`. Default 90,000.
    pub drain_ms: u64,
    /// After how long without heartbeats the broker gives a consumer up, in milliseconds.
    /// Default 45,000.
    pub session_timeout_ms: u64,
    /// After how long without a poll a consumer gives itself up, in milliseconds. Default 600,000.
    pub max_poll_interval_ms: u64,
    /// The lanes that this process serves. Default both: `interactive` and `batch`.
    pub lanes: Vec<String>,
}

impl Default for StageConfig {
    fn default() -> Self {
        Self {
            window: 1_024,
            max_in_flight: 8_192,
            max_bytes: 256 * 1024 * 1024,
            commit_interval_ms: 100,
            drain_ms: 90_000,
            session_timeout_ms: 45_000,
            max_poll_interval_ms: 600_000,
            lanes: LANES.map(str::to_owned).to_vec(),
        }
    }
}

/// The lanes there are.
pub const LANES: [&str; 2] = ["interactive", "batch"];

/// What a request may ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// The largest body that is in its record, in bytes. Default 256 KiB.
    pub inline_bytes: usize,
    /// The largest body of a chat, in bytes: one that is larger than `inline_bytes` lies in the store, beside its
    /// record. Default 20 MiB.
    pub body_bytes: usize,
    /// How long such a body is kept, in days: as long as its record, or a dead letter of it, may be read. Default 45.
    pub body_days: u32,
    /// The longest prompt, in tokens. Default 128,000.
    pub prompt_tokens: u32,
    /// The deadline of an interactive request that names none, in milliseconds. Default 10 minutes.
    pub default_deadline_ms: u64,
    /// The deadline of a batch request that names none, in milliseconds. Default 24 hours.
    pub batch_deadline_ms: u64,
    /// The latest deadline a request may name, in milliseconds. Default 7 days.
    pub max_deadline_ms: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            inline_bytes: 256 * 1024,
            body_bytes: 20 * 1024 * 1024,
            body_days: 45,
            prompt_tokens: 128_000,
            default_deadline_ms: 10 * 60 * 1_000,
            batch_deadline_ms: 24 * 60 * 60 * 1_000,
            max_deadline_ms: 7 * 24 * 60 * 60 * 1_000,
        }
    }
}

/// Which rules answers are checked against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModerationConfig {
    /// A TOML file with one table per rule set.
    pub rules_file: Option<PathBuf>,
    /// The set for tenants that name none. Default `default`, which, when it is defined nowhere,
    /// allows everything.
    pub default: String,
    /// Rule sets written here; each must have the shape that the rules library reads. They win
    /// over sets of the same name in `rules_file`.
    pub rule_sets: BTreeMap<String, toml::Value>,
}

impl Default for ModerationConfig {
    fn default() -> Self {
        Self { rules_file: None, default: "default".to_owned(), rule_sets: BTreeMap::new() }
    }
}

/// What calls cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PricingConfig {
    /// The price table. None: the built-in one, which covers the simulated models only.
    pub file: Option<PathBuf>,
}

/// Documents: how they are cut, embedded and retrieved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KnowledgeConfig {
    /// The model that embeds. Empty: no documents, no retrieval.
    pub embedding_model: String,
    /// Tokens in one chunk. Default 256.
    pub chunk_tokens: u32,
    /// Tokens that a chunk shares with the one before. Default 32.
    pub chunk_overlap: u32,
    /// Passages put into a prompt. Default 4.
    pub top_k: u32,
    /// Chunks embedded by one call. Default 64.
    pub batch: u32,
}

impl Default for KnowledgeConfig {
    fn default() -> Self {
        Self { embedding_model: String::new(), chunk_tokens: 256, chunk_overlap: 32, top_k: 4, batch: 64 }
    }
}

/// The cost ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerConfig {
    /// The longest that folded calls wait for their flush, in milliseconds. Default 200.
    pub flush_interval_ms: u64,
    /// Calls folded before a flush. Default 2,000.
    pub flush_calls: u32,
    /// How long after its deadline a call without an end is booked as unconfirmed, in
    /// milliseconds. Default 30,000.
    pub grace_ms: u64,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self { flush_interval_ms: 200, flush_calls: 2_000, grace_ms: 30_000 }
    }
}

/// Logs, metrics and health.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// How log lines are written. Default `pretty`.
    pub log_format: LogFormat,
    /// Which log lines are written, in tracing's syntax: `info,millrace_stage=debug`.
    pub log_filter: String,
    /// `host:port` of `/metrics`, `/health` and `/ready`. None: they are off.
    pub listen: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Pretty,
            // The provider client logs whole request bodies on errors, librdkafka every reconnect, and
            // rdkafka each end of a partition that a reader came to as an error.
            log_filter: "info,async_openai=off,librdkafka=warn,rdkafka::client=off".to_owned(),
            listen: None,
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// For machines: one object a line.
    Json,
}
