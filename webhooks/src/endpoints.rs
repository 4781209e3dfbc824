//! Every endpoint there is: those of the configuration, and those that are made while Millrace runs.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use millrace_config::Config;
use millrace_tenants::{SecretKeys, Webhook};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::endpoint::{Endpoint, Target};

type OfTenants = HashMap<String, Vec<Arc<Endpoint>>>;

/// All endpoints.
pub(crate) struct Endpoints {
    /// The configuration's, which stay until the next start.
    configured: OfTenants,
    known: RwLock<Known>,
    changed: Notify,
    secrets: SecretKeys,
    concurrency: u32,
    /// Stands for those of which nobody says anything.
    unknown: Arc<Endpoint>,
    /// And for those that were deleted.
    deleted: Arc<Endpoint>,
}

#[derive(Default)]
struct Known {
    of_tenants: OfTenants,
    deleted: HashSet<(String, String)>,
}

impl Endpoints {
    pub(crate) fn new(config: &Config) -> Self {
        let concurrency = config.webhooks.concurrency;
        let tenants = config.tenants.iter().filter(|(_, tenant)| !tenant.webhooks.is_empty());
        let configured: OfTenants = tenants
            .map(|(id, tenant)| {
                let endpoints = tenant.webhooks.iter().map(|endpoint| Arc::new(Endpoint::new(endpoint, concurrency)));
                (id.clone(), endpoints.collect())
            })
            .collect();
        Self {
            known: RwLock::new(Known { of_tenants: configured.clone(), ..Known::default() }),
            configured,
            changed: Notify::new(),
            secrets: SecretKeys::new(&config.webhooks.secret_keys),
            concurrency,
            unknown: Arc::new(Endpoint::at("", Target::Unknown, concurrency)),
            deleted: Arc::new(Endpoint::at("", Target::Deleted, concurrency)),
        }
    }

    /// From now on there are these besides the configuration's. One that was there before keeps its places, and what
    /// it holds goes where it is now.
    pub(crate) fn take_up(&self, told: &[Webhook]) {
        let before = self.known().of_tenants.clone();
        let mut known = Known { of_tenants: self.configured.clone(), ..Known::default() };
        for webhook in told {
            let Webhook { tenant, id, entry } = webhook;
            let there = find(&before, tenant, id);
            let target = || Target::told(webhook, &self.secrets);
            if entry.deleted_at.is_some() {
                known.deleted.insert((tenant.clone(), id.clone()));
                continue;
            }
            let endpoint = match there {
                Some(there) => {
                    if !there.target().is_of(entry) {
                        there.aim(target());
                    }
                    Arc::clone(there)
                }
                None => Arc::new(Endpoint::at(id, target(), self.concurrency)),
            };
            known.of_tenants.entry(tenant.clone()).or_default().push(endpoint);
        }
        for (tenant, endpoints) in &before {
            for gone in endpoints.iter().filter(|endpoint| find(&known.of_tenants, tenant, &endpoint.id).is_none()) {
                let is_deleted = known.deleted.contains(&(tenant.clone(), gone.id.clone()));
                gone.aim(if is_deleted { Target::Deleted } else { Target::Unknown });
            }
        }
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        self.changed.notify_waiters();
    }

    pub(crate) fn of(&self, tenant: &str) -> Vec<Arc<Endpoint>> {
        self.known().of_tenants.get(tenant).cloned().unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known().of_tenants.is_empty()
    }

    /// Ends when other endpoints are taken up, from the call on.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(crate) fn has_any(&self, tenant: &str) -> bool {
        self.known().of_tenants.contains_key(tenant)
    }

    pub(crate) fn get(&self, tenant: &str, id: &str) -> Arc<Endpoint> {
        let known = self.known();
        let is_deleted = || known.deleted.contains(&(tenant.to_owned(), id.to_owned()));
        match find(&known.of_tenants, tenant, id) {
            Some(endpoint) => Arc::clone(endpoint),
            None if is_deleted() => Arc::clone(&self.deleted),
            None => Arc::clone(&self.unknown),
        }
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find<'a>(endpoints: &'a OfTenants, tenant: &str, id: &str) -> Option<&'a Arc<Endpoint>> {
    endpoints.get(tenant)?.iter().find(|endpoint| endpoint.id == id)
}

#[cfg(test)]
mod tests {
    use millrace_admission::{SecretOrigin, WebhookEntry};
    use millrace_config::{Secret, TenantConfig, Timestamp, WebhookConfig};

    use super::*;

    fn endpoints() -> Endpoints {
        let mut config = Config::default();
        config.webhooks.secret_keys = vec![Secret::from("a key of at least thirty-two bytes")];
        let url = "https://c.example".to_owned();
        let fixed = WebhookConfig { id: "fixed".to_owned(), url, ..WebhookConfig::default() };
        config.tenants.insert("acme".to_owned(), TenantConfig { webhooks: vec![fixed], ..TenantConfig::default() });
        Endpoints::new(&config)
    }

    fn made(tenant: &str, id: &str, url: &str) -> Webhook {
        let derived_from = Some(SecretOrigin { key: "k".to_owned(), salt: "s".to_owned() });
        let entry = WebhookEntry { url: url.to_owned(), derived_from, ..WebhookEntry::default() };
        Webhook { tenant: tenant.to_owned(), id: id.to_owned(), entry }
    }

    fn deleted(tenant: &str, id: &str) -> Webhook {
        let entry = WebhookEntry { deleted_at: Some(Timestamp::from_millis(1)), ..WebhookEntry::default() };
        Webhook { tenant: tenant.to_owned(), id: id.to_owned(), entry }
    }

    fn url(endpoint: &Endpoint) -> String {
        match &*endpoint.target() {
            Target::At(address) => address.url.to_string(),
            Target::Unknown => "unknown".to_owned(),
            Target::Deleted => "deleted".to_owned(),
        }
    }

    #[test]
    fn what_is_held_follows_its_endpoint_to_the_end() {
        let endpoints = endpoints();
        assert!(endpoints.has_any("acme") && !endpoints.has_any("new"));
        endpoints.take_up(&[made("acme", "made", "https://one.example"), made("new", "main", "https://n.example")]);
        let held = endpoints.get("acme", "made");
        assert_eq!((url(&held).as_str(), held.wants("batch.failed")), ("https://one.example/", true));
        let ids: Vec<String> = endpoints.of("acme").iter().map(|endpoint| endpoint.id.clone()).collect();
        assert_eq!(ids, ["fixed", "made"]);

        endpoints.take_up(&[made("acme", "made", "https://two.example")]);
        assert_eq!(url(&held), "https://two.example/");
        assert!(Arc::ptr_eq(&held, &endpoints.get("acme", "made")), "its places are its own still");
        assert_eq!(url(&endpoints.get("new", "main")), "unknown");
        assert!(!endpoints.has_any("new"));

        endpoints.take_up(&[deleted("acme", "made")]);
        assert_eq!((url(&held).as_str(), held.wants("batch.failed")), ("deleted", false));
        assert_eq!(url(&endpoints.get("acme", "made")), "deleted");
        assert_eq!(url(&endpoints.get("acme", "fixed")), "https://c.example/");

        // Made again, it is another one: what waited for the first is over.
        endpoints.take_up(&[made("acme", "made", "https://three.example")]);
        assert_eq!(url(&held), "deleted");
        assert_eq!(url(&endpoints.get("acme", "made")), "https://three.example/");
    }
}
