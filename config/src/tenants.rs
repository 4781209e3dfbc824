//! Tenants, their users and their keys, bootstrapped from the configuration.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::Secret;
use crate::secret;

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
}

/// One user of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserConfig {
    /// For people to read. None: its id.
    pub name: Option<String>,
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
    hash.as_deref().map(beginning).serialize(serializer)
}

impl fmt::Debug for KeyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, sha256, key, user, admin } = self;
        f.debug_struct("KeyConfig")
            .field("id", id)
            .field("sha256", &sha256.as_deref().map(beginning))
            .field("key", key)
            .field("user", user)
            .field("admin", admin)
            .finish()
    }
}
