//! What is known of each entry, as it was written.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use millrace_admission::{Directory, DirectoryError, Entry, EntryName, WebhookEntry, configured};
use millrace_config::Config;
use millrace_schemas::DirectoryEntry;
use serde_json::{Map, Value};
use tokio::sync::watch;

/// So many changes are remembered for those who wait for theirs.
const REMEMBERED: usize = 1_000;

/// The member of an entry that is kept so that everybody knows that it is there no more.
pub(crate) const DELETED_AT: &str = "deleted_at";

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Its members, also those that nobody here knows the meaning of.
    pub body: Map<String, Value>,
    /// Microseconds since the epoch; `None` for an entry of the configuration.
    pub changed_at: Option<i64>,
    /// Who changed it last.
    pub changed_by: Option<String>,
}

impl Known {
    /// Whether the configuration spells it out; then nothing else changes it.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.changed_at.is_none()
    }

    /// Whether it is only known that it was there.
    fn is_deleted(&self) -> bool {
        // The configuration's say of all members what they are.
        self.body.get(DELETED_AT).is_some_and(|at| !at.is_null())
    }
}

/// What two places say of an entry. The configuration counts; what the topic says does when that says nothing.
#[derive(Debug, Clone, Default)]
struct Slot {
    configured: Option<Known>,
    told: Option<Known>,
}

impl Slot {
    fn known(&self) -> Option<&Known> {
        self.configured.as_ref().or(self.told.as_ref())
    }
}

type Slots = BTreeMap<EntryName, Slot>;

/// Everything that is known. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tenants {
    directory: Directory,
    entries: Arc<RwLock<Slots>>,
    /// The latest changes, the newest last.
    changes: Arc<watch::Sender<VecDeque<String>>>,
    caught_up: Arc<watch::Sender<bool>>,
    webhooks_changed: Arc<watch::Sender<()>>,
}

/// An endpoint that was made while Millrace runs, or deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// Whose it is.
    pub tenant: String,
    /// Its id.
    pub id: String,
    /// What is known of it.
    pub entry: WebhookEntry,
}

impl Tenants {
    /// What the configuration spells out; changes are applied to `directory`, too, which is made of it.
    #[must_use]
    pub fn new(config: &Config, directory: Directory) -> Self {
        let mut slots = Slots::new();
        configure(&mut slots, config);
        Self {
            directory,
            entries: Arc::new(RwLock::new(slots)),
            changes: Arc::default(),
            caught_up: Arc::default(),
            webhooks_changed: Arc::default(),
        }
    }

    /// Who there is, for those who only ask.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// One entry.
    #[must_use]
    pub fn get(&self, name: &EntryName) -> Option<Known> {
        self.read().get(name)?.known().filter(|known| !known.is_deleted()).cloned()
    }

    /// The entries from `first` on that are of the same kind and tenant, in the order of their ids.
    #[must_use]
    pub fn list(&self, first: &EntryName, most: usize) -> Vec<(EntryName, Known)> {
        let alike = |name: &EntryName| {
            name.kind() == first.kind()
                && match name {
                    EntryName::Plan(_) | EntryName::Tenant(_) => true,
                    EntryName::User(..) | EntryName::Key(..) | EntryName::Webhook(..) => {
                        name.tenant() == first.tenant()
                    }
                }
        };
        let entries = self.read();
        let from_first = entries.range(first.clone()..).take_while(|(name, _)| alike(name));
        let known = from_first.filter_map(|(name, slot)| Some((name, slot.known()?)));
        let there = known.filter(|(_, known)| !known.is_deleted());
        there.map(|(name, known)| (name.clone(), known.clone())).take(most).collect()
    }

    /// The endpoints that the topic tells of and the configuration does not, those that were deleted included.
    #[must_use]
    pub fn told_webhooks(&self) -> Vec<Webhook> {
        let entries = self.read();
        let webhooks = entries.range(EntryName::Webhook(String::new(), String::new())..);
        webhooks
            .filter_map(|(name, slot)| webhook(name, slot.known().filter(|known| !known.is_configured())?))
            .collect()
    }

    /// Every endpoint that a tenant has, wherever it is from.
    #[must_use]
    pub fn webhooks_of(&self, tenant: &str) -> Vec<Webhook> {
        let first = EntryName::Webhook(tenant.to_owned(), String::new());
        self.list(&first, usize::MAX).iter().filter_map(|(name, known)| webhook(name, known)).collect()
    }

    /// Sees a change whenever [`told_webhooks`](Self::told_webhooks) may say something else.
    #[must_use]
    pub fn webhook_changes(&self) -> watch::Receiver<()> {
        self.webhooks_changed.subscribe()
    }

    /// Waits until everything that was there at the start is known.
    pub async fn until_caught_up(&self) {
        let mut receiver = self.caught_up.subscribe();
        // The sender is in `self`, so it is not gone.
        let _caught_up = receiver.wait_for(|caught_up| *caught_up).await;
    }

    /// Waits until a change that was written is known here.
    pub async fn until_known(&self, change_id: &str) {
        let mut receiver = self.changes.subscribe();
        let _known = receiver.wait_for(|changes| changes.iter().any(|known| known == change_id)).await;
    }

    pub(crate) fn caught_up(&self) {
        self.caught_up.send_replace(true);
    }

    /// Takes up a record of the topic.
    pub(crate) fn take(&self, record: DirectoryEntry) {
        match self.apply(&record) {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(
                    name = record.name,
                    "the configuration spells this out; what the topic says counts when it does so no more"
                );
            }
            Err(error) => {
                tracing::error!(name = record.name, error, "an entry can not be used; what was known of it stays");
            }
        }
        self.changes.send_modify(|changes| {
            changes.push_back(record.change_id);
            if changes.len() > REMEMBERED {
                changes.pop_front();
            }
        });
    }

    /// Takes up another configuration in one step. What the topic says of a name that has left it counts again.
    /// `now` is in milliseconds since the epoch: see [`Directory::replace`].
    ///
    /// # Errors
    /// [`DirectoryError`]: nothing changes.
    pub fn reload(&self, config: &Config, now: i64) -> Result<(), DirectoryError> {
        let mut slots = self.write();
        let told = slots.iter().filter_map(|(name, slot)| {
            let body = serde_json::to_string(&slot.told.as_ref()?.body).ok()?;
            Some((name.clone(), Entry::read(name, &body).ok()?))
        });
        for name in self.directory.replace(config, told.collect::<Vec<_>>(), now)? {
            tracing::error!(%name, "what the topic says of an entry can not be used");
        }
        configure(&mut slots, config);
        drop(slots);
        self.webhooks_changed.send_replace(());
        Ok(())
    }

    fn apply(&self, record: &DirectoryEntry) -> Result<bool, String> {
        let name: EntryName = record.name.parse()?;
        let told = record.body.as_ref().map(|body| told(&name, body, record)).transpose()?;
        let (entry, known) = told.unzip();
        // Held until both know it, so that a new configuration comes before or after.
        let mut slots = self.write();
        let is_taken_up = self.directory.apply(&name, entry).map_err(|error| error.to_string())?;
        let slot = slots.entry(name.clone()).or_default();
        slot.told = known;
        if slot.known().is_none() {
            slots.remove(&name);
        }
        drop(slots);
        if let EntryName::Webhook(..) = name {
            self.webhooks_changed.send_replace(());
        }
        Ok(is_taken_up)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Slots> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Slots> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From now on this is what the configuration says.
fn configure(slots: &mut Slots, config: &Config) {
    slots.values_mut().for_each(|slot| slot.configured = None);
    for (name, entry) in configured(config) {
        let body = match serde_json::to_value(&entry) {
            Ok(Value::Object(body)) => body,
            Ok(_) | Err(_) => Map::new(),
        };
        slots.entry(name).or_default().configured = Some(Known { body, changed_at: None, changed_by: None });
    }
    slots.retain(|_, slot| slot.known().is_some());
}

fn webhook(name: &EntryName, known: &Known) -> Option<Webhook> {
    let EntryName::Webhook(tenant, id) = name else { return None };
    // It was read as one when it was taken up.
    let entry = serde_json::from_value(Value::Object(known.body.clone())).ok()?;
    Some(Webhook { tenant: tenant.clone(), id: id.clone(), entry })
}

fn told(name: &EntryName, body: &str, record: &DirectoryEntry) -> Result<(Entry, Known), String> {
    let entry = Entry::read(name, body).map_err(|error| error.to_string())?;
    let body = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let changed_by = Some(record.changed_by.clone());
    Ok((entry, Known { body, changed_at: Some(record.changed_at), changed_by }))
}

#[cfg(test)]
mod tests {
    use millrace_config::{KeyConfig, TenantConfig, WebhookConfig, hash_key};

    use super::*;

    fn tenants() -> Tenants {
        let mut config = Config::default();
        let key = KeyConfig { id: "k".to_owned(), sha256: Some(hash_key("sk")), ..KeyConfig::default() };
        config.tenants.insert("acme".to_owned(), TenantConfig { keys: vec![key], ..TenantConfig::default() });
        let directory = Directory::from_config(&config).expect("valid");
        Tenants::new(&config, directory)
    }

    fn record(name: &str, body: Option<&str>, change_id: &str) -> DirectoryEntry {
        DirectoryEntry {
            name: name.to_owned(),
            body: body.map(str::to_owned),
            change_id: change_id.to_owned(),
            changed_at: 7,
            changed_by: "admin".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_change_is_known_to_the_directory_and_to_who_waits_for_it() {
        let tenants = tenants();
        tenants.take(record("tenant/new", Some(r#"{"name":"New","next_month":[1]}"#), "1"));
        tenants.until_known("1").await;
        assert!(tenants.directory().has_tenant("new"));
        let known = tenants.get(&EntryName::Tenant("new".to_owned())).expect("known");
        assert_eq!((known.body["next_month"][0].as_i64(), known.changed_at), (Some(1), Some(7)));
        tenants.take(record("tenant/new", None, "2"));
        tenants.until_known("2").await;
        assert!(!tenants.directory().has_tenant("new"));
    }

    #[tokio::test]
    async fn what_can_not_be_used_or_is_configured_changes_nothing_and_is_waited_for_in_vain_by_nobody() {
        let tenants = tenants();
        for (name, body, change) in [
            ("role/x/y", Some("{}"), "1"),
            ("key/acme/k", None, "2"),
            ("key/acme/n", Some(r#"{"sha256":"short"}"#), "3"),
            ("tenant/b", Some("[]"), "4"),
        ] {
            tenants.take(record(name, body, change));
            tenants.until_known(change).await;
        }
        assert_eq!(tenants.list(&EntryName::Tenant(String::new()), 9).len(), 1);
        assert!(tenants.get(&EntryName::Key("acme".to_owned(), "k".to_owned())).expect("configured").is_configured());
    }

    #[test]
    fn lists_hold_one_kind_of_one_tenant_in_order() {
        let tenants = tenants();
        for name in ["user/acme/b", "user/acme/a", "user/other/c", "key/acme/z", "plan/p"] {
            let body =
                if name.starts_with("key") { format!(r#"{{"sha256":"{}"}}"#, hash_key("x")) } else { "{}".to_owned() };
            tenants.take(record(name, Some(&body), name));
        }
        let ids = |first: EntryName, most: usize| {
            let found = tenants.list(&first, most);
            found.iter().map(|(name, _)| name.id().to_owned()).collect::<Vec<_>>()
        };
        let user = |id: &str| EntryName::User("acme".to_owned(), id.to_owned());
        assert_eq!(ids(user(""), 9), ["a", "b"]);
        assert_eq!(ids(user("b"), 9), ["b"]);
        assert_eq!(ids(user(""), 1), ["a"]);
        assert_eq!(ids(EntryName::Key("acme".to_owned(), String::new()), 9), ["k", "z"]);
        assert_eq!(ids(EntryName::Plan(String::new()), 9), ["p"]);
    }

    #[test]
    fn endpoints_are_told_of_until_they_are_deleted_and_that_they_are_is_not_forgotten() {
        let mut config = Config::default();
        let webhook = |id: &str| WebhookConfig { id: id.to_owned(), url: "https://c".to_owned(), ..Default::default() };
        let tenant = TenantConfig { webhooks: vec![webhook("fixed")], ..TenantConfig::default() };
        config.tenants.insert("acme".to_owned(), tenant);
        let tenants = Tenants::new(&config, Directory::from_config(&config).expect("valid"));
        let mut changes = tenants.webhook_changes();
        for id in ["acme/made", "acme/fixed", "new/own"] {
            tenants.take(record(
                &format!("webhook/{id}"),
                Some(r#"{"url":"https://t","events":["batch.failed"]}"#),
                id,
            ));
        }
        assert!(changes.has_changed().expect("there"));
        changes.mark_unchanged();
        let ids = |webhooks: Vec<Webhook>| webhooks.into_iter().map(|webhook| webhook.id).collect::<Vec<_>>();
        assert_eq!(ids(tenants.told_webhooks()), ["made", "own"]);
        assert_eq!(ids(tenants.webhooks_of("acme")), ["fixed", "made"]);
        assert!(tenants.webhooks_of("acme").iter().all(|webhook| webhook.entry.wants("batch.failed")));
        let fixed = EntryName::Webhook("acme".to_owned(), "fixed".to_owned());
        assert_eq!(tenants.get(&fixed).expect("configured").body["url"], "https://c");

        tenants.take(record("webhook/acme/made", Some(r#"{"deleted_at":"2030-01-31T12:00:00Z"}"#), "4"));
        assert!(changes.has_changed().expect("there"));
        assert_eq!(tenants.get(&EntryName::Webhook("acme".to_owned(), "made".to_owned())), None);
        assert_eq!(ids(tenants.webhooks_of("acme")), ["fixed"]);
        assert!(tenants.told_webhooks()[0].entry.deleted_at.is_some());
    }

    #[test]
    fn what_the_topic_says_of_a_name_counts_when_the_name_leaves_the_configuration() {
        let tenants = tenants();
        let name = EntryName::Key("acme".to_owned(), "k".to_owned());
        tenants.take(record("tenant/acme", Some(r#"{"name":"Told"}"#), "1"));
        tenants.take(record("key/acme/k", Some(&format!(r#"{{"sha256":"{}"}}"#, hash_key("told"))), "2"));
        tenants.take(record("tenant/other", Some("{}"), "3"));
        let tenant = EntryName::Tenant("acme".to_owned());
        assert!(tenants.get(&name).expect("configured").is_configured());
        assert!(tenants.directory().verify_key("sk", 0).is_ok());

        tenants.reload(&Config::default(), 0).expect("valid");
        assert_eq!(tenants.get(&tenant).expect("told").body["name"], "Told");
        assert!(!tenants.get(&name).expect("told").is_configured());
        assert!(tenants.directory().verify_key("sk", 0).is_err() && tenants.directory().verify_key("told", 0).is_ok());
        assert_eq!(tenants.list(&EntryName::Tenant(String::new()), 9).len(), 2);

        // It is the configuration's again, and what is told meanwhile is not lost.
        let mut config = Config::default();
        config.tenants.insert("acme".to_owned(), TenantConfig::default());
        tenants.reload(&config, 0).expect("valid");
        tenants.take(record("tenant/acme", None, "4"));
        assert!(tenants.get(&tenant).expect("configured").is_configured());
        tenants.reload(&Config::default(), 0).expect("valid");
        assert_eq!(tenants.get(&tenant), None);
        assert!(tenants.get(&name).is_some() && tenants.directory().verify_key("told", i64::MAX).is_err());
    }
}
