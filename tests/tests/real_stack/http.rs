//! The HTTP front door, through all topics.

use anyhow::ensure;
use millrace_tests::{Pipeline, TENANT_KEY, client};
use serde_json::{Value, json};

use crate::until;

pub async fn answers_as_openai_does(pipeline: &Pipeline) -> anyhow::Result<()> {
    let client = client()?;
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Say hello" }] });
    let post = |key: Option<&str>, body: &Value| {
        let mut request =
            client.post(format!("{}/v1/chat/completions", pipeline.http)).bearer_auth(TENANT_KEY).json(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        request.send()
    };
    let answer = post(None, &body).await?;
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    let id = answer.headers()["x-request-id"].to_str()?.to_owned();
    let completion: Value = answer.json().await?;
    ensure!(
        completion["object"] == "chat.completion" && completion["usage"]["total_tokens"].as_u64() > Some(0),
        "{completion}"
    );

    let stored = until(&format!("{}/v1/requests/{id}", pipeline.http), |v| v["status"] != "in_progress").await?;
    ensure!(stored["status"] == "succeeded" && stored["response"] == completion, "{stored}");
    let unknown = client.get(format!("{}/v1/requests/req_0", pipeline.http)).bearer_auth(TENANT_KEY).send().await?;
    ensure!(unknown.status() == 404);

    // The same key at once is one call and one answer; another body is refused.
    let before = pipeline.count().await?["billed_calls"].as_u64();
    let (first, second) = tokio::join!(post(Some("k1"), &body), post(Some("k1"), &body));
    let (first, second): (Value, Value) = (first?.json().await?, second?.json().await?);
    ensure!(first == second && first["object"] == "chat.completion", "{first} and {second}");
    let again: Value = post(Some("k1"), &body).await?.json().await?;
    ensure!(again == first, "a replay gives the same answer");
    ensure!(pipeline.count().await?["billed_calls"].as_u64() == before.map(|calls| calls + 1), "one key is one call");
    let other = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Something else" }] });
    let reused = post(Some("k1"), &other).await?;
    ensure!(reused.status() == 422, "{}", reused.text().await?);

    for (change, param, status) in [
        (json!({ "stream": "yes" }), "stream", 400),
        (json!({ "messages": null }), "messages", 400),
        (json!({ "model": "no-such-model" }), "model", 404),
    ] {
        let mut bad = body.clone();
        change.as_object().into_iter().flatten().for_each(|(key, value)| bad[key] = value.clone());
        let answer = post(None, &bad).await?;
        ensure!(answer.status() == status, "{change} was answered {}", answer.status());
        let error: Value = answer.json().await?;
        ensure!(error["error"]["param"] == param && error["error"]["message"].is_string(), "{error}");
    }
    let stranger = client
        .post(format!("{}/v1/chat/completions", pipeline.http))
        .bearer_auth("sk-wrong")
        .json(&body)
        .send()
        .await?;
    ensure!(stranger.status() == 401);
    let wrong_method = client.put(format!("{}/v1/chat/completions", pipeline.http)).json(&body).send().await?;
    ensure!(wrong_method.status() == 405 && wrong_method.headers().contains_key("allow"), "{wrong_method:?}");
    let error: Value = wrong_method.json().await?;
    ensure!(error["error"]["code"] == "method_not_allowed", "{error}");
    Ok(())
}
