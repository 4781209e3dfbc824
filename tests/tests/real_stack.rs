//! The whole arrow on real Kafka, Cassandra and registry, every service as two processes.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_stack::Stack;
use millrace_tests::{Pipeline, TENANT_KEY, client, millrace, run};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};

const REQUESTS: usize = 2000;

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_one_outcome_and_every_call_is_on_the_bill() -> anyhow::Result<()> {
    let stack = Stack::builder().kafka(true).cassandra(true).registry(true).start().await?;
    let pipeline = Pipeline::start(&stack, 2).await?;
    two_thousand_from_a_file(&pipeline).await?;
    over_http(&pipeline).await?;
    let plain = plain_json(&stack, &pipeline).await?;
    let bad = bad_input(&stack, &pipeline).await?;
    let usage = pipeline
        .command(&["usage", "--tenant", "acme", "--url", &pipeline.http, "--admin-key", "mra_test", "--json"])
        .await?;
    let usage: Value = serde_json::from_str(&usage)?;
    let counted = pipeline.count().await?;
    ensure!(usage["total"]["calls"] == counted["billed_calls"], "usage {usage} and provider {counted} differ");
    println!("plain records: {plain}, bad records: {bad}");
    pipeline.stop().await?;
    stack.stop().await
}

/// Exactly 2,000 outcomes in the topic and in Cassandra, 2,000 calls, and a ledger that says so.
async fn two_thousand_from_a_file(pipeline: &Pipeline) -> anyhow::Result<()> {
    let file = pipeline.folder().join("requests.jsonl");
    let lines: Vec<String> = (0..REQUESTS)
        .map(|n| {
            json!({ "model": "sim-small", "messages": [{ "role": "user", "content": format!("Describe product {n}.") }],
                    "max_completion_tokens": 20, "next_months_field": { "b": 1, "a": [1.50] } })
            .to_string()
        })
        .collect();
    std::fs::write(&file, lines.join("\n"))?;
    let out = pipeline.folder().join("outcomes.jsonl");
    let args = [
        "publish",
        "--file",
        text(&file)?,
        "--lane",
        "batch",
        "--tenant",
        "acme",
        "--key",
        TENANT_KEY,
        "--user",
        "ada",
        "--out",
        text(&out)?,
        "--timeout",
        "240",
        "--json",
    ];
    let report: Value = serde_json::from_str(&pipeline.command(&args).await?)?;
    ensure!(report["outcomes"] == json!({ "succeeded": REQUESTS }), "{report}");
    let written = std::fs::read_to_string(&out)?;
    ensure!(written.lines().count() == REQUESTS);

    // Every record of the topic, not only the first of each request: no copy is in the log either.
    let tapped = pipeline.command(&["tap", "outcomes.batch", "--from-beginning", "--no-follow"]).await?;
    let ids: Vec<String> = tapped
        .lines()
        .map(|line| {
            Ok(serde_json::from_str::<Value>(line)?["value"]["meta"]["request_id"]
                .as_str()
                .unwrap_or_default()
                .to_owned())
        })
        .collect::<anyhow::Result<_>>()?;
    ensure!(ids.len() == REQUESTS, "{} records in outcomes.batch", ids.len());
    ensure!(ids.iter().collect::<HashSet<_>>().len() == REQUESTS, "an outcome is there twice");

    let count = reconciled(pipeline, REQUESTS as u64).await?;
    ensure!(count["billed_calls"] == REQUESTS, "{count}");
    Ok(())
}

/// Waits until store and ledger agree with the provider's own count.
async fn reconciled(pipeline: &Pipeline, stored: u64) -> anyhow::Result<Value> {
    let storage = pipeline.storage().await?;
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let count = pipeline.count().await?;
        let (totals, results) = (storage.usage.totals().await?, storage.results.count().await?);
        let agrees = results == stored
            && count["billed_calls"] == totals.calls
            && count["tokens_total"] == totals.tokens
            && totals.entries_sum == totals.rollups_sum
            && totals.unconfirmed == 0
            && totals.entries_sum > 0;
        if agrees {
            return Ok(count);
        }
        if Instant::now() >= until {
            bail!("the books do not close: {results} results of {stored}, {totals:?}, provider {count}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn over_http(pipeline: &Pipeline) -> anyhow::Result<()> {
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
        (json!({ "stream": true }), "stream", 400),
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
    Ok(())
}

async fn until(url: &str, done: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let client = client()?;
    for _ in 0..100 {
        let value: Value = client.get(url).bearer_auth(TENANT_KEY).send().await?.json().await?;
        if done(&value) {
            return Ok(value);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("{url} does not change")
}

fn producer(stack: &Stack) -> anyhow::Result<FutureProducer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", stack.bootstrap_servers())
        .set("message.max.bytes", "20000000")
        .create()?)
}

async fn produce(producer: &FutureProducer, topic: &str, headers: &[(&str, &str)], value: &[u8]) -> anyhow::Result<()> {
    let mut all = OwnedHeaders::new();
    for (key, value) in headers {
        all = all.insert(Header { key, value: Some(*value) });
    }
    let record = FutureRecord::<(), [u8]>::to(topic).headers(all).payload(value);
    producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| anyhow::anyhow!("{topic}: {error}"))?;
    Ok(())
}

/// A JSON record on a topic that is bound to the tenant: no code of ours, no key.
async fn plain_json(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<usize> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "From a plain producer" }] })
        .to_string();
    let headers = [
        ("content-type", "application/json"),
        ("label-origin", "plain"),
        ("reply-topic", "acme.outcomes"),
        ("user", "grace"),
    ];
    produce(&producer(stack)?, "acme.requests", &headers, body.as_bytes()).await?;
    let found = tapped(pipeline, "acme.outcomes", 1).await?;
    ensure!(found[0]["value"]["status"] == "succeeded" && found[0]["value"]["meta"]["user"] == "grace", "{}", found[0]);
    ensure!(found[0]["value"]["meta"]["labels"]["origin"] == "plain");
    Ok(found.len())
}

/// Records of `topic` from its beginning, once there are at least so many.
async fn tapped(pipeline: &Pipeline, topic: &str, at_least: usize) -> anyhow::Result<Vec<Value>> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let text = pipeline.command(&["tap", topic, "--from-beginning", "--no-follow"]).await?;
        let found = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        if found.len() >= at_least {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "{topic} has {} records, not {at_least}", found.len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Each bad record is a dead letter and a failed outcome with one message, and the one behind it is served.
async fn bad_input(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<usize> {
    let fine = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Still served" }] });
    let with = |key: &str, value: Value| {
        let mut body = fine.clone();
        body[key] = value;
        body.to_string().into_bytes()
    };
    let mut misspelt = fine.clone();
    let messages = misspelt["messages"].take();
    misspelt["mesages"] = messages;
    misspelt.as_object_mut().context("an object")?.remove("messages");
    let json_header = ("content-type", "application/json");
    let wrong_id = [&[0_u8, 0x7f, 0xff, 0xff, 0xff][..], b"body"].concat();
    let cases: Vec<(&str, &str, Vec<(&str, &str)>, Vec<u8>)> = vec![
        ("garbage", "acme.requests", vec![], vec![0xde, 0xad]),
        ("schema-id", "acme.requests", vec![], wrong_id),
        ("unsigned", "e2e.requests.batch", vec![json_header], fine.to_string().into_bytes()),
        (
            "signature",
            "e2e.requests.batch",
            vec![json_header, ("millrace-signature", "v1:nobody/k:00")],
            fine.to_string().into_bytes(),
        ),
        ("model", "acme.requests", vec![json_header], with("model", json!("no-such-model"))),
        ("utf-8", "acme.requests", vec![json_header], b"{\"model\": \"\xff\"}".to_vec()),
        ("missing", "acme.requests", vec![json_header], with("messages", Value::Null)),
        ("misspelt", "acme.requests", vec![json_header], misspelt.to_string().into_bytes()),
        (
            "too long",
            "acme.requests",
            vec![json_header],
            with("messages", json!([{ "role": "user", "content": "x".repeat(300 * 1024) }])),
        ),
        ("late", "acme.requests", vec![json_header, ("deadline", "1000")], fine.to_string().into_bytes()),
    ];
    let producer = producer(stack)?;
    let before = tapped(pipeline, "outcomes.batch", REQUESTS).await?.len();
    for (_, topic, headers, value) in &cases {
        produce(&producer, topic, headers, value).await?;
    }
    produce(&producer, "acme.requests", &[json_header], fine.to_string().as_bytes()).await?;
    // Beyond the topic's limit the broker itself refuses: nothing is accepted, nothing is lost.
    let huge = vec![b' '; 10 << 20];
    ensure!(produce(&producer, "acme.requests", &[json_header], &huge).await.is_err(), "10 MB must be refused");

    let outcomes = tapped(pipeline, "outcomes.batch", before + cases.len() + 1).await?;
    let new = &outcomes[..];
    let mut by_status = BTreeMap::<&str, usize>::new();
    for outcome in new {
        *by_status.entry(outcome["value"]["status"].as_str().unwrap_or("none")).or_default() += 1;
        let is_fine = outcome["value"]["status"] == "succeeded";
        let message = outcome["value"]["error"]["message"].as_str().unwrap_or_default();
        ensure!(is_fine || (message.len() > 20 && !message.contains('\n')), "no clear message: {outcome}");
    }
    let bad: usize = by_status.iter().filter(|(status, _)| **status != "succeeded").map(|(_, count)| count).sum();
    ensure!(bad >= cases.len(), "{by_status:?}");
    let letters = tapped(pipeline, "dead-letters", cases.len()).await?;
    let codes: HashSet<_> = letters.iter().filter_map(|l| l["value"]["code"].as_str()).collect();
    ensure!(codes.len() >= 5, "dead letters say what was wrong: {codes:?}");
    for (name, _, _, value) in &cases {
        let held = letters.iter().any(|letter| letter["value"]["value"] == seen_as(value));
        ensure!(held, "{name} is in no dead letter byte for byte");
    }
    Ok(cases.len())
}

/// Bytes as `tap` shows them.
fn seen_as(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
        Err(_) => json!({ "hex": bytes.iter().map(|b| format!("{b:02x}")).collect::<String>() }),
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}

#[tokio::test]
async fn a_missing_broker_is_one_clear_line_and_a_retry() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("millrace.toml");
    std::fs::write(&config, "[kafka]\nbootstrap_servers = \"127.0.0.1:1\"\n")?;
    let log = folder.path().join("log");
    let args = ["run", "moderator", "--config", text(&config)?];
    let mut moderator = millrace_tests::Process::start("moderator", &args, log.clone())?;
    for _ in 0..100 {
        if std::fs::read_to_string(&log)?.matches("waiting for kafka").count() >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let text = std::fs::read_to_string(&log)?;
    ensure!(text.matches("waiting for kafka").count() >= 2 && !text.contains("panicked"), "{text}");
    let _still_running = moderator.line("").await?;
    moderator.kill().await?;
    ensure!(run(millrace()?, &["run", "moderator", "--config", "no-such-file.toml"]).await.is_err());
    Ok(())
}
