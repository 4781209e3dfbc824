//! What is known of plans, tenants, users, keys and webhook endpoints: by their names, as they are kept on the topic `tenants`.
//!
//! A member that is not known here is kept and not looked at: it may be next month's.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use millrace_config::{
    BudgetConfig, Config, KeyConfig, PlanConfig, TenantConfig, Timestamp, UsageLimits, UserConfig, WebhookConfig,
};
use serde::{Deserialize, Serialize};

/// The name of an entry: the key of its record, and its path in the administrative API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryName {
    /// What several tenants may do alike.
    Plan(String),
    /// A customer.
    Tenant(String),
    /// A user of a tenant.
    User(String, String),
    /// A key of a tenant.
    Key(String, String),
    /// A webhook endpoint of a tenant.
    Webhook(String, String),
}

impl EntryName {
    /// The tenant that it belongs to; `None` for plans.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Self::Plan(_) => None,
            Self::Tenant(tenant) | Self::User(tenant, _) | Self::Key(tenant, _) | Self::Webhook(tenant, _) => {
                Some(tenant)
            }
        }
    }

    /// Its own id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Plan(id) | Self::Tenant(id) | Self::User(_, id) | Self::Key(_, id) | Self::Webhook(_, id) => id,
        }
    }

    /// What it names.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Plan(_) => "plan",
            Self::Tenant(_) => "tenant",
            Self::User(..) => "user",
            Self::Key(..) => "key",
            Self::Webhook(..) => "webhook",
        }
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(id) | Self::Tenant(id) => write!(f, "{}/{id}", self.kind()),
            Self::User(tenant, id) | Self::Key(tenant, id) | Self::Webhook(tenant, id) => {
                write!(f, "{}/{tenant}/{id}", self.kind())
            }
        }
    }
}

impl FromStr for EntryName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let name = match (parts.next().as_deref(), parts.next(), parts.next()) {
            (Some("plan"), Some(id), None) => Self::Plan(id),
            (Some("tenant"), Some(id), None) => Self::Tenant(id),
            (Some("user"), Some(tenant), Some(id)) => Self::User(tenant, id),
            (Some("key"), Some(tenant), Some(id)) => Self::Key(tenant, id),
            (Some("webhook"), Some(tenant), Some(id)) => Self::Webhook(tenant, id),
            _ => return Err(format!("`{}` names no entry", text.chars().take(200).collect::<String>())),
        };
        Ok(name)
    }
}

/// A plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanEntry {
    /// For people to read.
    pub name: Option<String>,
    /// Empty: all models.
    pub models: BTreeSet<String>,
    /// What each tenant may use.
    pub limits: UsageLimits,
}

/// A tenant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantEntry {
    /// For people to read.
    pub name: Option<String>,
    /// Empty: all that its plan has.
    pub models: BTreeSet<String>,
    /// Its rule set; `None` for the default one.
    pub moderation: Option<String>,
    /// The topics that its requests may name for their outcomes.
    pub reply_topics: BTreeSet<String>,
    /// Of these, the ones that get JSON instead of Avro.
    pub json_reply_topics: BTreeSet<String>,
    /// What it has bought.
    pub plan: Option<String>,
    /// What it may use; each takes the place of its plan's.
    pub limits: UsageLimits,
    /// What all its users together may be charged.
    pub budget: Option<BudgetConfig>,
    /// Since when nothing of it is accepted.
    pub closed_at: Option<Timestamp>,
}

/// A user.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserEntry {
    /// For people to read.
    pub name: Option<String>,
    /// A program, no person.
    pub service: bool,
    /// What it may use.
    pub limits: UsageLimits,
    /// What it may be charged.
    pub budget: Option<BudgetConfig>,
}

/// A key. Its hash signs records, so it is shown to nobody.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyEntry {
    /// SHA-256 of the key, in hexadecimal.
    pub sha256: String,
    /// The key before, which is good for a while longer.
    pub previous: Option<PreviousKey>,
    /// How the key begins, to be recognised by people.
    pub begins: Option<String>,
    /// On whose account its requests go unless they name another.
    pub user: Option<String>,
    /// Whether it may change its tenant's users, keys and webhook endpoints.
    pub admin: bool,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// Since when it is refused.
    pub revoked_at: Option<Timestamp>,
    /// Empty: all models of its tenant.
    pub models: BTreeSet<String>,
    /// Empty: both lanes.
    pub lanes: BTreeSet<String>,
    /// What it may use.
    pub limits: UsageLimits,
    /// What its requests may be charged.
    pub budget: Option<BudgetConfig>,
}

/// A key that another one has taken the place of.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreviousKey {
    /// SHA-256 of the key, in hexadecimal.
    pub sha256: String,
    /// From when on it is refused.
    pub until: Option<Timestamp>,
}

impl fmt::Debug for KeyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyEntry").field("user", &self.user).field("admin", &self.admin).finish_non_exhaustive()
    }
}

/// A webhook endpoint. Its secret is in no entry, only what it is derived from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookEntry {
    /// Where events are posted to.
    pub url: String,
    /// Empty: all types.
    pub events: BTreeSet<String>,
    /// None for an endpoint of the configuration, which has secrets of its own.
    pub derived_from: Option<SecretOrigin>,
    /// What the secret before was derived from, which signs for a while longer.
    pub previous: Option<PreviousOrigin>,
    /// Since when it is told nothing any more.
    pub deleted_at: Option<Timestamp>,
}

impl WebhookEntry {
    /// Whether it asks for events of this type.
    #[must_use]
    pub fn wants(&self, event: &str) -> bool {
        self.events.is_empty() || self.events.contains(event)
    }
}

/// What the secret of an endpoint is derived from, besides a key that only processes have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretOrigin {
    /// Names the key.
    pub key: String,
    /// Random, so that no secret comes a second time.
    pub salt: String,
}

/// What a secret was derived from that another one has taken the place of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreviousOrigin {
    /// What it was derived from.
    pub derived_from: SecretOrigin,
    /// From when on it signs nothing.
    pub until: Option<Timestamp>,
}

/// What one entry says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Entry {
    /// Of a plan.
    Plan(PlanEntry),
    /// Of a tenant.
    Tenant(TenantEntry),
    /// Of a user.
    User(UserEntry),
    /// Of a key.
    Key(KeyEntry),
    /// Of a webhook endpoint.
    Webhook(WebhookEntry),
}

impl Entry {
    /// Reads the JSON of the entry `name`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(name: &EntryName, body: &str) -> Result<Self, serde_json::Error> {
        Ok(match name {
            EntryName::Plan(_) => Self::Plan(serde_json::from_str(body)?),
            EntryName::Tenant(_) => Self::Tenant(serde_json::from_str(body)?),
            EntryName::User(..) => Self::User(serde_json::from_str(body)?),
            EntryName::Key(..) => Self::Key(serde_json::from_str(body)?),
            EntryName::Webhook(..) => Self::Webhook(serde_json::from_str(body)?),
        })
    }
}

/// The entries that a configuration spells out.
#[must_use]
pub fn configured(config: &Config) -> Vec<(EntryName, Entry)> {
    let plans = config.plans.iter().map(|(id, plan)| (EntryName::Plan(id.clone()), Entry::Plan(plan.into())));
    let tenants = config.tenants.iter().flat_map(|(id, tenant)| {
        let itself = (EntryName::Tenant(id.clone()), Entry::Tenant(tenant.into()));
        let users = tenant
            .users
            .iter()
            .map(|(user, entry)| (EntryName::User(id.clone(), user.clone()), Entry::User(entry.into())));
        let keys = tenant.keys.iter().map(|key| (EntryName::Key(id.clone(), key.id.clone()), Entry::Key(key.into())));
        let webhooks = tenant
            .webhooks
            .iter()
            .map(|webhook| (EntryName::Webhook(id.clone(), webhook.id.clone()), Entry::Webhook(webhook.into())));
        std::iter::once(itself).chain(users).chain(keys).chain(webhooks)
    });
    plans.chain(tenants).collect()
}

impl From<&PlanConfig> for PlanEntry {
    fn from(plan: &PlanConfig) -> Self {
        Self { name: plan.name.clone(), models: plan.models.iter().cloned().collect(), limits: plan.limits }
    }
}

impl From<&TenantConfig> for TenantEntry {
    fn from(tenant: &TenantConfig) -> Self {
        Self {
            name: tenant.name.clone(),
            models: tenant.models.iter().cloned().collect(),
            moderation: tenant.moderation.clone(),
            reply_topics: tenant.reply_topics.iter().cloned().collect(),
            json_reply_topics: tenant.json_reply_topics.iter().cloned().collect(),
            plan: tenant.plan.clone(),
            limits: tenant.limits,
            budget: tenant.budget.clone(),
            closed_at: None,
        }
    }
}

impl From<&UserConfig> for UserEntry {
    fn from(user: &UserConfig) -> Self {
        Self { name: user.name.clone(), service: user.service, limits: user.limits, budget: user.budget.clone() }
    }
}

impl From<&KeyConfig> for KeyEntry {
    fn from(key: &KeyConfig) -> Self {
        let hash = key.sha256.clone().or_else(|| key.key.as_ref().map(|key| millrace_config::hash_key(key.expose())));
        Self {
            sha256: hash.unwrap_or_default(),
            previous: None,
            begins: None,
            user: key.user.clone(),
            admin: key.admin,
            expires_at: key.expires_at,
            revoked_at: None,
            models: key.models.iter().cloned().collect(),
            lanes: key.lanes.iter().cloned().collect(),
            limits: key.limits,
            budget: key.budget.clone(),
        }
    }
}

impl From<&WebhookConfig> for WebhookEntry {
    fn from(webhook: &WebhookConfig) -> Self {
        Self { url: webhook.url.clone(), events: webhook.events.iter().cloned().collect(), ..Self::default() }
    }
}
