//! The HTTP front door, through all topics.

use anyhow::{Context, ensure};
use millrace_tests::{Pipeline, RIVAL_KEY, TENANT_KEY, client};
use serde_json::{Value, json};

use crate::stream::set;
use crate::{ORIGIN, tapped, until, until_as};

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
    let again = post(Some("k1"), &body).await?;
    ensure!(again.headers()["idempotent-replayed"] == "true", "{again:?}");
    let again: Value = again.json().await?;
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
    can_be_come_back_for(pipeline).await?;
    says_what_the_rules_would_do(pipeline).await?;
    holds_prompts_to_the_rules(pipeline).await?;
    is_described_and_open_to_pages(pipeline).await
}

async fn can_be_come_back_for(pipeline: &Pipeline) -> anyhow::Result<()> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "No hurry" }], "stream": true });
    let asked = client()?.post(format!("{}/v1/chat/completions", pipeline.http)).bearer_auth(TENANT_KEY);
    let accepted = asked.header("prefer", "wait=1, respond-async").json(&body).send().await?;
    ensure!(accepted.status() == 202 && accepted.headers()["preference-applied"] == "respond-async", "{accepted:?}");
    let place = accepted.headers()["location"].to_str()?.to_owned();
    let said: Value = accepted.json().await?;
    ensure!(said["status"] == "in_progress" && place.ends_with(said["id"].as_str().unwrap_or("?")), "{said}");
    let stored = until(&format!("{}{place}", pipeline.http), |v| v["status"] != "in_progress").await?;
    ensure!(stored["status"] == "succeeded" && stored["calls"].as_array().map(Vec::len) == Some(1), "{stored}");
    Ok(())
}

/// This tenant's rules redact a place.
async fn says_what_the_rules_would_do(pipeline: &Pipeline) -> anyhow::Result<()> {
    let calls = pipeline.count().await?["billed_calls"].clone();
    let body = json!({ "input": ["to Zanzibar", "to bob@example.com"], "millrace": { "prompt": true } });
    let asked = client()?.post(format!("{}/v1/moderations", pipeline.http)).bearer_auth(RIVAL_KEY).json(&body);
    let said: Value = asked.send().await?.json().await?;
    let [hit, fine] = [&said["results"][0], &said["results"][1]];
    ensure!(hit["flagged"] == true && hit["categories"]["place"] == true && fine["flagged"] == false, "{said}");
    ensure!(hit["millrace"]["text"] == "to [PLACE]" && hit["millrace"]["prompt"]["action"] == "allow", "{said}");
    ensure!(fine["millrace"]["prompt"]["text"] == "to [EMAIL_1]", "{said}");
    ensure!(pipeline.count().await?["billed_calls"] == calls, "it was paid for");
    Ok(())
}

/// This tenant's rules block a volcano in prompts, and redact e-mail addresses, to be put back into answers.
async fn holds_prompts_to_the_rules(pipeline: &Pipeline) -> anyhow::Result<()> {
    let ask = async |content: &str| -> anyhow::Result<(u16, String, Value)> {
        let body = json!({ "model": "sim-small", "max_completion_tokens": 60,
            "messages": [{ "role": "user", "content": content }] });
        let asked = client()?.post(format!("{}/v1/chat/completions", pipeline.http)).bearer_auth(RIVAL_KEY);
        let answer = asked.json(&body).send().await?;
        let id = answer.headers()["x-request-id"].to_str()?.to_owned();
        Ok((answer.status().as_u16(), id, answer.json().await?))
    };
    let before = pipeline.count().await?;
    let (status, id, error) = ask("Tell me about Krakatoa").await?;
    ensure!(status == 403 && error["error"]["code"] == "content_blocked", "{status}: {error}");
    let door = &pipeline.http;
    let stored = until_as(RIVAL_KEY, &format!("{door}/v1/requests/{id}"), |v| v["status"] != "in_progress").await?;
    ensure!(stored["status"] == "blocked" && stored["charge_nanos"] == 0 && stored["calls"] == json!([]), "{stored}");
    let (found, of_answer) = (&stored["prompt_moderation"], &stored["moderation"]["action"]);
    ensure!(found["action"] == "block" && found["hits"] == json!(["volcano"]) && of_answer == "none", "{stored}");
    let after = pipeline.count().await?;
    ensure!(before["requests"].is_u64() && after["requests"] == before["requests"], "the provider was asked: {after}");

    // Whoever sees the address gives no answer.
    let sees = json!([{ "when": { "prompt_contains": "bob@example.com" }, "then": { "kind": "cut" } }]);
    set(pipeline, "faults", &sees).await?;
    let (status, id, answer) = ask("Write to bob@example.com about it").await?;
    set(pipeline, "faults", &json!([])).await?;
    let said = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    ensure!(status == 200 && said.contains("bob@example.com") && !said.contains("[EMAIL"), "{status}: {answer}");
    let prompts = tapped(pipeline, "prompts.interactive", 1).await?;
    let prompt =
        prompts.iter().find(|prompt| prompt["value"]["meta"]["request_id"] == id.as_str()).context("a prompt")?;
    let sent = &prompt["value"]["body"]["messages"][0]["content"];
    ensure!(sent == "Write to [EMAIL_1] about it", "{prompt}");
    let stored = until_as(RIVAL_KEY, &format!("{door}/v1/requests/{id}"), |v| v["status"] != "in_progress").await?;
    ensure!(stored["prompt_moderation"]["action"] == "redact" && stored["response"] == answer, "{stored}");
    Ok(())
}

async fn is_described_and_open_to_pages(pipeline: &Pipeline) -> anyhow::Result<()> {
    let (client, url) = (client()?, &pipeline.http);
    let described: Value = client.get(format!("{url}/openapi.json")).send().await?.json().await?;
    for (path, methods) in described["paths"].as_object().context("paths")? {
        for method in methods.as_object().into_iter().flat_map(|methods| methods.keys()) {
            let method = reqwest::Method::from_bytes(method.to_uppercase().as_bytes())?;
            let answer =
                client.request(method.clone(), format!("{url}{}", path.replace("{id}", "req_0"))).send().await?;
            ensure!(answer.status() == 401, "{method} {path} without a key: {}", answer.status());
        }
    }
    let page = client.get(format!("{url}/docs/")).send().await?;
    ensure!(page.status() == 200 && page.text().await?.contains("swagger"), "no page");

    let may_call = async |origin: &str| -> anyhow::Result<bool> {
        let asked = client.request(reqwest::Method::OPTIONS, format!("{url}/v1/chat/completions"));
        let asked = asked.header("origin", origin).header("access-control-request-method", "POST");
        let answer = asked.header("access-control-request-headers", "authorization,x-stainless-os").send().await?;
        let headers = answer.headers();
        let allows = |name: &str, what: &str| headers.get(name).is_some_and(|value| value == what);
        Ok(allows("access-control-allow-origin", origin)
            && allows("access-control-allow-headers", "authorization,x-stainless-os"))
    };
    ensure!(may_call(ORIGIN).await? && !may_call("https://elsewhere.example.com").await?, "pages of others may call");
    Ok(())
}
