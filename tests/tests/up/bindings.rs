//! A topic that is bound to a tenant that is made at run time.

use anyhow::{Context, ensure};
use millrace_tests::{client, millrace, run};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};

use super::{Up, configured};

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_bound_to_a_tenant_that_is_made_later() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let config = "[topic_bindings.\"acme.requests\"]\ntenant = \"acme\"\n";
    let Up { process, http, said } = configured(folder.path(), config, &[]).await?;
    let (kafka, admin) = (said["kafka"].as_str().context("kafka")?, said["admin_key"].as_str().context("a key")?);
    let file = folder.path().join("data/client.toml").display().to_string();
    let tap = async |topic: &str| {
        let args = ["tap", topic, "--from-beginning", "--limit", "1", "--config", &file];
        anyhow::Ok(serde_json::from_str::<Value>(run(millrace()?, &args).await?.trim())?)
    };

    publish(kafka, "too early").await?;
    let letter = tap("dead-letters").await?;
    ensure!(letter["value"]["tenant"] == "system", "{letter}");
    ensure!(letter["value"]["error"].to_string().contains("tenant `acme` is closed"), "{letter}");

    let asked = client()?.put(format!("{http}/admin/v1/tenants/acme")).bearer_auth(admin).json(&json!({}));
    asked.send().await?.error_for_status()?;
    publish(kafka, "in time").await?;
    let args = ["tap", "outcomes.batch", "--from-beginning", "--limit", "2", "--config", &file];
    let printed = run(millrace()?, &args).await?;
    let outcomes: Vec<Value> = printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let own = outcomes.iter().find(|outcome| outcome["value"]["meta"]["tenant"] == "acme").context("its outcome")?;
    ensure!(own["value"]["status"] == "succeeded", "{own}");
    process.terminate().await
}

async fn publish(kafka: &str, what: &str) -> anyhow::Result<()> {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", kafka).create()?;
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": what }] }).to_string();
    let headers = OwnedHeaders::new().insert(Header { key: "content-type", value: Some("application/json") });
    let record = FutureRecord::<(), [u8]>::to("acme.requests").headers(headers).payload(body.as_bytes());
    producer.send(record, std::time::Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
    Ok(())
}
