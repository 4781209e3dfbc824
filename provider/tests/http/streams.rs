//! Streamed calls.

use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use millrace_provider::{Answer, CallError, Target};
use millrace_schemas::Operation;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::{simulated, target};

/// A server that answers every call with this.
async fn saying(kind: &'static str, body: &'static str) -> Target {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let answer = move || async move { ([(CONTENT_TYPE, kind)], body) };
    let router = Router::new().route("/v1/chat/completions", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    target(&url)
}

async fn streamed(target: &Target) -> (Result<Answer, CallError>, Vec<String>) {
    let body = json!({"model": "sim-small", "messages": [{"role": "user", "content": "hello there"}],
        "stream": true, "stream_options": {"include_usage": true}});
    let body = RawValue::from_string(body.to_string()).unwrap();
    let mut seen = Vec::new();
    let see = |data: &str, _: &_| seen.push(data.to_owned());
    let answer =
        target.slot("interactive", "acme").await.chat_streamed(&body, "call_1", Duration::from_millis(700), see).await;
    (answer, seen)
}

#[tokio::test]
async fn chunks_are_seen_as_they_are_and_add_up_to_the_answer_in_one_piece() {
    let server = simulated(json!([])).await;
    let (answer, seen) = streamed(&target(&server.url())).await;
    let answer = answer.unwrap();
    let whole: Value = serde_json::from_slice(&answer.body).unwrap();
    let plain = json!({"model": "sim-small", "messages": [{"role": "user", "content": "hello there"}]});
    let plain = RawValue::from_string(plain.to_string()).unwrap();
    let plain = target(&server.url())
        .slot("interactive", "acme")
        .await
        .ask(Operation::Chat, &plain, "call_2", Duration::from_secs(5))
        .await
        .unwrap();
    let plain: Value = serde_json::from_slice(&plain.body).unwrap();
    assert_eq!(whole["choices"][0]["message"]["content"], plain["choices"][0]["message"]["content"]);
    assert_eq!((&whole["usage"], &whole["object"]), (&plain["usage"], &plain["object"]));
    assert_eq!(whole["usage"]["completion_tokens"], answer.usage.unwrap().output_tokens);
    assert!(seen.len() > 3 && seen.iter().all(|data| serde_json::from_str::<Value>(data).is_ok()), "{seen:?}");
}

/// Every way to fail, one HTTP request each.
#[tokio::test]
async fn failures_are_told_apart_and_never_retried() {
    let check = async |fault: Value, expected: &str, sees: bool| {
        let server = simulated(json!([{ "then": fault }])).await;
        let (answer, seen) = streamed(&target(&server.url())).await;
        let error = answer.unwrap_err();
        assert!(format!("{error:?}").contains(expected), "{error:?}");
        assert_eq!(seen.is_empty(), !sees, "{fault}: {seen:?}");
        assert_eq!(server.count().requests, 1, "{error:?}");
    };
    check(json!({"kind": "rate_limited", "retry_after_ms": 1500}), "status: 429", false).await;
    check(json!({"kind": "server_error", "status": 503}), "status: 503", false).await;
    check(json!({"kind": "cut"}), "Lost", true).await;
    check(json!({"kind": "malformed_json"}), "not JSON at column", true).await;
    check(json!({"kind": "connection_reset"}), "Lost", false).await;
    check(json!({"kind": "hang", "ms": 5_000}), "Lost", false).await;
}

#[tokio::test]
async fn missing_usage_is_told() {
    let server = simulated(json!([{"then": {"kind": "usage_missing"}}])).await;
    let answer = streamed(&target(&server.url())).await.0.unwrap();
    assert_eq!(answer.usage, None);
}

#[tokio::test]
async fn what_other_servers_send() {
    const EVENTS: &str = "text/event-stream; charset=utf-8";
    let check = async |kind: &'static str, body: &'static str, expected: Result<&str, &str>| {
        let (answer, _) = streamed(&saying(kind, body).await).await;
        match (answer, expected) {
            (Ok(answer), Ok(text)) => {
                let whole: Value = serde_json::from_slice(&answer.body).unwrap();
                assert_eq!(whole["choices"][0]["message"]["content"], text, "{body}");
            }
            (Err(error), Err(why)) => assert!(format!("{error:?}").contains(why), "{error:?}: {body}"),
            (got, _) => panic!("{got:?}: {body}"),
        }
    };
    // In one piece, though a stream was asked for.
    let whole = r#"{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    check("application/json", whole, Ok("Hi")).await;
    check("application/json", "<html>", Err("not JSON")).await;
    // Without `[DONE]`, with comments, data in two lines, and other ends of lines.
    let bare = ": hello\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"H\"}}]}\r\n\r\n\
        data: {\"choices\":\ndata: [{\"delta\":{\"content\":\"i\"},\"finish_reason\":\"stop\"}]}\n\n";
    check(EVENTS, bare, Ok("Hi")).await;
    // Its own end and then silence, or an end without that of the answer.
    let cut = "data: {\"choices\":[{\"delta\":{\"content\":\"H\"}}]}\n\n";
    check(EVENTS, cut, Err("ended before the answer did")).await;
    check(EVENTS, "data: [DONE]\n\n", Err("ended before the answer did")).await;
    check(EVENTS, "", Err("ended before the answer did")).await;
    let failed = "data: {\"choices\":[{\"delta\":{\"content\":\"H\"}}]}\n\ndata: {\"error\":{\"message\":\"secret\",\"code\":\"overloaded\"}}\n\n";
    check(EVENTS, failed, Err("the error `overloaded`")).await;
}
