//! The keys of a provider: none, one, or a pool of them with names.
//!
//! What a key may do is learned from the answers to its calls ([`choice`]). What is wrong with a key is the key's
//! matter and not the provider's: its breaker hears that the provider answers, and the calls in flight are cut only when no other
//! key has room. Calls that find no key wait in a line, in which the tenants of each lane take turns; the first of
//! it wakes when a time is over, a call ends, or the file changes.

mod choice;
mod file;
mod headers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_config::{ProviderConfig, Secret};
use reqwest::header::{HeaderMap, HeaderValue};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::failure::{CallError, Refusal};
use crate::metrics::OfKeys;
use crate::places::{Place, Places};
use choice::{Id, Limits, Ring, Room, Told};
use file::Named;

/// A file is looked at so often, while calls are made or wait.
const LOOK: Duration = Duration::from_secs(1);

/// What a provider's calls are authorized by.
pub(crate) enum Keys {
    None,
    One(Arc<Key>),
    Pool(Arc<Pool>),
}

/// One key.
pub(crate) struct Key {
    /// What people call it; empty for the only key of a provider.
    name: Arc<str>,
    value: Secret,
    header: HeaderValue,
}

/// Keys with names.
pub(crate) struct Pool {
    provider: String,
    shared: Mutex<Shared>,
    /// Those of the configuration.
    fixed: Named,
    file: Option<PathBuf>,
    /// Its one place is held by the call that gets the next key.
    line: Arc<Places>,
    /// Wakes that call.
    changed: Notify,
    metrics: OfKeys,
}

struct Shared {
    ring: Ring,
    keys: BTreeMap<Id, Arc<Key>>,
    next_id: Id,
    looked: Instant,
    /// What was wrong with the file when it was read last: told once.
    unread: Option<String>,
}

/// What a call is authorized by. Given back when dropped.
pub(crate) struct Held {
    key: Option<Arc<Key>>,
    place: Option<(Arc<Pool>, Id)>,
    told: Told,
}

/// No key has room for a while.
pub(crate) struct NoKey {
    /// When one may have, at the earliest.
    pub after: Duration,
}

impl Key {
    fn new(name: &str, value: &Secret) -> Option<Arc<Self>> {
        let mut header = HeaderValue::from_str(&format!("Bearer {}", value.expose())).ok()?;
        // Not shown by any debug output, and kept out of HTTP/2's compression tables.
        header.set_sensitive(true);
        Some(Arc::new(Self { name: name.into(), value: value.clone(), header }))
    }

    /// For the header `authorization`.
    pub fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// A provider's words without the key that they may quote.
    pub fn hidden_in(&self, text: Vec<u8>) -> Vec<u8> {
        let key = self.value.expose();
        match std::str::from_utf8(&text) {
            Ok(words) if words.contains(key) => words.replace(key, "***").into_bytes(),
            Ok(_) => text,
            Err(_) => String::from_utf8_lossy(&text).replace(key, "***").into_bytes(),
        }
    }
}

impl Keys {
    /// The keys that a provider is configured with. The error names what to mend and holds no key.
    pub fn new(name: &str, provider: &ProviderConfig, metrics: OfKeys) -> Result<Self, String> {
        let unfit = |field: &str| {
            format!(
                "`providers.{name}.{field}` has characters that no HTTP header may hold; check for a line break at its end"
            )
        };
        if let Some(key) = &provider.api_key {
            return Key::new("", key).map(Self::One).ok_or_else(|| unfit("api_key"));
        }
        if provider.api_keys.is_empty() && provider.api_keys_file.is_none() {
            return Ok(Self::None);
        }
        if let Some((key, _)) = provider.api_keys.iter().find(|(name, value)| Key::new(name, value).is_none()) {
            return Err(unfit(&format!("api_keys.{key}")));
        }
        let (fixed, file) = (provider.api_keys.clone(), provider.api_keys_file.clone());
        let quarantine = Duration::from_millis(provider.key_quarantine_ms);
        let pool = Pool::new(name, fixed, file, quarantine, metrics);
        let named = pool.read().map_err(|problem| format!("`providers.{name}.api_keys_file`: {problem}"))?;
        pool.replace(&named);
        Ok(Self::Pool(Arc::new(pool)))
    }

    /// Waits until a key has room. Nothing is taken meanwhile; what is returned is held until [`take`](Self::take).
    pub async fn ready(&self, lane: &str, tenant: &str) -> Option<Place> {
        match self {
            Self::None | Self::One(_) => None,
            Self::Pool(pool) => pool.ready(lane, tenant).await,
        }
    }

    /// When no key has room for at least this long: then how long.
    pub fn none_for(&self, patience: Duration) -> Option<NoKey> {
        match self {
            Self::None | Self::One(_) => None,
            Self::Pool(pool) => pool.none_for(patience),
        }
    }

    /// They are used no more: nothing is shown of them.
    pub fn forget(&self) {
        match self {
            Self::None | Self::One(_) => {}
            Self::Pool(pool) => pool.shared().keys.values().for_each(|key| pool.metrics.forget(&key.name)),
        }
    }

    /// A key for one call, if one has room.
    pub fn take(&self) -> Option<Held> {
        match self {
            Self::None => Some(Held { key: None, place: None, told: Told::Nothing }),
            Self::One(key) => Some(Held { key: Some(Arc::clone(key)), place: None, told: Told::Nothing }),
            Self::Pool(pool) => pool.take(),
        }
    }
}

/// The keys that a provider is configured with now, by their names; the only one has none.
///
/// # Errors
/// A file that can not be read, in words that hold no key.
pub fn configured_keys(provider: &ProviderConfig) -> Result<Vec<(String, Secret)>, String> {
    let mut keys = provider.api_keys.clone();
    if let Some(path) = &provider.api_keys_file {
        keys.extend(read(path)?);
    }
    let one = provider.api_key.iter().map(|key| (String::new(), key.clone()));
    Ok(one.chain(keys).collect())
}

fn read(path: &std::path::Path) -> Result<Named, String> {
    use std::io::Read as _;

    let told = |error: std::io::Error| format!("{} can not be read: {error}", path.display());
    let mut text = String::new();
    let opened = std::fs::File::open(path).map_err(told)?;
    opened.take(file::LONGEST + 1).read_to_string(&mut text).map_err(told)?;
    if text.len() as u64 > file::LONGEST {
        return Err(format!("{} is longer than {} KiB", path.display(), file::LONGEST >> 10));
    }
    file::parse(&text).map_err(|problem| format!("{}: {problem}", path.display()))
}

impl Pool {
    fn new(provider: &str, fixed: Named, file: Option<PathBuf>, quarantine: Duration, metrics: OfKeys) -> Self {
        let shared = Shared {
            ring: Ring::new(quarantine),
            keys: BTreeMap::new(),
            next_id: 0,
            looked: Instant::now(),
            unread: None,
        };
        Self {
            provider: provider.to_owned(),
            shared: Mutex::new(shared),
            fixed,
            file,
            line: Places::new(1),
            changed: Notify::new(),
            metrics,
        }
    }

    /// What is configured and what is in the file; the file's own win.
    fn read(&self) -> Result<Named, String> {
        let mut named = self.fixed.clone();
        if let Some(path) = &self.file {
            named.extend(read(path)?);
        }
        Ok(named)
    }

    /// Looks at the file, when that was a while ago.
    fn look(&self) {
        if self.file.is_none() {
            return;
        }
        {
            let mut shared = self.shared();
            let now = Instant::now();
            if now < shared.looked + LOOK {
                return;
            }
            shared.looked = now;
        }
        let problem = match self.read() {
            Ok(named) => {
                self.replace(&named);
                None
            }
            Err(problem) => Some(problem),
        };
        self.metrics.unread.set(i64::from(problem.is_some()));
        let mut shared = self.shared();
        if problem != shared.unread {
            if let Some(problem) = &problem {
                tracing::error!(
                    provider = self.provider,
                    problem,
                    "file of provider keys can not be read, those before are used"
                );
            }
            shared.unread = problem;
        }
    }

    /// From now on these are the keys.
    fn replace(&self, named: &Named) {
        let mut shared = self.shared();
        let is_same = |key: &Key| named.get(&*key.name) == Some(&key.value);
        let gone: Vec<Id> = shared.keys.iter().filter(|(_, key)| !is_same(key)).map(|(id, _)| *id).collect();
        let stay: Vec<Arc<Key>> = shared.keys.values().filter(|key| is_same(key)).cloned().collect();
        let is_new = |name: &str| !stay.iter().any(|key| &*key.name == name);
        let new: Vec<Arc<Key>> =
            named.iter().filter(|(name, _)| is_new(name)).filter_map(|(n, v)| Key::new(n, v)).collect();
        if gone.is_empty() && new.is_empty() {
            return;
        }
        for id in gone {
            shared.ring.remove(id);
            if let Some(key) = shared.keys.remove(&id) {
                self.metrics.forget(&key.name);
                tracing::info!(provider = self.provider, key = &*key.name, "provider key is taken away");
            }
        }
        for key in new {
            let id = shared.next_id;
            shared.next_id += 1;
            shared.ring.add(id);
            tracing::info!(provider = self.provider, key = &*key.name, "provider key is added");
            shared.keys.insert(id, key);
        }
        // Whoever changed them has seen to those that were refused.
        shared.ring.pardon();
        shared.keys.values().for_each(|key| self.metrics.quarantined(&key.name, false));
        drop(shared);
        self.changed.notify_one();
    }

    async fn ready(&self, lane: &str, tenant: &str) -> Option<Place> {
        self.look();
        if self.line.free() > 0 && self.room() == Room::Now {
            return None;
        }
        let first = self.line.take(lane, tenant).await;
        loop {
            let woken = self.changed.notified();
            let look = Instant::now() + LOOK;
            let at = match self.room() {
                Room::Now => return Some(first),
                Room::At(at) => at.min(look),
                Room::Later => look,
            };
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep_until(at) => {}
            }
            self.look();
        }
    }

    fn none_for(&self, patience: Duration) -> Option<NoKey> {
        self.look();
        let now = Instant::now();
        match self.room() {
            Room::At(at) if at > now + patience => Some(NoKey { after: at - now }),
            // Without a key, or with nothing but keys on trial: a call ends, or the file changes.
            Room::Later => Some(NoKey { after: LOOK }),
            Room::Now | Room::At(_) => None,
        }
    }

    fn take(self: &Arc<Self>) -> Option<Held> {
        let mut shared = self.shared();
        let id = shared.ring.pick(Instant::now())?;
        let key = shared.keys.get(&id).cloned();
        drop(shared);
        Some(Held { key, place: Some((Arc::clone(self), id)), told: Told::Nothing })
    }

    fn room(&self) -> Room {
        self.shared().ring.room(Instant::now())
    }

    fn ended(&self, id: Id, told: Told) {
        let mut shared = self.shared();
        let newly = shared.ring.ended(id, told, Instant::now());
        let Some(key) = shared.keys.get(&id).cloned() else { return };
        self.metrics.quarantined(&key.name, shared.ring.is_quarantined(id));
        drop(shared);
        if newly {
            tracing::error!(
                provider = self.provider,
                key = &*key.name,
                "provider refuses a key, it is not used for a while: replace it"
            );
        }
        self.changed.notify_one();
    }

    fn learn(&self, id: Id, limits: Limits) {
        let mut shared = self.shared();
        shared.ring.learn(id, limits, Instant::now());
        let Some(key) = shared.keys.get(&id).cloned() else { return };
        drop(shared);
        for (what, left) in [("requests", limits.requests), ("tokens", limits.tokens)] {
            if let Some(left) = left {
                self.metrics.remaining(&key.name, what, left.remaining);
            }
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// The name of the key, of those that have one.
    pub fn name(&self) -> Option<&str> {
        self.key.as_ref().map(|key| &*key.name).filter(|name| !name.is_empty())
    }

    /// The key, if calls need one.
    pub fn key(&self) -> Option<Arc<Key>> {
        self.key.clone()
    }

    /// Notes what headers say of the key, for its next calls.
    pub fn learner(&self) -> impl Fn(&HeaderMap) + Send + Sync + 'static {
        let place = self.place.as_ref().map(|(pool, id)| (Arc::downgrade(pool), *id));
        move |answer: &HeaderMap| {
            if let Some((pool, id)) = &place
                && let Some(pool) = pool.upgrade()
            {
                pool.learn(*id, headers::limits(answer));
            }
        }
    }

    /// The call has ended. A refusal that is about a key of a pool is told as such; returns whether another key has
    /// room then.
    pub fn ended<T>(mut self, result: &mut Result<T, CallError>) -> bool {
        let Some((pool, id)) = self.place.take() else { return false };
        self.told = told(result);
        pool.metrics.called(self.name().unwrap_or_default(), result);
        pool.ended(id, self.told);
        if let (Err(CallError::Answered(refusal)), Told::Refused | Told::TooMany(_)) = (result, self.told) {
            refusal.of_key = true;
            refusal.retryable = true;
            // Keys wait, not requests.
            refusal.retry_after = None;
        }
        pool.room() == Room::Now
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((pool, id)) = self.place.take() {
            pool.ended(id, self.told);
        }
    }
}

fn told<T>(result: &Result<T, CallError>) -> Told {
    match result {
        Ok(_) => Told::Accepted,
        Err(CallError::Answered(refusal)) if is_about_key(refusal) => Told::Refused,
        Err(CallError::Answered(refusal)) if refusal.status == 429 => Told::TooMany(refusal.retry_after),
        // A server that breaks down has not looked at the key.
        Err(CallError::Answered(refusal)) if refusal.status < 500 => Told::Accepted,
        Err(CallError::Answered(_) | CallError::NotSent(_) | CallError::Lost(_)) => Told::Nothing,
    }
}

/// Whether a refusal means the key or its account. A 403 may be about the request, the model or the country: it is about the
/// key when it says so.
fn is_about_key(refusal: &Refusal) -> bool {
    const WORDS: [&str; 6] = ["api_key", "auth", "permission", "account", "billing", "access_terminated"];
    let says = |text: &str| WORDS.iter().any(|word| text.to_ascii_lowercase().contains(word));
    match refusal.status {
        401 | 402 => true,
        403 => says(&refusal.kind) || refusal.code.as_deref().is_some_and(says),
        429 => refusal.code.as_deref() == Some("insufficient_quota"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_refusals_are_about_the_key() {
        let check = |status: u16, body: &str, expected: Told| {
            let refusal = Refusal::read(status, body.as_bytes(), Some(Duration::from_secs(2)));
            assert_eq!(told::<()>(&Err(CallError::Answered(refusal))), expected, "{status} {body}");
        };
        let wait = Told::TooMany(Some(Duration::from_secs(2)));
        check(401, "", Told::Refused);
        check(402, r#"{"error":{"message":"Insufficient Balance"}}"#, Told::Refused);
        check(403, r#"{"error":{"type":"permission_error"}}"#, Told::Refused);
        check(403, r#"{"error":{"code":"account_deactivated"}}"#, Told::Refused);
        check(403, r#"{"error":{"code":"unsupported_country_region_territory"}}"#, Told::Accepted);
        check(403, "<html>", Told::Accepted);
        check(429, r#"{"error":{"code":"insufficient_quota"}}"#, Told::Refused);
        check(429, r#"{"error":{"code":"rate_limit_exceeded"}}"#, wait);
        check(400, "", Told::Accepted);
        check(404, "", Told::Accepted);
        check(500, "", Told::Nothing);
        assert_eq!(told::<()>(&Err(CallError::Lost(String::new()))), Told::Nothing);
        assert_eq!(told(&Ok(())), Told::Accepted);
    }

    #[test]
    fn a_key_that_is_quoted_is_hidden() {
        let key = Key::new("main", &Secret::from("sk-live-1")).expect("a key");
        assert_eq!(key.hidden_in(b"wrong: sk-live-1, sk-live-1!".to_vec()), b"wrong: ***, ***!");
        assert_eq!(key.hidden_in(b"\xffsk-live-1".to_vec()), "\u{fffd}***".as_bytes());
        assert_eq!(key.hidden_in(b"sk-l...1".to_vec()), b"sk-l...1");
    }
}
