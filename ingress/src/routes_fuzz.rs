//! What a client, or a record of `replies`, may bring in headers, queries and bodies.

use axum::http::HeaderValue;
use millrace_mutate as mutate;
use proptest::prelude::*;
use proptest::sample::select;
use rdkafka::Timestamp;
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

use super::*;
use crate::moderations::{self, MAX_INPUTS};
use crate::replies::{self, Waiters};

const NAMES: [&str; 8] = [
    "authorization",
    "prefer",
    "idempotency-key",
    "x-millrace-user",
    "x-millrace-cancel-on-disconnect",
    "x-stainless-retry-count",
    "traceparent",
    "content-length",
];

const VALUES: &[&str] = &[
    "Bearer mr_key",
    "bearer  x y",
    "respond-async, wait=5",
    "true",
    "1",
    "99999999999",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "é",
];

const QUERIES: &[&str] =
    &["tenant=acme&hours=24", "hours=-1", "hours=99999999999999999999", "tenant=%ff%00&x", "&&==%"];

const BODIES: &[&str] = &[
    r#"{"input":"a text","model":"m"}"#,
    r#"{"input":["a",{"type":"text","text":"b"},{"type":"image_url","text":"c"}]}"#,
    r#"{"collection":"c","text":"t","id":"1","title":null,"metadata":{"a":"b"}}"#,
];

fn headers() -> impl Strategy<Value = HeaderMap> {
    prop::collection::vec((select(&NAMES[..]), mutate::bytes(VALUES)), 0..6).prop_map(|pairs| {
        let header =
            |(name, value): (_, Vec<u8>)| Some((HeaderName::from_static(name), HeaderValue::from_bytes(&value).ok()?));
        pairs.into_iter().filter_map(header).collect()
    })
}

fn is_refusal(error: ApiError) -> bool {
    error.into_response().status() == StatusCode::BAD_REQUEST
}

proptest! {
    #![proptest_config(mutate::cases(1_500))]

    #[test]
    fn any_headers_are_read_or_refused(headers in headers()) {
        prop_assert!(bearer(&headers).is_none_or(|key| key == key.trim()));
        let _ = prefers_async(&headers);
        prop_assert!(TraceContext::parse(&trace(&headers)).is_some());
        let read = [text(&headers, "idempotency-key").err(), text(&headers, "x-millrace-user").err(), cancels_on_disconnect(&headers).err()];
        prop_assert!(read.into_iter().flatten().all(is_refusal));
        let principal = Principal { tenant: "acme".to_owned(), user: None, key_id: Some("k".to_owned()), admin: false, token: None };
        let retries = Retries::of(&headers, &principal, Operation::Chat, "hash");
        prop_assert!(retries.is_none() || !headers.contains_key("idempotency-key"), "a key says more");
    }

    #[test]
    fn any_query_and_any_body_is_read_or_refused(query in mutate::text(QUERIES), body in mutate::bytes(BODIES)) {
        if let Ok(uri) = axum::http::Uri::builder().path_and_query(format!("/v1/usage?{query}")).build() {
            match Period::read(Query::try_from_uri(&uri)) {
                Ok(period) => prop_assert!(period.hours.is_none_or(|hours| (1..=MAX_HOURS).contains(&hours))),
                Err(error) => prop_assert!(is_refusal(error)),
            }
        }
        let _ = serde_json::from_slice::<NewDocument>(&body);
        match moderations::read(&body) {
            Ok(texts) => prop_assert!((1..=MAX_INPUTS).contains(&texts.pieces.len())),
            Err(error) => prop_assert!(is_refusal(error)),
        }
    }

    #[test]
    fn a_reply_reaches_its_own_client_or_nobody(
        id in prop_oneof![Just("a".to_owned()), ".{0,5}"],
        replica in prop_oneof![3 => Just("r".to_owned()), 1 => ".{0,5}"],
        kind in prop::option::of(prop_oneof![Just(b"chunk".to_vec()), prop::collection::vec(any::<u8>(), 0..5)]),
        payload: Option<Vec<u8>>,
    ) {
        let waiters = Waiters::default();
        let mut waiter = waiters.wait("a", true);
        let mut written = OwnedHeaders::new()
            .insert(Header { key: "replica", value: Some(&replica) })
            .insert(Header { key: "request_id", value: Some(&id) });
        if let Some(kind) = &kind {
            written = written.insert(Header { key: "kind", value: Some(kind) });
        }
        let record = OwnedMessage::new(payload.clone(), None, "replies".to_owned(), Timestamp::NotAvailable, 0, 0, Some(written));
        let outcome = replies::answer(&record, "r", &waiters).map(|(of, outcome)| (of.to_owned(), outcome.to_vec()));
        let is_chunk = kind.as_deref() == Some(b"chunk");
        let told = waiter.outcome.try_recv().ok();
        let told_of = payload.filter(|_| replica == "r" && !is_chunk).map(|outcome| (id.clone(), outcome));
        prop_assert_eq!(told, told_of.clone().filter(|_| id == "a").map(|(_, outcome)| outcome));
        prop_assert_eq!(outcome, told_of);
    }
}
