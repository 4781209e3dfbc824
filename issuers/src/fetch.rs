//! Reading the keys of issuers, again and again, in the background.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_config::{IssuerConfig, is_safe_for_keys};
use millrace_schemas::now_millis;
use reqwest::Client;
use reqwest::redirect::Policy;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::issuer::{Issuer, Issuers};
use crate::keys::KeySet;
use crate::metrics::IssuerMetrics;

/// The longest answer or file, in bytes.
const LONGEST: usize = 512 << 10;
/// The longest that one answer may take.
const WITHIN: Duration = Duration::from_secs(10);
/// An issuer is asked no more often, whatever tokens come.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);
/// A file is read so often, and an issuer asked whose keys were never read.
const LOOK: Duration = Duration::from_secs(1);

/// Reads the keys of all issuers, and again from then on: every `refresh_ms`, and when a token names one that is not
/// known. While they can not be read, those before stay. Returns at once; ends with `until`.
pub fn keep(issuers: &Issuers, metrics: &IssuerMetrics, until: &CancellationToken) {
    for issuer in issuers.all() {
        let (issuer, metrics, until) = (Arc::clone(issuer), metrics.clone(), until.clone());
        tokio::spawn(async move { until.run_until_cancelled(follow(&issuer, &metrics)).await });
    }
}

async fn follow(issuer: &Issuer, metrics: &IssuerMetrics) {
    let mut problem = None;
    loop {
        let asked = now_millis();
        match read_keys(&issuer.config).await {
            Ok(set) => {
                metrics.read(&issuer.name, Some(set.len()));
                if problem.take().is_some() || !issuer.has_keys() {
                    let (keys, skipped) = (set.len(), set.skipped());
                    tracing::info!(issuer = issuer.name, keys, skipped, "keys of an issuer are read");
                }
                issuer.take(set, asked);
            }
            Err(why) => {
                metrics.read(&issuer.name, None);
                if problem.as_ref() != Some(&why) {
                    tracing::error!(
                        issuer = issuer.name,
                        problem = why,
                        "keys of an issuer can not be read, those before are used"
                    );
                }
                problem = Some(why);
            }
        }
        let is_file = issuer.config.jwks_file.is_some();
        let least = if is_file || !issuer.has_keys() { LOOK } else { AT_MOST_EVERY };
        tokio::time::sleep(least).await;
        if problem.is_none() && !is_file {
            let refresh = Duration::from_millis(issuer.config.refresh_ms).saturating_sub(least);
            tokio::select! {
                () = tokio::time::sleep(refresh) => {}
                () = issuer.wanted.notified() => {}
            }
        }
    }
}

/// Reads the keys of an issuer from where its configuration says.
///
/// # Errors
/// What is wrong, in one line.
pub async fn read_keys(config: &IssuerConfig) -> Result<KeySet, String> {
    if let Some(path) = &config.jwks_file {
        let bytes = read_file(path)?;
        return KeySet::parse(&bytes).map_err(|problem| format!("{} {problem}", path.display()));
    }
    let client = Client::builder()
        .no_proxy()
        // Another address is somebody else's word.
        .redirect(Policy::none())
        .timeout(WITHIN)
        .build()
        .map_err(|error| format!("no HTTP client: {error}"))?;
    let address = match &config.jwks_url {
        Some(url) => url.clone(),
        None => discover(&client, &config.issuer).await?,
    };
    let bytes = get(&client, &address).await?;
    KeySet::parse(&bytes).map_err(|problem| format!("{address} {problem}"))
}

/// Where an issuer's keys are (OpenID Connect Discovery 1.0).
async fn discover(client: &Client, issuer: &str) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Discovered {
        issuer: String,
        jwks_uri: String,
    }
    let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let bytes = get(client, &address).await?;
    let found: Discovered =
        serde_json::from_slice(&bytes).map_err(|error| format!("{address} is no discovery document: {error}"))?;
    if found.issuer != issuer {
        return Err(format!("{address} is of another issuer: `{}`; write that as `issuer`", found.issuer));
    }
    if !is_safe_for_keys(&found.jwks_uri) {
        return Err(format!("{address} names `{}`, which is not https", found.jwks_uri));
    }
    Ok(found.jwks_uri)
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;

    let told = |error: std::io::Error| format!("{} can not be read: {error}", path.display());
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path).map_err(told)?;
    opened.take(LONGEST as u64 + 1).read_to_end(&mut bytes).map_err(told)?;
    if bytes.len() > LONGEST {
        return Err(format!("{} is longer than {} KiB", path.display(), LONGEST >> 10));
    }
    Ok(bytes)
}

async fn get(client: &Client, address: &str) -> Result<Vec<u8>, String> {
    let told = |error: reqwest::Error| format!("{address} does not answer: {}", root(&error.without_url()));
    let mut answer = client.get(address).header("accept", "application/json").send().await.map_err(told)?;
    if !answer.status().is_success() {
        return Err(format!("{address} answers {}", answer.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(told)? {
        body.extend_from_slice(&chunk);
        if body.len() > LONGEST {
            return Err(format!("{address} answers with more than {} KiB", LONGEST >> 10));
        }
    }
    Ok(body)
}

/// The innermost reason, which is the one that helps.
fn root(error: &dyn std::error::Error) -> String {
    let mut reason = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}
