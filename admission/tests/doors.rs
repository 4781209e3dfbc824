//! The same admission serves both doors: however a request is written, it gets the same verdict.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine;
use millrace_admission::record::{self, RecordHeader};
use millrace_admission::{Admission, Admitted, Arrival, Principal, Rejected};
use millrace_config::{Config, ModelConfig, TenantConfig, UserConfig};
use millrace_mutate as mutate;
use millrace_schemas::{Codec, Coordinates, Lane, Meta, Request};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// 2030-01-01, microseconds.
const NOW: i64 = 1_893_456_000_000_000;

static ADMISSION: LazyLock<Admission> = LazyLock::new(|| {
    let mut config = Config::default();
    config.models.insert("small".to_owned(), ModelConfig { max_output_tokens: 100, ..ModelConfig::chat("p", 1_000) });
    config.models.insert("secret".to_owned(), ModelConfig::chat("p", 8_192));
    config.models.insert("embed".to_owned(), ModelConfig::embedding("p", 8_192, 8));
    let acme = TenantConfig {
        models: ["small", "embed"].map(str::to_owned).to_vec(),
        users: [("web".to_owned(), UserConfig::default())].into(),
        reply_topics: vec!["acme.outcomes".to_owned()],
        ..TenantConfig::default()
    };
    config.tenants.insert("acme".to_owned(), acme);
    config.limits.inline_bytes = 4_000;
    config.limits.body_bytes = 4_000;
    config.vectors.url = Some("http://127.0.0.1:6334".to_owned());
    config.knowledge.embedding_model = "embed".to_owned();
    Admission::from_config(&config).expect("valid")
});

static CODEC: LazyLock<Codec> = LazyLock::new(|| Codec::detached().expect("no registry is asked"));

type Verdict = Result<Admitted, Box<Rejected>>;

fn verdict(request: Request, at: Option<&Coordinates>) -> Verdict {
    let principal =
        Principal { tenant: "acme".to_owned(), user: None, key_id: Some("k1".to_owned()), admin: false, token: None };
    let timestamp = at.map(|_| NOW / 1000);
    ADMISSION.admit(&principal, request, &Arrival { lane: Lane::Batch, at, timestamp, now: NOW, run: 0 })
}

/// All that a verdict says, but the id where it is that of its place.
fn told(verdict: &Verdict, has_key: bool) -> String {
    let meta = |meta: &Meta| {
        let request_id = if has_key { meta.request_id.clone() } else { String::new() };
        format!("{:?}", Meta { request_id, ..meta.clone() })
    };
    match verdict {
        Ok(a) => {
            let Admitted { model, rule_set, prompt_tokens, prompt_limit, max_output_tokens, choices, stream, .. } = a;
            let body = String::from_utf8_lossy(&a.body.clone().to_bytes()).into_owned();
            let sizes = (prompt_tokens, prompt_limit, max_output_tokens, choices);
            format!("{} {model} {rule_set} {sizes:?} {stream:?} {:?} {body}", meta(&a.meta), a.collection)
        }
        Err(r) => format!("{} {:?} {} {} {}", meta(&r.meta), r.ended, r.model, r.rule_set, r.dead_letter),
    }
}

fn text_headers(pairs: Vec<(String, String)>) -> Vec<RecordHeader> {
    pairs.into_iter().map(|(name, value)| (name, Some(value.into_bytes()))).collect()
}

/// A request's members beside its body, by the names of headers.
fn members(request: &Request) -> Vec<(&'static str, String)> {
    let labels = serde_json::to_string(&request.labels).expect("strings");
    let mut members = vec![("operation", request.operation.clone()), ("labels", labels)];
    members.extend(request.idempotency_key.clone().map(|key| ("idempotency-key", key)));
    members.extend(request.user.clone().map(|user| ("user", user)));
    members.extend(request.reply_topic.clone().map(|topic| ("reply-topic", topic)));
    members.extend(request.deadline.map(|deadline| ("deadline", deadline.to_string())));
    members
}

fn read(headers: Vec<(String, String)>, value: &[u8]) -> Request {
    let (request, refused) = record::read(&text_headers(headers), value).expect("not Avro");
    assert_eq!(refused, None);
    request
}

fn as_json(request: &Request) -> Request {
    let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    headers.extend(members(request).into_iter().map(|(name, value)| (name.to_owned(), value)));
    read(headers, &request.body)
}

fn attributes(request: &Request) -> Vec<(String, String)> {
    let own = [("specversion", "1.0"), ("id", "7"), ("source", "/shop"), ("type", "t")];
    let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
    own.into_iter().chain(members(request).into_iter().map(|(name, value)| (name.replace('-', ""), value))).collect()
}

fn as_binary_event(request: &Request) -> Request {
    let headers = attributes(request).into_iter().map(|(name, value)| (format!("ce_{name}"), value));
    read(headers.collect(), &request.body)
}

/// With its data in base64, and as JSON where it is JSON.
fn as_structured_events(request: &Request) -> Vec<Request> {
    let attributes: Map<String, Value> =
        attributes(request).into_iter().map(|(name, value)| (name, Value::from(value))).collect();
    let headers = || vec![("content-type".to_owned(), "application/cloudevents+json".to_owned())];
    let mut event = attributes.clone();
    event.insert("data_base64".to_owned(), base64::engine::general_purpose::STANDARD.encode(&request.body).into());
    let mut requests = vec![read(headers(), Value::from(event).to_string().as_bytes())];
    if let Ok(body) = std::str::from_utf8(&request.body)
        && serde_json::from_str::<&serde_json::value::RawValue>(body).is_ok_and(|raw| raw.get() == body)
    {
        let head = Value::from(attributes).to_string();
        let event = format!("{},\"data\":{body}}}", head.strip_suffix('}').expect("an object"));
        requests.push(read(headers(), event.as_bytes()));
    }
    requests
}

/// Through Avro's bytes, as a producer of that form writes it.
fn as_avro(request: &Request) -> Request {
    let bytes = CODEC.encode(request).expect("fits");
    assert!(record::read(&[], &bytes).is_none(), "Avro looks like nothing else");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut read = runtime.block_on(CODEC.decode_record(None, &bytes)).expect("decodes");
    assert_eq!(record::fill(&mut read, &[]), None);
    read
}

fn messages() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        8 => Just(json!("How many hats?")),
        8 => Just(json!([{"type": "text", "text": "é"}])),
        1 => Just(json!(7)),
    ];
    let role = prop_oneof![16 => Just(json!("user")), 8 => Just(json!("system")), 1 => Just(json!("")), 1 => Just(Value::Null)];
    let message = (role, text).prop_map(|(role, content)| json!({ "role": role, "content": content }));
    let messages = prop::collection::vec(message, 1..4).prop_map(Value::from);
    prop_oneof![16 => messages, 1 => Just(json!("hi")), 1 => Just(json!([]))]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let model = prop_oneof![16 => Just("small"), 1 => Just("secret"), 1 => Just("embed"), 1 => Just("")];
    let more = prop::collection::btree_map(
        prop_oneof![Just("n"), Just("max_tokens"), Just("stream"), Just("tools"), Just("input"), Just("x")],
        prop_oneof![
            Just(json!(1)),
            Just(json!(0)),
            Just(json!(true)),
            Just(json!([])),
            Just(json!("a")),
            Just(json!(2_000))
        ],
        0..2,
    );
    let own = option::of(prop_oneof![
        Just(json!({ "labels": { "team": "a" } })),
        Just(json!({ "collection": "c", "top_k": 3 })),
        Just(json!({ "colection": "c" })),
    ]);
    let object = (model, messages(), more, own)
        .prop_map(|(model, messages, more, own)| {
            let mut body = json!({ "model": model, "messages": messages });
            more.into_iter().for_each(|(name, value)| body[name] = value);
            own.into_iter().for_each(|own| body["millrace"] = own.clone());
            body.to_string().into_bytes()
        })
        .boxed();
    let cut = (object.clone(), 0..200usize).prop_map(|(mut body, at)| {
        body.truncate(at);
        body
    });
    let large = (3_900..4_100usize).prop_map(|size| format!("{{\"x\":\"{}\"}}", "y".repeat(size)).into_bytes());
    prop_oneof![16 => object, 1 => cut, 1 => prop::collection::vec(any::<u8>(), 0..40), 1 => large]
}

fn request() -> impl Strategy<Value = Request> {
    let key = option::of(
        prop_oneof![8 => Just("k".to_owned()), 1 => Just(String::new()), 1 => Just("é".repeat(256)), 8 => "\\PC{1,20}"],
    );
    let user = option::of(prop_oneof![12 => Just("web".to_owned()), 1 => "\\PC{0,9}"]);
    let topic = option::of(prop_oneof![12 => Just("acme.outcomes".to_owned()), 1 => "[a-z.]{0,9}"]);
    let deadline = option::of(prop_oneof![
        24 => 1..9_000_000i64,
        1 => Just(0),
        1 => Just(-1),
        1 => Just(i64::MAX / 4),
    ]);
    let labels = prop::collection::btree_map("\\PC{1,5}", "\\PC{0,5}", 0..3);
    let labels = prop_oneof![16 => labels, 1 => (15..18usize).prop_map(many_labels)];
    let operation = prop_oneof![16 => Just("chat.completions"), 1 => Just("embeddings"), 1 => Just("images")];
    (body(), key, user, topic, deadline, labels, operation).prop_map(
        |(body, idempotency_key, user, reply_topic, after, labels, operation)| Request {
            idempotency_key,
            user,
            reply_topic,
            deadline: after.map(|after| NOW / 1000 + after),
            labels,
            operation: operation.to_owned(),
            ..Request::new(body)
        },
    )
}

fn many_labels(count: usize) -> BTreeMap<String, String> {
    (0..count).map(|n| (n.to_string(), String::new())).collect()
}

proptest! {
    #![proptest_config(mutate::cases(500))]

    #[test]
    fn however_it_is_written_a_request_gets_the_same_verdict(request in request()) {
        let place = Coordinates { topic: "requests.batch".to_owned(), generation: 0, partition: 3, offset: 9 };
        let at_http = verdict(request.clone(), None);
        let has_key = request.idempotency_key.as_deref().is_some_and(|key| (1..=255).contains(&key.chars().count()));
        for written in [as_json(&request), as_avro(&request)] {
            prop_assert_eq!(&written, &request);
            prop_assert_eq!(told(&verdict(written, Some(&place)), has_key), told(&at_http, has_key));
        }

        // An event has a key in any case.
        let keyed = Request { idempotency_key: request.idempotency_key.clone().or(Some("/shop 7".to_owned())), ..request.clone() };
        let of_keyed = verdict(keyed.clone(), None);
        let has_key = has_key || request.idempotency_key.is_none();
        let mut events = as_structured_events(&request);
        events.push(as_binary_event(&request));
        for written in events {
            prop_assert_eq!(&written, &keyed);
            prop_assert_eq!(told(&verdict(written, Some(&place)), has_key), told(&of_keyed, has_key));
        }

        // What the HTTP door lets in travels as Avro, with what the door decided; the builder agrees.
        if let Ok(admitted) = &at_http {
            let sent = Request {
                request_id: Some(admitted.meta.request_id.clone()),
                received_at: Some(admitted.meta.received_at),
                deadline: Some(admitted.meta.deadline),
                ..request
            };
            prop_assert_eq!(told(&verdict(as_avro(&sent), Some(&place)), true), told(&at_http, true));
        }
    }
}

#[test]
fn there_are_requests_of_both_verdicts_among_them() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let verdicts = (0..300).map(|_| verdict(request().new_tree(&mut runner).expect("a request").current(), None));
    let admitted = verdicts.filter(Result::is_ok).count();
    assert!((40..260).contains(&admitted), "{admitted} of 300 are admitted");
}
