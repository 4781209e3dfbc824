//! `millrace doctor`

use std::time::Duration;

use anyhow::bail;
use comfy_table::Table;
use millrace_config::{Config, StorageConfig};
use millrace_storage::Storage;
use serde::Serialize;

use crate::topic_data::{self, Change};
use crate::wiring::connect_codec;

#[derive(Serialize)]
struct Finding {
    check: &'static str,
    ok: bool,
    detail: String,
}

/// Looks at everything that the configuration names.
pub async fn run(config: Config, json: bool) -> anyhow::Result<()> {
    let mut findings = vec![topics(&config).await, registry(&config).await, storage(&config).await];
    findings.extend(providers(&config).await);
    let bad = findings.iter().filter(|f| !f.ok).count();
    if json {
        println!("{}", serde_json::json!({ "ok": bad == 0, "findings": findings }));
    } else {
        let mut table = Table::new();
        table.set_header(["check", "", "detail"]);
        for finding in &findings {
            table.add_row([finding.check, if finding.ok { "ok" } else { "FAILS" }, &finding.detail]);
        }
        println!("{table}");
    }
    if bad > 0 {
        bail!("{bad} checks fail");
    }
    Ok(())
}

/// Topics, replication, in-sync replicas, unclean election, sizes, retention and commits, all of
/// which are in the data file.
async fn topics(config: &Config) -> Finding {
    let check = "kafka topics";
    let result = async {
        let wanted = topic_data::wanted(config, None)?;
        topic_data::plan(config, &wanted).await
    };
    match result.await {
        Err(error) => Finding { check, ok: false, detail: crate::ui::one_line(&error) },
        Ok(changes) if changes.is_empty() => Finding { check, ok: true, detail: "as infra/kafka says".to_owned() },
        Ok(changes) => {
            let first: Vec<String> = changes.iter().take(3).map(Change::to_string).collect();
            let detail = format!("{} differences, see `millrace topics plan`:\n{}", changes.len(), first.join("\n"));
            Finding { check, ok: false, detail }
        }
    }
}

async fn registry(config: &Config) -> Finding {
    let check = "schema registry";
    match tokio::time::timeout(Duration::from_secs(10), connect_codec(config)).await {
        Ok(Ok(_)) => Finding { check, ok: true, detail: format!("{} takes our schemas", config.registry.url) },
        Ok(Err(error)) => Finding { check, ok: false, detail: crate::ui::one_line(&error) },
        Err(_) => Finding { check, ok: false, detail: format!("{} does not answer", config.registry.url) },
    }
}

async fn storage(config: &Config) -> Finding {
    let check = "database";
    if matches!(config.storage, StorageConfig::Embedded { .. }) {
        let detail = "embedded: checked by the process that holds it".to_owned();
        return Finding { check, ok: true, detail };
    }
    let opened = tokio::time::timeout(Duration::from_secs(15), Storage::open(&config.storage)).await;
    match opened {
        Ok(Ok(_)) => Finding { check, ok: true, detail: "answers, schema up to date".to_owned() },
        Ok(Err(error)) => Finding { check, ok: false, detail: error.to_string() },
        Err(_) => Finding { check, ok: false, detail: "does not answer".to_owned() },
    }
}

async fn providers(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Ok(client) = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build() else {
        return findings;
    };
    for (name, provider) in &config.providers {
        let mut request = client.get(format!("{}/models", provider.base_url));
        if let Some(key) = &provider.api_key {
            request = request.bearer_auth(key.expose());
        }
        let (ok, detail) = match request.send().await {
            Ok(answer) if answer.status().is_success() => (true, format!("{name} answers")),
            Ok(answer) => (false, format!("{name} answers {}: check its base_url and api_key", answer.status())),
            Err(_) => (false, format!("{name} does not answer at {}", provider.base_url)),
        };
        findings.push(Finding { check: "provider", ok, detail });
    }
    findings
}
