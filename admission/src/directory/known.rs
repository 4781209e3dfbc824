//! What is known of plans, tenants, users and keys, and how it changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use millrace_config::{BudgetConfig, Config, Timestamp};
use millrace_schemas::{Account, Signature};

use super::{
    DirectoryError, Entry, EntryName, KeyEntry, KeyRefusal, PlanEntry, Principal, Refusal, SYSTEM_TENANT, TenantEntry,
    UserEntry, configured,
};

/// So many keys that are gone are remembered of one name.
const MOST_GONE: usize = 16;

#[derive(Debug)]
pub(super) struct Key {
    pub digest: [u8; 32],
    /// The key before it, and until when that is good, in milliseconds since the epoch.
    pub previous: Option<([u8; 32], i64)>,
    pub tenant: String,
    pub id: String,
    pub entry: KeyEntry,
}

impl Key {
    pub fn principal(&self) -> Principal {
        Principal {
            tenant: self.tenant.clone(),
            user: self.entry.user.clone(),
            key_id: Some(self.id.clone()),
            admin: self.entry.admin,
            token: None,
        }
    }

    fn digests(&self) -> impl Iterator<Item = [u8; 32]> {
        std::iter::once(self.digest).chain(self.previous.map(|(digest, _)| digest))
    }

    /// By its tenant and id, as signatures name it.
    pub fn name(&self) -> String {
        format!("{}/{}", self.tenant, self.id)
    }
}

/// A key that the configuration had and has no more, for records that were signed with it.
#[derive(Debug, Clone)]
pub(super) struct Gone {
    pub key: Arc<Key>,
    pub digest: [u8; 32],
    /// Records appended from then on are refused, in milliseconds since the epoch.
    pub until: i64,
}

/// A tenant with what belongs to it. Entries come in any order, so it may not be there itself.
#[derive(Debug, Default)]
pub(super) struct Tenant {
    pub entry: Option<Arc<TenantEntry>>,
    pub users: BTreeMap<String, Arc<UserEntry>>,
    pub keys: BTreeMap<String, Arc<Key>>,
}

impl Tenant {
    /// Whether work may go on this user's account. A tenant without users may name any.
    pub fn knows_user(&self, user: &str) -> bool {
        self.users.is_empty() || self.users.contains_key(user)
    }

    pub fn own_budget(&self) -> Option<(Account, BudgetConfig)> {
        Some((Account::Tenant, self.entry.as_ref()?.budget.clone()?))
    }
}

#[derive(Debug, Default)]
pub(super) struct Known {
    pub plans: HashMap<String, Arc<PlanEntry>>,
    pub tenants: HashMap<String, Tenant>,
    pub by_digest: HashMap<[u8; 32], Arc<Key>>,
    /// The tenants that have a key of this id.
    pub by_id: HashMap<String, BTreeSet<String>>,
    pub configured: HashSet<EntryName>,
    /// By the names of the keys, the latest last.
    pub gone: HashMap<String, Vec<Gone>>,
    /// Tenants, users and keys who have budgets: asked many times a second whether there are any.
    pub with_budgets: HashSet<EntryName>,
    /// Plans, tenants, users and keys who have limits, likewise.
    pub with_limits: HashSet<EntryName>,
}

fn digest_of(hash: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(hash, &mut digest).ok().map(|()| digest)
}

fn note(those: &mut HashSet<EntryName>, name: &EntryName, is_one: bool) {
    if is_one {
        those.insert(name.clone());
    } else {
        those.remove(name);
    }
}

impl Known {
    /// What a configuration spells out.
    pub fn from_config(config: &Config) -> Result<Self, DirectoryError> {
        let mut known = Self::default();
        if config.tenants.contains_key(SYSTEM_TENANT) {
            return Err(DirectoryError::Reserved);
        }
        for (name, entry) in configured(config) {
            known.set(&name, entry)?;
            known.configured.insert(name);
        }
        Ok(known)
    }

    pub fn set(&mut self, name: &EntryName, entry: Entry) -> Result<(), DirectoryError> {
        match (name, entry) {
            (EntryName::Plan(id), Entry::Plan(plan)) => {
                note(&mut self.with_limits, name, !plan.limits.is_empty());
                self.plans.insert(id.clone(), Arc::new(plan));
            }
            (EntryName::Tenant(id), Entry::Tenant(tenant)) => {
                note(&mut self.with_budgets, name, tenant.budget.is_some());
                note(&mut self.with_limits, name, !tenant.limits.is_empty());
                self.tenants.entry(id.clone()).or_default().entry = Some(Arc::new(tenant));
            }
            (EntryName::User(tenant, id), Entry::User(user)) => {
                note(&mut self.with_budgets, name, user.budget.is_some());
                note(&mut self.with_limits, name, !user.limits.is_empty());
                self.tenants.entry(tenant.clone()).or_default().users.insert(id.clone(), Arc::new(user));
            }
            (EntryName::Key(tenant, id), Entry::Key(entry)) => {
                let no_hash = || DirectoryError::NoHash { tenant: tenant.clone(), key: id.clone() };
                let digest = digest_of(&entry.sha256).ok_or_else(no_hash)?;
                let previous = entry.previous.as_ref();
                let previous = previous.and_then(|key| Some((digest_of(&key.sha256)?, key.until?.millis())));
                self.remove(name);
                note(&mut self.with_budgets, name, entry.budget.is_some());
                note(&mut self.with_limits, name, !entry.limits.is_empty());
                let key = Arc::new(Key { digest, previous, tenant: tenant.clone(), id: id.clone(), entry });
                for digest in key.digests() {
                    // The first who has a key keeps it.
                    self.by_digest.entry(digest).or_insert_with(|| Arc::clone(&key));
                }
                self.by_id.entry(id.clone()).or_default().insert(tenant.clone());
                self.tenants.entry(tenant.clone()).or_default().keys.insert(id.clone(), key);
            }
            // Endpoints prove nobody and are in nobody's way: who sends to them asks `millrace_tenants::Tenants`.
            (EntryName::Webhook(..), _) => {}
            // Entries are read by their names.
            (EntryName::Plan(_) | EntryName::Tenant(_) | EntryName::User(..) | EntryName::Key(..), _) => {}
        }
        Ok(())
    }

    pub fn remove(&mut self, name: &EntryName) {
        self.with_budgets.remove(name);
        self.with_limits.remove(name);
        match name {
            EntryName::Plan(id) => {
                self.plans.remove(id);
            }
            EntryName::Tenant(id) => {
                self.tenants.entry(id.clone()).or_default().entry = None;
            }
            EntryName::User(tenant, id) => {
                self.tenants.entry(tenant.clone()).or_default().users.remove(id);
            }
            EntryName::Key(tenant, id) => {
                let Some(key) = self.tenants.entry(tenant.clone()).or_default().keys.remove(id) else { return };
                for digest in key.digests() {
                    if self.by_digest.get(&digest).is_some_and(|known| Arc::ptr_eq(known, &key)) {
                        self.by_digest.remove(&digest);
                    }
                }
                if let Some(tenants) = self.by_id.get_mut(id) {
                    tenants.remove(tenant);
                }
            }
            EntryName::Webhook(..) => {}
        }
    }

    /// A key as a signature names it: `tenant/id`, or the id alone where one tenant only has it. An id that
    /// looks qualified never shadows a real one.
    pub fn key_named(&self, name: &str) -> Result<&Arc<Key>, Refusal> {
        let shown = || name.chars().take(100).collect();
        let qualified = name.split_once('/').and_then(|(tenant, id)| self.tenants.get(tenant)?.keys.get(id));
        if let Some(key) = qualified {
            return Ok(key);
        }
        let mut tenants = self.by_id.get(name).into_iter().flatten();
        match (tenants.next(), tenants.next()) {
            (Some(tenant), None) => {
                self.tenants.get(tenant).and_then(|t| t.keys.get(name)).ok_or_else(|| Refusal::UnknownKey(shown()))
            }
            (Some(_), Some(_)) => Err(Refusal::AmbiguousKey(shown())),
            (None, _) => Err(Refusal::UnknownKey(shown())),
        }
    }

    /// Takes over what nobody spells out any more and records on their way still need: keys for a while, and
    /// tenants, which are closed then.
    pub fn remember(&mut self, before: &Self, until: i64) -> Result<(), DirectoryError> {
        self.gone.clone_from(&before.gone);
        for (id, tenant) in &before.tenants {
            let is_gone = self.tenants.get(id).is_none_or(|tenant| tenant.entry.is_none());
            if let Some(entry) = tenant.entry.as_deref().filter(|_| is_gone) {
                let closed_at = entry.closed_at.or(Some(Timestamp::from_millis(until)));
                self.set(&EntryName::Tenant(id.clone()), Entry::Tenant(TenantEntry { closed_at, ..entry.clone() }))?;
            }
            let now = self.tenants.get(id);
            for key in tenant.keys.values() {
                let named = now.and_then(|tenant| tenant.keys.get(&key.id));
                let is_known = |digest: &[u8; 32]| named.is_some_and(|key| key.digests().any(|known| known == *digest));
                let gone = key.digests().filter(|digest| !is_known(digest));
                let gone = gone.map(|digest| Gone { key: Arc::clone(key), digest, until });
                let remembered = self.gone.entry(key.name()).or_default();
                remembered.extend(gone);
                remembered.drain(..remembered.len().saturating_sub(MOST_GONE));
            }
        }
        self.gone.retain(|_, keys| !keys.is_empty());
        Ok(())
    }

    /// Whose record this is, proven by a key that is known.
    pub fn signed(&self, signature: &Signature, value: &[u8], at: i64) -> Result<Principal, Refusal> {
        let key = self.key_named(&signature.key_id)?;
        let digest = match (signature.verify(&key.digest, value), &key.previous) {
            (Ok(()), _) => &key.digest,
            (Err(_), Some((previous, _))) if signature.verify(previous, value).is_ok() => previous,
            (Err(error), _) => return Err(error.into()),
        };
        self.opens(key, digest, at)?;
        Ok(key.principal())
    }

    /// The same by one that is gone.
    pub fn signed_with_gone(&self, signature: &Signature, value: &[u8], at: i64) -> Option<Principal> {
        let gone = self.gone.get(&signature.key_id)?;
        let signed = gone.iter().rev().find(|gone| signature.verify(&gone.digest, value).is_ok())?;
        let is_good = at < signed.until && self.opens(&signed.key, &signed.digest, at).is_ok();
        is_good.then(|| signed.key.principal())
    }

    /// Whether a key that is told by one of its digests is good at an instant.
    pub fn opens(&self, key: &Key, digest: &[u8; 32], at: i64) -> Result<(), KeyRefusal> {
        self.is_open(&key.tenant, at)?;
        if key.entry.revoked_at.is_some_and(|revoked| revoked.millis() <= at) {
            return Err(KeyRefusal::Revoked(key.name()));
        }
        let replaced = key.previous.as_ref().filter(|(previous, _)| previous == digest).map(|(_, until)| *until);
        let expires = key.entry.expires_at.map(|expires| expires.millis());
        if replaced.into_iter().chain(expires).any(|end| end <= at) {
            return Err(KeyRefusal::Expired(key.name()));
        }
        Ok(())
    }

    pub fn is_open(&self, tenant: &str, at: i64) -> Result<(), KeyRefusal> {
        let entry = self.tenants.get(tenant).and_then(|tenant| tenant.entry.as_ref());
        // Nobody is let in before the entry of its tenant is there.
        let entry = entry.ok_or_else(|| KeyRefusal::Closed(tenant.to_owned()))?;
        match entry.closed_at {
            Some(closed) if closed.millis() <= at => Err(KeyRefusal::Closed(tenant.to_owned())),
            Some(_) | None => Ok(()),
        }
    }
}
