//! Bad records, one of each kind.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, ensure};
use millrace_stack::Stack;
use millrace_tests::Pipeline;
use serde_json::{Value, json};

use crate::volume::REQUESTS;
use crate::{produce, producer, tapped};

/// Name, topic, headers and value of a record.
type Case = (&'static str, &'static str, Vec<(&'static str, &'static str)>, Vec<u8>);

/// Each bad record is a dead letter and a failed outcome with one message, and the one behind it is served.
pub async fn ends_as_a_dead_letter_and_a_failed_outcome(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<()> {
    let fine = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Still served" }] });
    let with = |key: &str, value: Value| {
        let mut body = fine.clone();
        body[key] = value;
        body.to_string().into_bytes()
    };
    let mut misspelt = fine.clone();
    let messages = misspelt["messages"].take();
    misspelt["mesages"] = messages;
    misspelt.as_object_mut().context("an object")?.remove("messages");
    let json_header = ("content-type", "application/json");
    let wrong_id = [&[0_u8, 0x7f, 0xff, 0xff, 0xff][..], b"body"].concat();
    let cases: Vec<Case> = vec![
        ("garbage", "acme.requests", vec![], vec![0xde, 0xad]),
        ("schema-id", "acme.requests", vec![], wrong_id),
        ("unsigned", "e2e.requests.batch", vec![json_header], fine.to_string().into_bytes()),
        (
            "signature",
            "e2e.requests.batch",
            vec![json_header, ("millrace-signature", "v1:nobody/k:00")],
            fine.to_string().into_bytes(),
        ),
        ("model", "acme.requests", vec![json_header], with("model", json!("no-such-model"))),
        ("utf-8", "acme.requests", vec![json_header], b"{\"model\": \"\xff\"}".to_vec()),
        ("missing", "acme.requests", vec![json_header], with("messages", Value::Null)),
        ("misspelt", "acme.requests", vec![json_header], misspelt.to_string().into_bytes()),
        (
            "too long",
            "acme.requests",
            vec![json_header],
            with("messages", json!([{ "role": "user", "content": "x".repeat(300 * 1024) }])),
        ),
        ("late", "acme.requests", vec![json_header, ("deadline", "1000")], fine.to_string().into_bytes()),
    ];
    let producer = producer(stack)?;
    let before = tapped(pipeline, "outcomes.batch", REQUESTS).await?.len();
    for (_, topic, headers, value) in &cases {
        produce(&producer, topic, headers, value).await?;
    }
    produce(&producer, "acme.requests", &[json_header], fine.to_string().as_bytes()).await?;
    // Beyond the topic's limit the broker itself refuses: nothing is accepted, nothing is lost.
    let huge = vec![b' '; 10 << 20];
    ensure!(produce(&producer, "acme.requests", &[json_header], &huge).await.is_err(), "10 MB must be refused");

    let outcomes = tapped(pipeline, "outcomes.batch", before + cases.len() + 1).await?;
    let new = &outcomes[..];
    let mut by_status = BTreeMap::<&str, usize>::new();
    for outcome in new {
        *by_status.entry(outcome["value"]["status"].as_str().unwrap_or("none")).or_default() += 1;
        let is_fine = outcome["value"]["status"] == "succeeded";
        let message = outcome["value"]["error"]["message"].as_str().unwrap_or_default();
        ensure!(is_fine || (message.len() > 20 && !message.contains('\n')), "no clear message: {outcome}");
    }
    let bad: usize = by_status.iter().filter(|(status, _)| **status != "succeeded").map(|(_, count)| count).sum();
    ensure!(bad >= cases.len(), "{by_status:?}");
    let letters = tapped(pipeline, "dead-letters", cases.len()).await?;
    let codes: HashSet<_> = letters.iter().filter_map(|l| l["value"]["code"].as_str()).collect();
    ensure!(codes.len() >= 5, "dead letters say what was wrong: {codes:?}");
    for (name, _, _, value) in &cases {
        let held = letters.iter().any(|letter| letter["value"]["value"] == seen_as(value));
        ensure!(held, "{name} is in no dead letter byte for byte");
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
