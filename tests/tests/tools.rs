//! What the tools and a watched process say: waiting, errors for machines, metrics, traces.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_embedded::{Broker, Registry, Vectors};
use millrace_tests::{Process, Secrets, State, client, millrace, run};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};

/// Nobody listens there.
const CLOSED: &str = "127.0.0.1:1";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}

/// Runs `millrace` with these arguments until it has said `line` twice on standard error, each time in
/// one line, and expects it to go on.
async fn waits(folder: &Path, config: &str, args: &[&str], line: &str) -> anyhow::Result<()> {
    let file = folder.join("millrace.toml");
    std::fs::write(&file, config)?;
    let log = folder.join(format!("log-{}", args[0]));
    let mut process = Process::start(line, &[args, &["--config", text(&file)?]].concat(), log.clone())?;
    let mut said = String::new();
    for _ in 0..150 {
        said = std::fs::read_to_string(&log)?;
        if said.matches(line).count() >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let lines: Vec<&str> = said.lines().filter(|said| said.contains(line)).collect();
    ensure!(lines.len() >= 2, "`{line}` is not said twice:\n{said}");
    ensure!(!said.contains("panicked") && !said.contains("backtrace"), "{said}");
    ensure!(process.state()? == State::Running, "it does not try again:\n{said}");
    process.kill().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_registry_is_one_clear_line_and_a_retry() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&folder.path().join("broker"), 0)?;
    let kafka = broker.bootstrap_servers();
    let config = format!("[kafka]\nbootstrap_servers = \"{kafka}\"\n[registry]\nurl = \"http://{CLOSED}\"\n");
    waits(folder.path(), &config, &["run", "moderator"], "waiting for the schema registry").await?;
    waits(folder.path(), &config, &["tap", "calls"], "waiting for the schema registry").await?;
    broker.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_database_is_one_clear_line_and_a_retry() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&folder.path().join("broker"), 0)?;
    let registry = Registry::start(&folder.path().join("registry"), 0)?;
    let config = format!(
        "[kafka]\nbootstrap_servers = \"{}\"\n[registry]\nurl = \"{}\"\n[storage]\nkind = \"cql\"\nnodes = [\"{CLOSED}\"]\n",
        broker.bootstrap_servers(),
        registry.url()
    );
    waits(folder.path(), &config, &["run", "result-sink"], "waiting for the database").await?;
    registry.shutdown().await;
    broker.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_tool_says_that_it_waits_for_a_broker() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("requests.jsonl");
    std::fs::write(&file, "{\"model\":\"sim-small\",\"messages\":[]}\n")?;
    let config = format!("[kafka]\nbootstrap_servers = \"{CLOSED}\"\n");
    let args = ["publish", "--key", "mr_test", "--file", text(&file)?];
    waits(folder.path(), &config, &args, "waiting for kafka").await
}

/// What `doctor` says.
async fn findings(folder: &Path, config: &str) -> anyhow::Result<Vec<Value>> {
    let file = folder.join("doctor.toml");
    std::fs::write(&file, config)?;
    let output = ended(&["doctor", "--json", "--config", text(&file)?]).await?;
    let said: Value = serde_json::from_slice(&output.stdout)?;
    Ok(said["findings"].as_array().context("findings")?.clone())
}

/// What `doctor` finds, by check.
async fn found(folder: &Path, config: &str) -> anyhow::Result<Value> {
    let findings = findings(folder, config).await?;
    Ok(findings.iter().map(|f| (f["check"].as_str().unwrap_or_default().to_owned(), f["ok"].clone())).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_asks_every_part() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&folder.path().join("broker"), 0)?;
    let registry = Registry::start(&folder.path().join("registry"), 0)?;
    let vectors = Vectors::start(&folder.path().join("vectors"), 0)?;
    let config = |vectors: &str| {
        format!(
            "[kafka]\nbootstrap_servers = \"{}\"\nreplication_factor = 1\n[registry]\nurl = \"{}\"\n\
             [vectors]\nurl = \"{vectors}\"\n[storage]\nkind = \"embedded\"\npath = \"nowhere\"\n",
            broker.bootstrap_servers(),
            registry.url()
        )
    };
    let all_there = found(folder.path(), &config(vectors.url())).await?;
    let expected = json!({ "rule sets": true, "kafka topics": false, "lag and retention": true, "schema registry": true, "database": true, "qdrant": true });
    ensure!(all_there == expected, "no topic is made yet, all else is there: {all_there}");
    let without = found(folder.path(), &config(&format!("http://{CLOSED}"))).await?;
    ensure!(without["qdrant"] == false && without["schema registry"] == true, "{without}");
    every_key_of_a_pool_is_tried(folder.path(), &config(vectors.url())).await?;
    vectors.shutdown().await;
    registry.shutdown().await;
    broker.shutdown().await;
    Ok(())
}

async fn every_key_of_a_pool_is_tried(folder: &Path, config: &str) -> anyhow::Result<()> {
    let args = ["run", "simulated-provider", "--listen", "127.0.0.1:0"];
    let mut provider = Process::start("provider", &args, folder.join("provider.log"))?;
    let url = provider.line("http://").await?;
    let rules =
        json!([{ "name": "main", "key": "sk-doctor-1" }, { "name": "old", "key": "sk-doctor-2", "refused": 401 }]);
    let rules = client()?.put(url.replace("/v1", "/keys")).json(&rules);
    rules.send().await?.error_for_status()?;
    let keys = folder.join("provider.keys");
    let config = format!("{config}[providers.sim]\nbase_url = \"{url}\"\napi_keys_file = \"{}\"\n", keys.display());
    let asked = async |file: &str| {
        std::fs::write(&keys, file)?;
        let mut said = findings(folder, &config).await?;
        said.retain(|finding| finding["check"] == "provider");
        let text = Value::from(said.clone()).to_string();
        ensure!(!text.contains("sk-doctor"), "{text}");
        anyhow::Ok(said)
    };
    let said = asked("main = sk-doctor-1\nold = sk-doctor-2\n").await?;
    let detail = |n: usize| said[n]["detail"].as_str().unwrap_or_default();
    ensure!(said.len() == 2 && said[0]["ok"] == true && said[1]["ok"] == false, "{said:?}");
    ensure!(detail(0).contains("`main`") && detail(1).contains("`old`") && detail(1).contains("401"), "{said:?}");
    let said = asked("main = sk-doctor-1\nsk-doctor-2\n").await?;
    let detail = said[0]["detail"].as_str().unwrap_or_default();
    ensure!(said.len() == 1 && said[0]["ok"] == false && detail.contains("line 2 is not `name = key`"), "{said:?}");
    provider.kill().await
}

/// The search of the tests for secrets sees all parts of a record.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_record_is_found() -> anyhow::Result<()> {
    const SECRET: &str = "sk-search-1";
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&folder.path().join("broker"), 0)?;
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create()?;
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create()?;
    let named = format!("x-{SECRET}");
    let parts = [
        ("none", ["k", "v", "n", "h"]),
        ("key", [SECRET, "v", "n", "h"]),
        ("value", ["k", SECRET, "n", "h"]),
        ("name", ["k", "v", &named, "h"]),
        ("header", ["k", "v", "n", SECRET]),
    ];
    for (topic, [key, value, name, header]) in parts {
        let partitions = NewTopic::new(topic, 3, TopicReplication::Fixed(1));
        admin.create_topics([&partitions], &AdminOptions::new()).await?;
        for partition in 0..2 {
            let headers = OwnedHeaders::new().insert(Header { key: name, value: Some(header) });
            let record = FutureRecord::to(topic).partition(partition).key(key).headers(headers).payload(value);
            producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
        }
    }
    let secrets = Secrets::default();
    secrets.add("a key", SECRET);
    let mut search = secrets.search(&[("a record", "v")])?;
    search.records(broker.bootstrap_servers())?;
    search.finds("a record", "topic none")?;
    let told = search.finds_no_secret().err().context("it is not found")?.to_string();
    let places = r#"a key in {"topic header", "topic key", "topic name", "topic value"}"#;
    ensure!(told.ends_with(places), "{told}");
    broker.shutdown().await;
    Ok(())
}

/// Runs `millrace` to its end.
async fn ended(args: &[&str]) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::new(millrace()?);
    command.args(args).env_remove("MILLRACE_ADMIN_KEY").env_remove("MILLRACE_API_KEY");
    Ok(command.stdin(Stdio::null()).output().await?)
}

#[tokio::test]
async fn errors_are_json_where_json_was_asked_for() -> anyhow::Result<()> {
    for (args, expected) in [
        (&["usage", "--tenant", "acme", "--json"][..], "set MILLRACE_ADMIN_KEY"),
        (&["config", "show", "--json", "--config", "no-such-file.toml"], "no-such-file.toml"),
        (&["completions", "bash", "--json"], "leave --json away"),
        (&["tap", "calls", "--format", "pretty", "--json"], "leave it or --json away"),
        (&["run", "moderator", "--json", "--config", "no-such-file.toml"], "no-such-file.toml"),
    ] {
        let output = ended(args).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && output.stdout.is_empty(), "{args:?}: {said}");
        let error: Value = serde_json::from_str(said.trim()).with_context(|| format!("{args:?} said {said}"))?;
        ensure!(error["error"].as_str().is_some_and(|error| error.contains(expected)), "{args:?}: {error}");
    }
    let output = ended(&["usage", "--tenant", "acme"]).await?;
    ensure!(output.stderr.starts_with(b"millrace: set MILLRACE_ADMIN_KEY"), "people read text");
    Ok(())
}

#[tokio::test]
async fn the_simulated_provider_says_where_it_is_in_json() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let args = ["run", "simulated-provider", "--listen", "127.0.0.1:0", "--json"];
    let mut provider = Process::start("provider", &args, folder.path().join("log"))?;
    let said: Value = serde_json::from_str(&provider.line("{\"url\"").await?)?;
    let url = said["url"].as_str().context("a URL")?;
    ensure!(client()?.get(format!("{url}/models")).send().await?.status() == 200);
    provider.kill().await
}

/// What every process shows, and that each shows something of the request, the document and the bad
/// record that went through.
const FAMILIES: [&str; 14] = [
    r#"millrace_stage_records_total{lane="interactive",outcome="done",stage="prompt-builder"} "#,
    r#"millrace_stage_records_total{lane="interactive",outcome="done",stage="inference-router"} "#,
    r#"millrace_stage_records_total{lane="batch",outcome="dead_lettered",stage="prompt-builder"} "#,
    r#"millrace_stage_seconds_count{lane="interactive",stage="moderator"} "#,
    r#"millrace_stage_in_flight{lane="interactive",stage="inference-router"} "#,
    r#"millrace_stage_lag{lane="all",stage="cost-ledger"} "#,
    r#"millrace_stage_errors_total{class="poison",lane="batch",stage="prompt-builder"} "#,
    r#"millrace_tokens_total{direction="input",model="sim-small"} "#,
    r#"millrace_tokens_total{direction="output",model="sim-small"} "#,
    r#"millrace_tokens_total{direction="input",model="sim-embed"} "#,
    r#"millrace_cost_nanos_total{model="sim-small"} "#,
    r#"millrace_provider_calls_total{provider="simulated",status="200"} "#,
    r#"millrace_ledger_entries_total{kind="finished"} "#,
    r#"millrace_http_requests_total{route="/v1/chat/completions",status="200"} "#,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_process_shows_its_metrics_and_a_trace_goes_through_all_topics() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let watched = format!("127.0.0.1:{}", millrace_stack::free_ports(1)?[0]);
    let data = folder.path().join("data");
    let args = ["up", "--data-dir", text(&data)?, "--http-port", "0", "--kafka-port", "0", "--json"];
    let env = [("MILLRACE_TELEMETRY__LISTEN", watched.as_str()), ("MILLRACE_LOG", "info")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let log = folder.path().join("log");
    let mut up = Process::start_with("up", &args, &env, log.clone())?;
    let said: Value = serde_json::from_str(&up.line("{").await?)?;
    let (http, kafka) = (said["http"].as_str().context("http")?, said["kafka"].as_str().context("kafka")?);
    let key = said["api_key"].as_str().context("a key")?;

    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let document = json!({ "id": "d1", "collection": "handbook", "text": "Kettles are returned in 30 days." });
    let question = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Say hello" }] });
    for (path, body) in [("documents", document), ("chat/completions", question)] {
        let request = client()?.post(format!("{http}/v1/{path}")).bearer_auth(key).header("traceparent", &parent);
        let answer = request.json(&body).send().await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.text().await?);
    }
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", kafka).create()?;
    let headers = OwnedHeaders::new().insert(Header { key: "traceparent", value: Some(&parent) });
    let bad = FutureRecord::<(), [u8]>::to("requests.batch").headers(headers).payload(b"\xff no request");
    producer.send(bad, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;

    let mut missing = FAMILIES.to_vec();
    for _ in 0..150 {
        let shown = client()?.get(format!("http://{watched}/metrics")).send().await?.text().await?;
        missing.retain(|family| !shown.lines().any(|line| line.starts_with(family)));
        if missing.is_empty() {
            for label in ["tenant=", "user="] {
                ensure!(!shown.contains(label), "{label} is no label: {shown}");
            }
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(missing.is_empty(), "/metrics does not show {missing:#?}");
    let logged = std::fs::read_to_string(&log)?;
    let buried = logged.lines().find(|line| line.contains("record is dead-lettered")).context("a line of the log")?;
    ensure!(buried.contains(TRACE), "a line about a record names its trace: {buried}");

    let config = data.join("client.toml");
    let args = ["tap", "outcomes.interactive", "--from-beginning", "--limit", "1", "--config", text(&config)?];
    let outcome: Value = serde_json::from_str(run(millrace()?, &args).await?.trim())?;
    let trace = outcome["headers"]["traceparent"].as_str().context("an outcome has a trace")?;
    ensure!(trace.starts_with(&format!("00-{TRACE}-")) && trace != parent, "{trace}");

    let doctor: Value =
        serde_json::from_str(&run(millrace()?, &["doctor", "--json", "--config", text(&config)?]).await?)?;
    ensure!(doctor["ok"] == true, "{doctor}");
    ensure!(doctor["findings"].to_string().contains("lag and retention"), "{doctor}");
    up.terminate().await
}
