//! Publishing and reading without any code of ours: kcat, Confluent's Python library, a bare producer.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_stack::Stack;
use millrace_tests::{JSON_OUTCOMES, KAFKA_USER, Pipeline, run};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{produce, producer, tapped, text};

/// A topic that the configuration binds to the tenant: who may write there is the tenant.
const REQUESTS: &str = "acme.requests";
const OUTCOMES: &str = "acme.outcomes";

pub async fn publish_and_read_without_our_code(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<()> {
    bare_producer(stack, pipeline).await?;
    kcat(stack).await?;
    let registry = stack.registry_url();
    let bootstrap = stack.bootstrap_servers();
    let schema = repository().join("schemas/avro/request.avsc");
    let servers = ["--bootstrap", &bootstrap, "--registry", &registry, "--topic"];
    let published =
        [REQUESTS, "--schema", text(&schema)?, "--prompt", "By Confluent's serializer", "--reply-topic", OUTCOMES];
    python("examples/clients/publish.py", &[&servers[..], &published].concat()).await?;

    connect(stack).await?;
    cloud_event(stack).await?;
    framed_by_a_header(stack, &schema).await?;
    let read = python("examples/clients/outcomes.py", &[&servers[..], &[OUTCOMES, "--count", "7"]].concat()).await?;
    let outcomes: Vec<Value> = read.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for origin in ["plain", "kcat", "confluent-kafka", "connect", "connect envelope", "event", "header"] {
        let outcome = outcomes
            .iter()
            .find(|o| o["meta"]["labels"]["origin"] == origin)
            .with_context(|| format!("no outcome of {origin} in {read}"))?;
        ensure!(outcome["status"] == "succeeded", "{outcome}");
        let response: Value = serde_json::from_str(outcome["response"].as_str().context("a response")?)?;
        ensure!(response["choices"][0]["message"]["content"].is_string(), "{response}");
    }
    Ok(())
}

/// A topic in which a crashed writer, and a zombie of it, left copies: readers in three languages print
/// every outcome once. What is in it are the headers that real outcomes have.
pub async fn readers_drop_copies(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<()> {
    const COPIES: &str = "copies.of.outcomes";
    const COUNT: usize = 200;
    let outcomes = tapped(pipeline, "outcomes.batch", COUNT).await?;
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", stack.bootstrap_servers()).create()?;
    let topic = NewTopic::new(COPIES, 12, TopicReplication::Fixed(1));
    admin.create_topics([&topic], &AdminOptions::new()).await?;
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", stack.bootstrap_servers()).create()?;
    let mut expected = Vec::new();
    for (n, outcome) in outcomes.iter().take(COUNT).enumerate() {
        let partition = i32::try_from(outcome["partition"].as_i64().context("a partition")?)?;
        let header = |name: &str| outcome["headers"][name].as_str().context("a header").map(str::to_owned);
        let (id, source) = (header("request_id")?, header("source")?);
        let zombie = format!("{} 00000000000000ff", source.rsplit_once(' ').context("an epoch")?.0);
        let write = async |source: &str| {
            let headers = OwnedHeaders::new()
                .insert(Header { key: "request_id", value: Some(&id) })
                .insert(Header { key: "source", value: Some(source) });
            let record = FutureRecord::<(), [u8]>::to(COPIES).partition(partition).headers(headers).payload(b"outcome");
            let sent = producer.send(record, Duration::from_secs(10)).await;
            sent.map(drop).map_err(|(error, _)| error)
        };
        write(&source).await?;
        if n % 3 != 0 {
            write(&source).await?;
        }
        if n % 3 == 2 {
            write(&zombie).await?;
        }
        expected.push(id);
    }
    expected.sort();
    let clients = repository().join("examples/clients");
    let (bootstrap, count) = (stack.bootstrap_servers(), COUNT.to_string());
    let of_python = ["--bootstrap", &bootstrap, "--topic", COPIES, "--count", &count];
    let classes = format!("{}/*", millrace_stack::kafka_jars()?.display());
    let (java, go) = (clients.join("Duplicates.java"), clients.join("go"));
    let of_java = ["-cp", &classes, text(&java)?, &bootstrap, COPIES, &count];
    let of_go = ["run", "-C", text(&go)?, ".", &bootstrap, COPIES, &count];
    let read = [
        ("Python", python("examples/clients/duplicates.py", &of_python).await?),
        ("Java", run("java", &of_java).await?),
        ("Go", run("go", &of_go).await?),
    ];
    for (language, printed) in read {
        let mut ids: Vec<&str> = printed.lines().filter(|line| line.starts_with("req_")).collect();
        ids.sort_unstable();
        ensure!(ids == expected, "{language} printed {} ids of {COUNT}: {printed}", ids.len());
    }

    let cases = clients.join("duplicates.txt");
    python("examples/clients/duplicates.py", &["--check", text(&cases)?]).await?;
    run("java", &["-cp", &classes, text(&java)?, "--check", text(&cases)?]).await?;
    run("go", &["test", "-C", text(&go)?, "."]).await?;
    Ok(())
}

async fn bare_producer(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<()> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "From a bare producer" }] })
        .to_string();
    let headers =
        [("content-type", "application/json"), ("label-origin", "plain"), ("reply-topic", OUTCOMES), ("user", "grace")];
    produce(&producer(stack)?, REQUESTS, &headers, body.as_bytes()).await?;
    let found = tapped(pipeline, OUTCOMES, 1).await?;
    ensure!(found[0]["value"]["status"] == "succeeded" && found[0]["value"]["meta"]["user"] == "grace", "{}", found[0]);
    Ok(())
}

async fn kcat(stack: &Stack) -> anyhow::Result<()> {
    let headers = ["content-type=application/json", "label-origin=kcat", &format!("reply-topic={OUTCOMES}")];
    let mut child = tokio::process::Command::new("kcat")
        .args(["-P", "-b", &stack.bootstrap_servers(), "-t", REQUESTS])
        .args(headers.iter().flat_map(|header| ["-H", *header]))
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("kcat is not installed; ./check installs what the tests need")?;
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "From kcat" }] }).to_string();
    child.stdin.take().context("a pipe")?.write_all(body.as_bytes()).await?;
    ensure!(child.wait().await?.success(), "kcat could not publish");
    Ok(())
}

/// As Kafka Connect's JsonConverter writes, which sets no content type: with `schemas.enable=false`, and with it.
async fn connect(stack: &Stack) -> anyhow::Result<()> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "From Connect" }] });
    let message = json!({ "type": "struct", "optional": false, "fields": [
        { "type": "string", "optional": false, "field": "role" },
        { "type": "string", "optional": false, "field": "content" },
    ] });
    let messages = json!({ "type": "array", "items": message, "optional": false, "field": "messages" });
    let model = json!({ "type": "string", "optional": false, "field": "model" });
    let schema = json!({ "type": "struct", "fields": [model, messages], "optional": false, "name": "ask" });
    let envelope = json!({ "schema": schema, "payload": body });
    let producer = producer(stack)?;
    for (origin, value) in [("connect", &body), ("connect envelope", &envelope)] {
        let headers = [("label-origin", origin), ("reply-topic", OUTCOMES)];
        produce(&producer, REQUESTS, &headers, value.to_string().as_bytes()).await?;
    }
    Ok(())
}

/// A CloudEvent in one piece, twice: one event is one request.
async fn cloud_event(stack: &Stack) -> anyhow::Result<()> {
    let event = json!({
        "specversion": "1.0", "id": "17", "source": "/shop", "type": "com.example.asked", "user": "ada",
        "replytopic": OUTCOMES, "labels": "origin=event", "datacontenttype": "application/json",
        "data": { "model": "sim-small", "messages": [{ "role": "user", "content": "From an event" }] },
    });
    let headers = [("content-type", "application/cloudevents+json; charset=utf-8")];
    for _ in 0..2 {
        produce(&producer(stack)?, REQUESTS, &headers, event.to_string().as_bytes()).await?;
    }
    Ok(())
}

/// Avro whose schema is named in a header; by its id, since this registry knows no GUIDs.
async fn framed_by_a_header(stack: &Stack, schema: &Path) -> anyhow::Result<()> {
    let args = ["--registry", &stack.registry_url(), "--topic", REQUESTS, "--schema", text(schema)?];
    let more = ["--bootstrap", &stack.bootstrap_servers(), "--prompt", "By a header", "--reply-topic", OUTCOMES];
    python("tests/clients/avro_header.py", &[&args[..], &more].concat()).await.map(drop)
}

/// Java's and Node's own clients, as the customer's own user on the broker, and outcomes in JSON.
pub async fn as_a_customer_of_the_broker(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<()> {
    let (_, password) = KAFKA_USER;
    let file = pipeline.folder().join("acme.properties");
    std::fs::write(
        &file,
        format!(
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-256\nsasl.jaas.config=org.apache.kafka.common\
             .security.scram.ScramLoginModule required username=\"acme\" password=\"{password}\";\n"
        ),
    )?;
    let bootstrap = stack.sasl_bootstrap_servers();
    let classes = format!("{}/*", millrace_stack::kafka_jars()?.display());
    let java = repository().join("examples/clients/Publish.java");
    let asked = [bootstrap.as_str(), REQUESTS, JSON_OUTCOMES, "Say \"hello\""];
    let of_java = [&["-cp", &classes, text(&java)?], &asked[..], &[text(&file)?]].concat();
    let by_java = run("java", &of_java).await?;
    let by_node =
        node_in("examples/clients/publish.mjs", &asked, &[("KAFKA_USERNAME", "acme"), ("KAFKA_PASSWORD", password)])
            .await?;
    for (origin, printed) in [("java", by_java), ("node", by_node)] {
        let outcome: Value = serde_json::from_str(printed.trim()).with_context(|| format!("{origin}: {printed}"))?;
        ensure!(outcome["status"] == "succeeded" && outcome["meta"]["labels"]["origin"] == origin, "{outcome}");
        ensure!(outcome["response"]["choices"][0]["message"]["content"].is_string(), "{outcome}");
    }
    Ok(())
}

/// Runs a script of this repository with the interpreter that `tests/clients.sh` set up.
pub async fn python<S: AsRef<str>>(script: &str, args: &[S]) -> anyhow::Result<String> {
    let interpreter = run(repository().join("tests/clients.sh"), &[]).await?;
    let script = repository().join(script);
    let mut all = vec![text(&script)?];
    all.extend(args.iter().map(AsRef::as_ref));
    run(interpreter.trim(), &all).await
}

/// Runs a module of `tests/clients/node` with the packages that are named there.
pub async fn node(module: &str, args: &[&str]) -> anyhow::Result<String> {
    node_in(&format!("tests/clients/node/{module}"), args, &[]).await
}

/// Runs a module of this repository with those packages.
async fn node_in(script: &str, args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<String> {
    let interpreter = run(repository().join("tests/clients.sh"), &[]).await?;
    let python = Path::new(interpreter.trim());
    let packages = python.ancestors().nth(3).context("the cache")?.join("node");
    let path = repository().join(script);
    let module = path.file_name().and_then(|name| name.to_str()).context("a name")?;
    let script = std::fs::read_to_string(&path)?;
    // Where it is read from decides where its packages are found.
    std::fs::write(packages.join(module), script)?;
    let mut all: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    all.extend(["node".to_owned(), text(&packages)?.to_owned() + "/" + module]);
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    run("env", &all.iter().map(String::as_str).collect::<Vec<_>>()).await
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}
