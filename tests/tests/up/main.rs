//! `millrace up`: durable, restartable, one at a time.

mod bindings;
mod bodies;

use std::path::Path;

use anyhow::{Context, ensure};
use millrace_schemas::RequestId;
use millrace_test_issuer::{Server, Signer, jwks};
use millrace_tests::{Process, client, millrace, run};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
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

/// `up` with this configuration; its data, `millrace.toml` and `log` are in the folder.
async fn configured(folder: &Path, config: &str, more: &[&str]) -> anyhow::Result<Up> {
    let (data, file) = (folder.join("data"), folder.join("millrace.toml"));
    std::fs::write(&file, config)?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let (data, file) = (text(&data)?, text(&file)?);
    let args = ["up", "--config", &file, "--data-dir", &data, "--http-port", "0", "--kafka-port", "0", "--json"];
    let mut process = Process::start("up", &[&args[..], more].concat(), folder.join("log"))?;
    let said: Value = serde_json::from_str(&process.line("{").await?)?;
    let http = said["http"].as_str().context("http")?.to_owned();
    Ok(Up { process, http, said })
}

/// A client that asks again and again, and must be answered each time.
struct Asking {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<usize>>,
}

impl Asking {
    fn start(http: &str, key: &'static str) -> Self {
        let (stop, http) = (CancellationToken::new(), http.to_owned());
        let told = stop.clone();
        let task = tokio::spawn(async move {
            let mut answered = 0;
            while !told.is_cancelled() {
                ask(&http, key).await.with_context(|| format!("after {answered}"))?;
                answered += 1;
            }
            Ok(answered)
        });
        Self { stop, task }
    }

    async fn finish(self) -> anyhow::Result<()> {
        self.stop.cancel();
        let answered = self.task.await??;
        ensure!(answered > 0);
        Ok(())
    }
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
    let config = "[tenants.acme]\nreply_topics = [\"acme.outcomes\"]\njson_reply_topics = [\"acme.outcomes\"]\n\
                  [topic_bindings.\"acme.requests\"]\ntenant = \"acme\"\n";
    let Up { process, said, .. } = configured(folder.path(), config, &[]).await?;
    let (kafka, registry) = (said["kafka"].as_str().context("kafka")?, said["registry"].as_str().context("registry")?);

    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?;
    let interpreter = run(repository.join("tests/clients.sh"), &[]).await?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let script = text(&repository.join("tests/clients/avro_header.py"))?;
    let schema = text(&repository.join("schemas/avro/request.avsc"))?;
    let to = ["--bootstrap", kafka, "--registry", registry, "--topic", "acme.requests", "--schema", &schema];
    let what = ["--prompt", "By a GUID", "--reply-topic", "acme.outcomes", "--guid"];
    run(interpreter.trim(), &[&[script.as_str()], &to[..], &what[..]].concat()).await?;

    let client = folder.path().join("data/client.toml").display().to_string();
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
    let (file, log) = (folder.path().join("millrace.toml"), folder.path().join("log"));
    let keys = |secrets: &[&str]| {
        let keys: Vec<_> = secrets.iter().map(|s| format!("{{ id = \"{s}\", key = \"{s}\" }}")).collect();
        format!("[tenants.acme]\nkeys = [{}]\n", keys.join(", "))
    };
    let Up { process, http, .. } = configured(folder.path(), &keys(&["one"]), &[]).await?;
    let asking = Asking::start(&http, "one");

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
    asking.finish().await?;
    process.terminate().await
}

/// A token is as good as the key of its tenant that it stands for, over HTTP and on a topic, until its issuer has
/// other keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_issuer_opens_both_doors() -> anyhow::Result<()> {
    let (old, new) = (Signer::rsa("old"), Signer::ec("new"));
    let issuer = Server::start(jwks(&[&old])).await;
    issuer.has(None);
    let folder = tempfile::tempdir()?;
    let config = format!(
        "[tenants.acme]\nreply_topics = [\"acme.outcomes\"]\njson_reply_topics = [\"acme.outcomes\"]\n\
         keys = [{{ id = \"corp\", key = \"that nobody has\" }}]\n\
         [issuers.corp]\nissuer = \"{}\"\ndiscovery = true\naudience = [\"millrace\"]\ntenant = \"acme\"\n",
        issuer.issuer
    );
    let Up { process, http, said } = configured(folder.path(), &config, &[]).await?;
    let (http, kafka) = (http.as_str(), said["kafka"].as_str().context("kafka")?);

    let expires = millrace_schemas::now_millis() / 1_000 + 600;
    let claims = json!({ "iss": issuer.issuer, "aud": "millrace", "sub": "ada", "exp": expires });
    let (token, forged) = (old.token(&claims), Signer::rsa("old").token(&claims));
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Say hello" }] });
    // While the issuer is away, nobody can say whether they are good: a client is told so, and records wait.
    let away = post(http, &token, None).await?;
    ensure!(away.status() == 503 && away.headers().contains_key("retry-after"), "{}", away.text().await?);
    for bearer in [&forged, &token] {
        write(kafka, bearer, &body.to_string()).await?;
    }
    issuer.has(Some(jwks(&[&old])));
    until_let_in(http, &token, true).await?;
    let (id, answer) = ask(http, &token).await?;
    ensure!(stored(http, &token, &id).await? == answer);
    let refused = post(http, &forged, None).await?;
    ensure!(refused.status() == 401, "{}", refused.status());
    let refused: Value = refused.json().await?;
    ensure!(refused["error"]["code"] == "invalid_token", "{refused}");
    let as_ben = client()?.post(format!("{http}/v1/chat/completions")).bearer_auth(&token);
    let as_ben = as_ben.header("x-millrace-user", "ben").json(&body).send().await?;
    ensure!(as_ben.status() == 403, "{}", as_ben.text().await?);

    let client = folder.path().join("data/client.toml").display().to_string();
    let tap = async |topic: &str| {
        let args = ["tap", topic, "--from-beginning", "--limit", "1", "--config", &client];
        anyhow::Ok(serde_json::from_str::<Value>(run(millrace()?, &args).await?.trim())?)
    };
    let outcome = tap("acme.outcomes").await?;
    let meta = &outcome["value"]["meta"];
    ensure!(outcome["value"]["status"] == "succeeded", "{outcome}");
    ensure!(meta["tenant"] == "acme" && meta["user"] == "ada" && meta["key_id"] == "corp", "{outcome}");
    let letter = tap("dead-letters").await?;
    ensure!(letter["value"]["code"] == "invalid_token" && letter["value"]["tenant"] == "system", "{letter}");

    issuer.has(Some(jwks(&[&new])));
    until_let_in(http, &new.token(&claims), true).await?;
    until_let_in(http, &token, false).await?;
    process.terminate().await?;
    let logged = std::fs::read_to_string(folder.path().join("log"))?;
    for bearer in [&token, &forged] {
        let (_, signature) = bearer.rsplit_once('.').context("a signature")?;
        ensure!(!logged.contains(signature), "a token is in the log");
    }
    Ok(())
}

/// Writes a request to the topic that all tenants share.
async fn write(kafka: &str, bearer: &str, body: &str) -> anyhow::Result<()> {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", kafka).create()?;
    let bearer = format!("Bearer {bearer}");
    let headers = [("content-type", "application/json"), ("authorization", &bearer), ("reply-topic", "acme.outcomes")];
    let headers = headers
        .iter()
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }));
    let record = FutureRecord::<(), [u8]>::to("requests.batch").headers(headers).payload(body.as_bytes());
    producer.send(record, std::time::Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
    Ok(())
}

/// Rules, prices, models, routes and providers change in the file while requests go on: each takes effect, and none
/// fails.
#[tokio::test(flavor = "multi_thread")]
async fn rules_prices_routes_and_providers_change_while_it_runs() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let (file, prices, log) = (path("millrace.toml"), path("prices.toml"), path("log"));
    let args = ["run", "simulated-provider", "--listen", "127.0.0.1:0", "--json"];
    let mut second = Process::start("second", &args, path("second"))?;
    let second_said: Value = serde_json::from_str(&second.line("{").await?)?;
    let url = second_said["url"].as_str().context("url")?;
    let settings = |more: &str| {
        let keys = "[tenants.acme]\nkeys = [{ id = \"one\", key = \"one\" }]";
        format!("pricing.file = {prices:?}\n{keys}\n{more}")
    };
    std::fs::write(&prices, price_table("first", 1_000))?;
    let Up { process, http, .. } = configured(folder.path(), &settings(""), &[]).await?;
    let asking = Asking::start(&http, "one");

    // A file that is named is looked at, too.
    ensure!(nanos_per_token(&http).await? == 1_000);
    std::fs::write(&prices, price_table("second", 7_000))?;
    until("the second prices count", async || Ok(nanos_per_token(&http).await? == 7_000)).await?;
    let rules =
        "[moderation.rule_sets.default]\nprompt.terms = [{ name = \"t\", words = [\"hats\"], action = \"block\" }]\n";
    std::fs::write(&file, settings(rules))?;
    process.signal("HUP").await?;
    until("the rule holds", async || Ok(asked(&http, "sim-small", "hats").await?.status() == 403)).await?;
    let house = |provider: &str| {
        format!(
            "[providers.{provider}]\nbase_url = \"{url}\"\n[models.house]\nprovider = \"{provider}\"\n\
             upstream = \"sim-small\"\ncontext_tokens = 8000\n"
        )
    };
    std::fs::write(&file, settings(&format!("{rules}{}", house("second"))))?;
    process.signal("HUP").await?;
    until("a model at a new provider", async || answered_by(&http, "house", "second").await).await?;
    // It goes to another one, and the first is gone.
    let good = format!("{rules}{}", house("third"));
    std::fs::write(&file, settings(&good))?;
    process.signal("HUP").await?;
    until("the model's new route", async || answered_by(&http, "house", "third").await).await?;

    // What can not be used changes nothing.
    let unpriced = good.replace("upstream = \"sim-small\"", "upstream = \"unpriced\"");
    for (bad, told) in
        [(good.replace("hats\"]", "\"]"), "rule set `default`"), (unpriced, "no price for the model `unpriced`")]
    {
        std::fs::write(&file, settings(&bad))?;
        process.signal("HUP").await?;
        until_logged(&log, told).await?;
    }
    std::fs::write(&file, settings(&good))?;
    std::fs::write(&prices, "version = ")?;
    process.signal("HUP").await?;
    until_logged(&log, "not a price table").await?;
    ensure!(nanos_per_token(&http).await? == 7_000);
    ensure!(asked(&http, "sim-small", "hats").await?.status() == 403);
    ensure!(answered_by(&http, "house", "third").await?);
    asking.finish().await?;
    process.terminate().await?;
    second.terminate().await
}

/// So many nano-units for a token of any model.
fn price_table(version: &str, nanos: u64) -> String {
    let row = |model: &str| {
        format!(
            "[[price]]\nprovider = \"*\"\nmodel = \"{model}\"\neffective_from = 2020-01-01\n\
             input_per_million = {0}\noutput_per_million = {0}\n",
            nanos * 1_000_000
        )
    };
    let rows: String = ["sim-small", "sim-large", "sim-embed"].map(row).concat();
    format!("version = \"{version}\"\ncurrency = \"USD\"\n{rows}")
}

async fn asked(http: &str, model: &str, content: &str) -> anyhow::Result<reqwest::Response> {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": content }] });
    Ok(client()?.post(format!("{http}/v1/chat/completions")).bearer_auth("one").json(&body).send().await?)
}

async fn answered_by(http: &str, model: &str, provider: &str) -> anyhow::Result<bool> {
    let answer = asked(http, model, "Say hello").await?;
    if answer.status() == 404 {
        return Ok(false);
    }
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    Ok(answer.headers().get("x-millrace-provider").is_some_and(|by| by == provider))
}

/// What an answer was charged.
async fn nanos_per_token(http: &str) -> anyhow::Result<u64> {
    let answer = asked(http, "sim-small", "Say hello").await?;
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    let cost = answer.headers().get("x-millrace-cost").context("x-millrace-cost")?.to_str()?.to_owned();
    let nanos: u64 = cost.trim_end_matches(" USD").replace('.', "").parse()?;
    let answer: Value = answer.json().await?;
    Ok(nanos / answer["usage"]["total_tokens"].as_u64().context("usage")?)
}

async fn until(what: &str, is_so: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    for _ in 0..300 {
        if is_so().await? {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    anyhow::bail!("not in time: {what}")
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
