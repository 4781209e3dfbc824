//! What `tests/instructions.py` counts instructions of: an event to bytes and back, so many times.

use millrace_schemas::{Call, CallKind, Codec, Event, Request};

/// How many records; the difference between two counts is what the records cost.
fn records() -> usize {
    std::env::var("MILLRACE_RECORDS").map_or(500, |count| count.parse().expect("a number"))
}

fn there_and_back<E: Event + PartialEq + std::fmt::Debug>(event: &E) {
    let codec = Codec::detached().expect("no registry is asked");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        for _ in 0..records() {
            let bytes = codec.encode(event).expect("it fits its schema");
            let read: E = codec.decode(&bytes).await.expect("it was written just now");
            assert_eq!(&read, event);
        }
    });
}

#[test]
fn codec_of_a_request_of_1_kb() {
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{}"}}]}}"#, "word ".repeat(195));
    let labels = [("team".to_owned(), "search".to_owned())].into();
    there_and_back(&Request { idempotency_key: Some("key-1".to_owned()), labels, ..Request::new(body.into_bytes()) });
}

#[test]
fn codec_of_a_call() {
    there_and_back(&Call {
        call_id: "call_0190b5f4d0f87c5a8b1e0123456789ab".to_owned(),
        kind: CallKind::Finished,
        request_id: "req_0190b5f4d0f87c5a8b1e0123456789ab00000000".to_owned(),
        run: 0,
        tenant: "acme".to_owned(),
        user: "ada".to_owned(),
        key_id: Some("main".to_owned()),
        lane: "batch".to_owned(),
        operation: "chat.completions".to_owned(),
        provider: "provider".to_owned(),
        model: "model".to_owned(),
        at: 1_700_000_000_000_000,
        started_at: 1_700_000_000_000_000,
        deadline: 1_700_000_060_000_000,
        price_version: "2026-11".to_owned(),
        currency: "USD".to_owned(),
        reserved_nanos: 9_000,
        input_tokens: 300,
        cached_input_tokens: 0,
        output_tokens: 20,
        estimated: false,
        cost_nanos: 4_000,
        charge_nanos: 5_000,
        http_status: Some(200),
        reason: None,
        reserved_charge_nanos: Some(9_000),
        provider_key: Some("main".to_owned()),
    });
}
