//! Layered configuration: defaults, then a TOML file, then the environment, then flags.
//!
//! ```text
//! defaults < millrace.toml < MILLRACE_KAFKA__BOOTSTRAP_SERVERS=… < ("kafka.bootstrap_servers", …)
//! ```
//!
//! Every layer is merged into one tree whose leaves know where they came from, read once into
//! [`Config`], and checked as a whole. Unknown keys are refused, with the nearest known one named,
//! in every layer.

mod budget;
mod dump;
mod error;
mod issuers;
mod kafka;
mod layers;
mod live;
mod models;
mod names;
mod read;
mod secret;
mod services;
mod settled;
mod stores;
mod tenants;
mod timestamp;
mod validate;
mod webhooks;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use crate::budget::{BudgetConfig, BudgetPeriod};
pub use crate::error::ConfigError;
pub use crate::issuers::{IssuerConfig, TOKEN_ALGORITHMS, is_safe_for_keys};
pub use crate::kafka::{KafkaConfig, KafkaSettings, RegistryConfig, has_generations};
pub use crate::layers::{Origin, Origins, process_env};
pub use crate::live::{Difference, LIVE, RESTART, Snapshot};
pub use crate::models::{ModelConfig, ProviderConfig, is_provider_key_name};
pub use crate::names::{MAX_ID, MAX_TOPIC, is_id, is_topic_name};
pub use crate::secret::{HIDDEN, Secret};
pub use crate::services::{
    IngressConfig, KnowledgeConfig, LANES, LedgerConfig, LimitsConfig, LogFormat, ModerationConfig, PricingConfig,
    StageConfig, TelemetryConfig, TlsConfig,
};
pub use crate::settled::Settled;
pub use crate::stores::{StorageConfig, VectorsConfig};
pub use crate::tenants::{KeyConfig, PlanConfig, TenantConfig, TopicBinding, UsageLimits, UserConfig, hash_key};
pub use crate::timestamp::Timestamp;
pub use crate::webhooks::{
    MAX_WEBHOOK_ID, MAX_WEBHOOKS, WEBHOOK_EVENTS, WebhookConfig, WebhooksConfig, check_webhook_url, is_webhook_id,
};

/// The section of the secrets of the tenants' endpoints, for [`Config::load_withholding`].
pub const OF_ENDPOINTS: &str = "tenants.*.webhooks";

/// Everything a Millrace process can be told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The brokers.
    pub kafka: KafkaConfig,
    /// The schema registry.
    pub registry: RegistryConfig,
    /// The database.
    pub storage: StorageConfig,
    /// The vector store.
    pub vectors: VectorsConfig,
    /// OpenAI-compatible servers by name.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Models by the name that requests use.
    pub models: BTreeMap<String, ModelConfig>,
    /// What tenants can buy, by id.
    pub plans: BTreeMap<String, PlanConfig>,
    /// Tenants by id.
    pub tenants: BTreeMap<String, TenantConfig>,
    /// Issuers of signed tokens, by the names that are shown of them.
    pub issuers: BTreeMap<String, IssuerConfig>,
    /// Topics, as they are called on the broker, whose every record is a request of one tenant. The
    /// broker's ACLs must let only that tenant write there.
    pub topic_bindings: BTreeMap<String, TopicBinding>,
    /// The HTTP front door.
    pub ingress: IngressConfig,
    /// The consumer loop of all stages.
    pub stage: StageConfig,
    /// What a request may ask for.
    pub limits: LimitsConfig,
    /// The rules answers are checked against.
    pub moderation: ModerationConfig,
    /// What calls cost.
    pub pricing: PricingConfig,
    /// Documents and retrieval.
    pub knowledge: KnowledgeConfig,
    /// The cost ledger.
    pub ledger: LedgerConfig,
    /// How events are sent to the tenants' endpoints.
    pub webhooks: WebhooksConfig,
    /// Logs, metrics and health.
    pub telemetry: TelemetryConfig,
    /// Where each value that is not a default came from, for [`Config::dump`].
    #[serde(skip)]
    pub origins: Origins,
}

impl Config {
    /// Reads and checks a configuration.
    ///
    /// `path` is the TOML file, if there is one. Of `env`, the variables named
    /// `MILLRACE_SECTION__KEY` are read, and those that secrets point at; see [`process_env`].
    /// `overrides` are `("section.key", value)` pairs from flags.
    ///
    /// # Errors
    /// The first thing wrong, in one line that says what to do.
    pub fn load(
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: impl IntoIterator<Item = (String, toml::Value)>,
    ) -> Result<Self, ConfigError> {
        Self::load_withholding(path, env, overrides, &[])
    }

    /// [`load`](Self::load) for a process that must not hold some secrets: an optional secret in
    /// one of the `withheld` sections (such as `providers`) is not looked up and becomes None, so
    /// that one file serves the services that pay and those that do not. `webhooks` stands for the secrets of the
    /// tenants' endpoints, too, and [`OF_ENDPOINTS`] for these alone.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_withholding(
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: impl IntoIterator<Item = (String, toml::Value)>,
        withheld: &[&str],
    ) -> Result<Self, ConfigError> {
        let env: BTreeMap<String, String> = env.collect();
        let root = layers::merge(path, &env, overrides)?;
        let mut config: Self = read::read(&root, &env, withheld)?;
        config.origins = Origins::of(&root);
        config.hash_keys();
        config.forget_what_needs(withheld);
        config.validate()?;
        if !["webhooks", "tenants", OF_ENDPOINTS].iter().any(|section| withheld.contains(section)) {
            webhooks::require_secrets(&config)?;
        }
        Ok(config)
    }

    /// Takes away what makes no sense without the secrets that were withheld.
    fn forget_what_needs(&mut self, withheld: &[&str]) {
        if withheld.contains(&"tenants") {
            self.tenants.values_mut().for_each(|tenant| tenant.keys.retain(|key| key.sha256.is_some()));
        }
        if withheld.contains(&"registry") {
            self.registry.username = None;
        }
        if withheld.contains(&"storage")
            && let StorageConfig::Cql { username, .. } = &mut self.storage
        {
            *username = None;
        }
    }

    /// Replaces plain API keys by their hashes, as [`load`](Self::load) does; for configurations
    /// built by code.
    pub fn hash_keys(&mut self) {
        for key in self.tenants.values_mut().flat_map(|tenant| &mut tenant.keys) {
            key.hash();
        }
    }

    /// Checks what no single value shows. [`load`](Self::load) does it; for configurations built
    /// by code.
    ///
    /// # Errors
    /// The first thing wrong, in one line that names the key and the fix.
    pub fn validate(&self) -> Result<(), ConfigError> {
        validate::check(self)
    }

    /// The whole configuration as TOML, secrets hidden, each value that is not a default followed
    /// by a comment that says where it came from.
    pub fn dump(&self) -> String {
        dump::dump(self)
    }
}
