//! Requests that are larger than a record.

use anyhow::{Context, ensure};
use millrace_schemas::{Coordinates, RequestId};
use millrace_simulated_provider::{Server, SimulatedProviderConfig};
use millrace_tests::{client, form_of};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};

use crate::{Up, configured, ended};

/// A picture is larger than a record: over HTTP its request lies beside it, over a topic in a file of the same tenant.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_larger_than_a_record_reach_the_provider_whole() -> anyhow::Result<()> {
    let provider = Server::start(SimulatedProviderConfig::default(), ([127, 0, 0, 1], 0).into()).await?;
    let folder = tempfile::tempdir()?;
    let config = "[tenants.acme]\nkeys = [{ id = \"k\", key = \"acme\" }]\n\
                  [tenants.rival]\nkeys = [{ id = \"k\", key = \"rival\" }]\n\
                  [topic_bindings.\"acme.requests\"]\ntenant = \"acme\"\n";
    let url = provider.url();
    let Up { process, http, said } =
        configured(folder.path(), config, &["--provider", &url, "--model", "sim-small"]).await?;
    let (http, kafka) = (http.as_str(), said["kafka"].as_str().context("kafka")?);

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
