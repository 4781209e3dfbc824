//! Two customers who use Kafka themselves, each as a user of its own: neither can write as the other, nor read it.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_schemas::{SIGNATURE_HEADER, Signature, key_digest};
use millrace_stack::Stack;
use millrace_tests::{JSON_OUTCOMES, KAFKA_USER, Pipeline, RIVAL_KEY, RIVAL_TOPICS};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};

use crate::{produce, producer, tapped};

/// Topics of ours, which no customer may use: what anybody asked, what anybody was told, and what is paid.
const SHARED: [&str; 7] = [
    "e2e.requests.batch",
    "e2e.requests.interactive",
    "e2e.outcomes.batch",
    "e2e.calls",
    "e2e.facts",
    "e2e.cancellations",
    "e2e.documents",
];

pub async fn never_meet_on_the_broker(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<()> {
    let (requests, outcomes) = RIVAL_TOPICS;
    let rival = Customer { stack, user: "rival" };
    // What is its own, it may use.
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Mine" }] }).to_string();
    rival.write(requests, &body).await?;
    let own = tapped(pipeline, outcomes, 1).await?;
    ensure!(own[0]["value"]["meta"]["tenant"] == "rival" && own[0]["value"]["status"] == "succeeded", "{}", own[0]);
    ensure!(rival.read(outcomes, "rival.reader")? == Ok(()), "its own reply topic");

    let topic_denied = Err(RDKafkaErrorCode::TopicAuthorizationFailed);
    for topic in ["acme.requests", "acme.outcomes", JSON_OUTCOMES, outcomes].into_iter().chain(SHARED) {
        let error = rival.write(topic, &body).await.err().with_context(|| format!("rival could write {topic}"))?;
        let denied = error.downcast_ref::<KafkaError>().and_then(KafkaError::rdkafka_error_code);
        ensure!(denied == topic_denied.err(), "{topic}: {error}");
    }
    for topic in ["acme.outcomes", JSON_OUTCOMES, "acme.requests", requests].into_iter().chain(SHARED) {
        ensure!(rival.read(topic, "rival.reader")? == topic_denied, "rival could read {topic}");
    }
    // Nor is a group of the other's open to it: it could move the other's place.
    for group in ["acme.reader", "e2e.prompt-builder.batch"] {
        let joined = rival.read(outcomes, group)?;
        ensure!(joined == Err(RDKafkaErrorCode::GroupAuthorizationFailed), "{group}: {joined:?}");
    }
    forged(stack, pipeline, &body).await
}

/// Whoever may write to the shared topic has to sign: with the key of one tenant nobody speaks for another.
async fn forged(stack: &Stack, pipeline: &Pipeline, body: &str) -> anyhow::Result<()> {
    let digest = key_digest(RIVAL_KEY);
    let as_acme = Signature::sign("acme/default", &digest, body.as_bytes());
    let of_another_body = Signature::sign("rival/default", &digest, b"{}");
    let json = ("content-type", "application/json");
    let forgeries = [("as another tenant", as_acme), ("on another body", of_another_body)];
    for (forgery, signature) in &forgeries {
        let headers = [json, ("label-forgery", forgery), (SIGNATURE_HEADER, signature.as_str())];
        produce(&producer(stack)?, "e2e.requests.batch", &headers, body.as_bytes()).await?;
    }
    let header_of = |letter: &Value| letter["value"]["headers"].to_string().contains("label-forgery");
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let letters = tapped(pipeline, "dead-letters", 0).await?;
        let found: Vec<&Value> = letters.iter().filter(|letter| header_of(letter)).collect();
        ensure!(
            found.iter().all(|l| l["value"]["code"] == "invalid_signature" && l["value"]["tenant"] == "system"),
            "{found:?}"
        );
        if found.len() == forgeries.len() {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{} forgeries are dead letters", found.len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A customer as the broker knows it.
struct Customer<'a> {
    stack: &'a Stack,
    user: &'a str,
}

impl Customer<'_> {
    fn client(&self) -> ClientConfig {
        let (_, password) = KAFKA_USER;
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", self.stack.sasl_bootstrap_servers())
            .set("security.protocol", "sasl_plaintext")
            .set("sasl.mechanism", "SCRAM-SHA-256")
            .set("sasl.username", self.user)
            .set("sasl.password", password);
        client
    }

    async fn write(&self, topic: &str, body: &str) -> anyhow::Result<()> {
        let producer: FutureProducer = self.client().set("message.timeout.ms", "15000").create()?;
        let headers = rdkafka::message::OwnedHeaders::new()
            .insert(rdkafka::message::Header { key: "content-type", value: Some("application/json") })
            .insert(rdkafka::message::Header { key: "reply-topic", value: Some(RIVAL_TOPICS.1) });
        let record = FutureRecord::<(), [u8]>::to(topic).headers(headers).payload(body.as_bytes());
        producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
        Ok(())
    }

    /// Whether the user gets a record of the topic as a member of the group, or what it is told instead.
    fn read(&self, topic: &str, group: &str) -> anyhow::Result<Result<(), RDKafkaErrorCode>> {
        let consumer: BaseConsumer =
            self.client().set("group.id", group).set("auto.offset.reset", "earliest").create()?;
        consumer.subscribe(&[topic])?;
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(record)) => {
                    ensure!(record.topic() == topic, "{} instead of {topic}", record.topic());
                    return Ok(Ok(()));
                }
                Some(Err(error)) => {
                    if let Some(
                        code
                        @ (RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed),
                    ) = error.rdkafka_error_code()
                    {
                        return Ok(Err(code));
                    }
                }
                None => {}
            }
        }
        bail!("{topic} gives {} neither a record nor a refusal", self.user)
    }
}
