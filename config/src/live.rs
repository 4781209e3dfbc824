//! What tells two configurations apart, and which differences a running process can take up.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Config;
use crate::read::written;
use crate::secret::{HIDDEN, as_digests};

/// Keys, with all that is under them, that a running process takes up; `*` is any one key. The model that
/// `knowledge.embedding_model` names is the exception: what is stored was made by it.
pub const LIVE: [&str; 15] = [
    "models",
    "moderation",
    "plans",
    "pricing",
    "providers",
    "tenants.*.budget",
    "tenants.*.json_reply_topics",
    "tenants.*.keys",
    "tenants.*.limits",
    "tenants.*.models",
    "tenants.*.moderation",
    "tenants.*.name",
    "tenants.*.plan",
    "tenants.*.reply_topics",
    "tenants.*.users",
];

/// Keys, with all that is under them, that only a start takes up.
pub const RESTART: [&str; 14] = [
    "ingress",
    "issuers",
    "kafka",
    "knowledge",
    "ledger",
    "limits",
    "registry",
    "stage",
    "storage",
    "telemetry",
    "tenants.*.webhooks",
    "topic_bindings",
    "vectors",
    "webhooks",
];

/// What is one process's own, though others have the same file.
const OWN: [&str; 5] = ["ingress.listen", "ingress.replica", "stage.lanes", "telemetry.listen", "telemetry.log_format"];

/// Hexadecimal digits of a version.
const DIGITS: usize = 12;

type Leaves = BTreeMap<Vec<String>, String>;

/// What a configuration says, and what was in the files that it names, at one moment. Holds no secret, only
/// digests of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    leaves: Leaves,
    version: String,
    /// The model that documents and questions are embedded with.
    embedding_model: String,
}

/// What is not the same in two configurations, key by key as a person would write them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What can be taken up now.
    pub live: Vec<String>,
    /// What needs a restart.
    pub restart: Vec<String>,
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}

impl Snapshot {
    /// Reads the files that the configuration names, too. One that can not be read is a difference to one
    /// that can: whoever uses it says why.
    pub fn of(config: &Config) -> Self {
        let mut leaves = as_digests(|| leaves_of(config, |_| true));
        // Secrets as if they were withheld.
        let mut shown = leaves_of(config, |value| value != HIDDEN);
        shown.retain(|path, _| !OWN.iter().any(|own| is_under(path, own)));
        for (section, key, file) in [
            ("moderation", "rules_file", config.moderation.rules_file.as_deref()),
            ("pricing", "file", config.pricing.file.as_deref()),
        ] {
            if let Some(file) = file {
                let path = vec![section.to_owned(), key.to_owned()];
                let contents = format!("{} {}", file.display(), contents(file));
                shown.insert(path.clone(), contents.clone());
                leaves.insert(path, contents);
            }
        }
        let embedding_model = config.knowledge.embedding_model.clone();
        Self { leaves, version: version(&shown), embedding_model }
    }

    /// The same for all processes that have the same file, whatever of its secrets each may know.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What `newer` says otherwise.
    pub fn difference(&self, newer: &Self) -> Difference {
        let mut difference = Difference::default();
        let gone = self.leaves.keys().filter(|path| !newer.leaves.contains_key(*path));
        let other = newer.leaves.iter().filter(|(path, value)| self.leaves.get(*path) != Some(value));
        for path in gone.chain(other.map(|(path, _)| path)) {
            let keys = if self.is_live(path) { &mut difference.live } else { &mut difference.restart };
            keys.push(written(path));
        }
        difference.live.sort();
        difference.restart.sort();
        difference
    }

    /// A key that is in no list needs a restart.
    fn is_live(&self, path: &[String]) -> bool {
        let embeds = matches!(path, [section, model, ..] if section == "models" && *model == self.embedding_model);
        !embeds && LIVE.iter().any(|live| is_under(path, live))
    }
}

fn is_under(path: &[String], pattern: &str) -> bool {
    let mut keys = path.iter();
    pattern.split('.').all(|part| keys.next().is_some_and(|key| part == "*" || part == key))
}

fn leaves_of(config: &Config, counts: impl Fn(&Value) -> bool) -> Leaves {
    let mut leaves = Leaves::new();
    let value = serde_json::to_value(config).unwrap_or_default();
    collect(&value, &counts, &mut Vec::new(), &mut leaves);
    leaves
}

/// What is not there and what is empty is no leaf; but a table is there, even if nothing is in it.
fn collect(value: &Value, counts: &impl Fn(&Value) -> bool, path: &mut Vec<String>, leaves: &mut Leaves) {
    let mut within = |key: String, value: &Value, leaves: &mut Leaves| {
        path.push(key);
        collect(value, counts, path, leaves);
        path.pop();
    };
    match value {
        Value::Null => {}
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                within(format!("[{index}]"), item, leaves);
            }
        }
        Value::Object(table) => {
            let before = leaves.len();
            for (key, value) in table {
                within(key.clone(), value, leaves);
            }
            if leaves.len() == before {
                leaves.insert(path.clone(), String::new());
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) if counts(value) => {
            leaves.insert(path.clone(), value.to_string());
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn contents(file: &Path) -> String {
    std::fs::read(file).map_or_else(|_| "unreadable".to_owned(), |bytes| hex::encode(Sha256::digest(bytes)))
}

fn version(leaves: &Leaves) -> String {
    let mut digest = Sha256::new();
    for (path, value) in leaves {
        digest.update(written(path));
        digest.update([0]);
        digest.update(value);
        digest.update([0]);
    }
    let mut version = hex::encode(digest.finalize());
    version.truncate(DIGITS);
    version
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        KeyConfig, ModelConfig, PlanConfig, ProviderConfig, Secret, TenantConfig, UserConfig, WebhookConfig, hash_key,
    };

    fn key(id: &str, secret: &str) -> KeyConfig {
        KeyConfig { id: id.to_owned(), sha256: Some(hash_key(secret)), ..KeyConfig::default() }
    }

    fn config() -> Config {
        let mut config = Config::default();
        let mut provider = ProviderConfig::new("http://127.0.0.1:1/v1");
        provider.api_keys.insert("main".to_owned(), Secret::from("sk-1"));
        config.providers.insert("p".to_owned(), provider);
        config.models.insert("m".to_owned(), ModelConfig::chat("p", 8_000));
        config.models.insert("embed".to_owned(), ModelConfig::embedding("p", 8_000, 8));
        config.knowledge.embedding_model = "embed".to_owned();
        config.kafka.client.insert("sasl.password".to_owned(), "pw-1".to_owned());
        config.ingress.admin_key = Some(Secret::from("admin-1"));
        let hook = WebhookConfig { id: "w".to_owned(), secrets: vec![Secret::from("s-1")], ..WebhookConfig::default() };
        let tenant = TenantConfig { keys: vec![key("k", "sk")], webhooks: vec![hook], ..TenantConfig::default() };
        config.tenants.insert("acme".to_owned(), tenant);
        config
    }

    fn owned(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    fn changed(change: impl FnOnce(&mut Config)) -> (Difference, bool) {
        let (before, mut after) = (Snapshot::of(&config()), config());
        change(&mut after);
        let after = Snapshot::of(&after);
        (before.difference(&after), before.version() == after.version())
    }

    #[test]
    fn what_changed_is_named_and_sorted_by_whether_it_can_be_taken_up() {
        let check = |change: &dyn Fn(&mut Config), live: &[&str], restart: &[&str]| {
            let (difference, is_same) = changed(change);
            assert_eq!((difference.live, difference.restart), (owned(live), owned(restart)));
            assert_eq!(is_same, live.is_empty() && restart.is_empty());
        };
        check(&|_| {}, &[], &[]);
        check(&|c| c.tenants.get_mut("acme").unwrap().plan = Some("gold".to_owned()), &["tenants.acme.plan"], &[]);
        check(
            &|c| drop(c.plans.insert("gold".to_owned(), PlanConfig::default())),
            &["plans", "plans.gold.limits"],
            &[],
        );
        check(
            &|c| drop(c.tenants.get_mut("acme").unwrap().users.insert("ada".to_owned(), UserConfig::default())),
            &["tenants.acme.users", "tenants.acme.users.ada.limits", "tenants.acme.users.ada.service"],
            &[],
        );
        check(
            &|c| c.tenants.get_mut("acme").unwrap().keys[0].sha256 = Some(hash_key("sk-2")),
            &["tenants.acme.keys[0].sha256"],
            &[],
        );
        check(
            &|c| drop(c.moderation.rule_sets.insert("kind".to_owned(), toml::Value::Table(toml::Table::new()))),
            &["moderation.rule_sets", "moderation.rule_sets.kind"],
            &[],
        );
        check(
            &|c| c.providers.get_mut("p").unwrap().base_url = "http://127.0.0.1:2/v1".to_owned(),
            &["providers.p.base_url"],
            &[],
        );
        check(
            &|c| c.models.get_mut("m").unwrap().fallbacks = vec!["embed".to_owned()],
            &["models.m.fallbacks[0]"],
            &[],
        );
        check(
            &|c| c.models.get_mut("embed").unwrap().upstream = Some("other".to_owned()),
            &[],
            &["models.embed.upstream"],
        );
        check(
            &|c| c.tenants.get_mut("acme").unwrap().webhooks.clear(),
            &[],
            &["tenants.acme.webhooks[0].id", "tenants.acme.webhooks[0].secrets[0]", "tenants.acme.webhooks[0].url"],
        );
        check(&|c| c.stage.window = 7, &[], &["stage.window"]);
    }

    #[test]
    fn a_new_tenant_of_whom_nothing_is_said_is_a_difference() {
        let (difference, _) = changed(|c| drop(c.tenants.insert("new".to_owned(), TenantConfig::default())));
        assert!(difference.restart.is_empty(), "{difference:?}");
        assert!(difference.live.contains(&"tenants.new.users".to_owned()), "{difference:?}");
    }

    #[test]
    fn secrets_that_were_rotated_are_differences_of_the_same_version_and_are_in_no_snapshot() {
        let rotated = |c: &mut Config| {
            c.providers.get_mut("p").unwrap().api_keys.insert("main".to_owned(), Secret::from("sk-2"));
            c.kafka.client.insert("sasl.password".to_owned(), "pw-2".to_owned());
            c.ingress.admin_key = Some(Secret::from("admin-2"));
            c.tenants.get_mut("acme").unwrap().webhooks[0].secrets[0] = Secret::from("s-2");
        };
        let (difference, is_same) = changed(rotated);
        assert_eq!(
            difference.restart,
            ["ingress.admin_key", "kafka.client.\"sasl.password\"", "tenants.acme.webhooks[0].secrets[0]"]
        );
        assert_eq!(difference.live, ["providers.p.api_keys.main"]);
        assert!(is_same);
        let shown = format!("{:?}", Snapshot::of(&config()));
        for secret in ["sk-1", "pw-1", "admin-1", "s-1"] {
            assert!(!shown.contains(&format!("\"{secret}")) && !shown.contains(&format!("{secret}\"")), "{secret}");
        }
        assert!(!config().dump().contains(&hash_key("sk-1")), "digests are for snapshots alone");
    }

    #[test]
    fn who_may_not_know_secrets_or_listens_elsewhere_has_the_same_version() {
        let withheld = |c: &mut Config| {
            c.providers.get_mut("p").unwrap().api_keys.clear();
            c.ingress.admin_key = None;
            c.tenants.get_mut("acme").unwrap().webhooks[0].secrets.clear();
            c.ingress.listen = "127.0.0.1:9".to_owned();
            c.telemetry.listen = Some("127.0.0.1:8".to_owned());
        };
        assert!(changed(withheld).1);
    }

    #[test]
    fn what_is_in_the_files_that_are_named_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prices.toml");
        let mut config = config();
        config.pricing.file = Some(file.clone());
        let unreadable = Snapshot::of(&config);
        std::fs::write(&file, "one").unwrap();
        let one = Snapshot::of(&config);
        std::fs::write(&file, "two").unwrap();
        let two = Snapshot::of(&config);
        assert_eq!(one.difference(&two).live, ["pricing.file"]);
        assert_eq!(unreadable.difference(&one).live, ["pricing.file"]);
        assert_ne!(one.version(), two.version());
    }
}
