//! Random bytes and mutated requests: a verdict, never a panic, and an admitted body is JSON.

use millrace_admission::{Admission, Arrival, EditableBody, Principal, record};
use millrace_config::{Config, ModelConfig, TenantConfig};
use millrace_schemas::{Lane, Request, RequestId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SEEDS: [&str; 4] = [
    r#"{"model":"m","messages":[{"role":"user","content":"How many hats?"}],"n":2,"max_tokens":10,"stream":false}"#,
    r#"{"model":"m","messages":[{"role":"system","content":[{"type":"text","text":"a\u00e9\ud83d\ude00"}]},{"role":"user","content":"q","name":"x"}]}"#,
    r#"{"millrace":{"collection":"c","top_k":3,"labels":{"a":"b"}},"messages":[{"role":"user","content":"q"}],"model":"m","tools":[{}]}"#,
    r#"{"model":"m","messages":[{"role":"assistant","tool_calls":[]},{"role":"user","content":[{"type":"image_url"},{"type":"text","text":"t"}]}],"x":1e400}"#,
];

const PIECES: [&str; 20] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "null",
    "true",
    "1e999",
    "-0",
    "\\ud800",
    "\\u0000",
    "\\",
    "\u{0}",
    "é",
    "\u{10FFFF}",
    "messages",
    "millrace",
    "\"role\":\"user\",",
];

fn mutate(rng: &mut StdRng) -> Vec<u8> {
    let mut body = SEEDS[rng.random_range(0..SEEDS.len())].as_bytes().to_vec();
    for _ in 0..rng.random_range(0..6) {
        let at = rng.random_range(0..=body.len());
        match rng.random_range(0..5) {
            0 => drop(body.splice(at..at, PIECES[rng.random_range(0..PIECES.len())].bytes())),
            1 => body.truncate(at),
            2 if at < body.len() => body[at] = rng.random(),
            3 => {
                let end = (at + rng.random_range(0..20)).min(body.len());
                body.drain(at..end);
            }
            _ => {
                let end = (at + rng.random_range(0..60)).min(body.len());
                let copy = body[at..end].to_vec();
                let to = rng.random_range(0..=body.len());
                body.splice(to..to, copy);
            }
        }
    }
    body
}

#[test]
fn nothing_panics_and_every_verdict_is_whole() {
    let mut config = Config::default();
    config.models.insert("m".to_owned(), ModelConfig::chat("p", 4_000));
    config.models.insert("e".to_owned(), ModelConfig::embedding("p", 4_000, 8));
    config.tenants.insert("t".to_owned(), TenantConfig::default());
    config.vectors.url = Some("http://127.0.0.1:1".to_owned());
    config.knowledge.embedding_model = "e".to_owned();
    let admission = Admission::from_config(&config).unwrap();
    let principal = Principal { tenant: "t".to_owned(), user: None, key_id: None, admin: false, token: None };
    let mut rng = StdRng::seed_from_u64(7);
    let (mut admitted, mut rejected) = (0, 0);
    for _ in 0..30_000 {
        let body = if rng.random_ratio(1, 10) {
            (0..rng.random_range(0..200)).map(|_| rng.random()).collect()
        } else {
            mutate(&mut rng)
        };
        let mut header = |name: &str| {
            let value: Vec<u8> = (0..rng.random_range(0..300)).map(|_| rng.random_range(32..=255)).collect();
            (name.to_owned(), (!value.is_empty()).then_some(value))
        };
        let headers = [header("user"), header("deadline"), header("label-\u{e9}"), header("idempotency-key")];
        let some = rng.random_range(0..=headers.len());
        let mut with_headers = Request::new(body.clone());
        record::fill(&mut with_headers, &headers[..some]);
        let mut request = if rng.random_ratio(1, 4) { with_headers } else { Request::new(body) };
        if rng.random_ratio(1, 4) {
            (request.received_at, request.deadline) = (Some(rng.random()), Some(rng.random()));
        }
        let arrival = Arrival {
            lane: Lane::Batch,
            at: None,
            timestamp: Some(rng.random()),
            now: rng.random::<i64>() >> 1,
            run: 0,
        };
        let arrival = if rng.random_ratio(3, 4) {
            Arrival { timestamp: Some(1_800_000_000_000), now: 1_800_000_000_000_000, ..arrival }
        } else {
            arrival
        };
        match admission.admit(&principal, request, &arrival) {
            Ok(request) => {
                admitted += 1;
                let mut body: EditableBody = request.body;
                assert!(body.get("millrace").is_none());
                assert!(body.insert_message_before_last_user("system", "\u{0}\"p"));
                body.set("model", &serde_json::json!("other"));
                let bytes = body.to_bytes();
                let again = EditableBody::parse(String::from_utf8(bytes).unwrap()).unwrap();
                assert_eq!(again.get("model"), Some("\"other\""));
                assert!(RequestId::parse("t", &request.meta.request_id).is_some());
            }
            Err(request) => {
                rejected += 1;
                assert!(!request.ended.code.is_empty() && !request.ended.message.is_empty());
                assert!(RequestId::parse("t", &request.meta.request_id).is_some());
            }
        }
    }
    assert!(admitted > 3_000 && rejected > 3_000, "the loop tests both: {admitted} {rejected}");
}
