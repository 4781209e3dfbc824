use serde_json::json;

use super::*;

const PROMPT: &str = "Explain how glaciers carve valleys, for a school class.";

#[tokio::test]
async fn the_same_prompt_gives_the_same_answer_in_another_server_too() {
    let (one, other) = (Provider::fast().await, Provider::fast().await);
    let first = one.chat_json(&ask(PROMPT)).await;
    one.chat_json(&ask("something else in between")).await;
    let again = one.chat_json(&ask(PROMPT)).await;
    let elsewhere = other.chat_json(&ask(PROMPT)).await;
    assert_eq!(text(&first), text(&again));
    assert_eq!(text(&first), text(&elsewhere));
    assert_eq!(first["usage"], again["usage"]);
    assert_eq!(first["id"], elsewhere["id"]);
    assert_ne!(first["id"], again["id"], "a second attempt is another completion");
    assert!(text(&first).contains("glaciers"), "{first}");

    for different in [
        ask("Explain how rivers carve valleys, for a school class."),
        ask_with(PROMPT, json!({"model": "sim-large"})),
        ask_with(PROMPT, json!({"seed": 7})),
    ] {
        assert_ne!(text(&one.chat_json(&different).await), text(&first), "{different}");
    }
    let reseeded = Provider::start(SimulatedProviderConfig { seed: 1, ..fast() }).await;
    assert_ne!(text(&reseeded.chat_json(&ask(PROMPT)).await), text(&first));
}

#[tokio::test]
async fn usage_is_the_tokenizers_count() {
    let provider = Provider::fast().await;
    for prompt in ["hi", PROMPT, "Что такое ледник?", "日本の川について", "fn main() {\n    println!(\"x\");\n}\n"]
    {
        let answer = provider.chat_json(&ask(prompt)).await;
        let usage = &answer["usage"];
        // Three for the message, one for its role, its content, three that begin the answer.
        assert_eq!(usage["prompt_tokens"], 3 + 1 + tiktoken(prompt) + 3, "{prompt}");
        assert_eq!(usage["completion_tokens"], tiktoken(text(&answer)), "{answer}");
        let total = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
        assert_eq!(usage["total_tokens"], total);
        assert!((24..=96).contains(&usage["completion_tokens"].as_u64().unwrap()));
    }
}

#[tokio::test]
async fn an_answer_has_every_field_openai_documents() {
    let provider = Provider::fast().await;
    let answer = provider.chat_json(&ask_with(PROMPT, json!({"metadata": {"any": "thing"}, "next_year": [1]}))).await;
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "sim-small");
    assert_eq!(answer["service_tier"], "default");
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    assert!(answer["system_fingerprint"].as_str().unwrap().starts_with("fp_"));
    let choice = answer["choices"][0].as_object().unwrap();
    assert_eq!(choice["index"], 0);
    assert_eq!(choice["finish_reason"], "stop");
    assert!(choice["logprobs"].is_null());
    assert_eq!(choice["message"]["role"], "assistant");
    assert!(choice["message"].as_object().unwrap().contains_key("refusal"));
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);

    let headers = provider.chat(&ask(PROMPT)).await.headers().clone();
    for name in [
        "x-request-id",
        "openai-processing-ms",
        "openai-version",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    ] {
        assert!(headers.contains_key(name), "{name} in {headers:?}");
    }
}

#[tokio::test]
async fn a_limit_cuts_the_answer_at_exactly_that_many_tokens() {
    let provider = Provider::start(SimulatedProviderConfig { completion_tokens: exactly(60), ..fast() }).await;
    let whole = provider.chat_json(&ask(PROMPT)).await;
    assert_eq!(whole["usage"]["completion_tokens"], 60);
    for limit in ["max_tokens", "max_completion_tokens"] {
        let cut = provider.chat_json(&ask_with(PROMPT, json!({limit: 25}))).await;
        assert_eq!(cut["choices"][0]["finish_reason"], "length");
        assert_eq!(cut["usage"]["completion_tokens"], 25);
        assert_eq!(tiktoken(text(&cut)), 25);
    }
    let roomy = provider.chat_json(&ask_with(PROMPT, json!({"max_tokens": 60}))).await;
    assert_eq!(roomy["choices"], whole["choices"]);
}

#[tokio::test]
async fn several_choices_differ_and_are_counted_together() {
    let provider = Provider::fast().await;
    let answer = provider.chat_json(&ask_with(PROMPT, json!({"n": 3}))).await;
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<&str> = choices.iter().map(|choice| choice["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    let sum: u64 = texts.iter().map(|text| tiktoken(text)).sum();
    assert_eq!(answer["usage"]["completion_tokens"], sum);
}

#[tokio::test]
async fn a_forced_function_is_called_with_arguments_of_its_schema() {
    let provider = Provider::fast().await;
    let tools = json!([{"type": "function", "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}}}
    }}]);
    let named = json!({"type": "function", "function": {"name": "get_weather"}});
    for (choice, finish) in [(named, "stop"), (json!("required"), "tool_calls")] {
        let answer =
            provider.chat_json(&ask_with("Weather in Bergen?", json!({"tools": tools, "tool_choice": choice}))).await;
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], finish);
        assert!(choice["message"]["content"].is_null());
        let call = &choice["message"]["tool_calls"][0];
        assert_eq!(call["function"]["name"], "get_weather");
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert_eq!(arguments["city"], "Weather in Bergen?");
    }
    let free = provider.chat_json(&ask_with("Weather in Bergen?", json!({"tools": tools}))).await;
    assert_eq!(free["choices"][0]["finish_reason"], "stop");
    assert!(!text(&free).is_empty());
}

#[tokio::test]
async fn structured_answers_are_json_and_stop_sequences_stop() {
    let provider = Provider::fast().await;
    let object = provider.chat_json(&ask_with(PROMPT, json!({"response_format": {"type": "json_object"}}))).await;
    let content: Value = serde_json::from_str(text(&object)).unwrap();
    assert!(content["answer"].is_string());
    assert_eq!(object["usage"]["completion_tokens"], tiktoken(text(&object)));

    let schema = json!({"type": "object", "properties": {"score": {"type": "integer"}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}});
    let structured = provider.chat_json(&ask_with(PROMPT, json!({"response_format": format}))).await;
    let content: Value = serde_json::from_str(text(&structured)).unwrap();
    assert!(content["score"].is_u64(), "{content}");

    let stopped = provider.chat_json(&ask_with(PROMPT, json!({"stop": ["."]}))).await;
    assert!(!text(&stopped).contains('.'));
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(stopped["usage"]["completion_tokens"], tiktoken(text(&stopped)));
}

#[tokio::test]
async fn an_answer_takes_the_latency_set_and_no_less() {
    let provider =
        Provider::start(SimulatedProviderConfig { latency: Latency::Constant { ms: 250.0 }, ..fast() }).await;
    let took = async |provider: &Provider| {
        let began = std::time::Instant::now();
        provider.chat_json(&ask(PROMPT)).await;
        began.elapsed().as_millis()
    };
    took(&provider).await;
    assert!(took(&provider).await >= 250);
    let (status, _) = provider.put("/latency", &json!({"kind": "constant", "ms": 0})).await;
    assert_eq!(status, 200);
    assert!(took(&provider).await < 250);
    assert_eq!(provider.put("/pace", &json!({"tokens_per_second": 50})).await.0, 200);
    assert_eq!(provider.put("/pace", &json!({"tokens_per_second": null})).await.0, 200);
    assert_eq!(provider.put("/pace", &json!({"tokens_per_second": 0})).await.0, 400);
    let (status, error) = provider.put("/latency", &json!({"kind": "uniform", "min_ms": 5, "max_ms": 1})).await;
    assert_eq!(status, 400);
    assert!(error["error"]["message"].as_str().unwrap().contains("min <= max"), "{error}");
}
