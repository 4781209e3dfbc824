//! Bad records, one of each kind, each with a sound one behind it in the same partition.

use std::collections::HashMap;

use anyhow::{Context, ensure};
use millrace_stack::Stack;
use millrace_tests::Pipeline;
use serde_json::{Value, json};

use crate::{BOUND, JSON, allow_records_of, produce_to, producer, tapped};

/// Anybody may write there; a record must prove its tenant.
const SHARED: &str = "e2e.requests.batch";
/// Every record goes here, so that whatever stalls one stalls all.
const PARTITION: i32 = 1;

/// A bad record and what is expected of it.
struct Case {
    topic: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    value: Vec<u8>,
    code: &'static str,
    /// How its outcome ends.
    status: &'static str,
    tenant: &'static str,
}

impl Case {
    fn of(code: &'static str, value: impl Into<Vec<u8>>) -> Self {
        Self { topic: BOUND, headers: vec![JSON], value: value.into(), code, status: "failed", tenant: "acme" }
    }

    fn avro(self) -> Self {
        Self { headers: Vec::new(), ..self }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// A record that proves no tenant is the system's.
    fn by_nobody(self) -> Self {
        Self { topic: SHARED, tenant: "system", ..self }
    }
}

fn cases() -> Vec<Case> {
    let fine = sound();
    let with = |key: &str, value: Value| {
        let mut body = fine.clone();
        body[key] = value;
        body.to_string()
    };
    let misspelt = fine.to_string().replace("messages", "mesages");
    let wrong_id = [&[0_u8, 0x7f, 0xff, 0xff, 0xff][..], b"body"].concat();
    // More tokens than the model takes, in fewer bytes than a record may have.
    let long = json!([{ "role": "user", "content": "🦥".repeat(60_000) }]);
    vec![
        Case::of("undecodable", [0xde, 0xad]).avro(),
        Case::of("undecodable", wrong_id).avro(),
        Case::of("unknown_tenant", fine.to_string()).by_nobody(),
        Case::of("invalid_signature", fine.to_string()).by_nobody().with("millrace-signature", "v1:nobody/k:00"),
        Case::of("model_not_found", with("model", json!("no-such-model"))),
        Case::of("invalid_utf8", b"{\"model\": \"\xff\"}".to_vec()),
        Case::of("invalid_type", with("messages", Value::Null)),
        Case::of("missing_required_parameter", misspelt),
        Case::of("request_too_large", with("messages", json!([{ "role": "user", "content": "x".repeat(300 << 10) }]))),
        Case::of("context_length_exceeded", with("messages", long)),
        Case::of("request_too_large", with("messages", json!([{ "role": "user", "content": "x".repeat(10 << 20) }]))),
        Case { status: "expired", ..Case::of("deadline_exceeded", fine.to_string()).with("deadline", "1000") },
    ]
}

fn sound() -> Value {
    json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Still served" }] })
}

/// Each bad record is a dead letter and an outcome with one clear message, and the one behind it is served.
pub async fn ends_as_a_dead_letter_and_a_failed_outcome(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<()> {
    // A customer's own topic may take larger records than ours; what is made of them may not be larger.
    allow_records_of(stack, BOUND, "12582912").await?;
    let producer = producer(stack)?;
    let cases = cases();
    let before = tapped(pipeline, "outcomes.batch", 0).await?.len();
    let mut places = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        places.push(produce_to(&producer, case.topic, Some(PARTITION), &case.headers, &case.value).await?);
        let behind = number.to_string();
        let headers = [JSON, ("label-behind", behind.as_str())];
        produce_to(&producer, BOUND, Some(PARTITION), &headers, sound().to_string().as_bytes()).await?;
    }

    let outcomes = tapped(pipeline, "outcomes.batch", before + 2 * cases.len()).await?;
    // A dead letter is acknowledged before its outcome is written.
    let letters = tapped(pipeline, "dead-letters", 0).await?;
    let by_id: HashMap<&str, &Value> =
        outcomes.iter().filter_map(|o| Some((o["value"]["meta"]["request_id"].as_str()?, &o["value"]))).collect();
    for (number, (case, offset)) in cases.iter().zip(places).enumerate() {
        let topic = case.topic.trim_start_matches("e2e.");
        let place = format!("case {number}, {} at {topic}/{PARTITION}/{offset}", case.code);
        let is_it = |l: &&Value| l["topic"] == topic && l["partition"] == PARTITION && l["offset"] == offset;
        let letter = letters.iter().map(|l| &l["value"]).find(is_it).with_context(|| format!("{place}: no letter"))?;
        ensure!(letter["code"] == case.code && letter["tenant"] == case.tenant, "{place}: {letter}");
        // What is beyond twice the limit is named by its place alone.
        let held = if case.value.len() > 2 << 20 { Value::Null } else { seen_as(&case.value) };
        ensure!(letter["value"] == held, "{place} is not held byte for byte");

        let id = letter["request_id"].as_str().with_context(|| format!("{place}: no id in {letter}"))?;
        let outcome = by_id.get(id).with_context(|| format!("{place}: no outcome of {id}"))?;
        let (error, meta) = (&outcome["error"], &outcome["meta"]);
        ensure!(outcome["status"] == case.status && error["code"] == case.code, "{place}: {outcome}");
        ensure!(meta["tenant"] == case.tenant && error["message"] == letter["error"], "{place}: {outcome}");
        let message = error["message"].as_str().unwrap_or_default();
        ensure!(message.len() > 20 && !message.contains('\n'), "{place}: no clear message: {message}");

        let behind = number.to_string();
        let is_behind = |o: &&Value| o["value"]["meta"]["labels"]["behind"] == behind.as_str();
        let served = outcomes.iter().find(is_behind).with_context(|| format!("{place}: nothing behind it"))?;
        ensure!(served["value"]["status"] == "succeeded", "{place}: {served}");
    }
    Ok(())
}

/// Bytes as `tap` shows them.
fn seen_as(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
        Err(_) => json!({ "hex": bytes.iter().map(|b| format!("{b:02x}")).collect::<String>() }),
    }
}
