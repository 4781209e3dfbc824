//! Tenants, their users, keys and plans, as far as the configuration names them; others are made while
//! Millrace runs, by its administrative API.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::budget::BudgetConfig;
use crate::secret;
use crate::{Secret, Timestamp, WebhookConfig};

/// One customer: nothing of it is ever visible to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantConfig {
    /// For people to read. None: its id.
    pub name: Option<String>,
    /// Its users by id; usage is accounted to them.
    pub users: BTreeMap<String, UserConfig>,
    /// The API keys that act for it.
    pub keys: Vec<KeyConfig>,
    /// The models it may use. Empty: all of them.
    pub models: Vec<String>,
    /// The name of its moderation rule set. None: the default one.
    pub moderation: Option<String>,
    /// The reply topics its requests may name, as they are called on the broker.
    pub reply_topics: Vec<String>,
    /// The key in `plans` of what it has bought. None: what it may is said here alone.
    pub plan: Option<String>,
    /// What it may use; each limit named here takes the place of its plan's.
    pub limits: UsageLimits,
    /// What all its users together may be charged. None: anything.
    pub budget: Option<BudgetConfig>,
    /// Where it is told of what became of its requests.
    pub webhooks: Vec<WebhookConfig>,
    /// Of these, the ones on which outcomes are JSON instead of Avro.
    pub json_reply_topics: Vec<String>,
}

/// One user of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserConfig {
    /// For people to read. None: its id.
    pub name: Option<String>,
    /// Whether it is a service account: a program, no person.
    pub service: bool,
    /// What it may use, within its tenant's limits.
    pub limits: UsageLimits,
    /// What it may be charged, within its tenant's budget. None: anything.
    pub budget: Option<BudgetConfig>,
}

/// What several tenants may do alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlanConfig {
    /// For people to read. None: its id.
    pub name: Option<String>,
    /// The models that its tenants may use. Empty: all of them.
    pub models: Vec<String>,
    /// What each of its tenants may use.
    pub limits: UsageLimits,
}

/// How much may be used. None of them: as much as there is.
// Kept on a topic, too, where a member that is not known here may be next month's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsageLimits {
    /// Requests over HTTP in any minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens of requests over HTTP in any minute: of their prompts and, until an answer is there, of what
    /// it may become.
    pub tokens_per_minute: Option<u64>,
    /// The same and those of batches, within a day of UTC.
    pub tokens_per_day: Option<u64>,
    /// Requests over HTTP whose answers are awaited at the same time.
    pub concurrent_requests: Option<u64>,
    /// The longest prompt, in tokens; at both doors.
    pub prompt_tokens: Option<u32>,
    /// The longest answer, in tokens; at both doors.
    pub output_tokens: Option<u32>,
}

impl UsageLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These limits, and those of `other` where there is none.
    pub fn or(self, other: Self) -> Self {
        Self {
            requests_per_minute: self.requests_per_minute.or(other.requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.or(other.tokens_per_minute),
            tokens_per_day: self.tokens_per_day.or(other.tokens_per_day),
            concurrent_requests: self.concurrent_requests.or(other.concurrent_requests),
            prompt_tokens: self.prompt_tokens.or(other.prompt_tokens),
            output_tokens: self.output_tokens.or(other.output_tokens),
        }
    }
}

/// An API key. Only its hash is kept: `key`, when given, is hashed at load and forgotten. Of the hash
/// only the beginning is printed, for records are signed with it.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyConfig {
    /// Names the key in logs and usage; unique within its tenant.
    pub id: String,
    /// SHA-256 of the key, 64 hexadecimal digits. After load always present.
    #[serde(serialize_with = "printable")]
    pub sha256: Option<String>,
    /// The key itself, in place of its hash. After load always None.
    #[serde(deserialize_with = "secret::optional")]
    pub key: Option<Secret>,
    /// The user on whose account requests with this key go unless they name another.
    pub user: Option<String>,
    /// Whether it may use the tenant's administrative calls.
    pub admin: bool,
    /// From when on it is refused. None: never.
    pub expires_at: Option<Timestamp>,
    /// The models it may use, of those that its tenant may. Empty: all of these.
    pub models: Vec<String>,
    /// The lanes it may use. Empty: both.
    pub lanes: Vec<String>,
    /// What it may use, within its tenant's limits.
    pub limits: UsageLimits,
    /// What its requests may be charged, within its tenant's budget. None: anything.
    pub budget: Option<BudgetConfig>,
}

/// Whose requests a topic of a customer's own carries, and how they travel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicBinding {
    /// The tenant that every record belongs to.
    pub tenant: String,
    /// The lane that its records travel in. Default `batch`.
    #[serde(default = "TopicBinding::default_lane")]
    pub lane: String,
    /// The generation whose builders read it, while two run side by side. Default: the configured
    /// `kafka.generation`.
    #[serde(default)]
    pub generation: Option<u32>,
}

impl TopicBinding {
    /// A topic whose records belong to this tenant and travel in the batch lane.
    pub fn batch(tenant: impl Into<String>) -> Self {
        Self { tenant: tenant.into(), lane: Self::default_lane(), generation: None }
    }

    /// Whether builders of this generation read it.
    pub fn is_read_by(&self, generation: u32) -> bool {
        self.generation.is_none_or(|reader| reader == generation)
    }

    fn default_lane() -> String {
        "batch".to_owned()
    }
}

/// How an API key is kept: SHA-256, in lowercase hexadecimal digits.
pub fn hash_key(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

impl KeyConfig {
    /// Replaces a plain key by its hash. One that has both is left for validation to refuse.
    pub(crate) fn hash(&mut self) {
        match &mut self.sha256 {
            Some(hash) => hash.make_ascii_lowercase(),
            None => self.sha256 = self.key.take().map(|key| hash_key(key.expose())),
        }
    }
}

/// The beginning of a hash: enough to tell keys apart, too little to sign with.
fn beginning(hash: &str) -> String {
    format!("{}…", hash.chars().take(8).collect::<String>())
}

fn printable<S: Serializer>(hash: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    hash.as_deref().map(|hash| secret::serialized(hash, beginning(hash))).serialize(serializer)
}

impl fmt::Debug for KeyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, sha256, key, user, admin, expires_at, models, lanes, limits, budget } = self;
        f.debug_struct("KeyConfig")
            .field("id", id)
            .field("sha256", &sha256.as_deref().map(beginning))
            .field("key", key)
            .field("user", user)
            .field("admin", admin)
            .field("expires_at", expires_at)
            .field("models", models)
            .field("lanes", lanes)
            .field("limits", limits)
            .field("budget", budget)
            .finish()
    }
}
