//! `millrace up`: durable, restartable, one at a time.

use std::path::Path;

use anyhow::{Context, ensure};
use millrace_schemas::{Coordinates, RequestId};
use millrace_simulated_provider::{Server, SimulatedProviderConfig};
use millrace_tests::{Process, client, form_of, millrace, run};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

struct Up {
    process: Process,
    http: String,
    said: Value,
}

async fn up(data: &Path, log: &str) -> anyhow::Result<Up> {
    let folder = data.to_str().context("a path in UTF-8")?;
    let args = ["up", "--data-dir", folder, "--http-port", "0", "--kafka-port", "0", "--json"];
    let mut process = Process::start(log, &args, data.with_extension(log))?;
    let said: Value = serde_json::from_str(&process.line("{").await?)?;
    let http = said["http"].as_str().context("http")?.to_owned();
    Ok(Up { process, http, said })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_a_restart_and_after_a_kill() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let first = up(&data, "first").await?;
    let key = first.said["api_key"].as_str().context("the first start gives a key")?.to_owned();
    let admin = first.said["admin_key"].as_str().context("the first start gives an admin key")?.to_owned();

    let second = run(millrace()?, &["up", "--data-dir", data.to_str().context("UTF-8")?, "--http-port", "0"]).await;
    let refused = second.err().context("a second `up` was not refused")?.to_string();
    ensure!(refused.lines().filter(|line| line.contains("another `millrace up` uses")).count() == 1, "{refused}");

    let (id, answer) = ask(&first.http, &key).await?;
    take_back(&first.http, &key).await?;
    first.process.terminate().await?;

    let again = up(&data, "again").await?;
    ensure!(again.said["api_key"].is_null() && again.said["admin_key"].is_null(), "keys are shown once");
    ensure!(stored(&again.http, &key, &id).await? == answer);
    let refused = post(&again.http, &key, Some(TAKEN_BACK)).await?;
    ensure!(refused.status() == 499, "a cancellation survives a restart: {}", refused.text().await?);
    let (later, last) = ask(&again.http, &key).await?;
    again.process.kill().await?;

    let after = up(&data, "after").await?;
    for (id, answer) in [(&id, &answer), (&later, &last)] {
        ensure!(stored(&after.http, &key, id).await? == *answer);
    }
    let mut calls = 0;
    for _ in 0..100 {
        let args = ["usage", "--tenant", "demo", "--url", &after.http, "--admin-key", &admin, "--json"];
        let usage: Value = serde_json::from_str(&run(millrace()?, &args).await?)?;
        calls = usage["total"]["calls"].as_u64().unwrap_or_default();
        if calls == 2 {
            return after.process.terminate().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    anyhow::bail!("{calls} calls are on the bill, not 2")
}

/// Confluent's own serializer names the schema by its GUID in a header, which the embedded registry gives out.
#[tokio::test(flavor = "multi_thread")]
async fn avro_is_read_by_the_guid_of_its_schema() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (data, file) = (folder.path().join("data"), folder.path().join("millrace.toml"));
    let config = "[tenants.acme]\nreply_topics = [\"acme.outcomes\"]\njson_reply_topics = [\"acme.outcomes\"]\n\
                  [topic_bindings.\"acme.requests\"]\ntenant = \"acme\"\n";
    std::fs::write(&file, config)?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let (data, file) = (text(&data)?, text(&file)?);
    let args = ["up", "--config", &file, "--data-dir", &data, "--http-port", "0", "--kafka-port", "0", "--json"];
    let mut process = Process::start("guid", &args, folder.path().join("log"))?;
    let said: Value = serde_json::from_str(&process.line("{").await?)?;
    let (kafka, registry) = (said["kafka"].as_str().context("kafka")?, said["registry"].as_str().context("registry")?);

    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?;
    let interpreter = run(repository.join("tests/clients.sh"), &[]).await?;
    let script = text(&repository.join("tests/clients/avro_header.py"))?;
    let schema = text(&repository.join("schemas/avro/request.avsc"))?;
    let to = ["--bootstrap", kafka, "--registry", registry, "--topic", "acme.requests", "--schema", &schema];
    let what = ["--prompt", "By a GUID", "--reply-topic", "acme.outcomes", "--guid"];
    run(interpreter.trim(), &[&[script.as_str()], &to[..], &what[..]].concat()).await?;

    let client = format!("{data}/client.toml");
    let args = ["tap", "acme.outcomes", "--from-beginning", "--limit", "1", "--config", &client];
    let outcome: Value = serde_json::from_str(run(millrace()?, &args).await?.trim())?;
    let value = &outcome["value"];
    ensure!(value["status"] == "succeeded" && value["meta"]["labels"]["origin"] == "header", "{outcome}");
    ensure!(outcome["headers"]["content-type"] == "application/json", "{outcome}");
    process.terminate().await
}

/// The file changes under load: what can be taken up is, what can not changes nothing, and no request is lost.
#[tokio::test(flavor = "multi_thread")]
async fn another_configuration_is_taken_up_while_it_runs() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (data, file, log) =
        (folder.path().join("data"), folder.path().join("millrace.toml"), folder.path().join("log"));
    let keys = |secrets: &[&str]| {
        let keys: Vec<_> = secrets.iter().map(|s| format!("{{ id = \"{s}\", key = \"{s}\" }}")).collect();
        format!("[tenants.acme]\nkeys = [{}]\n", keys.join(", "))
    };
    std::fs::write(&file, keys(&["one"]))?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let (data, config) = (text(&data)?, text(&file)?);
    let args = ["up", "--config", &config, "--data-dir", &data, "--http-port", "0", "--kafka-port", "0", "--json"];
    let mut process = Process::start("reload", &args, log.clone())?;
    let said: Value = serde_json::from_str(&process.line("{").await?)?;
    let http = said["http"].as_str().context("http")?.to_owned();
    let (stop, door) = (CancellationToken::new(), http.clone());
    let told = stop.clone();
    let asking = tokio::spawn(async move {
        let mut answered = 0;
        while !told.is_cancelled() {
            ask(&door, "one").await.with_context(|| format!("after {answered}"))?;
            answered += 1;
        }
        anyhow::Ok(answered)
    });

    std::fs::write(&file, keys(&["one", "two"]))?;
    until_let_in(&http, "two", true).await?;
    ask(&http, "two").await?;
    std::fs::write(&file, keys(&["one", "three"]) + "[stage]\nwindow = 7\n")?;
    until_logged(&log, "needs a restart").await?;
    std::fs::write(&file, "[tenants.acme]\nkeys = [")?;
    until_logged(&log, "can not be used; the one before stays").await?;
    ask(&http, "two").await?;
    until_let_in(&http, "three", false).await?;
    // A signal is not waited for.
    std::fs::write(&file, keys(&["one", "four"]))?;
    process.signal("HUP").await?;
    until_let_in(&http, "four", true).await?;
    until_let_in(&http, "two", false).await?;
    stop.cancel();
    let answered: usize = asking.await??;
    ensure!(answered > 0);
    process.terminate().await
}

/// A picture is larger than a record: over HTTP its request lies beside it, over a topic in a file of the same tenant.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_larger_than_a_record_reach_the_provider_whole() -> anyhow::Result<()> {
    let provider = Server::start(SimulatedProviderConfig::default(), ([127, 0, 0, 1], 0).into()).await?;
    let folder = tempfile::tempdir()?;
    let (data, file) = (folder.path().join("data"), folder.path().join("millrace.toml"));
    let config = "[tenants.acme]\nkeys = [{ id = \"k\", key = \"acme\" }]\n\
                  [tenants.rival]\nkeys = [{ id = \"k\", key = \"rival\" }]\n\
                  [topic_bindings.\"acme.requests\"]\ntenant = \"acme\"\n";
    std::fs::write(&file, config)?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let (data, file) = (text(&data)?, text(&file)?);
    let args = ["up", "--config", &file, "--data-dir", &data, "--http-port", "0", "--kafka-port", "0", "--json"];
    let url = provider.url();
    let args = [&args[..], &["--provider", &url, "--model", "sim-small"]].concat();
    let mut process = Process::start("bodies", &args, folder.path().join("log"))?;
    let said: Value = serde_json::from_str(&process.line("{").await?)?;
    let (http, kafka) = (said["http"].as_str().context("http")?, said["kafka"].as_str().context("kafka")?);

    for stream in [false, true] {
        let request =
            client()?.post(format!("{http}/v1/chat/completions")).bearer_auth("acme").body(picture(2, stream));
        let answer = request.header("content-type", "application/json").send().await?;
        ensure!(answer.status() == 200, "{}", answer.text().await?);
        ensure!(!stream || answer.text().await?.ends_with("data: [DONE]\n\n"));
        ensure!(provider.count().largest_request >= 2 << 20, "{:?}", provider.count());
    }
    let producer: FutureProducer = rdkafka::ClientConfig::new().set("bootstrap.servers", kafka).create()?;
    let publish = async |key: &str| -> anyhow::Result<Value> {
        let (kind, form) = form_of("user_data", &picture(3, false));
        let request = client()?.post(format!("{http}/v1/files")).bearer_auth(key).header("content-type", kind);
        let file: Value = request.body(form).send().await?.json().await?;
        let value = json!({ "body_file": file["id"] }).to_string();
        let record = FutureRecord::<(), str>::to("acme.requests").payload(&value);
        let sent = producer.send(record, std::time::Duration::from_secs(10)).await;
        let sent = sent.map_err(|(error, _)| error)?;
        let topic = "acme.requests".to_owned();
        let at = Coordinates { topic, generation: 0, partition: sent.partition, offset: sent.offset };
        ended(http, "acme", RequestId::of_coordinates("acme", &at).as_str()).await
    };
    let outcome = publish("acme").await?;
    ensure!(outcome["status"] == "succeeded", "{outcome}");
    ensure!(provider.count().largest_request >= 3 << 20, "{:?}", provider.count());
    let foreign = publish("rival").await?;
    ensure!(foreign["status"] == "failed" && foreign["error"]["code"] == "body_file_not_found", "{foreign}");
    ensure!(provider.count().calls == 3, "{:?}", provider.count());
    process.terminate().await
}

/// A chat with a picture of so many megabytes.
fn picture(megabytes: usize, stream: bool) -> String {
    let url = format!("data:image/png;base64,{}", "A".repeat(megabytes << 20));
    let content =
        json!([{ "type": "text", "text": "What is this?" }, { "type": "image_url", "image_url": { "url": url } }]);
    json!({ "model": "sim-small", "stream": stream, "messages": [{ "role": "user", "content": content }] }).to_string()
}

async fn until_let_in(http: &str, key: &str, expected: bool) -> anyhow::Result<()> {
    for _ in 0..300 {
        let status = client()?.get(format!("{http}/v1/models")).bearer_auth(key).send().await?.status();
        if status == if expected { 200 } else { 401 } {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    anyhow::bail!("`{key}` is not {}", if expected { "let in" } else { "refused" })
}

async fn until_logged(log: &Path, line: &str) -> anyhow::Result<()> {
    for _ in 0..300 {
        if std::fs::read_to_string(log)?.contains(line) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    anyhow::bail!("`{line}` is not logged")
}

/// The idempotency key of a request that is cancelled before it is sent.
const TAKEN_BACK: &str = "taken-back";

async fn take_back(http: &str, key: &str) -> anyhow::Result<()> {
    let url = format!("{http}/v1/requests/{}", RequestId::of_key("demo", TAKEN_BACK));
    let answer = client()?.delete(url).bearer_auth(key).send().await?;
    ensure!(answer.status() == 202, "{}", answer.text().await?);
    Ok(())
}

async fn post(http: &str, key: &str, idempotency_key: Option<&str>) -> anyhow::Result<reqwest::Response> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Say hello" }] });
    let mut request = client()?.post(format!("{http}/v1/chat/completions")).bearer_auth(key).json(&body);
    if let Some(idempotency_key) = idempotency_key {
        request = request.header("idempotency-key", idempotency_key);
    }
    Ok(request.send().await?)
}

async fn ask(http: &str, key: &str) -> anyhow::Result<(String, Value)> {
    let answer = post(http, key, None).await?;
    let id = answer.headers().get("x-request-id").context("x-request-id")?.to_str()?.to_owned();
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    Ok((id, answer.json().await?))
}

/// The stored answer: an HTTP answer may be there before its result is stored.
async fn stored(http: &str, key: &str, id: &str) -> anyhow::Result<Value> {
    let mut outcome = ended(http, key, id).await?;
    ensure!(outcome["status"] == "succeeded", "{outcome}");
    Ok(outcome["response"].take())
}

async fn ended(http: &str, key: &str, id: &str) -> anyhow::Result<Value> {
    for _ in 0..200 {
        let url = format!("{http}/v1/requests/{id}");
        let value: Value = client()?.get(url).bearer_auth(key).send().await?.json().await?;
        if value["status"].is_string() && value["status"] != "in_progress" {
            return Ok(value);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    anyhow::bail!("{id} is not stored")
}
