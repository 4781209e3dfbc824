//! Who asks: tenants, their users, keys and plans, and how a record proves whose it is.
//!
//! The configuration's entries are there from the start; those that were made while Millrace runs are
//! applied as they are read from the topic `tenants`. An entry of the configuration is the
//! configuration's: nothing else changes it.

mod entry;
mod known;
mod refusal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use millrace_config::{BudgetConfig, Config, UsageLimits};
use millrace_issuers::{Issuers, Proven, TokenRefusal, is_token};
use millrace_schemas::{Account, Lane, Signature, key_digest};

pub use entry::{
    Entry, EntryName, KeyEntry, PlanEntry, PreviousKey, PreviousOrigin, SecretOrigin, TenantEntry, UserEntry,
    WebhookEntry, configured,
};
pub use refusal::{DirectoryError, KeyRefusal, Refusal};

use known::{Key, Known};

/// Owner of records that name no tenant: their dead letters and failed outcomes are its own.
pub const SYSTEM_TENANT: &str = "system";

/// User that work is accounted to when neither the request nor its key names one.
pub const DEFAULT_USER: &str = "default";

/// Within this time, milliseconds, all processes have taken up a configuration that one has: keys that it spells out
/// no more are good for records until then.
pub const LINGERS: i64 = 120_000;

/// Within this time, milliseconds, a configuration that is replaced everywhere at once has been taken up everywhere: what an
/// earlier service has let in is not refused for want of a model until then.
pub const SPREADS_WITHIN: i64 = 30_000;

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
    /// Who signed the token that proved it, and for whom: `<issuer>/<subject>`. The user is the token's then, and so may
    /// name no other. `None` for a key or a topic.
    pub token: Option<String>,
}

impl Principal {
    /// The owner of what nobody can be found for.
    #[must_use]
    pub fn system() -> Self {
        Self {
            tenant: SYSTEM_TENANT.to_owned(),
            user: Some(SYSTEM_TENANT.to_owned()),
            key_id: None,
            admin: false,
            token: None,
        }
    }
}

/// What a principal may do: by its tenant, its plan and its key.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub tenant: Arc<TenantEntry>,
    plan: Option<Arc<PlanEntry>>,
    key: Option<Arc<Key>>,
}

impl Standing {
    pub fn allows_model(&self, name: &str) -> bool {
        let allows = |models: &BTreeSet<String>| models.is_empty() || models.contains(name);
        allows(&self.tenant.models)
            && self.plan.as_ref().is_none_or(|plan| allows(&plan.models))
            && self.key.as_ref().is_none_or(|key| allows(&key.entry.models))
    }

    pub fn allows_lane(&self, lane: Lane) -> bool {
        let lanes = self.key.as_ref().map(|key| &key.entry.lanes);
        lanes.is_none_or(|lanes| lanes.is_empty() || lanes.contains(lane.as_str()))
    }

    /// What the tenant may use.
    pub fn limits(&self) -> UsageLimits {
        self.tenant.limits.or(self.plan.as_ref().map(|plan| plan.limits).unwrap_or_default())
    }

    pub fn key_limits(&self) -> UsageLimits {
        self.key.as_ref().map(|key| key.entry.limits).unwrap_or_default()
    }
}

/// Plans, tenants, users, keys and bound topics, held in memory. Clones know the same.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    known: Arc<RwLock<Known>>,
    issuers: Issuers,
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
        let known = Arc::new(RwLock::new(Known::from_config(config)?));
        let issuers = Issuers::from_config(&config.issuers);
        let mut directory = Self { known, issuers, ..Self::default() };
        for (topic, binding) in &config.topic_bindings {
            let lane = binding.lane.parse().map_err(|error| DirectoryError::Lane { topic: topic.clone(), error })?;
            directory.bindings.insert(topic.clone(), (binding.tenant.clone(), lane));
            if binding.is_read_by(config.kafka.generation) {
                directory.read_here.insert(topic.clone());
            }
        }
        Ok(directory)
    }

    /// Takes up what `name` says now; nothing of it is left for `None`. False for an entry that the
    /// configuration spells out, which stays as it is.
    ///
    /// # Errors
    /// [`DirectoryError`]: the entry can not be used, and what was known stays.
    pub fn apply(&self, name: &EntryName, entry: Option<Entry>) -> Result<bool, DirectoryError> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.configured.contains(name) {
            return Ok(false);
        }
        if name.tenant() == Some(SYSTEM_TENANT) {
            return Err(DirectoryError::Reserved);
        }
        match entry {
            Some(entry) => known.set(name, entry)?,
            None => known.remove(name),
        }
        Ok(true)
    }

    /// Takes up another configuration in one step: what it spells out, then what was `told` besides. Topics stay
    /// bound as they are. A key that it spells out no more opens nothing from now on, milliseconds since the
    /// epoch, but is good for records that are appended within [`LINGERS`]. Returns what was told and can not be used.
    ///
    /// # Errors
    /// [`DirectoryError`]: nothing changes.
    pub fn replace(
        &self,
        config: &Config,
        told: impl IntoIterator<Item = (EntryName, Entry)>,
        now: i64,
    ) -> Result<Vec<EntryName>, DirectoryError> {
        let mut next = Known::from_config(config)?;
        let mut refused = Vec::new();
        for (name, entry) in told {
            if !next.configured.contains(&name) && next.set(&name, entry).is_err() {
                refused.push(name);
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        next.remember(&known, now.saturating_add(LINGERS))?;
        *known = next;
        Ok(refused)
    }

    /// Whether the configuration spells this out.
    #[must_use]
    pub fn is_configured(&self, name: &EntryName) -> bool {
        self.known().configured.contains(name)
    }

    /// The issuers of signed tokens. Somebody has to read their keys: none is known at first.
    #[must_use]
    pub fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// Whose API key or signed token this is, at an instant in milliseconds since the epoch.
    ///
    /// # Errors
    /// [`KeyRefusal`].
    pub fn verify_key(&self, api_key: &str, at: i64) -> Result<Principal, KeyRefusal> {
        if is_token(api_key) {
            return self.verify_token(api_key, at);
        }
        let known = self.known();
        // A lookup by digest: its timing tells nothing about the key.
        let digest = key_digest(api_key);
        let key = known.by_digest.get(&digest).ok_or(KeyRefusal::Unknown)?;
        known.opens(key, &digest, at)?;
        Ok(key.principal())
    }

    /// A token stands for a key of its tenant: what that may not, it may not either.
    fn verify_token(&self, token: &str, at: i64) -> Result<Principal, KeyRefusal> {
        let Proven { issuer, subject, tenant, user, key } = self.issuers.verify(token, at)?;
        let known = self.known();
        known.is_open(&tenant, at)?;
        let of_tenant = known.tenants.get(&tenant);
        if of_tenant.is_some_and(|known| !known.knows_user(&user)) {
            return Err(TokenRefusal::NoUser { issuer, tenant, user }.into());
        }
        let Some(key) = of_tenant.and_then(|tenant| tenant.keys.get(&key)) else {
            return Err(TokenRefusal::NoKey { issuer, tenant, key }.into());
        };
        known.opens(key, &key.digest, at)?;
        Ok(Principal { user: Some(user), token: Some(format!("{issuer}/{subject}")), ..key.principal() })
    }

    /// Whose record this is, proven by the topic it lies on (its name on the broker), or by a signature or a signed
    /// token in its headers ([`record::proof`](crate::record::proof)). A binding decides alone: nothing else is looked
    /// at there. A key or token that was good when the record was appended, milliseconds since the epoch, is good for
    /// it; 0 for a record that an operator sends again.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify_record(&self, topic: &str, proof: Option<&str>, value: &[u8], at: i64) -> Result<Principal, Refusal> {
        if let Some((tenant, _)) = self.bindings.get(topic) {
            self.known().is_open(tenant, at)?;
            return Ok(Principal { tenant: tenant.clone(), user: None, key_id: None, admin: false, token: None });
        }
        match proof {
            Some(token) if is_token(token) => Ok(self.verify_token(token, at)?),
            signature => self.verify_signature(signature, value, at),
        }
    }

    /// The same by a signature alone.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify_signature(&self, signature: Option<&str>, value: &[u8], at: i64) -> Result<Principal, Refusal> {
        let known = self.known();
        let signature = Signature::parse(signature.ok_or(Refusal::Unsigned)?)?;
        let signed = known.signed(&signature, value, at);
        signed.or_else(|refusal| known.signed_with_gone(&signature, value, at).ok_or(refusal))
    }

    /// The signature header of a record that `principal` writes; `None` when it came by no key.
    #[must_use]
    pub fn sign(&self, principal: &Principal, value: &[u8]) -> Option<String> {
        let (known, id) = (self.known(), principal.key_id.as_deref()?);
        let key = known.tenants.get(&principal.tenant).and_then(|tenant| tenant.keys.get(id));
        if let Some(key) = key {
            return Some(Signature::sign(&key.name(), &key.digest, value));
        }
        // It left the configuration after it had opened the door.
        let gone = known.gone.get(&format!("{}/{id}", principal.tenant))?.last()?;
        Some(Signature::sign(&gone.key.name(), &gone.digest, value))
    }

    /// Whether outcomes of this tenant are JSON on this topic of its own.
    #[must_use]
    pub fn reads_json(&self, tenant: &str, topic: &str) -> bool {
        let known = self.known();
        let entry = known.tenants.get(tenant).and_then(|tenant| tenant.entry.as_ref());
        entry.is_some_and(|entry| entry.json_reply_topics.contains(topic))
    }

    /// Whether records that this principal signs now will be proven.
    #[must_use]
    pub fn may_sign(&self, principal: &Principal, at: i64) -> bool {
        let known = self.known();
        let key = principal.key_id.as_ref().and_then(|id| known.tenants.get(&principal.tenant)?.keys.get(id));
        key.is_some_and(|key| known.opens(key, &key.digest, at).is_ok())
    }

    /// The customers' topics of this lane, by their names on the broker.
    #[must_use]
    pub fn bound_topics(&self, lane: Lane) -> Vec<String> {
        let is_read = |(topic, (_, l)): &(&String, &(String, Lane))| *l == lane && self.read_here.contains(*topic);
        self.bindings.iter().filter(is_read).map(|(topic, _)| topic.clone()).collect()
    }

    /// The budgets that a call goes to: the tenant's, the user's, and that of the key that asks.
    #[must_use]
    pub fn budgets_of(&self, tenant: &str, user: &str, key_id: Option<&str>) -> Vec<(Account, BudgetConfig)> {
        let known = self.known();
        let Some(tenant) = known.tenants.get(tenant) else { return Vec::new() };
        let user = tenant.users.get(user).and_then(|entry| budget_of_user(user, entry));
        let key = key_id.and_then(|id| tenant.keys.get(id)).and_then(|key| budget_of_key(key));
        tenant.own_budget().into_iter().chain(user).chain(key).collect()
    }

    /// Every budget of a tenant, its users and its keys.
    #[must_use]
    pub fn budgets(&self, tenant: &str) -> Vec<(Account, BudgetConfig)> {
        let known = self.known();
        let Some(tenant) = known.tenants.get(tenant) else { return Vec::new() };
        let users = tenant.users.iter().filter_map(|(id, user)| budget_of_user(id, user));
        let keys = tenant.keys.values().filter_map(|key| budget_of_key(key));
        tenant.own_budget().into_iter().chain(users).chain(keys).collect()
    }

    /// Whether the calls of an account are counted: a tenant's, of a user whom it names, of a key with a budget.
    #[must_use]
    pub fn counts(&self, tenant: &str, account: &Account) -> bool {
        let known = self.known();
        known.tenants.get(tenant).is_some_and(|tenant| match account {
            Account::Tenant => true,
            Account::User(user) => tenant.users.contains_key(user),
            Account::Key(key) => tenant.keys.get(key).is_some_and(|key| key.entry.budget.is_some()),
        })
    }

    /// Whether anybody has a budget.
    #[must_use]
    pub fn has_budgets(&self) -> bool {
        !self.known().with_budgets.is_empty()
    }

    /// Whether anybody has limits.
    #[must_use]
    pub fn has_limits(&self) -> bool {
        !self.known().with_limits.is_empty()
    }

    /// Whether this tenant exists.
    #[must_use]
    pub fn has_tenant(&self, tenant: &str) -> bool {
        self.known().tenants.get(tenant).is_some_and(|tenant| tenant.entry.is_some())
    }

    /// The models that a principal may use; those that it may not are as if there were none.
    pub fn may_use(&self, principal: &Principal, model: &str) -> bool {
        self.standing(principal).is_some_and(|standing| standing.allows_model(model))
    }

    /// What is limited for work of this principal on a user's account: who, and how much.
    #[must_use]
    pub fn limits(&self, principal: &Principal, user: &str) -> Vec<(EntryName, UsageLimits)> {
        let Some(standing) = self.standing(principal) else { return Vec::new() };
        let tenant = || principal.tenant.clone();
        let entry = self.known().tenants.get(&principal.tenant).and_then(|tenant| tenant.users.get(user).cloned());
        let mut limits = vec![(EntryName::Tenant(tenant()), standing.limits())];
        limits.extend(entry.map(|entry| (EntryName::User(tenant(), user.to_owned()), entry.limits)));
        limits.extend(principal.key_id.clone().map(|id| (EntryName::Key(tenant(), id), standing.key_limits())));
        limits.retain(|(_, limits)| !limits.is_empty());
        limits
    }

    /// What a principal may do; `None` for whoever has no tenant.
    pub(crate) fn standing(&self, principal: &Principal) -> Option<Standing> {
        let known = self.known();
        let tenant = known.tenants.get(&principal.tenant)?;
        let entry = Arc::clone(tenant.entry.as_ref()?);
        let plan = entry.plan.as_ref().and_then(|plan| known.plans.get(plan).cloned());
        let key = principal.key_id.as_ref().and_then(|id| tenant.keys.get(id).cloned());
        Some(Standing { tenant: entry, plan, key })
    }

    /// Whether work may go on this user's account. A tenant without users may name any.
    pub(crate) fn knows_user(&self, tenant: &str, user: &str) -> bool {
        self.known().tenants.get(tenant).is_none_or(|known| known.knows_user(user))
    }

    /// The rule set that a tenant names.
    pub(crate) fn rule_set(&self, tenant: &str) -> Option<String> {
        self.known().tenants.get(tenant)?.entry.as_ref()?.moderation.clone()
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn budget_of_user(id: &str, user: &UserEntry) -> Option<(Account, BudgetConfig)> {
    Some((Account::User(id.to_owned()), user.budget.clone()?))
}

fn budget_of_key(key: &Key) -> Option<(Account, BudgetConfig)> {
    Some((Account::Key(key.id.clone()), key.entry.budget.clone()?))
}

#[cfg(test)]
mod tests;
