use std::collections::{HashMap, HashSet};

use futures::future::join_all;
use serde_json::json;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_are_exact_under_200_concurrent_calls() {
    let script = json!([
        {"when": {"every": 10}, "then": {"kind": "rate_limited", "retry_after_ms": 5}},
        {"when": {"every": 7}, "then": {"kind": "server_error", "status": 500}},
    ]);
    let config = SimulatedProviderConfig {
        latency: Latency::Constant { ms: 300.0 },
        faults: serde_json::from_value(script).unwrap(),
        ..fast()
    };
    let provider = Provider::start(config).await;
    let call = async |number: u32| {
        let id = format!("call-{number}");
        let request = if number.is_multiple_of(4) {
            let body = json!({"model": "sim-embed", "input": format!("text number {number}")});
            provider.client.post(provider.at("/v1/embeddings")).json(&body)
        } else {
            provider.client.post(provider.at("/v1/chat/completions")).json(&ask(&format!("question {number}")))
        };
        let response = request.header("x-client-request-id", &id).send().await.unwrap();
        let status = response.status().as_u16();
        (id, status, response.json::<Value>().await.unwrap())
    };
    let answers = join_all((0..200).map(call)).await;
    let with = |status: u16| answers.iter().filter(move |answer| answer.1 == status);
    let tokens = |name: &str| with(200).map(|(_, _, body)| body["usage"][name].as_u64().unwrap_or(0)).sum::<u64>();

    let count = provider.count().await;
    assert_eq!(count, provider.server.count());
    assert_eq!(count.requests, 200);
    assert_eq!(with(429).count(), 20);
    // The second rule sees the 180 calls that the first let through.
    assert_eq!(with(500).count(), 25);
    assert_eq!((count.calls, count.billed_calls), (180, 155));
    assert_eq!(count.chat_calls + count.embedding_calls, 180);
    assert_eq!(
        count.by_status,
        HashMap::from([("200", 155), ("429", 20), ("500", 25)]).into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    );
    assert_eq!(count.by_model.values().sum::<u64>(), 180);
    assert_eq!(count.prompt_tokens, tokens("prompt_tokens"));
    assert_eq!(count.completion_tokens, tokens("completion_tokens"));
    assert_eq!(count.tokens_total, tokens("total_tokens"));
    assert_eq!(count.in_flight, 0);
    assert!(count.max_in_flight > 100, "{}", count.max_in_flight);

    let lines = provider.client.get(provider.at("/calls")).send().await.unwrap().text().await.unwrap();
    let calls: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(calls.len(), 200);
    let expected: HashSet<(String, u64, bool)> =
        answers.iter().map(|(id, status, _)| (id.clone(), u64::from(*status), *status == 200)).collect();
    let recorded: HashSet<(String, u64, bool)> = calls
        .iter()
        .map(|call| {
            let id = call["client_request_id"].as_str().unwrap().to_owned();
            (id, call["status"].as_u64().unwrap(), call["billed"].as_bool().unwrap())
        })
        .collect();
    assert_eq!(recorded, expected);
    let one = provider.client.get(provider.at("/calls?client_request_id=call-3")).send().await.unwrap();
    assert_eq!(one.text().await.unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_reset_forgets_everything() {
    let provider = Provider::fast().await;
    provider.chat_json(&ask("hello")).await;
    provider.client.post(provider.at("/reset")).send().await.unwrap();
    assert_eq!(provider.count().await, Count::default());
    let calls = provider.client.get(provider.at("/calls")).send().await.unwrap().text().await.unwrap();
    assert_eq!(calls, "");
}
