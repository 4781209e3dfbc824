//! Who asks: tenants, their users and keys, and how a record proves whose it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use millrace_config::{Config, hash_key};
use millrace_schemas::{Ended, Lane, Signature, SignatureError, key_digest};

/// Owner of records that name no tenant: their dead letters and failed outcomes are its own.
pub const SYSTEM_TENANT: &str = "system";

/// User that work is accounted to when neither the request nor its key names one.
pub const DEFAULT_USER: &str = "default";

/// A proven identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The tenant.
    pub tenant: String,
    /// The key's own user.
    pub user: Option<String>,
    /// Which key proved it; `None` when the topic did.
    pub key_id: Option<String>,
    /// Whether it may use the tenant's administrative calls.
    pub admin: bool,
}

impl Principal {
    /// The owner of what nobody can be found for.
    #[must_use]
    pub fn system() -> Self {
        Self { tenant: SYSTEM_TENANT.to_owned(), user: Some(SYSTEM_TENANT.to_owned()), key_id: None, admin: false }
    }
}

/// Why a record proves no tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither its topic nor a signature says whose it is.
    #[error(
        "the record names no tenant: write it to a topic that is bound to yours, or sign it with the header `millrace-signature`"
    )]
    Unsigned,
    /// Signed by a key that is not in the directory.
    #[error("the record is signed by an unknown key `{0}`: use `<tenant>/<key id>` of a key that is configured")]
    UnknownKey(String),
    /// Several tenants have a key of this id.
    #[error("the record is signed by a key `{0}` that several tenants have: write `<tenant>/<key id>`")]
    AmbiguousKey(String),
    /// The signature is malformed or does not fit the value.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

impl Refusal {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsigned => "unknown_tenant",
            Self::UnknownKey(_) | Self::AmbiguousKey(_) | Self::Signature(_) => "invalid_signature",
        }
    }

    /// How the record ends.
    #[must_use]
    pub fn ended(&self) -> Ended {
        Ended {
            kind: "authentication_error".to_owned(),
            http_status: 401,
            ..Ended::invalid(self.code(), None, self.to_string())
        }
    }
}

/// A directory that can not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// The name belongs to us.
    #[error("`tenants.{SYSTEM_TENANT}` is reserved for records that name no tenant; choose another id")]
    Reserved,
    /// A key without a usable hash.
    #[error("key `{key}` of tenant `{tenant}` has no SHA-256 of 64 hexadecimal digits")]
    NoHash {
        /// The tenant.
        tenant: String,
        /// The key's id.
        key: String,
    },
    /// A lane that does not exist.
    #[error("`topic_bindings.\"{topic}\".lane`: {error}")]
    Lane {
        /// The bound topic.
        topic: String,
        /// What is wrong with it.
        error: String,
    },
}

/// What a tenant may do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tenant {
    /// Empty: anything.
    pub models: BTreeSet<String>,
    /// Empty: any.
    pub users: BTreeSet<String>,
    pub reply_topics: BTreeSet<String>,
    pub rule_set: Option<String>,
}

#[derive(Debug, Clone)]
struct Key {
    digest: [u8; 32],
    principal: Principal,
}

/// Tenants, users, keys and bound topics, held in memory.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    tenants: BTreeMap<String, Tenant>,
    keys: Vec<Key>,
    by_digest: HashMap<[u8; 32], usize>,
    /// By `tenant/key id`, and by the id alone: `None` where several tenants have it.
    by_name: HashMap<String, Option<usize>>,
    bindings: BTreeMap<String, (String, Lane)>,
    /// Of these, the topics that this generation's builders read.
    read_here: BTreeSet<String>,
}

impl Directory {
    /// The directory that a configuration spells out.
    ///
    /// # Errors
    /// [`DirectoryError`], for configurations that [`Config::validate`] would refuse too, and for a
    /// tenant of the name [`SYSTEM_TENANT`].
    pub fn from_config(config: &Config) -> Result<Self, DirectoryError> {
        let mut directory = Self::default();
        for (id, tenant) in &config.tenants {
            if id == SYSTEM_TENANT {
                return Err(DirectoryError::Reserved);
            }
            let entry = Tenant {
                models: tenant.models.iter().cloned().collect(),
                users: tenant.users.keys().cloned().collect(),
                reply_topics: tenant.reply_topics.iter().cloned().collect(),
                rule_set: tenant.moderation.clone(),
            };
            directory.tenants.insert(id.clone(), entry);
            for key in &tenant.keys {
                let hash = key.sha256.clone().or_else(|| key.key.as_ref().map(|secret| hash_key(secret.expose())));
                let mut digest = [0; 32];
                if hash.is_none_or(|hash| hex::decode_to_slice(hash, &mut digest).is_err()) {
                    return Err(DirectoryError::NoHash { tenant: id.clone(), key: key.id.clone() });
                }
                directory.add_key(Key {
                    digest,
                    principal: Principal {
                        tenant: id.clone(),
                        user: key.user.clone(),
                        key_id: Some(key.id.clone()),
                        admin: key.admin,
                    },
                });
            }
        }
        for (topic, binding) in &config.topic_bindings {
            let lane = binding.lane.parse().map_err(|error| DirectoryError::Lane { topic: topic.clone(), error })?;
            directory.bindings.insert(topic.clone(), (binding.tenant.clone(), lane));
            if binding.is_read_by(config.kafka.generation) {
                directory.read_here.insert(topic.clone());
            }
        }
        Ok(directory)
    }

    fn add_key(&mut self, key: Key) {
        let index = self.keys.len();
        let id = key.principal.key_id.clone().unwrap_or_default();
        self.by_name.entry(id.clone()).and_modify(|known| *known = None).or_insert(Some(index));
        // After the plain ids, and over them: an id that looks qualified must not shadow a real one.
        self.by_name.insert(format!("{}/{id}", key.principal.tenant), Some(index));
        self.by_digest.insert(key.digest, index);
        self.keys.push(key);
    }

    /// Whose API key this is.
    #[must_use]
    pub fn verify_key(&self, api_key: &str) -> Option<Principal> {
        // A lookup by digest: its timing tells nothing about the key.
        let index = self.by_digest.get(&key_digest(api_key))?;
        Some(self.keys[*index].principal.clone())
    }

    /// Whose record this is, proven by the topic it lies on (its name on the broker) or by its
    /// signature. A binding decides alone: a signature is not looked at there.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify_record(&self, topic: &str, signature: Option<&str>, value: &[u8]) -> Result<Principal, Refusal> {
        if let Some((tenant, _)) = self.bindings.get(topic) {
            return Ok(Principal { tenant: tenant.clone(), user: None, key_id: None, admin: false });
        }
        let signature = Signature::parse(signature.ok_or(Refusal::Unsigned)?)?;
        let shown = || signature.key_id.chars().take(100).collect();
        let index = match self.by_name.get(&signature.key_id) {
            Some(Some(index)) => *index,
            Some(None) => return Err(Refusal::AmbiguousKey(shown())),
            None => return Err(Refusal::UnknownKey(shown())),
        };
        let key = &self.keys[index];
        signature.verify(&key.digest, value)?;
        Ok(key.principal.clone())
    }

    /// The signature header of a record that `principal` writes; `None` when it came by no key.
    #[must_use]
    pub fn sign(&self, principal: &Principal, value: &[u8]) -> Option<String> {
        let name = format!("{}/{}", principal.tenant, principal.key_id.as_deref()?);
        let index = self.by_name.get(&name).copied().flatten()?;
        Some(Signature::sign(&name, &self.keys[index].digest, value))
    }

    /// The customers' topics of this lane, by their names on the broker.
    #[must_use]
    pub fn bound_topics(&self, lane: Lane) -> Vec<String> {
        let is_read = |(topic, (_, l)): &(&String, &(String, Lane))| *l == lane && self.read_here.contains(*topic);
        self.bindings.iter().filter(is_read).map(|(topic, _)| topic.clone()).collect()
    }

    /// Whether this tenant exists.
    #[must_use]
    pub fn has_tenant(&self, tenant: &str) -> bool {
        self.tenants.contains_key(tenant)
    }

    pub(crate) fn tenant(&self, id: &str) -> Option<&Tenant> {
        self.tenants.get(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_config::{KeyConfig, TenantConfig, TopicBinding};

    fn config() -> Config {
        let mut config = Config::default();
        for (tenant, key, secret) in
            [("acme", "k1", "sk-a"), ("acme", "x/k1", "sk-b"), ("x", "k1", "sk-c"), ("x", "k2", "sk-d")]
        {
            let entry = KeyConfig {
                id: key.to_owned(),
                sha256: Some(hash_key(secret)),
                user: (secret == "sk-a").then(|| "web".to_owned()),
                admin: secret == "sk-d",
                ..KeyConfig::default()
            };
            config.tenants.entry(tenant.to_owned()).or_default().keys.push(entry);
        }
        config.topic_bindings.insert("acme.requests".to_owned(), TopicBinding::batch("acme"));
        config
    }

    fn principal(tenant: &str, key: &str) -> Principal {
        let user = (tenant == "acme" && key == "k1").then(|| "web".to_owned());
        Principal { tenant: tenant.to_owned(), user, key_id: Some(key.to_owned()), admin: key == "k2" }
    }

    #[test]
    fn keys_are_found_by_their_digest() {
        let directory = Directory::from_config(&config()).expect("valid");
        assert_eq!(directory.verify_key("sk-a"), Some(principal("acme", "k1")));
        assert_eq!(directory.verify_key("sk-d"), Some(principal("x", "k2")));
        assert_eq!(directory.verify_key("sk-e"), None);
        assert_eq!(directory.verify_key(""), None);
    }

    #[test]
    fn a_record_proves_its_tenant_by_topic_or_signature() {
        let directory = Directory::from_config(&config()).expect("valid");
        let bound = directory.verify_record("acme.requests", Some("rubbish"), b"v").expect("bound");
        assert_eq!((bound.tenant.as_str(), bound.key_id, bound.user), ("acme", None, None));
        assert_eq!(directory.bound_topics(Lane::Batch), ["acme.requests"]);
        assert!(directory.bound_topics(Lane::Interactive).is_empty());

        for (tenant, key) in [("acme", "k1"), ("x", "k1"), ("x", "k2")] {
            let signature = directory.sign(&principal(tenant, key), b"value").expect("a key");
            assert_eq!(
                directory.verify_record("requests.batch", Some(&signature), b"value"),
                Ok(principal(tenant, key))
            );
            let other = directory.verify_record("requests.batch", Some(&signature), b"valuf");
            assert!(matches!(other, Err(Refusal::Signature(SignatureError::Mismatch(_)))), "{other:?}");
        }
        assert_eq!(directory.sign(&bound_principal(), b"value"), None);

        let plain = |key: &str, secret: &str| Signature::sign(key, &key_digest(secret), b"value");
        let verify = |signature: &str| directory.verify_record("requests.batch", Some(signature), b"value");
        assert_eq!(verify(&plain("k2", "sk-d")), Ok(principal("x", "k2")));
        assert_eq!(verify(&plain("k1", "sk-a")), Err(Refusal::AmbiguousKey("k1".to_owned())));
        assert_eq!(verify(&plain("k9", "sk-a")), Err(Refusal::UnknownKey("k9".to_owned())));
        assert!(verify(&plain("k2", "sk-a")).is_err(), "another tenant's key");
        assert_eq!(verify("k2"), Err(Refusal::Signature(SignatureError::Malformed)));
        assert_eq!(directory.verify_record("requests.batch", None, b"value"), Err(Refusal::Unsigned));
    }

    fn bound_principal() -> Principal {
        Principal { tenant: "acme".to_owned(), user: None, key_id: None, admin: false }
    }

    #[test]
    fn the_system_tenant_can_not_be_configured() {
        let mut config = config();
        config.tenants.insert(SYSTEM_TENANT.to_owned(), TenantConfig::default());
        assert_eq!(Directory::from_config(&config).err(), Some(DirectoryError::Reserved));
    }
}
