//! Providers and the models they serve.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::names::is_id;
use crate::secret;
use crate::{Secret, UsageLimits};

/// A server that speaks OpenAI's API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// Root of the API, with its version: `https://api.openai.com/v1`.
    pub base_url: String,
    /// Sent as a bearer token. None for servers that want none.
    #[serde(default, deserialize_with = "secret::optional")]
    pub api_key: Option<Secret>,
    /// A pool of keys by their names, instead of `api_key`.
    #[serde(default, deserialize_with = "secret::map")]
    pub api_keys: BTreeMap<String, Secret>,
    /// A file with one `name = key` on each line, instead of `api_key` or beside `api_keys`. Looked at every second
    /// while calls are made: keys that come are used, those that go are not used for new calls.
    #[serde(default)]
    pub api_keys_file: Option<PathBuf>,
    /// How long a key of a pool is not used after the provider refused it, in milliseconds; then one call tries it.
    /// A change of the file tries it at once. Default 60,000.
    #[serde(default = "ProviderConfig::default_key_quarantine_ms")]
    pub key_quarantine_ms: u64,
    /// The longest one call may take, in milliseconds. Default 60,000.
    #[serde(default = "ProviderConfig::default_timeout_ms")]
    pub timeout_ms: u64,
    /// The longest a connection may take to open, in milliseconds. Default 5,000.
    #[serde(default = "ProviderConfig::default_connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    /// The most calls in flight at once, per process; rate limits lower it for a while. Default 512.
    #[serde(default = "ProviderConfig::default_max_concurrency")]
    pub max_concurrency: u32,
    /// Calls made for one record before it fails over or ends. Default 4.
    #[serde(default = "ProviderConfig::default_max_attempts")]
    pub max_attempts: u32,
    /// Calls in a row without an answer (not reached, 5xx, lost) after which the provider is held to
    /// be away. Default 5.
    #[serde(default = "ProviderConfig::default_breaker_failures")]
    pub breaker_failures: u32,
    /// How long after that one call tries it again, in milliseconds; each further pause is twice as
    /// long. Default 1,000.
    #[serde(default = "ProviderConfig::default_breaker_pause_ms")]
    pub breaker_pause_ms: u64,
    /// No pause is longer, in milliseconds. Default 30,000.
    #[serde(default = "ProviderConfig::default_breaker_max_pause_ms")]
    pub breaker_max_pause_ms: u64,
}

impl ProviderConfig {
    /// A provider at this address, with the defaults and no key.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            api_key: None,
            api_keys: BTreeMap::new(),
            api_keys_file: None,
            key_quarantine_ms: Self::default_key_quarantine_ms(),
            timeout_ms: Self::default_timeout_ms(),
            connect_timeout_ms: Self::default_connect_timeout_ms(),
            max_concurrency: Self::default_max_concurrency(),
            max_attempts: Self::default_max_attempts(),
            breaker_failures: Self::default_breaker_failures(),
            breaker_pause_ms: Self::default_breaker_pause_ms(),
            breaker_max_pause_ms: Self::default_breaker_max_pause_ms(),
        }
    }

    fn default_key_quarantine_ms() -> u64 {
        60_000
    }

    fn default_timeout_ms() -> u64 {
        60_000
    }

    fn default_connect_timeout_ms() -> u64 {
        5_000
    }

    fn default_max_concurrency() -> u32 {
        512
    }

    fn default_max_attempts() -> u32 {
        4
    }

    fn default_breaker_failures() -> u32 {
        5
    }

    fn default_breaker_pause_ms() -> u64 {
        1_000
    }

    fn default_breaker_max_pause_ms() -> u64 {
        30_000
    }
}

/// Whether a key of a provider's pool may have this name: 1 to 64 letters, digits, dots, hyphens and underscores.
/// Names are shown in metrics, logs and `calls`.
#[must_use]
pub fn is_provider_key_name(name: &str) -> bool {
    name.len() <= 64 && is_id(name)
}

/// A model as requests name it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The key in `providers` of the server that has it.
    pub provider: String,
    /// Its name at the provider. None: the same name.
    #[serde(default)]
    pub upstream: Option<String>,
    /// Prompt and answer together, in tokens.
    pub context_tokens: u32,
    /// Tokens reserved for an answer whose request names no limit. Default 1,024; no part for an
    /// embedding model.
    #[serde(default = "ModelConfig::default_max_output_tokens")]
    pub max_output_tokens: u32,
    /// Whether it embeds text instead of completing it.
    #[serde(default)]
    pub embedding: bool,
    /// Length of its vectors; for embedding models only, which must have it.
    #[serde(default)]
    pub dimensions: Option<u32>,
    /// Models tried in turn when this one's provider cannot answer.
    #[serde(default)]
    pub fallbacks: Vec<String>,
    /// What all tenants together may use of it.
    #[serde(default)]
    pub limits: UsageLimits,
}

impl ModelConfig {
    /// A chat model of this provider, under the same name there, with the default output reservation.
    pub fn chat(provider: impl Into<String>, context_tokens: u32) -> Self {
        Self {
            provider: provider.into(),
            upstream: None,
            context_tokens,
            max_output_tokens: Self::default_max_output_tokens(),
            embedding: false,
            dimensions: None,
            fallbacks: Vec::new(),
            limits: UsageLimits::default(),
        }
    }

    /// An embedding model of this provider, under the same name there.
    pub fn embedding(provider: impl Into<String>, context_tokens: u32, dimensions: u32) -> Self {
        Self { embedding: true, dimensions: Some(dimensions), ..Self::chat(provider, context_tokens) }
    }

    /// What the provider calls the model that requests call `name`.
    pub fn upstream_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.upstream.as_deref().unwrap_or(name)
    }

    fn default_max_output_tokens() -> u32 {
        1_024
    }
}
