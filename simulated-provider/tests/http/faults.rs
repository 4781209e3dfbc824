use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

async fn always(fault: Value) -> Provider {
    Provider::faulty(json!([{"then": fault}])).await
}

fn streamed(prompt: &str) -> Value {
    ask_with(prompt, json!({"stream": true, "stream_options": {"include_usage": true}}))
}

/// Calls, billed calls.
async fn counted(provider: &Provider) -> (u64, u64) {
    let count = provider.count().await;
    (count.calls, count.billed_calls)
}

#[tokio::test]
async fn rate_limited() {
    let fault = json!({"kind": "rate_limited", "retry_after_ms": 1500, "headers": {"x-ratelimit-reset-tokens": "9s"}});
    let provider = always(fault).await;
    let response = provider.chat(&ask("hello")).await;
    assert_eq!(response.status(), 429);
    let headers = response.headers().clone();
    for (name, value) in [
        ("retry-after", "2"),
        ("retry-after-ms", "1500"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "1500ms"),
        ("x-ratelimit-reset-tokens", "9s"),
        ("x-ratelimit-limit-requests", "10000"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "rate_limit_exceeded");
    assert_eq!(counted(&provider).await, (0, 0));
    assert_eq!(provider.count().await.by_status["429"], 1);
}

#[tokio::test]
async fn errors_in_openais_shape() {
    for (fault, status, code, calls) in [
        (json!({"kind": "insufficient_quota"}), 429, json!("insufficient_quota"), 0),
        (json!({"kind": "server_error", "status": 503}), 503, json!(null), 1),
        (json!({"kind": "context_length_exceeded"}), 400, json!("context_length_exceeded"), 0),
        (json!({"kind": "content_filter", "reject": true}), 400, json!("content_filter"), 0),
    ] {
        let provider = always(fault.clone()).await;
        let response = provider.chat(&streamed("hello")).await;
        assert_eq!(response.status(), status, "{fault}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"], code, "{body}");
        for key in ["message", "type", "param"] {
            assert!(body["error"].as_object().unwrap().contains_key(key), "{body}");
        }
        assert_eq!(counted(&provider).await, (calls, 0), "{fault}");
    }
}

#[tokio::test]
async fn a_hang_outlasts_an_impatient_client_and_is_charged() {
    let provider = always(json!({"kind": "hang", "ms": 400})).await;
    let url = provider.at("/v1/chat/completions");
    let impatient = provider.client.post(url).timeout(Duration::from_millis(100)).json(&ask("hello")).send().await;
    assert!(impatient.unwrap_err().is_timeout());
    assert_eq!(counted(&provider).await, (1, 1));
    let began = Instant::now();
    assert_eq!(provider.chat(&ask("hello")).await.status(), 200);
    assert!(began.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_hang() {
    let provider = always(json!({"kind": "hang", "ms": 60_000})).await;
    let request = tokio::spawn(provider.client.post(provider.at("/v1/chat/completions")).json(&ask("hello")).send());
    while provider.server.count().billed_calls == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let began = Instant::now();
    provider.server.shutdown().await.unwrap();
    assert!(request.await.unwrap().is_err());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_cut_body_ends_in_the_middle() {
    let provider = always(json!({"kind": "cut"})).await;
    let mut response = provider.chat(&ask("hello")).await;
    assert_eq!(response.status(), 200);
    let promised = response.content_length().unwrap();
    let mut received = 0;
    let error = loop {
        match response.chunk().await {
            Ok(Some(bytes)) => received += bytes.len() as u64,
            Ok(None) => panic!("the body ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(received, promised / 2, "{error}");
    assert_eq!(counted(&provider).await, (1, 1));
}

#[tokio::test]
async fn a_cut_stream_ends_between_chunks_without_done() {
    let provider = always(json!({"kind": "cut"})).await;
    let mut response = provider.chat(&streamed("hello")).await;
    let mut body = Vec::new();
    let error = loop {
        match response.chunk().await {
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Ok(None) => panic!("the stream ended as if it were whole: {}", String::from_utf8_lossy(&body)),
            Err(error) => break error,
        }
    };
    let body = String::from_utf8(body).unwrap();
    assert!(body.matches("data: ").count() > 5 && !body.contains("[DONE]"), "{error} {body}");
    assert_eq!(counted(&provider).await, (1, 1));
    assert_eq!(provider.count().await.in_flight, 0);
}

#[tokio::test]
async fn malformed_json_is_a_whole_answer_that_does_not_parse() {
    let provider = always(json!({"kind": "malformed_json"})).await;
    let body = provider.chat(&ask("hello")).await.text().await.unwrap();
    assert!(serde_json::from_str::<Value>(&body).is_err(), "{body}");
    let body = provider.chat(&streamed("hello")).await.text().await.unwrap();
    let broken = body
        .split_terminator("\n\n")
        .filter(|event| serde_json::from_str::<Value>(event.strip_prefix("data: ").unwrap()).is_err())
        .count();
    assert_eq!(broken, 2, "one broken chunk and [DONE]: {body}");
    assert_eq!(counted(&provider).await, (2, 2));
}

#[tokio::test]
async fn usage_can_be_missing_or_wrong_while_the_counters_stay_right() {
    let truth = Provider::fast().await.chat_json(&ask("hello there")).await["usage"].clone();
    let tokens = |usage: &Value, name: &str| usage[name].as_u64().unwrap();

    let provider = always(json!({"kind": "usage_missing"})).await;
    let answer = provider.chat_json(&ask("hello there")).await;
    assert!(!answer.as_object().unwrap().contains_key("usage"), "{answer}");
    let chunks = crate::streams::chunks(&provider.chat(&streamed("hello there")).await.text().await.unwrap());
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null()));
    assert_eq!(provider.count().await.tokens_total, 2 * tokens(&truth, "total_tokens"));

    let provider = always(json!({"kind": "wrong_usage", "factor": 3.0})).await;
    let usage = provider.chat_json(&ask("hello there")).await["usage"].clone();
    for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(tokens(&usage, name), 3 * tokens(&truth, name), "{name}");
    }
    assert_eq!(provider.count().await.completion_tokens, tokens(&truth, "completion_tokens"));
}

#[tokio::test]
async fn a_reset_connection_answers_nothing() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let provider = always(json!({"kind": "connection_reset"})).await;
    assert!(provider.try_chat(&ask("hello")).await.unwrap_err().is_request());
    assert_eq!(counted(&provider).await, (1, 0));
    assert_eq!(provider.count().await.by_status["reset"], 1);

    let body = ask("hello").to_string();
    let mut socket = tokio::net::TcpStream::connect(provider.server.addr()).await.unwrap();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    let error = socket.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_content_filter_stops_the_answer_half_way() {
    let whole = Provider::fast().await.chat_json(&ask("hello there")).await;
    let provider = always(json!({"kind": "content_filter"})).await;
    let answer = provider.chat_json(&ask("hello there")).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "content_filter");
    assert_eq!(tiktoken(text(&answer)), whole["usage"]["completion_tokens"].as_u64().unwrap() / 2);
    assert_eq!(answer["usage"]["completion_tokens"], tiktoken(text(&answer)));
}

#[tokio::test]
async fn a_script_is_replaced_and_restarted_at_run_time() {
    let provider = Provider::fast().await;
    let status = async || provider.chat(&ask("hello")).await.status().as_u16();
    assert_eq!(status().await, 200);
    let script = json!([{"when": {"first": 2}, "then": {"kind": "server_error", "status": 500}}]);
    assert_eq!(provider.put("/faults", &script).await, (200, json!({"rules": 1})));
    assert_eq!([status().await, status().await, status().await], [500, 500, 200]);
    let shown: Value = provider.client.get(provider.at("/faults")).send().await.unwrap().json().await.unwrap();
    assert_eq!(shown, script);
    assert_eq!(provider.client.post(provider.at("/reset")).send().await.unwrap().status(), 204);
    assert_eq!([status().await, status().await, status().await], [500, 500, 200]);
    assert_eq!(provider.count().await.requests, 3);

    for wrong in [
        json!([{"when": {"frist": 2}, "then": {"kind": "cut"}}]),
        json!([{"then": {"kind": "explode"}}]),
        json!([{"when": {"every": 0}, "then": {"kind": "cut"}}]),
        json!({"then": {"kind": "cut"}}),
    ] {
        let (status, error) = provider.put("/faults", &wrong).await;
        assert_eq!(status, 400, "{wrong}");
        assert!(error["error"]["message"].is_string(), "{error}");
    }
    assert_eq!(provider.put("/faults", &json!([])).await, (200, json!({"rules": 0})));
    assert_eq!(status().await, 200);
}

#[tokio::test]
async fn a_retry_gets_through_where_only_first_attempts_fail() {
    let when = json!({"first_attempts": 1});
    let provider =
        Provider::faulty(json!([{"when": when, "then": {"kind": "rate_limited", "retry_after_ms": 1}}])).await;
    for prompt in ["one", "two"] {
        assert_eq!(provider.chat(&ask(prompt)).await.status(), 429);
        assert_eq!(provider.chat(&ask(prompt)).await.status(), 200);
    }
}
