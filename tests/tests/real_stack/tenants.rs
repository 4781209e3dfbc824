//! Tenants and keys that are made, limited, rotated and taken back while everything runs.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_tests::{ADMIN_KEY, Pipeline, RIVAL_KEY, Secrets, client};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::{tapped, until_as};

/// The tenant that is made here.
pub const TENANT: &str = "northwind";

pub async fn are_made_and_end_while_it_runs(pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let admin = Admin::new(pipeline);
    admin.ok(Method::PUT, "plans/small", json!({ "models": ["sim-small"] })).await?;
    admin.ok(Method::PUT, "tenants/northwind", json!({ "name": "Northwind", "plan": "small" })).await?;
    admin.ok(Method::PUT, "tenants/northwind/users/web", json!({ "service": true })).await?;
    let made = admin.ok(Method::POST, "tenants/northwind/keys", json!({ "id": "web-1", "user": "web" })).await?;
    let first = key_of(&made)?;

    is_known_at_every_door_and_held_to_its_plan(pipeline, &first).await?;
    keys_do_what_they_are_for(pipeline, &admin).await?;
    what_was_accepted_stays_so(pipeline, &admin).await?;
    let second = rotated(pipeline, &admin, &first).await?;
    revoked_everywhere(pipeline, &admin, &second).await?;
    is_remembered_by_a_replica_that_was_killed(pipeline, &second).await?;
    every_change_is_in_the_audit_and_no_secret(pipeline, &[&first, &second]).await
}

/// The administrative API with a key.
pub struct Admin {
    door: String,
    key: String,
    /// Keys that it was shown are added to these.
    secrets: Secrets,
}

impl Admin {
    /// The administrator's, at the first door.
    pub fn new(pipeline: &Pipeline) -> Self {
        Self::at(&pipeline.doors[0], ADMIN_KEY, pipeline)
    }

    fn at(door: &str, key: &str, pipeline: &Pipeline) -> Self {
        Self { door: door.to_owned(), key: key.to_owned(), secrets: pipeline.secrets.clone() }
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> anyhow::Result<Response> {
        let url = format!("{}/admin/v1/{path}", self.door);
        Ok(client()?.request(method, url).bearer_auth(&self.key).json(&body).send().await?)
    }

    pub async fn ok(&self, method: Method, path: &str, body: Value) -> anyhow::Result<Value> {
        let makes = method == Method::POST;
        let answer = self.call(method, path, body).await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.text().await?);
        let said: Value = answer.json().await?;
        if makes && let Some(key) = said["key"].as_str() {
            self.secrets.add(format!("a key made by {path}"), key);
        }
        Ok(said)
    }

    async fn refused(&self, method: Method, path: &str, status: u16) -> anyhow::Result<()> {
        let answer = self.call(method, path, json!({})).await?;
        ensure!(answer.status() == status, "{path}: {} {}", answer.status(), answer.text().await?);
        Ok(())
    }
}

fn key_of(made: &Value) -> anyhow::Result<String> {
    made["key"].as_str().map(str::to_owned).context("a new key is shown")
}

async fn ask(door: &str, key: &str, model: &str) -> anyhow::Result<Response> {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Say hello" }] });
    Ok(client()?.post(format!("{door}/v1/chat/completions")).bearer_auth(key).json(&body).send().await?)
}

/// Waits until a door answers a key with this status.
pub async fn until_status(door: &str, key: &str, status: StatusCode) -> anyhow::Result<Duration> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        let answer = client()?.get(format!("{door}/v1/models")).bearer_auth(key).send().await?;
        if answer.status() == status {
            return Ok(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("{door} never answers {status}")
}

async fn is_known_at_every_door_and_held_to_its_plan(pipeline: &Pipeline, key: &str) -> anyhow::Result<()> {
    for door in &pipeline.doors {
        until_status(door, key, StatusCode::OK).await?;
        let answer = ask(door, key, "sim-small").await?;
        ensure!(answer.status() == 200, "{}", answer.text().await?);
        let id = answer.headers()["x-request-id"].to_str()?.to_owned();
        let outcome = until_as(key, &format!("{door}/v1/requests/{id}"), |v| v["status"] != "in_progress").await?;
        ensure!(outcome["user"] == "web" && outcome["status"] == "succeeded", "{outcome}");
        let foreign = client()?.get(format!("{door}/v1/requests/{id}")).bearer_auth(RIVAL_KEY).send().await?;
        ensure!(foreign.status() == 404, "another tenant sees it");
        let beyond = ask(door, key, "sim-large").await?;
        ensure!(beyond.status() == 404, "a model that the plan has not: {}", beyond.text().await?);
    }
    Ok(())
}

async fn keys_do_what_they_are_for(pipeline: &Pipeline, admin: &Admin) -> anyhow::Result<()> {
    let batch = json!({ "id": "nightly", "lanes": ["batch"] });
    let batch = key_of(&admin.ok(Method::POST, "tenants/northwind/keys", batch).await?)?;
    let refused = ask(&pipeline.doors[0], &batch, "sim-small").await?;
    let (status, refused) = (refused.status(), refused.json::<Value>().await?);
    ensure!(status == 403 && refused["error"]["code"] == "lane_not_allowed", "{refused}");

    let own = json!({ "id": "boss", "admin": true });
    let own = key_of(&admin.ok(Method::POST, "tenants/northwind/keys", own).await?)?;
    let boss = Admin::at(&pipeline.doors[0], &own, pipeline);
    boss.ok(Method::PUT, "tenants/northwind/users/night", json!({})).await?;
    boss.refused(Method::GET, "tenants/acme", 404).await?;
    boss.refused(Method::PUT, "tenants/acme/users/x", 404).await?;
    boss.refused(Method::PATCH, "tenants/northwind", 403).await?;
    boss.refused(Method::PUT, "plans/large", 403).await?;
    boss.refused(Method::DELETE, "tenants/northwind/users/web", 409).await?;
    endpoints_need_what_their_secrets_are_derived_from(&boss).await?;
    Admin { key: batch, ..boss }.refused(Method::GET, "tenants/northwind", 403).await?;
    // What the configuration spells out stays.
    admin.refused(Method::PATCH, "tenants/acme", 409).await
}

/// Nothing of the kind is configured here.
async fn endpoints_need_what_their_secrets_are_derived_from(boss: &Admin) -> anyhow::Result<()> {
    let asked = json!({ "id": "main", "url": "https://hooks.northwind.example" });
    let answer = boss.call(Method::POST, "tenants/northwind/webhooks", asked).await?;
    let (status, said) = (answer.status(), answer.text().await?);
    ensure!(status == 409 && said.contains("webhooks.secret_keys"), "{status} {said}");
    let listed = boss.ok(Method::GET, "tenants/northwind/webhooks", json!({})).await?;
    ensure!(listed["data"] == json!([]), "{listed}");
    Ok(())
}

/// A key that is revoked while its request waits takes nothing back.
async fn what_was_accepted_stays_so(pipeline: &mut Pipeline, admin: &Admin) -> anyhow::Result<()> {
    let short = json!({ "id": "short", "user": "web" });
    let short = key_of(&admin.ok(Method::POST, "tenants/northwind/keys", short).await?)?;
    let door = pipeline.doors[0].clone();
    for builder in ["prompt-builder-0", "prompt-builder-1"] {
        pipeline.terminate(builder).await?;
    }
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Wait for me" }] });
    let url = format!("{door}/v1/chat/completions");
    let accepted = client()?.post(url).bearer_auth(&short).header("prefer", "respond-async").json(&body).send().await?;
    ensure!(accepted.status() == 202, "{}", accepted.text().await?);
    let id = accepted.headers()["x-request-id"].to_str()?.to_owned();
    // Instants of keys are whole seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    admin.ok(Method::DELETE, "tenants/northwind/keys/short", json!({})).await?;
    until_status(&door, &short, StatusCode::UNAUTHORIZED).await?;
    for builder in ["prompt-builder-0", "prompt-builder-1"] {
        pipeline.restart(builder)?;
    }
    pipeline.until_ready().await?;
    let boss = admin.ok(Method::POST, "tenants/northwind/keys", json!({ "id": "reader" })).await?;
    let url = format!("{door}/v1/requests/{id}");
    let outcome = until_as(&key_of(&boss)?, &url, |v| v["status"] != "in_progress").await?;
    ensure!(outcome["status"] == "succeeded", "{outcome}");
    Ok(())
}

async fn rotated(pipeline: &Pipeline, admin: &Admin, first: &str) -> anyhow::Result<String> {
    let overlap = json!({ "overlap_seconds": 3 });
    let second = key_of(&admin.ok(Method::POST, "tenants/northwind/keys/web-1/rotate", overlap).await?)?;
    for door in &pipeline.doors {
        until_status(door, &second, StatusCode::OK).await?;
    }
    let both =
        [ask(&pipeline.doors[1], first, "sim-small").await?, ask(&pipeline.doors[1], &second, "sim-small").await?];
    ensure!(both.iter().all(|answer| answer.status() == 200), "{both:?}");
    for door in &pipeline.doors {
        until_status(door, first, StatusCode::UNAUTHORIZED).await?;
        until_status(door, &second, StatusCode::OK).await?;
    }
    Ok(second)
}

async fn revoked_everywhere(pipeline: &Pipeline, admin: &Admin, key: &str) -> anyhow::Result<()> {
    admin.ok(Method::DELETE, "tenants/northwind/keys/web-1", json!({})).await?;
    for door in &pipeline.doors {
        let took = until_status(door, key, StatusCode::UNAUTHORIZED).await?;
        println!("{door} refuses the revoked key after {took:?}");
    }
    Ok(())
}

async fn is_remembered_by_a_replica_that_was_killed(pipeline: &mut Pipeline, revoked: &str) -> anyhow::Result<()> {
    pipeline.kill("ingress-1").await?;
    pipeline.restart("ingress-1")?;
    pipeline.until_ready().await?;
    let door = &pipeline.doors[1];
    until_status(door, revoked, StatusCode::UNAUTHORIZED).await?;
    let admin = Admin::at(door, ADMIN_KEY, pipeline);
    let tenant = admin.ok(Method::GET, "tenants/northwind", json!({})).await?;
    ensure!(tenant["name"] == "Northwind" && tenant["source"] == "api", "{tenant}");
    Ok(())
}

async fn every_change_is_in_the_audit_and_no_secret(pipeline: &Pipeline, keys: &[&str]) -> anyhow::Result<()> {
    let records = tapped(pipeline, "audit", 12).await?;
    let said = |record: &Value| format!("{} {}", record["value"]["action"], record["value"]["name"]).replace('"', "");
    let said: Vec<String> = records.iter().map(said).collect();
    for expected in [
        "create plan/small",
        "create tenant/northwind",
        "create key/northwind/web-1",
        "rotate key/northwind/web-1",
        "revoke key/northwind/web-1",
    ] {
        ensure!(said.iter().filter(|line| *line == expected).count() == 1, "{expected}: {said:?}");
    }
    let by_boss =
        records.iter().find(|record| record["value"]["name"] == "user/northwind/night").context("its user")?;
    ensure!(
        by_boss["value"]["actor"] == "key/northwind/boss" && by_boss["value"]["address"] == "127.0.0.1",
        "{by_boss}"
    );
    let text = serde_json::to_string(&records)?;
    let secrets = keys.iter().flat_map(|key| [(*key).to_owned(), millrace_config::hash_key(key)]);
    for secret in secrets {
        ensure!(!text.contains(&secret), "the audit holds a key");
    }
    // Of what is refused nothing is left.
    ensure!(!text.contains("tenant/acme"), "{text}");
    Ok(())
}
