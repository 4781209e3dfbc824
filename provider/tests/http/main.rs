//! Calls over real HTTP: against the simulated provider, and against a server that answers
//! whatever it is told, for what no real provider says.

#![expect(clippy::unwrap_used, reason = "tests")]

mod keys;
mod replaced;
mod streams;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use millrace_config::{Config, ModelConfig, ProviderConfig, Secret};
use millrace_provider::{Answer, CallError, Providers, Refusal, Target, Usage};
use millrace_schemas::Operation;
use millrace_simulated_provider::{Latency, Server, SimulatedProviderConfig};
use serde_json::value::RawValue;
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(10);

fn targets(base_url: &str, adapt: impl FnOnce(&mut ProviderConfig)) -> Providers {
    let mut provider = ProviderConfig::new(base_url);
    adapt(&mut provider);
    let mut config = Config::default();
    config.providers.insert("sim".to_owned(), provider);
    let mut small = ModelConfig::chat("sim", 8_000);
    small.upstream = Some("sim-small".to_owned());
    small.fallbacks = vec!["large".to_owned()];
    config.models.insert("small".to_owned(), small);
    let mut large = ModelConfig::chat("sim", 8_000);
    large.upstream = Some("sim-large".to_owned());
    config.models.insert("large".to_owned(), large);
    config.models.insert("sim-embed".to_owned(), ModelConfig::embedding("sim", 8_000, 384));
    Providers::new(&config).unwrap()
}

fn target(base_url: &str) -> Target {
    targets(base_url, |_| ()).target("small").unwrap().clone()
}

async fn simulated(faults: Value) -> Server {
    let config = SimulatedProviderConfig {
        latency: Latency::Constant { ms: 0.0 },
        faults: serde_json::from_value(faults).unwrap(),
        ..SimulatedProviderConfig::default()
    };
    Server::start(config, SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap()
}

async fn chat(target: &Target, body: &str, timeout: Duration) -> Result<Answer, CallError> {
    let body = RawValue::from_string(body.to_owned()).unwrap();
    target.slot("interactive", "acme").await.ask(Operation::Chat, &body, "call_1", timeout).await
}

fn ask() -> String {
    json!({"model": "sim-small", "messages": [{"role": "user", "content": "hello there"}]}).to_string()
}

#[tokio::test]
async fn an_answer_comes_with_its_usage_and_the_provider_sees_our_call_id() {
    let server = simulated(json!([])).await;
    let answer = chat(&target(&server.url()), &ask(), LONG).await.unwrap();
    let json: Value = serde_json::from_slice(&answer.body).unwrap();
    let usage = answer.usage.unwrap();
    assert_eq!(json["usage"]["prompt_tokens"], usage.input_tokens);
    assert_eq!(json["usage"]["completion_tokens"], usage.output_tokens);
    assert!(usage.input_tokens > 0 && usage.output_tokens > 0 && !usage.estimated);
    assert_eq!(millrace_provider::tokens::written(&answer.body), usage.output_tokens);
    assert_eq!(millrace_provider::tokens::asked(Operation::Chat, ask().as_bytes()), usage.input_tokens);

    let calls = reqwest::get(format!("http://{}/calls", server.addr())).await.unwrap().text().await.unwrap();
    assert!(calls.contains(r#""client_request_id":"call_1""#), "{calls}");
}

/// Every way to fail, one HTTP request each.
#[tokio::test]
async fn failures_are_told_apart_and_never_retried() {
    let refused = |status: u16, code: Option<&'static str>, wait_ms: Option<u64>, retryable: bool| {
        move |error: &CallError| match error {
            CallError::Answered(refusal) => {
                assert_eq!(
                    (refusal.status, refusal.code.as_deref(), refusal.retry_after, refusal.retryable),
                    (status, code, wait_ms.map(Duration::from_millis), retryable)
                );
                assert!(!refusal.message.is_empty());
            }
            CallError::NotSent(_) | CallError::Lost(_) => panic!("{error:?}"),
        }
    };
    let lost = |what: &'static str| {
        move |error: &CallError| match error {
            CallError::Lost(reason) => assert!(reason.contains(what), "{reason}"),
            CallError::NotSent(_) | CallError::Answered(_) => panic!("{error:?}"),
        }
    };
    let check = async |fault: Value, expected: &dyn Fn(&CallError)| {
        let server = simulated(json!([{ "then": fault }])).await;
        let error = chat(&target(&server.url()), &ask(), Duration::from_millis(700)).await.unwrap_err();
        expected(&error);
        // async-openai's own retries wait for half a second at first.
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(server.count().requests, 1, "{error:?}");
    };
    check(
        json!({"kind": "rate_limited", "retry_after_ms": 1500}),
        &refused(429, Some("rate_limit_exceeded"), Some(1_500), true),
    )
    .await;
    check(json!({"kind": "insufficient_quota"}), &refused(429, Some("insufficient_quota"), None, false)).await;
    check(json!({"kind": "server_error", "status": 500}), &refused(500, None, None, true)).await;
    check(json!({"kind": "server_error", "status": 503}), &refused(503, None, None, true)).await;
    check(json!({"kind": "context_length_exceeded"}), &refused(400, Some("context_length_exceeded"), None, false))
        .await;
    check(json!({"kind": "cut"}), &lost("")).await;
    check(json!({"kind": "connection_reset"}), &lost("")).await;
    check(json!({"kind": "malformed_json"}), &lost("not JSON")).await;
    check(json!({"kind": "hang", "ms": 5_000}), &lost("in time")).await;
}

#[tokio::test]
async fn missing_usage_is_told() {
    let server = simulated(json!([{"then": {"kind": "usage_missing"}}])).await;
    let answer = chat(&target(&server.url()), &ask(), LONG).await.unwrap();
    assert_eq!(answer.usage, None);
    let usage = target_of_embeddings(&server)
        .slot("interactive", "acme")
        .await
        .embed(&["hello world".to_owned()], "call_2")
        .await
        .unwrap()
        .usage;
    assert_eq!(usage, Usage { input_tokens: 2, estimated: true, ..Usage::default() });
}

fn target_of_embeddings(server: &Server) -> Target {
    targets(&server.url(), |_| ()).target("sim-embed").unwrap().clone()
}

#[tokio::test]
async fn nobody_listening_is_not_sent() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    for url in [url.as_str(), "http://no-such-host.invalid/v1"] {
        let error = chat(&target(url), &ask(), LONG).await.unwrap_err();
        assert!(matches!(error, CallError::NotSent(_)), "{error:?}");
    }
}

#[tokio::test]
async fn vectors_come_in_the_order_of_the_inputs() {
    let server = simulated(json!([])).await;
    let target = target_of_embeddings(&server);
    let inputs = ["the sky is blue".to_owned(), "money".to_owned(), "the sky is blue".to_owned()];
    let embeddings = target.slot("interactive", "acme").await.embed(&inputs, "call_2").await.unwrap();
    assert_eq!(embeddings.vectors.iter().map(Vec::len).collect::<Vec<_>>(), [384, 384, 384]);
    assert_eq!(embeddings.vectors[0], embeddings.vectors[2]);
    assert_ne!(embeddings.vectors[0], embeddings.vectors[1]);
    assert_eq!(embeddings.usage.input_tokens, 4 + 1 + 4);
    assert_eq!(server.count().requests, 1);
}

#[tokio::test]
async fn calls_in_flight_are_limited_per_provider() {
    let server = simulated(json!([{"then": {"kind": "hang", "ms": 60}}])).await;
    let providers = targets(&server.url(), |provider| provider.max_concurrency = 2);
    let calls: Vec<_> = (0..6)
        .map(|number| providers.target(if number % 2 == 0 { "small" } else { "large" }).unwrap().clone())
        .map(|target| {
            let body = ask().replace("sim-small", &target.model);
            tokio::spawn(async move { chat(&target, &body, LONG).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!((server.count().requests, server.count().max_in_flight), (6, 2));
}

/// A server that keeps what it was sent and answers what it was told.
#[derive(Clone)]
struct Scripted {
    seen: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    answer: Arc<dyn Fn() -> Response + Send + Sync>,
}

async fn scripted(answer: impl Fn() -> Response + Send + Sync + 'static) -> (Scripted, String) {
    async fn serve(State(scripted): State<Scripted>, headers: HeaderMap, body: Bytes) -> Response {
        scripted.seen.lock().unwrap().push((headers, body));
        (scripted.answer)()
    }
    let state = Scripted { seen: Arc::default(), answer: Arc::new(answer) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let app = Router::new().fallback(serve).with_state(state.clone());
    tokio::spawn(axum::serve(listener, app).into_future());
    (state, url)
}

#[tokio::test]
async fn unknown_fields_and_odd_json_survive_both_ways_byte_for_byte() {
    let question = "{\"model\":\"sim-small\",\"messages\" : [ {\"role\":\"user\",\"content\":\"\\u00e9\\ud83d\\ude00 \\/\"} ],\
        \"temperature\":1.10,\"seed\":1e2,\"next_month\":{ \"b\":1,\"a\":[ 12345678901234567890123 ] } }";
    let answer = "{\"choices\": [ {\"message\":{\"content\":\"\\u00e9\\/\",\"new\":-0.0}} ], \"usage\":{\"prompt_tokens\":5,\
        \"completion_tokens\":2},\"next_month\" : 1.50e+3, \"next_month\":9007199254740993 }";
    let (server, url) = scripted(move || answer.into_response()).await;
    let got = chat(&target(&url), question, LONG).await.unwrap();
    assert_eq!(String::from_utf8(got.body).unwrap(), answer);
    assert_eq!(got.usage.map(|u| (u.input_tokens, u.output_tokens)), Some((5, 2)));

    let seen = server.seen.lock().unwrap();
    let (headers, body) = &seen[0];
    assert_eq!(std::str::from_utf8(body).unwrap(), question);
    assert_eq!(headers["x-client-request-id"], "call_1");
    assert_eq!(headers["content-type"], "application/json");
    assert!(!headers.contains_key("authorization"), "there is no key to send");
}

#[tokio::test]
async fn the_key_is_sent_and_shown_nowhere() {
    let (server, url) = scripted(|| (StatusCode::UNAUTHORIZED, r#"{"error":{"message":"no"}}"#).into_response()).await;
    let providers = targets(&url, |provider| provider.api_key = Some(Secret::from("sk-very-secret")));
    let error = chat(providers.target("small").unwrap(), &ask(), LONG).await.unwrap_err();
    assert_eq!(server.seen.lock().unwrap()[0].0["authorization"], "Bearer sk-very-secret");
    assert!(!format!("{error} {error:?}").contains("secret"));

    let mut config = Config::default();
    let mut provider = ProviderConfig::new(url);
    provider.api_key = Some(Secret::from("sk-very-secret\n"));
    config.providers.insert("sim".to_owned(), provider);
    let refused = Providers::new(&config).err().unwrap().to_string();
    assert!(refused.contains("providers.sim.api_key") && !refused.contains("secret"), "{refused}");
}

#[tokio::test]
async fn what_is_neither_an_answer_nor_an_error_is_not_followed() {
    let redirect = || (StatusCode::TEMPORARY_REDIRECT, [("location", "/v1/elsewhere")]).into_response();
    let (server, url) = scripted(redirect).await;
    let error = chat(&target(&url), &ask(), LONG).await.unwrap_err();
    assert!(matches!(&error, CallError::Answered(Refusal { status: 307, retryable: false, .. })), "{error:?}");
    assert_eq!(server.seen.lock().unwrap().len(), 1);

    let (_server, url) = scripted(|| StatusCode::NO_CONTENT.into_response()).await;
    let error = chat(&target(&url), &ask(), LONG).await.unwrap_err();
    assert!(matches!(&error, CallError::Lost(reason) if reason.contains("204")), "{error:?}");
}

#[tokio::test]
async fn an_endless_answer_is_given_up() {
    let (_server, url) = scripted(|| vec![b' '; 40 << 20].into_response()).await;
    let error = chat(&target(&url), &ask(), LONG).await.unwrap_err();
    assert!(matches!(&error, CallError::Lost(reason) if reason.contains("longer than 32 MiB")), "{error:?}");

    let (_server, url) = scripted(|| (StatusCode::INTERNAL_SERVER_ERROR, vec![b'x'; 1 << 20]).into_response()).await;
    let error = chat(&target(&url), &ask(), LONG).await.unwrap_err();
    assert!(matches!(&error, CallError::Answered(Refusal { status: 500, retryable: true, .. })), "{error:?}");
}

#[tokio::test]
async fn a_slot_that_was_given_up_is_free_again() {
    let providers = targets("http://127.0.0.1:9/v1", |provider| provider.max_concurrency = 1);
    let target = providers.target("small").unwrap();
    let held = target.slot("interactive", "acme").await;
    assert!(tokio::time::timeout(Duration::from_millis(20), target.slot("interactive", "acme")).await.is_err());
    drop(held);
    let began = Instant::now();
    drop(target.slot("interactive", "acme").await);
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_route_is_the_model_and_then_its_fallbacks() {
    let providers = targets("http://127.0.0.1:9/v1", |_| ());
    let route = |alias: &str| providers.route(alias).iter().map(|t| t.model.clone()).collect::<Vec<_>>();
    assert_eq!(route("small"), ["sim-small", "sim-large"]);
    assert_eq!(route("large"), ["sim-large"]);
    assert_eq!(route("unknown"), [""; 0]);
    assert!(providers.target("unknown").is_none());
}
