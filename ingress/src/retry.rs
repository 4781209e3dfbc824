//! Requests that a client library sends again by itself, without an idempotency key, after it gave up waiting:
//! they join the one that is running instead of being paid for again.
//!
//! When a client that counts its retries leaves before its answer, the request is noted in the store under
//! who asked for what. A retry that finds such a note of the last minute or two waits for that request. A crash
//! of this process before the note is written, or a store that does not answer, costs a second call: a key of
//! the client's own does not.

use std::sync::Arc;

use axum::http::HeaderMap;
use millrace_admission::{Principal, SYSTEM_TENANT};
use millrace_schemas::{Operation, now_micros};
use millrace_storage::Claim;

use crate::run::Ingress;

/// How often a client library has sent the request before; libraries that do not count never retry unseen.
const RETRY_COUNT: &str = "x-stainless-retry-count";
/// Notes are kept under the minute in which they were made, and looked for in two.
const WINDOW_MICROS: i64 = 60_000_000;

/// Who asks for what, by a library that counts its retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retries {
    tenant: String,
    name: String,
    body_hash: String,
    is_again: bool,
}

impl Retries {
    /// `None` for a client that does not count, or that names a key, which says more.
    pub(crate) fn of(
        headers: &HeaderMap,
        principal: &Principal,
        operation: Operation,
        body_hash: &str,
    ) -> Option<Self> {
        if headers.contains_key("idempotency-key") {
            return None;
        }
        let count: u32 = headers.get(RETRY_COUNT)?.to_str().ok()?.parse().ok()?;
        let Principal { tenant, key_id, token, .. } = principal;
        // A key has one client, and the tokens that stand for it have many.
        let who = token.as_ref().or(key_id.as_ref()).map(String::as_str).unwrap_or_default();
        let name = format!("retry {tenant} {who} {operation} {body_hash}");
        Some(Self { tenant: tenant.clone(), name, body_hash: body_hash.to_owned(), is_again: count > 0 })
    }

    fn notes(&self, now: i64) -> [String; 2] {
        let window = now.div_euclid(WINDOW_MICROS);
        [window, window - 1].map(|window| format!("{} {window}", self.name))
    }
}

impl Ingress {
    /// The request that this one is a retry of.
    pub(crate) async fn retried(&self, retries: &Retries) -> Option<String> {
        if !retries.is_again {
            return None;
        }
        for note in retries.notes(now_micros()) {
            match self.storage.keys.holder(SYSTEM_TENANT, &note).await {
                Ok(Some(claim)) => return Some(claim.request_id),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, tenant = retries.tenant, "a retry is taken for a new request");
                    return None;
                }
            }
        }
        None
    }

    /// Notes that the client of a request has left, for when it comes back.
    pub(crate) fn note_that_it_left(self: &Arc<Self>, retries: Retries, request_id: String) {
        let ingress = Arc::clone(self);
        tokio::spawn(async move {
            let [note, _] = retries.notes(now_micros());
            let claim = Claim { coordinates: request_id.clone(), request_id, body_hash: retries.body_hash };
            // Whoever was noted before in this minute has the same body, and is the same to its client.
            if let Err(error) = ingress.storage.keys.claim(SYSTEM_TENANT, &note, &claim).await {
                tracing::warn!(%error, request_id = claim.request_id, "a client that left was not noted");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value))).collect()
    }

    fn principal(key: &str) -> Principal {
        Principal { tenant: "acme".to_owned(), user: None, key_id: Some(key.to_owned()), admin: false, token: None }
    }

    #[test]
    fn only_libraries_that_count_and_name_no_key_retry_unseen() {
        let of = |pairs| Retries::of(&headers(pairs), &principal("k"), Operation::Chat, "hash");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(RETRY_COUNT, "1"), ("idempotency-key", "mine")]), None);
        assert_eq!(of(&[(RETRY_COUNT, "many")]), None);
        assert_eq!(of(&[(RETRY_COUNT, "0")]).map(|retries| retries.is_again), Some(false));
        assert_eq!(of(&[(RETRY_COUNT, "2")]).map(|retries| retries.is_again), Some(true));
    }

    #[test]
    fn a_note_is_found_in_its_minute_and_the_next_by_the_same_asker_only() {
        let of = |key: &str, hash: &str| {
            Retries::of(&headers(&[(RETRY_COUNT, "0")]), &principal(key), Operation::Chat, hash).expect("it counts")
        };
        let made = |now: i64| of("k", "hash").notes(now)[0].clone();
        let found = |key: &str, hash: &str, now: i64| of(key, hash).notes(now).contains(&made(59_000_000));
        assert!(found("k", "hash", 59_500_000) && found("k", "hash", 119_000_000));
        assert!(!found("k", "hash", 120_000_000));
        assert!(!found("other", "hash", 59_500_000) && !found("k", "other", 59_500_000));
    }
}
