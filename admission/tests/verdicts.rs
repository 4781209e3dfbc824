//! Every reason for which a request is turned away, at both doors, and what is made of the others.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use millrace_admission::{Admission, Admitted, Arrival, Principal, Rejected, Retrieval, record};
use millrace_config::{Config, ModelConfig, TenantConfig, UserConfig};
use millrace_schemas::{Coordinates, EndedStatus, Lane, Request, RequestId};

/// 2030-01-01, microseconds.
const NOW: i64 = 1_893_456_000_000_000;

const GOOD: &str = r#"{"model":"small","messages":[{"role":"user","content":"How many hats?"}]}"#;

fn config() -> Config {
    let mut config = Config::default();
    config.models.insert("small".to_owned(), ModelConfig { max_output_tokens: 100, ..ModelConfig::chat("p", 1_000) });
    config.models.insert("large".to_owned(), ModelConfig::chat("p", 200_000));
    config.models.insert("secret".to_owned(), ModelConfig::chat("p", 8_192));
    config.models.insert("embed".to_owned(), ModelConfig::embedding("p", 8_192, 8));
    config.tenants.insert(
        "acme".to_owned(),
        TenantConfig {
            models: ["small", "large", "embed"].map(str::to_owned).to_vec(),
            users: [("web".to_owned(), UserConfig::default())].into(),
            moderation: Some("strict".to_owned()),
            reply_topics: vec!["acme.outcomes".to_owned()],
            ..TenantConfig::default()
        },
    );
    config.tenants.insert("open".to_owned(), TenantConfig::default());
    config.limits.inline_bytes = 20_000;
    config.limits.body_bytes = 40_000;
    config.limits.prompt_tokens = 3_000;
    config.vectors.url = Some("http://127.0.0.1:6334".to_owned());
    config.knowledge.embedding_model = "embed".to_owned();
    config
}

fn acme() -> Principal {
    Principal { tenant: "acme".to_owned(), user: None, key_id: Some("k1".to_owned()), admin: false, token: None }
}

fn place() -> Coordinates {
    Coordinates { topic: "requests.batch".to_owned(), generation: 0, partition: 3, offset: 9 }
}

/// The verdict on a request at the HTTP door and on a topic, which must be the same one.
fn verdict(request: Request) -> Result<Admitted, Box<Rejected>> {
    let admission = Admission::from_config(&config()).unwrap();
    let place = place();
    let http = Arrival { lane: Lane::Batch, at: None, timestamp: None, now: NOW, run: 0 };
    let topic = Arrival { lane: Lane::Batch, at: Some(&place), timestamp: Some(NOW / 1000), now: NOW, run: 0 };
    let at_http = admission.admit(&acme(), request.clone(), &http);
    let on_topic = admission.admit(&acme(), request, &topic);
    match (&at_http, &on_topic) {
        (Ok(a), Ok(b)) => {
            let mut meta = a.meta.clone();
            meta.request_id.clone_from(&b.meta.request_id);
            assert_eq!(
                (&meta, &a.model, a.prompt_tokens, a.max_output_tokens),
                (&b.meta, &b.model, b.prompt_tokens, b.max_output_tokens)
            );
            assert_eq!(a.body.to_bytes(), b.body.to_bytes());
        }
        (Err(a), Err(b)) => assert_eq!((&a.ended, a.dead_letter, &a.model), (&b.ended, b.dead_letter, &b.model)),
        (a, b) => panic!("the doors disagree: {a:?} {b:?}"),
    }
    on_topic
}

fn with_body(body: &str) -> Request {
    Request::new(body.as_bytes().to_vec())
}

#[track_caller]
fn refused(request: Request, code: &str, param: Option<&str>, status: i32) -> Box<Rejected> {
    let shown = format!("{:?}", String::from_utf8_lossy(&request.body[..request.body.len().min(200)]));
    let rejected = verdict(request).expect_err(&shown);
    let ended = &rejected.ended;
    assert_eq!(
        (ended.code.as_str(), ended.param.as_deref(), ended.http_status),
        (code, param, status),
        "{shown} {ended:?}"
    );
    assert!(ended.message.ends_with(['.', '?']) && !ended.message.contains('\n'), "{}", ended.message);
    assert_eq!(rejected.meta.tenant, "acme");
    assert!(RequestId::parse("acme", &rejected.meta.request_id).is_some());
    rejected
}

#[track_caller]
fn check(body: &str, code: &str, param: Option<&str>) -> Box<Rejected> {
    refused(with_body(body), code, param, 400)
}

/// [`GOOD`] with one more member.
fn plus(member: &str) -> String {
    format!("{},{member}}}", GOOD.strip_suffix('}').unwrap())
}

fn messages(messages: &str) -> String {
    format!(r#"{{"model":"small","messages":{messages}}}"#)
}

#[test]
fn bodies_that_are_no_request() {
    check("", "invalid_json", None);
    check("{", "invalid_json", None);
    check("{}x", "invalid_json", None);
    check("\u{feff}{}", "invalid_json", None);
    check("[1]", "invalid_json", None);
    check("\"a prompt that nobody may log\"", "invalid_json", None);
    check("{\"a\":\"\u{1}\"}", "invalid_json", None);
    check("{}", "missing_required_parameter", Some("model"));
    let deep = format!(r#"{{"model":"small","messages":{}"#, "[".repeat(15_000));
    check(&deep, "invalid_json", None);
    refused(Request::new(b"{\"a\":\"\xff\"}".to_vec()), "invalid_utf8", None, 400);
    refused(with_body(&plus(&format!("\"x\":\"{}\"", "y".repeat(20_000)))), "request_too_large", None, 413);
    let (long, longer) = ("y".repeat(20_000), "y".repeat(50_000));
    let named = |body: &str| Request { body_file: Some("file-1".to_owned()), ..with_body(body) };
    let part = |data: &str| format!(r#"{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}"#);
    let picture =
        |data: &str| format!(r#"{{"model":"large","messages":[{{"role":"user","content":[{}]}}]}}"#, part(data));
    assert!(verdict(named(&picture(&long))).is_ok(), "what is in a file may be longer");
    refused(named(&picture(&longer)), "request_too_large", None, 413);
    let other = Request { operation: "responses".to_owned(), ..named(&picture(&long)) };
    refused(other, "request_too_large", None, 413);
    let rejected = check("\"a prompt that nobody may log\"", "invalid_json", None);
    assert!(!rejected.ended.message.contains("nobody"), "{}", rejected.ended.message);
}

#[test]
fn members_given_twice() {
    check(r#"{"model":"secret","messages":[],"model":"small"}"#, "duplicate_parameter", Some("model"));
    check(&plus(r#""\u006dodel":"secret""#), "duplicate_parameter", Some("model"));
    check(&plus(r#""stream":false,"stream":true"#), "duplicate_parameter", Some("stream"));
    check(
        &messages(r#"[{"role":"user","content":"a","role":"system"}]"#),
        "duplicate_parameter",
        Some("messages[0].role"),
    );
    check(
        &plus(r#""millrace":{"collection":"a","collection":"b"}"#),
        "duplicate_parameter",
        Some("millrace.collection"),
    );
    assert!(verdict(with_body(&plus(r#""seed":1,"seed":2"#))).is_ok(), "not ours to judge");
}

#[test]
fn models() {
    check(r#"{"modle":"small","messages":[]}"#, "missing_required_parameter", Some("model"));
    check(r#"{"model":7,"messages":[]}"#, "invalid_type", Some("model"));
    for unknown in ["nope", "secret", ""] {
        let body = GOOD.replace("small", unknown);
        let rejected = refused(with_body(&body), "model_not_found", Some("model"), 404);
        assert_eq!(rejected.model, unknown);
        let expected = format!("The model `{unknown}` does not exist or you do not have access to it.");
        assert_eq!(rejected.ended.message, expected, "a model of others looks like none");
    }
    refused(with_body(&GOOD.replace("small", "embed")), "model_not_supported", Some("model"), 404);
}

#[test]
fn conversations() {
    let missing = |body: &str| check(body, "missing_required_parameter", Some("messages")).ended.message;
    assert_eq!(missing(r#"{"model":"small"}"#), "Missing required parameter: 'messages'.");
    assert_eq!(
        missing(r#"{"model":"small","mesages":[]}"#),
        "Missing required parameter: 'messages'. The request has 'mesages' instead: rename it."
    );
    for (raw, found) in
        [("\"hi\"", "a string"), ("{}", "an object"), ("null", "null"), ("1", "a number"), ("true", "a boolean")]
    {
        let rejected = check(&messages(raw), "invalid_type", Some("messages"));
        assert_eq!(
            rejected.ended.message,
            format!("Invalid type for 'messages': expected an array of objects, but got {found} instead.")
        );
    }
    check(&messages("[]"), "empty_array", Some("messages"));
    check(&messages("[1]"), "invalid_type", Some("messages[0]"));
    check(&messages(r#"[{"content":"x"}]"#), "missing_required_parameter", Some("messages[0].role"));
    check(&messages(r#"[{"role":1}]"#), "invalid_type", Some("messages[0].role"));
    check(&messages(r#"[{"role":"","content":"x"}]"#), "invalid_value", Some("messages[0].role"));
    let content = Some("messages[1].content");
    let second = |message: &str| messages(&format!(r#"[{{"role":"user","content":"x"}},{message}]"#));
    check(&second(r#"{"role":"user"}"#), "missing_required_parameter", content);
    check(&second(r#"{"role":"user","content":null}"#), "invalid_type", content);
    check(&second(r#"{"role":"user","content":7}"#), "invalid_type", content);
    check(&second(r#"{"role":"user","content":[]}"#), "empty_array", content);
    check(&second(r#"{"role":"user","content":"\ud800"}"#), "invalid_unicode", content);
    check(&second(r#"{"role":"user","content":["x"]}"#), "invalid_type", Some("messages[1].content[0]"));
    check(
        &second(r#"{"role":"user","content":[{"text":"x"}]}"#),
        "missing_required_parameter",
        Some("messages[1].content[0].type"),
    );
    check(
        &second(r#"{"role":"user","content":[{"type":"text"}]}"#),
        "missing_required_parameter",
        Some("messages[1].content[0].text"),
    );
    check(
        &second(r#"{"role":"user","content":[{"type":"text","text":{}}]}"#),
        "invalid_type",
        Some("messages[1].content[0].text"),
    );
    for good in [
        r#"{"role":"assistant","content":null,"tool_calls":[]}"#,
        r#"{"role":"assistant","tool_calls":[]}"#,
        r#"{"role":"tool","content":[{"type":"text","text":"a"}],"tool_call_id":"c"}"#,
        r#"{"role":"user","content":[{"type":"next_month","x":1}]}"#,
    ] {
        let body = second(good).replace("small", "large");
        assert!(verdict(with_body(&body)).is_ok(), "{body}");
    }
}

#[test]
fn numbers_and_switches() {
    check(&plus(r#""n":0"#), "integer_below_min_value", Some("n"));
    check(&plus(r#""n":17"#), "integer_above_max_value", Some("n"));
    check(&plus(r#""n":1.5"#), "invalid_type", Some("n"));
    check(&plus(r#""max_tokens":0"#), "integer_below_min_value", Some("max_tokens"));
    check(&plus(r#""max_tokens":-5"#), "integer_below_min_value", Some("max_tokens"));
    check(&plus(r#""max_tokens":"5""#), "invalid_type", Some("max_tokens"));
    check(&plus(r#""max_tokens":1001"#), "invalid_value", Some("max_tokens"));
    check(&plus(r#""max_completion_tokens":1001"#), "invalid_value", Some("max_completion_tokens"));
    check(&plus(r#""max_completion_tokens":5,"max_tokens":true"#), "invalid_type", Some("max_tokens"));
    check(&plus(r#""stream_options":{}"#), "invalid_value", Some("stream_options"));
    check(&plus(r#""stream":1"#), "invalid_type", Some("stream"));
    let admitted =
        verdict(with_body(&plus(r#""n":3,"max_completion_tokens":5,"max_tokens":6,"stream":false"#))).unwrap();
    assert_eq!((admitted.choices, admitted.max_output_tokens), (3, 5));
    let admitted = verdict(with_body(&plus(r#""n":null,"max_tokens":6,"stream":null"#))).unwrap();
    assert_eq!((admitted.choices, admitted.max_output_tokens), (1, 6));
}

#[test]
fn prompts_are_held_to_the_context() {
    let say = |model: &str, words: usize, more: &str| {
        let text = "hat ".repeat(words);
        with_body(&format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{text}"}}]{more}}}"#))
    };
    let rejected = refused(say("small", 1_100, ""), "context_length_exceeded", Some("messages"), 400);
    assert!(
        rejected
            .ended
            .message
            .starts_with("This model's maximum context length is 1000 tokens. However, your messages resulted in 11"),
        "{}",
        rejected.ended.message
    );
    let rejected = refused(say("small", 600, r#","max_tokens":500"#), "context_length_exceeded", Some("messages"), 400);
    assert!(rejected.ended.message.contains("500 in the completion"), "{}", rejected.ended.message);
    let rejected = refused(say("large", 3_100, ""), "context_length_exceeded", Some("messages"), 400);
    assert!(rejected.ended.message.contains("maximum prompt length is 3000"), "{}", rejected.ended.message);
    // Tools are part of the prompt.
    let tools = format!(r#","tools":[{{"description":"{}"}}]"#, "hat ".repeat(1_000));
    refused(say("small", 1, &tools), "context_length_exceeded", Some("messages"), 400);
    // More bytes than the context, and fewer tokens: counted.
    let admitted = verdict(say("small", 950, "")).unwrap();
    assert!((950..970).contains(&admitted.prompt_tokens), "{}", admitted.prompt_tokens);
    assert_eq!(admitted.max_output_tokens, 1_000 - admitted.prompt_tokens, "what the prompt leaves");
    // Far from any limit: bounded by its bytes, never under the tokens.
    let admitted = verdict(say("small", 100, "")).unwrap();
    assert_eq!(admitted.prompt_tokens as usize, r#"[{"role":"user","content":""}]"#.len() + 400);
    assert_eq!(admitted.max_output_tokens, 100);
}

#[test]
fn everything_beside_the_body() {
    let with = |change: fn(&mut Request)| {
        let mut request = with_body(GOOD);
        change(&mut request);
        request
    };
    let key = Some("idempotency_key");
    refused(with(|r| r.idempotency_key = Some(String::new())), "invalid_idempotency_key", key, 400);
    refused(with(|r| r.idempotency_key = Some("k".repeat(256))), "invalid_idempotency_key", key, 400);
    refused(with(|r| r.request_id = Some("req_1".to_owned())), "invalid_request_id", Some("request_id"), 400);
    refused(
        with(|r| r.request_id = Some(RequestId::fresh("open").into_string())),
        "invalid_request_id",
        Some("request_id"),
        400,
    );
    refused(with(|r| r.operation = "images".to_owned()), "unsupported_operation", Some("operation"), 400);
    refused(with(|r| r.user = Some("nobody".to_owned())), "unknown_user", Some("user"), 400);
    refused(with(|r| r.user = Some(String::new())), "invalid_user", Some("user"), 400);
    refused(with(|r| r.user = Some("u".repeat(129))), "invalid_user", Some("user"), 400);
    refused(
        with(|r| r.reply_topic = Some("outcomes.batch".to_owned())),
        "reply_topic_not_allowed",
        Some("reply_topic"),
        400,
    );
    let labels = Some("labels");
    refused(
        with(|r| r.labels = (0..17).map(|i| (i.to_string(), String::new())).collect()),
        "invalid_labels",
        labels,
        400,
    );
    refused(with(|r| r.labels = [("n".repeat(65), String::new())].into()), "invalid_labels", labels, 400);
    refused(with(|r| r.labels = [(String::new(), String::new())].into()), "invalid_labels", labels, 400);
    refused(with(|r| r.labels = [("a".to_owned(), "v".repeat(257))].into()), "invalid_labels", labels, 400);
    let deadline = Some("deadline");
    refused(with(|r| r.deadline = Some(i64::MAX)), "deadline_too_late", deadline, 400);
    let past = refused(with(|r| r.deadline = Some(i64::MIN)), "deadline_exceeded", deadline, 400);
    assert_eq!((past.ended.status, past.dead_letter), (EndedStatus::Expired, true));
    let waited = refused(
        with(|r| {
            r.received_at = Some(NOW - 60_000_000);
            r.deadline = Some(NOW / 1000);
        }),
        "deadline_exceeded",
        None,
        504,
    );
    assert_eq!((waited.ended.status, waited.dead_letter), (EndedStatus::Expired, false));
}

#[test]
fn the_extension() {
    let check =
        |member: &str, code: &str, param: &str| check(&plus(&format!("\"millrace\":{member}")), code, Some(param));
    check("7", "invalid_type", "millrace");
    let rejected = check(r#"{"colection":"a"}"#, "unknown_parameter", "millrace");
    assert!(rejected.ended.message.contains("did you mean 'collection'?"), "{}", rejected.ended.message);
    check(r#"{"something":1}"#, "unknown_parameter", "millrace");
    check(r#"{"collection":1}"#, "invalid_type", "millrace.collection");
    for bad in ["", "a b", "a/b", "é"] {
        check(&format!(r#"{{"collection":"{bad}"}}"#), "invalid_value", "millrace.collection");
    }
    check(r#"{"collection":"a","top_k":0}"#, "integer_below_min_value", "millrace.top_k");
    check(r#"{"collection":"a","top_k":21}"#, "integer_above_max_value", "millrace.top_k");
    check(r#"{"top_k":2}"#, "missing_required_parameter", "millrace.collection");
    check(r#"{"labels":[]}"#, "invalid_type", "millrace.labels");
    check(r#"{"labels":{"a":1}}"#, "invalid_type", "millrace.labels.a");
    let many: Vec<String> = (0..17).map(|i| format!("\"l{i}\":\"\"")).collect();
    check(&format!("{{\"labels\":{{{}}}}}", many.join(",")), "invalid_labels", "labels");
    let body = messages(r#"[{"role":"system","content":"x"}]"#).replace("]}", r#"],"millrace":{"collection":"a"}}"#);
    refused(with_body(&body), "invalid_value", Some("messages"), 400);

    let mut request = with_body(&plus(r#""millrace":{"collection":"hand-book","labels":{"team":"b"}}"#));
    request.labels = [("team", "a"), ("run", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let admitted = verdict(request).unwrap();
    let expected = Retrieval { collection: "hand-book".to_owned(), top_k: 4, question: "How many hats?".to_owned() };
    assert_eq!(admitted.collection, Some(expected));
    let labels: BTreeMap<_, _> = [("team", "b"), ("run", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert_eq!(admitted.meta.labels, labels);
    assert_eq!(admitted.body.to_bytes(), GOOD.as_bytes(), "our own member is gone, the rest is untouched");
    assert!(admitted.prompt_tokens < 20, "counted: {}", admitted.prompt_tokens);
    assert_eq!(admitted.prompt_limit, 900);
}

#[test]
fn an_installation_without_documents_says_so() {
    let admission = Admission::from_config(&Config { vectors: Config::default().vectors, ..config() }).unwrap();
    let arrival = Arrival { lane: Lane::Batch, at: None, timestamp: None, now: NOW, run: 0 };
    let request = with_body(&plus(r#""millrace":{"collection":"a"}"#));
    let rejected = admission.admit(&acme(), request, &arrival).unwrap_err();
    assert_eq!(rejected.ended.code, "unsupported_parameter");
}

#[test]
fn what_is_admitted_is_complete() {
    let request = Request {
        user: Some("web".to_owned()),
        reply_topic: Some("acme.outcomes".to_owned()),
        reply_replica: Some("ingress-0".to_owned()),
        received_at: Some(NOW + 5_000_000),
        ..with_body(GOOD)
    };
    let admitted = verdict(request).unwrap();
    let meta = &admitted.meta;
    assert_eq!(meta.request_id, RequestId::of_coordinates("acme", &place()).into_string());
    assert_eq!((meta.user.as_str(), meta.key_id.as_deref()), ("web", Some("k1")));
    assert_eq!((meta.lane, meta.operation.as_str(), meta.run), (Lane::Batch, "chat.completions", 0));
    assert_eq!(meta.received_at, NOW, "a producer's clock that is ahead does not buy time");
    assert_eq!(meta.deadline, NOW / 1000 + 24 * 3_600_000);
    assert_eq!(
        (meta.reply_topic.as_deref(), meta.reply_replica.as_deref()),
        (Some("acme.outcomes"), Some("ingress-0"))
    );
    assert_eq!((admitted.model.as_str(), admitted.rule_set.as_str(), admitted.choices), ("small", "strict", 1));
    assert_eq!(admitted.body.to_bytes(), GOOD.as_bytes());

    let other = Principal { tenant: "open".to_owned(), user: None, key_id: None, admin: false, token: None };
    let admission = Admission::from_config(&config()).unwrap();
    let arrival = Arrival { lane: Lane::Interactive, at: None, timestamp: None, now: NOW, run: 0 };
    let request = Request { user: Some("any name".to_owned()), ..with_body(&GOOD.replace("small", "secret")) };
    let admitted = admission.admit(&other, request, &arrival).unwrap();
    assert_eq!((admitted.meta.user.as_str(), admitted.rule_set.as_str()), ("any name", "default"));
    assert_eq!(admitted.meta.deadline, NOW / 1000 + 600_000);
    let admitted = admission.admit(&other, with_body(&GOOD.replace("small", "secret")), &arrival).unwrap();
    assert_eq!(admitted.meta.user, "default");
}

#[test]
fn ids_come_from_the_key_then_the_door_then_the_place() {
    let id = |key: Option<&str>, given: Option<String>| {
        let request = Request { idempotency_key: key.map(str::to_owned), request_id: given, ..with_body(GOOD) };
        verdict(request).unwrap().meta.request_id
    };
    let given = RequestId::fresh("acme").into_string();
    assert_eq!(id(Some("k"), Some(given.clone())), RequestId::of_key("acme", "k").into_string());
    assert_eq!(id(None, Some(given.clone())), given);
    // A refusal of the body keeps the id that was given out: somebody waits on it.
    let request = Request { request_id: Some(given.clone()), ..with_body("{}") };
    assert_eq!(verdict(request).unwrap_err().meta.request_id, given);
}

#[test]
fn a_key_used_for_another_body_ends_under_its_own_id() {
    let admission = Admission::from_config(&config()).unwrap();
    let place = place();
    let arrival = Arrival { lane: Lane::Batch, at: Some(&place), timestamp: None, now: NOW, run: 0 };
    let request = Request { idempotency_key: Some("k".to_owned()), ..with_body(GOOD) };
    let admitted = admission.admit(&acme(), request, &arrival).unwrap();
    let reused = |given: Option<&str>| admission.key_reused(&admitted.meta, given, "small", "strict", &arrival);
    let given = RequestId::fresh("acme").into_string();
    assert_eq!(reused(Some(&given)).meta.request_id, given, "somebody waits on it");
    assert_ne!(reused(Some(&admitted.meta.request_id)).meta.request_id, admitted.meta.request_id);
    let rejected = reused(None);
    assert_eq!(rejected.meta.request_id, RequestId::of_coordinates("acme", &place).into_string());
    assert_ne!(rejected.meta.request_id, admitted.meta.request_id);
    assert_eq!((rejected.ended.code.as_str(), rejected.ended.http_status), ("idempotency_key_reused", 422));
}

#[test]
fn a_json_record_is_judged_like_a_request() {
    let headers =
        [("content-type", "application/json"), ("idempotency-key", "k"), ("user", "web"), ("label-team", "a")]
            .map(|(name, value)| (name.to_owned(), Some(value.as_bytes().to_vec())));
    let (request, refusal) = record::read(&headers, GOOD.as_bytes()).unwrap();
    assert_eq!(refusal, None);
    let meta = verdict(request).unwrap().meta;
    assert_eq!((meta.user.as_str(), meta.labels["team"].as_str()), ("web", "a"));
    assert_eq!(meta.request_id, RequestId::of_key("acme", "k").into_string());
}

fn embed(body: &str) -> Request {
    Request { operation: "embeddings".to_owned(), ..with_body(body) }
}

#[test]
fn embeddings_are_judged_by_what_they_embed() {
    let check = |body: &str, code: &str, param: &str| drop(refused(embed(body), code, Some(param), 400));
    check(r#"{"model":"embed"}"#, "missing_required_parameter", "input");
    check(r#"{"model":"embed","inputs":"a"}"#, "missing_required_parameter", "input");
    refused(embed(r#"{"model":"small","input":"a"}"#), "model_not_supported", Some("model"), 404);
    check(r#"{"model":"embed","input":"a","input":"b"}"#, "duplicate_parameter", "input");
    for wrong in
        ["null", "7", "true", "{}", "[[]]", "[1.5]", "[-1]", "[1,\"a\"]", "[\"a\",1]", "[[1],\"\"]", "\"\"", "[]"]
    {
        let rejected = verdict(embed(&format!(r#"{{"model":"embed","input":{wrong}}}"#))).expect_err(wrong);
        assert_eq!(rejected.ended.param.as_deref(), Some("input"), "{wrong}: {:?}", rejected.ended);
    }
    check(r#"{"model":"embed","input":"a","encoding_format":"hex"}"#, "invalid_value", "encoding_format");
    check(r#"{"model":"embed","input":"a","dimensions":0}"#, "integer_below_min_value", "dimensions");
    check(
        r#"{"model":"embed","input":"a","millrace":{"collection":"c"}}"#,
        "unsupported_parameter",
        "millrace.collection",
    );
    let long = "word ".repeat(3_500);
    check(&format!(r#"{{"model":"embed","input":"{long}"}}"#), "context_length_exceeded", "input");
    refused(with_body(r#"{"model":"embed","input":"a"}"#), "model_not_supported", Some("model"), 404);
}

#[test]
fn an_answer_has_room_for_so_many_vectors() {
    let body = |count: usize, more: &str| {
        let inputs = vec!["[1]"; count].join(",");
        format!(r#"{{"model":"embed","input":[{inputs}]{more}}}"#)
    };
    let most = |more: &str| (1..=2_049).take_while(|count| verdict(embed(&body(*count, more))).is_ok()).last();
    assert_eq!(most(""), Some(2_048), "vectors of 8 numbers are small");
    assert_eq!(most(r#","dimensions":1536"#), Some(19));
    assert_eq!(most(r#","dimensions":1536,"encoding_format":"base64""#), Some(86));
    let rejected = refused(embed(&body(20, r#","dimensions":1536"#)), "too_many_inputs", Some("input"), 400);
    assert!(
        rejected.ended.message.contains("at most 19 at a time, or more of them with"),
        "{}",
        rejected.ended.message
    );
}

#[test]
fn embeddings_are_forwarded_as_they_came() {
    let body =
        r#"{ "model":"embed", "input" : ["caf\u00e9", "b"],"millrace":{"labels":{"team":"a"}},"next_month":1e2}"#;
    let admitted = verdict(embed(body)).unwrap();
    let forwarded = r#"{"model":"embed","input":["caf\u00e9", "b"],"next_month":1e2}"#;
    assert_eq!(admitted.body.to_bytes(), forwarded.as_bytes());
    assert_eq!((admitted.meta.operation.as_str(), admitted.meta.labels["team"].as_str()), ("embeddings", "a"));
    assert_eq!((admitted.prompt_tokens, admitted.max_output_tokens, admitted.stream), (14, 0, None));
}
