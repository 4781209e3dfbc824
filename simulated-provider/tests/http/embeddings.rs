use serde_json::json;

use super::*;

async fn embed(provider: &Provider, input: Value) -> (Vec<Vec<f64>>, Value) {
    let (status, body) =
        provider.post("/v1/embeddings", json!({"model": "sim-embed", "input": input}).to_string()).await;
    assert_eq!(status, 200, "{body}");
    let vectors = body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["embedding"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect());
    (vectors.collect(), body["usage"].clone())
}

fn similarity(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(l, r)| l * r).sum()
}

fn cl100k(text: &str) -> u64 {
    tiktoken_rs::cl100k_base_singleton().encode_ordinary(text).len() as u64
}

#[tokio::test]
async fn near_texts_have_near_vectors_and_order_is_kept() {
    let provider = Provider::fast().await;
    let texts = [
        "Where do I download my invoice?",
        "You can download every invoice from the billing page.",
        "Invoices are sent by mail.",
        "The hiking trail closes in winter.",
    ];
    let (vectors, usage) = embed(&provider, json!(texts)).await;
    assert!(vectors.iter().all(|vector| vector.len() == 384));
    let to = |index: usize| similarity(&vectors[0], &vectors[index]);
    assert!((to(0) - 1.0).abs() < 1e-4);
    assert!(to(1) > to(2) && to(2) > to(3), "{} {} {}", to(1), to(2), to(3));
    assert_eq!(usage["prompt_tokens"], texts.iter().map(|text| cl100k(text)).sum::<u64>());
    assert_eq!(usage["total_tokens"], usage["prompt_tokens"]);
    let (alone, _) = embed(&provider, json!(texts[2])).await;
    assert_eq!(alone[0], vectors[2]);
    assert_eq!(provider.count().await.embedding_calls, 2);
}

#[tokio::test]
async fn token_inputs_are_the_texts_they_stand_for() {
    let provider = Provider::fast().await;
    let tokens = tiktoken_rs::cl100k_base_singleton().encode_ordinary("invoice download");
    let (from_text, text_usage) = embed(&provider, json!("invoice download")).await;
    let (from_tokens, token_usage) = embed(&provider, json!(tokens)).await;
    let (from_lists, _) = embed(&provider, json!([tokens, tokens])).await;
    assert_eq!(from_text[0], from_tokens[0]);
    assert_eq!(from_lists, [from_text[0].clone(), from_text[0].clone()]);
    assert_eq!(text_usage, token_usage);
}

#[tokio::test]
async fn base64_carries_the_same_numbers() {
    use base64::Engine as _;
    let provider = Provider::fast().await;
    let (numbers, _) = embed(&provider, json!("tides")).await;
    let body = json!({"model": "sim-embed", "input": "tides", "encoding_format": "base64"});
    let (_, answer) = provider.post("/v1/embeddings", body.to_string()).await;
    let encoded = answer["data"][0]["embedding"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    let decoded = bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()));
    assert!(decoded.zip(&numbers[0]).all(|(d, n)| (f64::from(d) - n).abs() < 1e-6));
    assert_eq!(bytes.len(), 4 * 384);
}

#[tokio::test]
async fn fewer_dimensions_on_request_and_wrong_inputs_refused() {
    let provider = Provider::fast().await;
    let post = async |fields: Value| provider.post("/v1/embeddings", fields.to_string()).await;
    let (_, short) = post(json!({"model": "sim-embed", "input": "tides", "dimensions": 32})).await;
    assert_eq!(short["data"][0]["embedding"].as_array().unwrap().len(), 32);
    let long = "word ".repeat(9_000);
    for (body, says) in [
        (json!({"model": "sim-embed"}), "input"),
        (json!({"model": "sim-embed", "input": ""}), "empty"),
        (json!({"model": "sim-embed", "input": []}), "empty array"),
        (json!({"model": "sim-embed", "input": {"a": 1}}), "expected a string"),
        (json!({"model": "sim-embed", "input": ["a", 1]}), "expected a string"),
        (json!({"model": "sim-embed", "input": [4_000_000_000_u32]}), "tokens"),
        (json!({"model": "sim-embed", "input": long}), "maximum context length is 8192"),
        (json!({"model": "sim-embed", "input": vec!["a"; 2_049]}), "too long"),
        (json!({"model": "sim-embed", "input": "a", "dimensions": 9_999}), "dimensions"),
        (json!({"model": "sim-embed", "input": "a", "encoding_format": "hex"}), "base64"),
    ] {
        let (status, error) = post(body).await;
        assert_eq!(status, 400, "{says}: {error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(says), "{says}: {error}");
    }
    let (status, error) = post(json!({"model": "sim-small", "input": "a"})).await;
    assert_eq!(status, 404);
    assert!(error["error"]["message"].as_str().unwrap().contains("v1/chat/completions"), "{error}");
}
