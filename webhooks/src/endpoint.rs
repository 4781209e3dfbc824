//! One endpoint: where its events go, and how many at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use millrace_admission::WebhookEntry;
use millrace_config::WebhookConfig;
use millrace_tenants::{SecretKeys, Webhook};
use tokio::sync::Semaphore;
use url::Url;

/// Deliveries of one endpoint that are held in memory; the others stay in the store until later.
const PLACES: usize = 1_000;

/// One endpoint. What is slow or failing there takes its own places and nobody else's.
pub struct Endpoint {
    pub(crate) id: String,
    /// Replaced as a whole, so that an attempt sees one of them.
    target: RwLock<Arc<Target>>,
    /// Attempts at a time.
    pub(crate) attempts: Semaphore,
    held: AtomicUsize,
}

/// Where its events go.
#[derive(Debug, PartialEq)]
pub(crate) enum Target {
    /// There.
    At(Box<Address>),
    /// Nobody says anything of it: it has left the configuration, which may come back.
    Unknown,
    /// Nowhere, for good.
    Deleted,
}

/// What takes events.
#[derive(Debug, PartialEq)]
pub(crate) struct Address {
    pub url: Url,
    keys: Vec<SigningKey>,
    entry: WebhookEntry,
}

/// A key of an endpoint, until it signs no more, in milliseconds since the epoch.
#[derive(Clone, PartialEq)]
struct SigningKey {
    bytes: Vec<u8>,
    until: Option<i64>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Address {
    /// The keys that sign at an instant, in milliseconds since the epoch. None of them where what they are derived
    /// from is not here.
    pub(crate) fn keys(&self, now: i64) -> Vec<&[u8]> {
        let good = self.keys.iter().filter(|key| key.until.is_none_or(|until| until > now));
        good.map(|key| key.bytes.as_slice()).collect()
    }
}

impl Target {
    fn configured(config: &WebhookConfig) -> Self {
        // Refused when the configuration was read.
        let Ok(url) = Url::parse(&config.url) else { return Self::Unknown };
        let keys = config.keys().into_iter().map(|bytes| SigningKey { bytes, until: None });
        Self::At(Box::new(Address { url, keys: keys.collect(), entry: config.into() }))
    }

    /// That of an endpoint that was made at run time.
    pub(crate) fn told(Webhook { tenant, id, entry }: &Webhook, secrets: &SecretKeys) -> Self {
        if entry.deleted_at.is_some() {
            return Self::Deleted;
        }
        let Ok(url) = Url::parse(&entry.url) else { return Self::Unknown };
        let current = entry.derived_from.iter().map(|from| (from, None));
        let previous = entry.previous.iter();
        let previous = previous.filter_map(|previous| Some((&previous.derived_from, Some(previous.until?.millis()))));
        let mut keys = Vec::new();
        for (from, until) in current.chain(previous) {
            match secrets.derive(tenant, id, from) {
                Some(bytes) => keys.push(SigningKey { bytes: bytes.to_vec(), until }),
                None => tracing::warn!(
                    tenant,
                    endpoint = id,
                    key = from.key,
                    "a secret can not be derived: its key is not in webhooks.secret_keys"
                ),
            }
        }
        Self::At(Box::new(Address { url, keys, entry: entry.clone() }))
    }

    /// Whether it is made of this entry already.
    pub(crate) fn is_of(&self, entry: &WebhookEntry) -> bool {
        match self {
            Self::At(address) => address.entry == *entry,
            Self::Unknown => false,
            Self::Deleted => entry.deleted_at.is_some(),
        }
    }
}

impl Endpoint {
    /// From the configuration.
    #[must_use]
    pub fn new(config: &WebhookConfig, concurrency: u32) -> Self {
        Self::at(&config.id, Target::configured(config), concurrency)
    }

    pub(crate) fn at(id: &str, target: Target, concurrency: u32) -> Self {
        Self {
            id: id.to_owned(),
            target: RwLock::new(Arc::new(target)),
            attempts: Semaphore::new(usize::try_from(concurrency).unwrap_or(1).max(1)),
            held: AtomicUsize::new(0),
        }
    }

    pub(crate) fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From the next attempt on its events go there, those that are held included.
    pub(crate) fn aim(&self, target: Target) {
        *self.target.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(target);
    }

    /// Whether it asks for events of this type.
    pub(crate) fn wants(&self, event: &str) -> bool {
        matches!(&*self.target(), Target::At(address) if address.entry.wants(event))
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

#[cfg(test)]
mod tests {
    use millrace_admission::PreviousOrigin;
    use millrace_config::{Secret, Timestamp};

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

    #[test]
    fn both_secrets_sign_while_they_overlap_and_the_new_one_is_first() {
        let (one, two) = ("one key of at least thirty-two bytes", "two keys of at least thirty-two bytes");
        let secrets = |keys: &[&str]| SecretKeys::new(&keys.iter().map(|key| Secret::from(*key)).collect::<Vec<_>>());
        let (before, after) = (secrets(&[one]), secrets(&[two, one]));
        let (old, new) = (before.fresh().expect("a key"), after.fresh().expect("a key"));
        let bytes = |from| after.derive("acme", "main", from).expect("a secret").to_vec();
        let entry = WebhookEntry {
            url: "https://h.example".to_owned(),
            derived_from: Some(new.clone()),
            previous: Some(PreviousOrigin { derived_from: old.clone(), until: Some(Timestamp::from_millis(5_000)) }),
            ..WebhookEntry::default()
        };
        let webhook = Webhook { tenant: "acme".to_owned(), id: "main".to_owned(), entry };
        let check = |secrets: &SecretKeys, now: i64, expected: &[Vec<u8>]| {
            let Target::At(address) = Target::told(&webhook, secrets) else { panic!("a place") };
            assert_eq!(address.keys(now), expected.iter().map(Vec::as_slice).collect::<Vec<_>>(), "{now}");
        };
        check(&after, 4_999, &[bytes(&new), bytes(&old)]);
        check(&after, 5_000, &[bytes(&new)]);
        // The key of the old secret was taken away too early, or that of the new one is not here yet.
        check(&secrets(&[two]), 0, &[bytes(&new)]);
        check(&before, 0, &[bytes(&old)]);
        check(&SecretKeys::default(), 0, &[]);
    }
}
