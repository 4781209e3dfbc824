//! Who is told, and how much of it at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use millrace_config::{Config, WebhookConfig};
use tokio::sync::Semaphore;
use url::Url;

/// Deliveries of one endpoint that are held in memory; the others stay in the store until later.
const PLACES: usize = 1_000;

/// One endpoint. What is slow or failing there takes its own places and nobody else's.
pub struct Endpoint {
    pub(crate) config: WebhookConfig,
    /// None when it is not configured any more.
    pub(crate) url: Option<Url>,
    pub(crate) keys: Vec<Vec<u8>>,
    /// Attempts at a time.
    pub(crate) attempts: Semaphore,
    held: AtomicUsize,
}

impl Endpoint {
    /// From the configuration.
    #[must_use]
    pub fn new(config: &WebhookConfig, concurrency: u32) -> Self {
        Self {
            url: Url::parse(&config.url).ok(),
            keys: config.keys(),
            attempts: Semaphore::new(usize::try_from(concurrency).unwrap_or(1).max(1)),
            held: AtomicUsize::new(0),
            config: config.clone(),
        }
    }

    /// A place in memory, while there is one.
    pub(crate) fn place(self: &Arc<Self>) -> Option<Place> {
        let taken =
            self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| (held < PLACES).then_some(held + 1));
        taken.is_ok().then(|| Place(Arc::clone(self)))
    }
}

/// Free again when it is dropped.
pub(crate) struct Place(Arc<Endpoint>);

impl Place {
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All endpoints.
pub(crate) struct Endpoints {
    by_tenant: HashMap<String, Vec<Arc<Endpoint>>>,
    /// Stands for those that are not configured any more.
    missing: Arc<Endpoint>,
}

impl Endpoints {
    pub(crate) fn new(config: &Config) -> Self {
        let concurrency = config.webhooks.concurrency;
        let of = |endpoint: &WebhookConfig| Arc::new(Endpoint::new(endpoint, concurrency));
        let tenants = config.tenants.iter().filter(|(_, tenant)| !tenant.webhooks.is_empty());
        Self {
            by_tenant: tenants.map(|(id, tenant)| (id.clone(), tenant.webhooks.iter().map(of).collect())).collect(),
            missing: of(&WebhookConfig::default()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_tenant.is_empty()
    }

    pub(crate) fn of(&self, tenant: &str) -> &[Arc<Endpoint>] {
        self.by_tenant.get(tenant).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn get(&self, tenant: &str, id: &str) -> &Arc<Endpoint> {
        self.of(tenant).iter().find(|endpoint| endpoint.config.id == id).unwrap_or(&self.missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let endpoint = Arc::new(Endpoint::new(&WebhookConfig::default(), 0));
        let mut places: Vec<Place> = std::iter::from_fn(|| endpoint.place()).collect();
        assert_eq!(places.len(), PLACES);
        places.pop();
        assert!(endpoint.place().is_some());
        assert_eq!(endpoint.attempts.available_permits(), 1);
    }
}
