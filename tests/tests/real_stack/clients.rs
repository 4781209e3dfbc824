//! Publishing and reading without any code of ours: kcat, Confluent's Python library, a bare producer.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use millrace_stack::Stack;
use millrace_tests::{Pipeline, run};
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

    let read = python("examples/clients/outcomes.py", &[&servers[..], &[OUTCOMES, "--count", "3"]].concat()).await?;
    let outcomes: Vec<Value> = read.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for origin in ["plain", "kcat", "confluent-kafka"] {
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

/// Runs a script of this repository with the interpreter that `tests/clients.sh` set up.
pub async fn python<S: AsRef<str>>(script: &str, args: &[S]) -> anyhow::Result<String> {
    let interpreter = run(repository().join("tests/clients.sh"), &[]).await?;
    let script = repository().join(script);
    let mut all = vec![text(&script)?];
    all.extend(args.iter().map(AsRef::as_ref));
    run(interpreter.trim(), &all).await
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}
