//! Where tenants are told of what became of their requests, and how.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::names::is_topic_char;
use crate::secret;
use crate::validate::{Checked, invalid, key_of, positive};
use crate::{Config, Secret, TenantConfig};

/// The types of events that an endpoint may ask for, as OpenAI names them.
pub const WEBHOOK_EVENTS: [&str; 8] = [
    "response.completed",
    "response.incomplete",
    "response.failed",
    "response.cancelled",
    "batch.completed",
    "batch.failed",
    "batch.cancelled",
    "batch.expired",
];

const SECRET_PREFIX: &str = "whsec_";
/// Bytes of a secret, as Standard Webhooks says.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// One that is used, and one that takes its place.
const MOST_SECRETS: usize = 2;
/// Longest id of an endpoint.
pub const MAX_WEBHOOK_ID: usize = 64;
/// Endpoints of one tenant: each outcome is a row and a request for every one of them.
pub const MAX_WEBHOOKS: usize = 16;
const LONGEST_URL: usize = 2_048;
/// Bytes of a key that the secrets of endpoints are derived from.
const SECRET_KEY_BYTES: usize = 32;
/// One that is used for what is made now, and those that something was made with before.
const MOST_SECRET_KEYS: usize = 4;
/// So that a process that stops has drained before it is killed.
const LONGEST_TIMEOUT_MS: u64 = 60_000;

/// One endpoint of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookConfig {
    /// Names it; unique within its tenant, and not to be used for another place later.
    pub id: String,
    /// Where events are posted to.
    pub url: String,
    /// What they are signed with: `whsec_` and base64. Two while one takes the other's place: then every event
    /// has both signatures. Empty where they are withheld.
    #[serde(deserialize_with = "secret::list")]
    pub secrets: Vec<Secret>,
    /// Types of events. Empty: all.
    pub events: Vec<String>,
}

impl WebhookConfig {
    /// Whether it asks for events of this type.
    pub fn wants(&self, event: &str) -> bool {
        self.events.is_empty() || self.events.iter().any(|wanted| wanted == event)
    }

    /// The keys that its secrets stand for.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.secrets.iter().filter_map(|secret| key(secret.expose())).collect()
    }
}

/// How events are sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhooksConfig {
    /// Lets events go to private, loopback and link-local addresses, and over plain HTTP. Default false.
    pub allow_private: bool,
    /// How long one attempt may take, in milliseconds. Default 15,000.
    pub timeout_ms: u64,
    /// Attempts at a time, per endpoint, process and lane. Default 16.
    pub concurrency: u32,
    /// What the secrets of endpoints that are made at run time are derived from: the first for those that are made
    /// now, the others for those that were made with them. Read by ingress and the service webhooks. None: no
    /// endpoint can be made at run time.
    #[serde(deserialize_with = "secret::list")]
    pub secret_keys: Vec<Secret>,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        Self { allow_private: false, timeout_ms: 15_000, concurrency: 16, secret_keys: Vec::new() }
    }
}

fn key(secret: &str) -> Option<Vec<u8>> {
    STANDARD.decode(secret.strip_prefix(SECRET_PREFIX)?).ok().filter(|key| SECRET_BYTES.contains(&key.len()))
}

pub(crate) fn check_settings(config: &Config) -> Checked {
    let WebhooksConfig { allow_private: _, timeout_ms, concurrency, ref secret_keys } = config.webhooks;
    positive("webhooks.timeout_ms", timeout_ms)?;
    positive("webhooks.concurrency", concurrency.into())?;
    if timeout_ms > LONGEST_TIMEOUT_MS {
        return invalid("webhooks.timeout_ms", format!("is {timeout_ms}; set it to at most {LONGEST_TIMEOUT_MS}"));
    }
    if concurrency > 1_024 {
        return invalid("webhooks.concurrency", format!("is {concurrency}; set it to at most 1024"));
    }
    check_secret_keys(secret_keys)
}

fn check_secret_keys(keys: &[Secret]) -> Checked {
    if keys.len() > MOST_SECRET_KEYS {
        return invalid("webhooks.secret_keys", format!("are {}; {MOST_SECRET_KEYS} are the most", keys.len()));
    }
    for (index, key) in keys.iter().enumerate() {
        let at = format!("webhooks.secret_keys[{index}]");
        if key.expose().len() < SECRET_KEY_BYTES {
            let reason = format!("is shorter than {SECRET_KEY_BYTES} bytes; make one with: openssl rand -base64 32");
            return invalid(at, reason);
        }
        if keys[..index].contains(key) {
            return invalid(at, "is there already; name every key once");
        }
    }
    Ok(())
}

pub(crate) fn check_endpoints(config: &Config, tenant_id: &str, tenant: &TenantConfig) -> Checked {
    let all = key_of(&["tenants", tenant_id, "webhooks"]);
    if tenant.webhooks.len() > MAX_WEBHOOKS {
        return invalid(all, format!("has {} endpoints; {MAX_WEBHOOKS} are the most", tenant.webhooks.len()));
    }
    for (index, endpoint) in tenant.webhooks.iter().enumerate() {
        let at = format!("{all}[{index}]");
        let id = &endpoint.id;
        if !is_webhook_id(id) {
            return invalid(
                format!("{at}.id"),
                format!("is no name; use 1 to {MAX_WEBHOOK_ID} letters, digits, dots, underscores and hyphens"),
            );
        }
        if tenant.webhooks[..index].iter().any(|earlier| earlier.id == *id) {
            return invalid(format!("{at}.id"), format!("is `{id}` again; give every endpoint its own"));
        }
        check_webhook_url(&endpoint.url, config.webhooks.allow_private)
            .or_else(|reason| invalid(format!("{at}.url"), reason))?;
        for event in &endpoint.events {
            if !WEBHOOK_EVENTS.contains(&event.as_str()) {
                let known = WEBHOOK_EVENTS.join(", ");
                return invalid(format!("{at}.events"), format!("names `{event}`; the events are {known}"));
            }
        }
        if endpoint.secrets.len() > MOST_SECRETS {
            return invalid(
                format!("{at}.secrets"),
                format!(
                    "are {}; {MOST_SECRETS} are the most: the one in use and the one that follows",
                    endpoint.secrets.len()
                ),
            );
        }
        if endpoint.secrets.iter().any(|secret| key(secret.expose()).is_none()) {
            return invalid(
                format!("{at}.secrets"),
                "has one that is not whsec_ and the base64 of 24 to 64 bytes; make one with: \
                 echo \"whsec_$(openssl rand -base64 32)\"",
            );
        }
    }
    Ok(())
}

/// Whoever sends must have something to sign with.
pub(crate) fn require_secrets(config: &Config) -> Checked {
    for (id, tenant) in &config.tenants {
        if let Some(index) = tenant.webhooks.iter().position(|endpoint| endpoint.secrets.is_empty()) {
            return invalid(
                format!("{}[{index}].secrets", key_of(&["tenants", id, "webhooks"])),
                "is missing; make a secret with: echo \"whsec_$(openssl rand -base64 32)\"",
            );
        }
    }
    Ok(())
}

/// Whether an endpoint may have this id.
pub fn is_webhook_id(id: &str) -> bool {
    (1..=MAX_WEBHOOK_ID).contains(&id.len()) && id.chars().all(is_topic_char)
}

/// Whether events may be posted to this URL; plain HTTP only where `allow_private` is set. Which addresses its host
/// has is looked at when it is connected to.
///
/// # Errors
/// What is wrong with it, to be read after its name.
pub fn check_webhook_url(url: &str, allow_private: bool) -> Result<(), String> {
    let rest = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => rest,
        (None, Some(rest)) if allow_private => rest,
        (None, Some(_)) => {
            return Err("is plain http, where anybody on the way reads along: use https (or, for tests, set \
                        webhooks.allow_private)"
                .to_owned());
        }
        (None, None) => return Err("is no URL; begin it with https://".to_owned()),
    };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    if host.contains('@') {
        return Err("has credentials in its URL, where logs would show them; events are signed instead".to_owned());
    }
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || c == '#' || c == '\\';
    let is_odd = host.is_empty() || host.starts_with(':') || url.contains(is_odd) || url.len() > LONGEST_URL;
    if is_odd || Url::parse(url).is_err() {
        return Err(format!("is no URL; write https://host/path, at most {LONGEST_URL} bytes, without a fragment"));
    }
    Ok(())
}
