//! Which keys are let in, and how much each may ask: what the simulation knows of them.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::api_error::ApiError;
use crate::config::ApiKey;

/// A key that clients may send, and what becomes of it: an item of `PUT /keys`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRule {
    /// What it is called in `GET /keys`, which never shows the key.
    pub name: String,
    /// The key.
    pub key: ApiKey,
    /// It is refused with this status, 401 or 403, as if it had been revoked.
    #[serde(default)]
    pub refused: Option<u16>,
    /// Requests let through in each window; the others are refused with a 429. Absent: all.
    #[serde(default)]
    pub requests: Option<u64>,
    /// Length of a window, in milliseconds; it begins with the first request in it.
    #[serde(default = "KeyRule::a_minute")]
    pub window_ms: u64,
}

impl KeyRule {
    fn a_minute() -> u64 {
        60_000
    }
}

/// What was asked with a key: an item of `GET /keys`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCount {
    /// Requests that were let in.
    pub requests: u64,
    /// Requests refused because of the key.
    pub refused: u64,
    /// Requests beyond its limit.
    pub limited: u64,
}

/// The keys that are let in; none: any key, or none, is.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    rules: Option<Vec<(KeyRule, Window)>>,
    counts: BTreeMap<String, KeyCount>,
}

#[derive(Debug, Default)]
struct Window {
    ends: Option<Instant>,
    used: u64,
}

impl Keys {
    pub(crate) fn of(keys: Option<&[ApiKey]>) -> Self {
        let rule = |(number, key): (usize, &ApiKey)| KeyRule {
            name: format!("key-{number}"),
            key: key.clone(),
            refused: None,
            requests: None,
            window_ms: KeyRule::a_minute(),
        };
        let mut these = Self::default();
        these.install(keys.map(|keys| (1..).zip(keys).map(rule).collect()));
        these
    }

    /// From now on these are let in, each with a new window. Counts go on.
    pub(crate) fn install(&mut self, rules: Option<Vec<KeyRule>>) {
        self.rules = rules.map(|rules| rules.into_iter().map(|rule| (rule, Window::default())).collect());
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, KeyCount> {
        self.counts.clone()
    }

    /// Whether a key is known and not refused; asks nothing of its limit.
    pub(crate) fn knows(&self, presented: Option<&str>) -> Result<(), ApiError> {
        let Some(rules) = &self.rules else { return Ok(()) };
        let Some(presented) = presented else { return Err(ApiError::no_key()) };
        match rules.iter().find(|(rule, _)| rule.key.is(presented)) {
            Some((KeyRule { refused: Some(status), .. }, _)) => Err(ApiError::refused_key(*status)),
            Some(_) => Ok(()),
            None => Err(ApiError::wrong_key()),
        }
    }

    /// Lets a request in, or not; what is left of its key's limit is in the headers of its answer.
    pub(crate) fn enter(&mut self, presented: Option<&str>, now: Instant) -> Result<HeaderMap, ApiError> {
        let known = self.knows(presented);
        let Some(presented) = presented else { return known.map(|()| HeaderMap::new()) };
        let rule = self.rules.iter_mut().flatten().find(|(rule, _)| rule.key.is(presented));
        let Some((rule, window)) = rule else { return known.map(|()| HeaderMap::new()) };
        let count = self.counts.entry(rule.name.clone()).or_default();
        if let Err(error) = known {
            count.refused += 1;
            return Err(error);
        }
        let Some(limit) = rule.requests else {
            count.requests += 1;
            return Ok(HeaderMap::new());
        };
        if window.ends.is_none_or(|ends| ends <= now) {
            *window = Window { ends: Some(now + Duration::from_millis(rule.window_ms)), used: 0 };
        }
        let left = window.ends.map_or(Duration::ZERO, |ends| ends - now);
        if window.used >= limit {
            count.limited += 1;
            return Err(ApiError::of_limit(left, &headers(limit, 0, left)));
        }
        window.used += 1;
        count.requests += 1;
        Ok(headers(limit, limit - window.used, left))
    }
}

fn headers(limit: u64, remaining: u64, left: Duration) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("x-ratelimit-limit-requests"), HeaderValue::from(limit));
    headers.insert(HeaderName::from_static("x-ratelimit-remaining-requests"), HeaderValue::from(remaining));
    if let Ok(reset) = HeaderValue::try_from(format!("{}ms", left.as_millis())) {
        headers.insert(HeaderName::from_static("x-ratelimit-reset-requests"), reset);
    }
    headers
}

/// One line that says what to change in keys, if something must be.
pub(crate) fn problem(rules: &[KeyRule]) -> Option<String> {
    rules.iter().find_map(|rule| {
        let wrong = if rule.refused.is_some_and(|status| !matches!(status, 401 | 403)) {
            "refused must be 401 or 403"
        } else if rule.window_ms == 0 {
            "window_ms is 0: set 1 or more"
        } else {
            return None;
        };
        Some(format!("key {}: {wrong}", rule.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str) -> KeyRule {
        KeyRule {
            name: name.to_owned(),
            key: ApiKey::new(format!("sk-{name}")),
            refused: None,
            requests: None,
            window_ms: 100,
        }
    }

    #[test]
    fn each_key_has_its_own_fate_and_count() {
        let mut keys = Keys::of(None);
        let now = Instant::now();
        assert!(keys.enter(None, now).is_ok() && keys.enter(Some("any"), now).is_ok());
        let limited = KeyRule { requests: Some(2), ..rule("limited") };
        keys.install(Some(vec![rule("free"), limited, KeyRule { refused: Some(403), ..rule("revoked") }]));
        let status = |result: Result<HeaderMap, ApiError>| result.err().map(|error| error.status.as_u16());
        let mut ask = |key: Option<&str>, at: Instant| status(keys.enter(key, at));
        assert_eq!(
            [ask(None, now), ask(Some("sk-other"), now), ask(Some("sk-revoked"), now)],
            [Some(401), Some(401), Some(403)]
        );
        assert_eq!([ask(Some("sk-free"), now), ask(Some("sk-free"), now)], [None, None]);
        let mut limited = |at: Instant| ask(Some("sk-limited"), at);
        let later = now + Duration::from_millis(100);
        assert_eq!([limited(now), limited(now), limited(now), limited(later)], [None, None, Some(429), None]);
        let counts = keys.counts();
        assert_eq!(counts["limited"], KeyCount { requests: 3, refused: 0, limited: 1 });
        assert_eq!((counts["free"].requests, counts["revoked"].refused), (2, 1));
    }

    #[test]
    fn headers_say_what_is_left() {
        let mut keys = Keys::default();
        keys.install(Some(vec![KeyRule { requests: Some(5), ..rule("a") }]));
        let headers = keys.enter(Some("sk-a"), Instant::now()).expect("let in");
        let told = ["limit", "remaining", "reset"].map(|part| headers[format!("x-ratelimit-{part}-requests")].clone());
        assert_eq!(told, ["5", "4", "100ms"]);
    }

    #[test]
    fn a_wrong_rule_is_named_without_its_key() {
        let found = problem(&[KeyRule { refused: Some(500), ..rule("a") }]).unwrap_or_default();
        assert!(found.contains("key a: refused") && !found.contains("sk-a"), "{found}");
    }
}
