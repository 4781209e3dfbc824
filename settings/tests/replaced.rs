//! One configuration after the other: what can be used is used as a whole, what can not changes nothing.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use millrace_admission::Directory;
use millrace_config::{BudgetConfig, BudgetPeriod, Config, ModelConfig, ProviderConfig, TenantConfig};
use millrace_settings::{Current, Settings};

const RULES: &str = "[strict]\nterms = [{ name = \"t\", words = [\"x\"], action = \"block\" }]\n";

fn prices(version: &str, input: u64) -> String {
    format!(
        "version = \"{version}\"\ncurrency = \"USD\"\n[[price]]\nprovider = \"*\"\nmodel = \"m\"\n\
         effective_from = 2020-01-01\ninput_per_million = {input}\noutput_per_million = 0\n"
    )
}

/// A configuration with files of its own, as they are written there.
fn config(folder: &Path) -> Config {
    let mut config = Config::default();
    config.providers.insert("p".to_owned(), ProviderConfig::new("http://127.0.0.1:1/v1"));
    config.models.insert("m".to_owned(), ModelConfig::chat("p", 8_000));
    config.moderation.rules_file = Some(folder.join("rules.toml"));
    config.pricing.file = Some(folder.join("prices.toml"));
    let tenant = TenantConfig { moderation: Some("strict".to_owned()), ..TenantConfig::default() };
    config.tenants.insert("acme".to_owned(), tenant);
    config
}

fn begin(folder: &Path) -> Current {
    std::fs::write(folder.join("rules.toml"), RULES).unwrap();
    std::fs::write(folder.join("prices.toml"), prices("one", 1)).unwrap();
    let config = config(folder);
    Current::new(Settings::new(&config, Directory::from_config(&config).unwrap(), true).unwrap())
}

#[test]
fn whoever_has_asked_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let current = begin(folder.path());
    let before = current.now();
    std::fs::write(folder.path().join("prices.toml"), prices("two", 2)).unwrap();
    std::fs::write(folder.path().join("rules.toml"), RULES.replace("\"x\"", "\"y\"")).unwrap();
    let mut config = config(folder.path());
    config
        .models
        .insert("new".to_owned(), ModelConfig { upstream: Some("m".to_owned()), ..ModelConfig::chat("p", 8_000) });
    current.replace(Arc::new(before.next(&config).unwrap()));
    let after = current.now();
    assert_eq!((before.prices.version(), after.prices.version()), ("one", "two"));
    assert!(before.target("new").is_none() && after.target("new").is_some());
    assert!(!before.admission.models().contains_key("new") && after.admission.models().contains_key("new"));
    let version = |settings: &Settings| settings.rules.get("strict").unwrap().version().to_owned();
    assert_ne!(version(&before), version(&after));
}

#[test]
fn what_can_not_be_used_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let current = begin(folder.path());
    let check = |file: &str, text: &str, change: &dyn Fn(&mut Config), part: &str| {
        let path = folder.path().join(file);
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text).unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        let error = current.now().next(&config).err().unwrap().to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
        std::fs::write(&path, good).unwrap();
    };
    let same = |_: &mut Config| ();
    check("rules.toml", "[strict]\nterms = 1\n", &same, "`strict` in");
    check("rules.toml", "[strict", &same, "not a rule set");
    check("rules.toml", "[other]\n", &same, "`tenants.acme.moderation` names the rule set `strict`");
    check("prices.toml", "version = 1", &same, "not a price table");
    check("prices.toml", &prices("two", 1).replace("\"m\"", "\"n\""), &same, "no price for the model `m`");
    check(
        "prices.toml",
        &prices("two", 1).replace("USD", "EUR"),
        &|config| {
            let (amount, currency) = ("1".to_owned(), "USD".to_owned());
            let budget = BudgetConfig { amount, currency, period: BudgetPeriod::Total };
            config.tenants.get_mut("acme").unwrap().budget = Some(budget);
        },
        "is in USD, and the prices are in EUR",
    );
    check("rules.toml", RULES, &|config| config.moderation.default = "none".to_owned(), "`moderation.default`");
    check(
        "rules.toml",
        RULES,
        &|config| {
            config.providers.get_mut("p").unwrap().api_keys_file = Some("/nowhere/keys".into());
        },
        "`providers.p.api_keys_file`",
    );
    check(
        "rules.toml",
        RULES,
        &|config| drop(config.models.insert("free".to_owned(), ModelConfig::chat("p", 9))),
        "`free`",
    );
    assert!(current.now().next(&config(folder.path())).is_ok(), "the files are good again");
}

#[tokio::test]
async fn only_other_providers_move_those_who_wait() {
    let folder = tempfile::tempdir().unwrap();
    let current = begin(folder.path());
    let first = current.now();
    let waiting = current.until_not(&first.providers);
    tokio::pin!(waiting);
    let mut config = config(folder.path());
    config.tenants.clear();
    current.replace(Arc::new(current.now().next(&config).unwrap()));
    let is_ready = tokio::time::timeout(std::time::Duration::from_millis(20), waiting.as_mut()).await.is_ok();
    assert!(!is_ready, "tenants are no reason");
    config.providers.get_mut("p").unwrap().base_url = "http://127.0.0.1:2/v1".to_owned();
    current.replace(Arc::new(current.now().next(&config).unwrap()));
    waiting.await;
}
