//! Issuers and what their tokens prove.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use millrace_config::IssuerConfig;
use serde_json::Value;
use tokio::sync::Notify;

use crate::algorithm::Algorithm;
use crate::keys::{Key, KeySet};
use crate::refusal::{TokenRefusal, shown};
use crate::token::Token;

/// Records wait so long for keys that are not known: those behind them wait, too.
const AWAITED: Duration = Duration::from_secs(300);
/// The longest user and subject, in characters.
const MAX_USER: usize = 255;

/// The configured issuers with the keys that are known of them. Clones know the same.
#[derive(Clone, Default)]
pub struct Issuers {
    by_iss: Arc<BTreeMap<String, Arc<Issuer>>>,
}

/// What a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The issuer's name in the configuration.
    pub issuer: String,
    /// Whom the issuer means: the claim `sub`, or the user where there is none.
    pub subject: String,
    /// The tenant: one that the issuer may name.
    pub tenant: String,
    /// The user.
    pub user: String,
    /// The id of the tenant's key that the token stands for.
    pub key: String,
}

pub(crate) struct Issuer {
    pub name: String,
    pub config: IssuerConfig,
    /// Wakes whoever reads its keys.
    pub wanted: Notify,
    algorithms: Vec<Algorithm>,
    known: RwLock<Option<Arc<Known>>>,
    /// Since when a key is missing: the start, or the first token after the last reading that named another one.
    missing: Mutex<Option<Instant>>,
}

struct Known {
    set: KeySet,
    /// Milliseconds since the epoch.
    read_at: i64,
}

impl Issuers {
    /// Those that a configuration names. Their keys are not known until [`keep`](crate::keep) has read them, or somebody
    /// [`take`](Self::take)s them up.
    #[must_use]
    pub fn from_config(issuers: &BTreeMap<String, IssuerConfig>) -> Self {
        let by_iss = issuers.iter().map(|(name, config)| {
            let issuer = Issuer {
                name: name.clone(),
                config: config.clone(),
                wanted: Notify::new(),
                algorithms: config.algorithms.iter().filter_map(|name| Algorithm::named(name)).collect(),
                known: RwLock::default(),
                missing: Mutex::new(Some(Instant::now())),
            };
            (config.issuer.clone(), Arc::new(issuer))
        });
        Self { by_iss: Arc::new(by_iss.collect()) }
    }

    /// From now on these are the keys of an issuer, by its name in the configuration. `read_at` is when they were asked
    /// for, milliseconds since the epoch.
    pub fn take(&self, name: &str, set: KeySet, read_at: i64) {
        if let Some(issuer) = self.all().find(|issuer| issuer.name == name) {
            issuer.take(set, read_at);
        }
    }

    /// What a token proves that is used at an instant, milliseconds since the epoch; 0 for one whose time does not
    /// matter, because an operator stands for it.
    ///
    /// # Errors
    /// [`TokenRefusal`].
    pub fn verify(&self, token: &str, at: i64) -> Result<Proven, TokenRefusal> {
        let token = Token::read(token)?;
        let iss = token.claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        let issuer = self.by_iss.get(iss).ok_or_else(|| TokenRefusal::UnknownIssuer(shown(iss)))?;
        // First what needs no key: nobody waits for the keys of a token that is good for nothing.
        issuer.check_time(&token.claims, at)?;
        issuer.check_audience(&token.claims)?;
        issuer.check_signature(&token)?;
        issuer.identify(&token.claims)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Issuer>> {
        self.by_iss.values()
    }
}

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_iss.keys()).finish()
    }
}

impl Issuer {
    pub fn take(&self, set: KeySet, read_at: i64) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(Known { set, read_at }));
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn known(&self) -> Option<Arc<Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn has_keys(&self) -> bool {
        self.known().is_some()
    }

    fn check_signature(&self, token: &Token<'_>) -> Result<(), TokenRefusal> {
        let unfit = || TokenRefusal::Algorithm { issuer: self.name.clone(), algorithm: shown(&token.algorithm) };
        let algorithm = Algorithm::named(&token.algorithm).filter(|algorithm| self.algorithms.contains(algorithm));
        let algorithm = algorithm.ok_or_else(unfit)?;
        let known = self.known().ok_or_else(|| match self.is_awaited() {
            true => TokenRefusal::KeysNotKnown(self.name.clone()),
            false => TokenRefusal::KeysAway(self.name.clone()),
        })?;
        let keys = match &token.kid {
            Some(kid) => {
                let named: Vec<&Key> = known.set.keys.iter().filter(|key| key.kid.as_deref() == Some(kid)).collect();
                if named.is_empty() {
                    return Err(self.unknown_key(kid, &known));
                }
                named.into_iter().filter(|key| key.fits(algorithm)).collect::<Vec<_>>()
            }
            None => {
                let fit: Vec<&Key> = known.set.keys.iter().filter(|key| key.fits(algorithm)).collect();
                // Which of several it may be is not tried out.
                if fit.len() > 1 {
                    return Err(self.unknown_key("", &known));
                }
                fit
            }
        };
        if keys.is_empty() {
            return Err(unfit());
        }
        let is_signed = keys.iter().any(|key| key.has_signed(algorithm, token.signed, &token.signature));
        if is_signed { Ok(()) } else { Err(TokenRefusal::Signature) }
    }

    fn unknown_key(&self, kid: &str, known: &Known) -> TokenRefusal {
        self.wanted.notify_one();
        let is_awaited = self.is_awaited();
        TokenRefusal::UnknownKey { issuer: self.name.clone(), kid: shown(kid), read_at: known.read_at, is_awaited }
    }

    /// Whether a key that is missing may be waited for.
    fn is_awaited(&self) -> bool {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.get_or_insert_with(Instant::now).elapsed() < AWAITED
    }

    fn check_time(&self, claims: &Value, at: i64) -> Result<(), TokenRefusal> {
        let instant = |name: &str| match claims.get(name) {
            Some(value) => value.as_f64().map(Some).ok_or_else(|| TokenRefusal::Claim(name.to_owned())),
            None => Ok(None),
        };
        let (now, skew) = (at as f64 / 1_000.0, self.config.skew_ms as f64 / 1_000.0);
        let expires = instant("exp")?.ok_or_else(|| TokenRefusal::Claim("exp".to_owned()))?;
        let begins = [instant("nbf")?, instant("iat")?];
        if expires + skew <= now {
            return Err(TokenRefusal::Expired);
        }
        if at != 0 && begins.into_iter().flatten().any(|begins| begins - skew > now) {
            return Err(TokenRefusal::NotYet);
        }
        Ok(())
    }

    fn check_audience(&self, claims: &Value) -> Result<(), TokenRefusal> {
        let is_ours =
            |value: &Value| value.as_str().is_some_and(|aud| self.config.audience.iter().any(|ours| ours == aud));
        let is_for_us = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(is_ours),
            Some(one) => is_ours(one),
            None => false,
        };
        if is_for_us { Ok(()) } else { Err(TokenRefusal::Audience(self.name.clone())) }
    }

    fn identify(&self, claims: &Value) -> Result<Proven, TokenRefusal> {
        let config = &self.config;
        let text = |name: &str| claim(claims, name).and_then(Value::as_str).filter(|text| is_printable(text));
        let needed = |name: &str| text(name).ok_or_else(|| TokenRefusal::Claim(name.to_owned()));
        let tenant = match (&config.tenant, &config.tenant_claim) {
            (Some(tenant), _) => tenant.clone(),
            (None, claim) => {
                let tenant = needed(claim.as_deref().unwrap_or_default())?;
                if !config.tenants.iter().any(|allowed| allowed == tenant) {
                    return Err(TokenRefusal::Tenant { issuer: self.name.clone(), tenant: shown(tenant) });
                }
                tenant.to_owned()
            }
        };
        let user = needed(&config.user_claim)?.to_owned();
        let subject = text("sub").map_or_else(|| user.clone(), str::to_owned);
        let named = config.key_claim.as_deref().and_then(|name| claim(claims, name));
        let key = config.keys.iter().find(|id| named.is_some_and(|named| names(named, id)));
        let key = key.or(config.key.as_ref()).unwrap_or(&self.name).clone();
        Ok(Proven { issuer: self.name.clone(), subject, tenant, user, key })
    }
}

/// A member of the claims by its name, or by a JSON pointer.
fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| claims.pointer(name).filter(|_| name.starts_with('/')))
}

fn names(named: &Value, id: &str) -> bool {
    match named {
        Value::String(one) => one == id,
        Value::Array(all) => all.iter().any(|one| one.as_str() == Some(id)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

fn is_printable(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= MAX_USER && !text.chars().any(char::is_control)
}
