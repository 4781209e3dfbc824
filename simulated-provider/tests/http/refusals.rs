use serde_json::json;

use super::*;

#[tokio::test]
async fn wrong_requests_are_refused_in_openais_words_and_shape() {
    let provider = Provider::fast().await;
    let message = json!([{"role": "user", "content": "hi"}]);
    for (body, status, param, code) in [
        (json!([1]), 400, json!(null), json!(null)),
        (json!({"messages": message}), 400, json!(null), json!(null)),
        (json!({"model": 5, "messages": message}), 400, json!("model"), json!("invalid_type")),
        (json!({"model": "gpt-9", "messages": message}), 404, json!(null), json!("model_not_found")),
        (json!({"model": "sim-embed", "messages": message}), 404, json!("model"), json!(null)),
        (json!({"model": "sim-small"}), 400, json!("messages"), json!("missing_required_parameter")),
        (
            json!({"model": "sim-small", "mesages": message}),
            400,
            json!("messages"),
            json!("missing_required_parameter"),
        ),
        (json!({"model": "sim-small", "messages": "hi"}), 400, json!("messages"), json!("invalid_type")),
        (json!({"model": "sim-small", "messages": []}), 400, json!("messages"), json!("empty_array")),
        (json!({"model": "sim-small", "messages": ["hi"]}), 400, json!("messages[0]"), json!("invalid_type")),
        (
            json!({"model": "sim-small", "messages": [{"content": "hi"}]}),
            400,
            json!("messages[0].role"),
            json!("missing_required_parameter"),
        ),
        (
            json!({"model": "sim-small", "messages": [{"role": "robot", "content": "hi"}]}),
            400,
            json!("messages[0].role"),
            json!("invalid_value"),
        ),
        (
            json!({"model": "sim-small", "messages": [{"role": "user"}]}),
            400,
            json!("messages[0].content"),
            json!("missing_required_parameter"),
        ),
        (
            json!({"model": "sim-small", "messages": [{"role": "user", "content": 3}]}),
            400,
            json!("messages[0].content"),
            json!("invalid_type"),
        ),
        (
            json!({"model": "sim-small", "messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            400,
            json!("messages[0].content[0].text"),
            json!("missing_required_parameter"),
        ),
        (ask_with("hi", json!({"n": "two"})), 400, json!("n"), json!("invalid_type")),
        (ask_with("hi", json!({"n": 0})), 400, json!("n"), json!("integer_below_min_value")),
        (ask_with("hi", json!({"max_tokens": -1})), 400, json!("max_tokens"), json!("integer_below_min_value")),
        (ask_with("hi", json!({"temperature": 9})), 400, json!("temperature"), json!("invalid_value")),
        (ask_with("hi", json!({"stream": "yes"})), 400, json!("stream"), json!("invalid_type")),
        (ask_with("hi", json!({"tool_choice": "required"})), 400, json!("tool_choice"), json!(null)),
    ] {
        let (found, answer) = provider.post("/v1/chat/completions", body.to_string()).await;
        let error = answer["error"].as_object().unwrap();
        assert_eq!((found, &error["param"], &error["code"]), (status, &param, &code), "{body}: {answer}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().unwrap().len() > 5);
    }
    let count = provider.count().await;
    assert_eq!((count.requests, count.calls), (21, 0));
}

#[tokio::test]
async fn bytes_that_are_no_json_and_bodies_too_large() {
    let provider = Provider::start(SimulatedProviderConfig { max_body_bytes: 10_000, ..fast() }).await;
    for bytes in [&b"{\"model\": "[..], b"\xff\xfe", b""] {
        let (status, answer) = provider.post("/v1/chat/completions", bytes.to_vec()).await;
        assert_eq!(status, 400);
        assert!(answer["error"]["message"].as_str().unwrap().starts_with("We could not parse"), "{answer}");
    }
    let (status, answer) = provider.post("/v1/chat/completions", ask(&"x".repeat(20_000)).to_string()).await;
    assert_eq!(status, 413);
    assert!(answer["error"]["message"].as_str().unwrap().contains("10000 bytes"), "{answer}");
    assert_eq!(provider.post("/v1/chat/completions", ask("hi").to_string()).await.0, 200);
}

#[tokio::test]
async fn a_prompt_longer_than_the_context_is_refused() {
    let provider = Provider::start(SimulatedProviderConfig { context_tokens: 100, ..fast() }).await;
    let (status, answer) = provider.post("/v1/chat/completions", ask(&"word ".repeat(200)).to_string()).await;
    assert_eq!(status, 400);
    assert_eq!(answer["error"]["code"], "context_length_exceeded");
    let tight = provider.chat_json(&ask(&"word ".repeat(85))).await;
    assert!(tight["usage"]["total_tokens"].as_u64().unwrap() <= 100, "{tight}");
}

#[tokio::test]
async fn keys_are_asked_for_when_set() {
    let keys = Some(vec![millrace_simulated_provider::ApiKey::new("sk-right")]);
    let provider = Provider::start(SimulatedProviderConfig { api_keys: keys, ..fast() }).await;
    for (key, status, code) in [
        (None, 401, json!(null)),
        (Some("sk-wrong"), 401, json!("invalid_api_key")),
        (Some("sk-right"), 200, json!(null)),
    ] {
        for path in ["/v1/chat/completions", "/v1/models"] {
            let url = provider.at(path);
            let request = if path.ends_with("models") {
                provider.client.get(url)
            } else {
                provider.client.post(url).json(&ask("hi"))
            };
            let request = key.into_iter().fold(request, |request, key| request.bearer_auth(key));
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), status, "{key:?} {path}");
            assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], code);
        }
    }
    let health = provider.client.get(provider.at("/health")).send().await.unwrap();
    assert_eq!(health.status(), 200, "health needs no key");
}

#[tokio::test]
async fn other_addresses_and_methods_and_the_list_of_models() {
    let provider = Provider::fast().await;
    let (status, answer) = provider.post("/v1/nothing", "{}").await;
    assert_eq!((status, &answer["error"]["message"]), (404, &json!("Invalid URL (POST /v1/nothing)")));
    let response = provider.client.get(provider.at("/v1/chat/completions")).send().await.unwrap();
    assert_eq!(response.status(), 405);
    let models: Value = provider.client.get(provider.at("/v1/models")).send().await.unwrap().json().await.unwrap();
    let ids: Vec<&str> = models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["sim-small", "sim-large", "sim-embed"]);
}

#[tokio::test]
async fn an_impossible_start_is_one_clear_line() {
    let taken = Provider::fast().await;
    let error = Server::start(fast(), taken.server.addr()).await.unwrap_err().to_string();
    assert!(error.contains("cannot listen on") && !error.contains('\n'), "{error}");
    let config = SimulatedProviderConfig { completion_tokens: TokenRange { min: 5, max: 2 }, ..fast() };
    let error = Server::start(config, SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap_err().to_string();
    assert!(error.contains("completion_tokens"), "{error}");
}
