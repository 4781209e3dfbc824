//! Issuers whose signed tokens prove who asks.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Config;
use crate::names::{MAX_ID, is_id};
use crate::validate::{Checked, invalid, key_of, positive, url};

/// The signatures that tokens may have; all of them are asymmetric.
pub const TOKEN_ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// The most that clocks may be apart, in milliseconds.
const MAX_SKEW_MS: u64 = 300_000;

/// Who signs tokens (JWT), where its keys are, and what its tokens prove.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IssuerConfig {
    /// What its tokens have as `iss`, to the letter.
    pub issuer: String,
    /// Whether its keys are where OpenID Connect Discovery says: below `issuer`.
    pub discovery: bool,
    /// Where its keys are, as a JWK set.
    pub jwks_url: Option<String>,
    /// A file with its keys, as a JWK set.
    pub jwks_file: Option<PathBuf>,
    /// A token must name one of these as `aud`.
    pub audience: Vec<String>,
    /// The signatures that are accepted: of [`TOKEN_ALGORITHMS`]. Default RS256, ES256, EdDSA.
    pub algorithms: Vec<String>,
    /// How far the issuer's clock may be from ours, in milliseconds. Default 30,000.
    pub skew_ms: u64,
    /// How often its keys are read from an address, in milliseconds; also when a token names one that is not known, but
    /// not more than once in ten seconds. A file is read every second. Default 600,000.
    pub refresh_ms: u64,
    /// The tenant that all its tokens are for.
    pub tenant: Option<String>,
    /// The claim that names the tenant, in place of `tenant`: the name of a member, or a JSON pointer.
    pub tenant_claim: Option<String>,
    /// The tenants that `tenant_claim` may name.
    pub tenants: Vec<String>,
    /// The claim that names the user. Default `sub`.
    pub user_claim: String,
    /// The id of the tenant's key whose limits, models, lanes and budget its tokens have. Default: the issuer's name.
    pub key: Option<String>,
    /// A claim that names another key: a text or a list of texts, such as the user's groups.
    pub key_claim: Option<String>,
    /// The keys that `key_claim` may name; the first of them that it names counts, and `key` where it names none.
    pub keys: Vec<String>,
}

impl Default for IssuerConfig {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            discovery: false,
            jwks_url: None,
            jwks_file: None,
            audience: Vec::new(),
            algorithms: ["RS256", "ES256", "EdDSA"].map(str::to_owned).to_vec(),
            skew_ms: 30_000,
            refresh_ms: 600_000,
            tenant: None,
            tenant_claim: None,
            tenants: Vec::new(),
            user_claim: "sub".to_owned(),
            key: None,
            key_claim: None,
            keys: Vec::new(),
        }
    }
}

/// Whether keys may be read from this address: over TLS, or from this machine.
pub fn is_safe_for_keys(address: &str) -> bool {
    let Some((scheme, rest)) = address.split_once("://") else { return false };
    let authority = rest.split(['/', '\\', '?', '#']).next().unwrap_or_default();
    let is_here = || {
        let port = |rest: &str| rest.is_empty() || rest.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok());
        ["127.0.0.1", "localhost", "[::1]"].iter().any(|host| authority.strip_prefix(host).is_some_and(port))
    };
    match scheme {
        "https" => !authority.is_empty() && !authority.contains('@'),
        "http" => is_here(),
        _ => false,
    }
}

pub(crate) fn check(config: &Config) -> Checked {
    let mut names = BTreeSet::new();
    for (name, issuer) in &config.issuers {
        if !is_id(name) {
            let message = format!("is no id; use at most {MAX_ID} letters, digits, dots, underscores and hyphens");
            return invalid(key_of(&["issuers", name]), message);
        }
        source(name, issuer)?;
        proof(name, issuer)?;
        identity(name, issuer)?;
        if !names.insert(issuer.issuer.as_str()) {
            let message = format!("is `{}` again; write one entry for each issuer", issuer.issuer);
            return invalid(key_of(&["issuers", name, "issuer"]), message);
        }
    }
    Ok(())
}

fn source(name: &str, issuer: &IssuerConfig) -> Checked {
    let key = |field| key_of(&["issuers", name, field]);
    if issuer.issuer.is_empty() {
        return invalid(key("issuer"), "is missing; write what its tokens have as `iss`");
    }
    let address = match (issuer.discovery, &issuer.jwks_url, &issuer.jwks_file) {
        (true, None, None) => Some(("issuer", &issuer.issuer)),
        (false, Some(url), None) => Some(("jwks_url", url)),
        (false, None, Some(_)) => None,
        (true, ..) | (false, Some(_), Some(_)) | (false, None, None) => {
            let message = "needs one source of its keys: discovery = true, jwks_url or jwks_file";
            return invalid(key_of(&["issuers", name]), message);
        }
    };
    if let Some((field, address)) = address {
        url(&key(field), address)?;
        if !is_safe_for_keys(address) {
            let message = format!("is `{address}`, where anybody on the way could give other keys; use https");
            return invalid(key(field), message);
        }
    }
    Ok(())
}

fn proof(name: &str, issuer: &IssuerConfig) -> Checked {
    let key = |field| key_of(&["issuers", name, field]);
    if issuer.audience.is_empty() || issuer.audience.iter().any(String::is_empty) {
        return invalid(key("audience"), "is missing; write what tokens for this installation have as `aud`");
    }
    if issuer.algorithms.is_empty() {
        return invalid(key("algorithms"), format!("is empty; name some of {}", TOKEN_ALGORITHMS.join(", ")));
    }
    if let Some(other) = issuer.algorithms.iter().find(|name| !TOKEN_ALGORITHMS.contains(&name.as_str())) {
        let message = format!("names `{other}`; only {} prove an issuer", TOKEN_ALGORITHMS.join(", "));
        return invalid(key("algorithms"), message);
    }
    if issuer.skew_ms > MAX_SKEW_MS {
        return invalid(key("skew_ms"), format!("is {}; set it to at most {MAX_SKEW_MS}", issuer.skew_ms));
    }
    positive(&key("refresh_ms"), issuer.refresh_ms)
}

fn identity(name: &str, issuer: &IssuerConfig) -> Checked {
    let key = |field| key_of(&["issuers", name, field]);
    match (&issuer.tenant, &issuer.tenant_claim) {
        (Some(_), None) if issuer.tenants.is_empty() => {}
        (Some(_), None) => return invalid(key("tenants"), "is for tenant_claim; remove it, or name no tenant"),
        (None, Some(_)) if issuer.tenants.is_empty() => {
            return invalid(key("tenants"), "is empty; name the tenants that tokens of this issuer may be for");
        }
        (None, Some(_)) => {}
        (Some(_), Some(_)) | (None, None) => {
            return invalid(key_of(&["issuers", name]), "needs either tenant or tenant_claim");
        }
    }
    if issuer.key_claim.is_some() == issuer.keys.is_empty() {
        return invalid(key("keys"), "and key_claim belong together; write both or none");
    }
    for (field, ids) in
        [("tenants", issuer.tenant.iter().chain(&issuer.tenants)), ("keys", issuer.key.iter().chain(&issuer.keys))]
    {
        if let Some(id) = ids.into_iter().find(|id| !is_id(id)) {
            return invalid(key(field), format!("names `{id}`, which can be no id here"));
        }
    }
    if issuer.user_claim.is_empty() {
        return invalid(key("user_claim"), "is empty; name the claim with the user, such as sub");
    }
    Ok(())
}
