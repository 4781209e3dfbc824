use serde_json::json;

use super::*;

/// The JSON of every event but `[DONE]`, which must be the last.
pub(crate) fn chunks(body: &str) -> Vec<Value> {
    assert!(body.ends_with("\n\n"), "the last event is complete");
    let mut events: Vec<&str> = body.split_terminator("\n\n").collect();
    assert_eq!(events.pop(), Some("data: [DONE]"));
    events.iter().map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
}

async fn stream(provider: &Provider, prompt: &str, mut fields: Value) -> Vec<Value> {
    fields["stream"] = json!(true);
    let response = provider.chat(&ask_with(prompt, fields)).await;
    assert_eq!(response.status(), 200);
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    chunks(&response.text().await.unwrap())
}

fn streamed_text(chunks: &[Value], index: u64) -> String {
    chunks
        .iter()
        .filter(|chunk| chunk["choices"][0]["index"] == index)
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect()
}

#[tokio::test]
async fn a_stream_is_the_same_answer_in_chunks() {
    let provider = Provider::fast().await;
    let whole = provider.chat_json(&ask("Describe the tides")).await;
    let chunks = stream(&provider, "Describe the tides", json!({})).await;
    assert_eq!(streamed_text(&chunks, 0), text(&whole));
    let first = &chunks[0]["choices"][0];
    assert_eq!((&first["delta"]["role"], &first["delta"]["content"]), (&json!("assistant"), &json!("")));
    let (last, before) = chunks.split_last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["choices"][0]["delta"], json!({}));
    assert!(before.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()));
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"], chunks[0]["id"]);
        assert!(!chunk.as_object().unwrap().contains_key("usage"), "{chunk}");
    }
    assert!(chunks.len() > 20);
}

#[tokio::test]
async fn usage_comes_last_when_asked_for() {
    let provider = Provider::fast().await;
    let whole = provider.chat_json(&ask("Describe the tides")).await;
    let chunks = stream(&provider, "Describe the tides", json!({"stream_options": {"include_usage": true}})).await;
    let (last, before) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"], whole["usage"]);
    assert!(before.iter().all(|chunk| chunk.as_object().unwrap()["usage"].is_null()));
}

#[tokio::test]
async fn choices_and_tool_calls_stream_too() {
    let provider = Provider::fast().await;
    let whole = provider.chat_json(&ask_with("Describe the tides", json!({"n": 2}))).await;
    let chunks = stream(&provider, "Describe the tides", json!({"n": 2})).await;
    for index in 0..2 {
        assert_eq!(streamed_text(&chunks, index), whole["choices"][index as usize]["message"]["content"]);
    }

    let tools = json!([{"type": "function", "function": {
        "name": "look_up", "parameters": {"type": "object", "properties": {"term": {"type": "string"}}}
    }}]);
    let chunks = stream(&provider, "tides", json!({"tools": tools, "tool_choice": "required"})).await;
    let calls = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]["function"]);
    let arguments: String = calls.filter_map(|function| function["arguments"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), json!({"term": "tides"}));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_paced_stream_takes_its_time_and_arrives_bit_by_bit() {
    let config = SimulatedProviderConfig { completion_tokens: exactly(40), tokens_per_second: Some(100.0), ..fast() };
    let provider = Provider::start(config).await;
    let began = std::time::Instant::now();
    let mut response = provider.chat(&ask_with("Describe the tides", json!({"stream": true}))).await;
    let mut frames = 0;
    let mut body = Vec::new();
    while let Some(frame) = response.chunk().await.unwrap() {
        frames += 1;
        body.extend_from_slice(&frame);
    }
    assert!(began.elapsed().as_millis() >= 390, "{:?}", began.elapsed());
    assert!(frames >= 10, "{frames}");
    assert_eq!(tiktoken(&streamed_text(&chunks(&String::from_utf8(body).unwrap()), 0)), 40);
}
