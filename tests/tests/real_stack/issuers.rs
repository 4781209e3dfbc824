//! Tokens of an issuer at every replica of both doors, and keys of it that come and go.

use std::time::{Duration, Instant};

use anyhow::ensure;
use millrace_schemas::now_millis;
use millrace_stack::Stack;
use millrace_test_issuer::{Server, Signer, jwks};
use millrace_tests::{JSON_OUTCOMES, Pipeline, client};
use serde_json::{Value, json};

use crate::{produce, producer, tapped};

const WITHIN: Duration = Duration::from_secs(60);

/// An issuer that signs for users of `acme`.
pub struct Corp {
    server: Server,
    old: Signer,
    new: Signer,
}

impl Corp {
    pub async fn start() -> Self {
        let old = Signer::rsa("old");
        Self { server: Server::start(jwks(&[&old])).await, old, new: Signer::ed("new") }
    }

    /// `issuers.corp`, as every process gets it.
    pub fn setting(&self) -> String {
        format!(
            "{{ issuer = \"{}\", discovery = true, audience = [\"millrace\"], tenant = \"acme\", key = \"default\" }}",
            self.server.issuer
        )
    }

    fn claims(&self, user: &str) -> Value {
        json!({ "iss": self.server.issuer, "aud": "millrace", "sub": user, "exp": now_millis() / 1_000 + 600 })
    }
}

pub async fn prove_users_at_both_doors(stack: &Stack, pipeline: &Pipeline, corp: &Corp) -> anyhow::Result<()> {
    let [ada, eve] = ["ada", "eve"].map(|user| corp.old.token(&corp.claims(user)));
    let forged = Signer::rsa("old").token(&corp.claims("ada"));
    // Over HTTP it is seen by the ingress alone; what goes to a topic with a record is in that topic.
    pipeline.secrets.add("a token that came over HTTP", ada.clone());
    for door in &pipeline.doors {
        until(door, &ada, 200).await?;
        until(door, &eve, 401).await?;
        until(door, &forged, 401).await?;
        let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "By a token" }] });
        let answer = client()?.post(format!("{door}/v1/chat/completions")).bearer_auth(&ada).json(&body).send().await?;
        ensure!(answer.status() == 200, "{}", answer.text().await?);
    }

    let of_topic = corp.old.token(&corp.claims("grace"));
    for (label, token) in [("forged", &forged), ("good", &of_topic)] {
        let bearer = format!("Bearer {token}");
        let headers = [
            ("content-type", "application/json"),
            ("authorization", &bearer),
            ("label-token", label),
            ("reply-topic", JSON_OUTCOMES),
        ];
        let body =
            json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "By a token on a topic" }] });
        produce(&producer(stack)?, "e2e.requests.batch", &headers, body.to_string().as_bytes()).await?;
    }
    published_with_a_token(pipeline, &of_topic).await?;
    let outcome = found(pipeline, JSON_OUTCOMES, |value| value["meta"]["labels"]["token"] == "good").await?;
    ensure!(outcome["status"] == "succeeded" && outcome["meta"]["user"] == "grace", "{outcome}");
    ensure!(outcome["meta"]["tenant"] == "acme" && outcome["meta"]["key_id"] == "default", "{outcome}");
    let letter = found(pipeline, "dead-letters", |value| value["code"] == "invalid_token").await?;
    ensure!(letter["tenant"] == "system", "{letter}");

    // Every replica learns of the new key by the first token that it made, and forgets the old one.
    corp.server.has(Some(jwks(&[&corp.new])));
    let rotated = corp.new.token(&corp.claims("ada"));
    for door in &pipeline.doors {
        until(door, &rotated, 200).await?;
        until(door, &ada, 401).await?;
    }
    Ok(())
}

async fn published_with_a_token(pipeline: &Pipeline, token: &str) -> anyhow::Result<()> {
    // Not in the pipeline's folder, in which no token may lie.
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Published with a token" }] });
    std::fs::write(path("requests"), format!("{body}\n"))?;
    std::fs::write(path("token"), token)?;
    let (requests, token) = (path("requests"), path("token"));
    let args = ["publish", "--file", &requests, "--tenant", "acme", "--token-file", &token, "--wait"];
    let said = pipeline.command(&args).await?;
    ensure!(said.contains("1 succeeded"), "{said}");
    Ok(())
}

async fn until(door: &str, token: &str, expected: u16) -> anyhow::Result<()> {
    let until = Instant::now() + WITHIN;
    loop {
        let status = client()?.get(format!("{door}/v1/models")).bearer_auth(token).send().await?.status();
        if status == expected {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{door} answers {status}, not {expected}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The value of a record that is there within a minute.
async fn found(pipeline: &Pipeline, topic: &str, is_it: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let until = Instant::now() + WITHIN;
    loop {
        let records = tapped(pipeline, topic, 0).await?;
        if let Some(record) = records.iter().map(|record| &record["value"]).find(|value| is_it(value)) {
            return Ok(record.clone());
        }
        ensure!(Instant::now() < until, "{topic} has no such record");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
