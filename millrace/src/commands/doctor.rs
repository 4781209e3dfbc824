//! `millrace doctor`

use std::time::Duration;

use anyhow::bail;
use comfy_table::Table;
use millrace_config::{Config, StorageConfig};
use millrace_issuers::read_keys;
use millrace_provider::configured_keys;
use millrace_rules::RuleSets;
use millrace_storage::Storage;
use millrace_tenants::SecretKeys;
use serde::Serialize;

use crate::retention;
use crate::topic_data::{self, Change, Topic};
use crate::waiting::Waiting;
use crate::wiring::connect_codec;

#[derive(Serialize)]
struct Finding {
    check: &'static str,
    ok: bool,
    /// Right now, but somebody should look.
    warning: bool,
    detail: String,
}

impl Finding {
    fn good(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, ok: true, warning: false, detail: detail.into() }
    }

    fn bad(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, ok: false, warning: false, detail: detail.into() }
    }

    fn verdict(&self) -> &'static str {
        match (self.ok, self.warning) {
            (false, _) => "FAILS",
            (true, true) => "warning",
            (true, false) => "ok",
        }
    }
}

/// Looks at everything that the configuration names.
pub async fn run(config: Config, json: bool) -> anyhow::Result<()> {
    let waiting = Waiting::new("asking every part");
    let mut findings = vec![rules(&config)];
    findings.extend(topics(&config).await);
    findings.extend([registry(&config).await, storage(&config).await]);
    findings.extend(vectors(&config).await);
    findings.extend(providers(&config).await);
    findings.extend(issuers(&config).await);
    findings.extend(webhook_secrets(&config));
    drop(waiting);
    let bad = findings.iter().filter(|f| !f.ok).count();
    if json {
        println!("{}", serde_json::json!({ "ok": bad == 0, "findings": findings }));
    } else {
        let mut table = Table::new();
        table.set_header(["check", "", "detail"]);
        for finding in &findings {
            table.add_row([finding.check, finding.verdict(), &finding.detail]);
        }
        println!("{table}");
    }
    if bad > 0 {
        bail!("{bad} checks fail");
    }
    Ok(())
}

/// What the keys are called that secrets of webhook endpoints are derived from: one that no endpoint names can go.
fn webhook_secrets(config: &Config) -> Option<Finding> {
    let keys = SecretKeys::new(&config.webhooks.secret_keys);
    let mut names = keys.names();
    let first = names.next()?;
    let others: Vec<&str> = names.collect();
    let others = if others.is_empty() { String::new() } else { format!("; before it: {}", others.join(", ")) };
    Some(Finding::good("webhook secrets", format!("new ones are derived from {first}{others}")))
}

/// The rule sets, and whether tenants of the configuration name others. Every service reads them itself, so this is to be
/// asked where the services are.
fn rules(config: &Config) -> Finding {
    let check = "rule sets";
    let moderation = &config.moderation;
    let sets = match RuleSets::load(&moderation.rule_sets, moderation.rules_file.as_deref()) {
        Ok(sets) => sets,
        Err(error) => return Finding::bad(check, format!("{error}; no service starts with it")),
    };
    let named = config.tenants.iter().filter_map(|(tenant, it)| Some((tenant, it.moderation.as_deref()?)));
    match named.into_iter().find(|(_, set)| !sets.has(set)) {
        Some((tenant, set)) => Finding::bad(
            check,
            format!(
                "tenant `{tenant}` names `{set}`, which is not known: no service starts with it. Write it in \
                 moderation.rules_file, which every service needs, each with the same contents"
            ),
        ),
        None if !sets.has(&moderation.default) => {
            Finding::bad(check, format!("moderation.default is `{}`, which is not known", moderation.default))
        }
        None => Finding::good(check, format!("{} can be used", sets.count())),
    }
}

/// Topics, replication, in-sync replicas, unclean election, sizes, retention and commits, all of
/// which are in the data file; and, where the topics are there, whether their readers keep up.
async fn topics(config: &Config) -> Vec<Finding> {
    let check = "kafka topics";
    let result = async {
        let wanted = topic_data::wanted(config, None)?;
        let changes = topic_data::plan(config, &wanted).await?;
        anyhow::Ok((wanted, changes))
    };
    let (wanted, changes) = match result.await {
        Ok(planned) => planned,
        Err(error) => return vec![Finding::bad(check, crate::ui::one_line(&error))],
    };
    let is_there = |topic: &Topic| {
        !changes.iter().any(|change| matches!(change, Change::Create { topic: missing, .. } if *missing == topic.name))
    };
    let there: Vec<Topic> = wanted.into_iter().filter(is_there).collect();
    let as_wanted = if changes.is_empty() {
        Finding::good(check, "as infra/kafka says")
    } else {
        let first: Vec<String> = changes.iter().take(3).map(Change::to_string).collect();
        let count = changes.len();
        Finding::bad(check, format!("{count} differences, see `millrace topics plan`:\n{}", first.join("\n")))
    };
    vec![as_wanted, retention(config, &there).await]
}

async fn retention(config: &Config, topics: &[Topic]) -> Finding {
    let check = "lag and retention";
    match retention::late(config, topics).await {
        Ok(late) if late.is_empty() => Finding::good(check, "no group is near the end of its topic's retention"),
        Ok(late) => Finding { warning: true, ..Finding::good(check, late.join("\n")) },
        Err(error) => Finding::bad(check, crate::ui::one_line(&error)),
    }
}

async fn vectors(config: &Config) -> Option<Finding> {
    let check = "qdrant";
    let url = config.vectors.url.clone()?;
    let client = match millrace_prompt_builder::vectors::client(&config.vectors) {
        Ok(client) => client?,
        Err(error) => return Some(Finding::bad(check, format!("vectors.url `{url}` is no address: {error}"))),
    };
    let asked = client.collection_exists(&config.vectors.collection);
    Some(match tokio::time::timeout(Duration::from_secs(10), asked).await {
        Ok(Ok(true)) => Finding::good(check, format!("{url} answers")),
        Ok(Ok(false)) => Finding::good(check, format!("{url} answers; the collection is made with the first document")),
        Ok(Err(error)) => Finding::bad(check, format!("{url}: {error}; check vectors.url and vectors.api_key")),
        Err(_) => Finding::bad(check, format!("{url} does not answer")),
    })
}

async fn registry(config: &Config) -> Finding {
    let check = "schema registry";
    match tokio::time::timeout(Duration::from_secs(10), connect_codec(config)).await {
        Ok(Ok(_)) => Finding::good(check, format!("{} takes our schemas", config.registry.url)),
        Ok(Err(error)) => Finding::bad(check, crate::ui::one_line(&error)),
        Err(_) => Finding::bad(check, format!("{} does not answer", config.registry.url)),
    }
}

async fn storage(config: &Config) -> Finding {
    let check = "database";
    if matches!(config.storage, StorageConfig::Embedded { .. }) {
        return Finding::good(check, "embedded: checked by the process that holds it");
    }
    let opened = tokio::time::timeout(Duration::from_secs(15), Storage::open(&config.storage)).await;
    match opened {
        Ok(Ok(_)) => Finding::good(check, "answers, schema up to date"),
        Ok(Err(error)) => Finding::bad(check, error.to_string()),
        Err(_) => Finding::bad(check, "does not answer"),
    }
}

async fn providers(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Ok(client) = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build() else {
        return findings;
    };
    let check = "provider";
    for (name, provider) in &config.providers {
        let keys = match configured_keys(provider) {
            Ok(keys) if keys.is_empty() => vec![(String::new(), None)],
            Ok(keys) => keys.into_iter().map(|(key, value)| (key, Some(value))).collect(),
            Err(problem) => {
                findings.push(Finding::bad(check, format!("{name}: {problem}")));
                continue;
            }
        };
        for (key, value) in keys {
            let who = if key.is_empty() { name.clone() } else { format!("{name}, asked with its key `{key}`,") };
            let mut request = client.get(format!("{}/models", provider.base_url));
            if let Some(value) = value {
                request = request.bearer_auth(value.expose());
            }
            findings.push(match request.send().await {
                Ok(answer) if answer.status().is_success() => Finding::good(check, format!("{who} answers")),
                Ok(answer) => {
                    Finding::bad(check, format!("{who} answers {}: check its base_url and keys", answer.status()))
                }
                Err(_) => Finding::bad(check, format!("{who} does not answer at {}", provider.base_url)),
            });
        }
    }
    findings
}

/// Whether the keys of the issuers of tokens can be read from here.
async fn issuers(config: &Config) -> Vec<Finding> {
    let check = "issuer";
    let mut findings = Vec::new();
    for (name, issuer) in &config.issuers {
        findings.push(match read_keys(issuer).await {
            Ok(keys) if keys.skipped() == 0 => Finding::good(check, format!("{name}: {} keys", keys.len())),
            Ok(keys) => Finding::good(
                check,
                format!("{name}: {} keys, and {} of other kinds or for other uses", keys.len(), keys.skipped()),
            ),
            Err(problem) => Finding::bad(check, format!("{name}: {problem}")),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use millrace_config::{IssuerConfig, TenantConfig};

    use super::*;

    #[test]
    fn a_tenant_whose_rule_set_nobody_knows_is_named() {
        let mut config = Config::default();
        assert!(rules(&config).ok);
        let acme = TenantConfig { moderation: Some("strict".to_owned()), ..TenantConfig::default() };
        config.tenants.insert("acme".to_owned(), acme);
        let finding = rules(&config);
        assert!(!finding.ok && finding.detail.contains("tenant `acme` names `strict`"), "{}", finding.detail);
        assert!(finding.detail.contains("no service starts"), "{}", finding.detail);
        config.moderation.rule_sets.insert("strict".to_owned(), "{ prompt = {} }".parse().expect("TOML"));
        assert!(rules(&config).ok);
        config.moderation.rules_file = Some("/nowhere/rules.toml".into());
        let finding = rules(&config);
        assert!(!finding.ok && finding.detail.contains("/nowhere/rules.toml"), "{}", finding.detail);
    }
    #[tokio::test]
    async fn an_issuer_whose_keys_can_not_be_read_is_named() {
        let mut config = Config::default();
        let corp = IssuerConfig { jwks_file: Some("/nowhere/keys.json".into()), ..IssuerConfig::default() };
        config.issuers.insert("corp".to_owned(), corp);
        let findings = issuers(&config).await;
        assert!(findings.len() == 1 && !findings[0].ok, "{}", findings[0].detail);
        assert!(findings[0].detail.starts_with("corp: /nowhere/keys.json"), "{}", findings[0].detail);
    }
}
