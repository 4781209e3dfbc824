//! Endpoints that a tenant makes for itself while everything runs, on a broker that lets each service do what
//! infra/kafka/acls.json says and no more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use millrace_stack::Stack;
use millrace_tests::{ADMIN_KEY, Pipeline, Setup, State, client, form_of, kafka_users, run};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::receiver::{Arrived, Receiver};
use crate::{SERVICE, ask, eventually, repository, text};

const MASTER: &str = "what secrets are derived from, here";
const INGRESS: &str = "ingress-0";
const TENANT: &str = "tenants/northwind";
/// From then on a change is known to the service.
const TAKEN_UP: Duration = Duration::from_secs(2);
/// Seconds for which both secrets sign.
const OVERLAP: u64 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_made_changed_and_deleted_while_it_runs() -> anyhow::Result<()> {
    let (receiver, url) = Receiver::start().await?;
    let stack = Stack::builder().sasl(kafka_users()).start().await?;
    let interpreter = run(repository().join("tests/clients.sh"), &[]).await?;
    let acls = repository().join("tests/acls.py");
    run(interpreter.trim(), &[text(&acls)?, &stack.bootstrap_servers(), "e2e.", "e2e."]).await?;
    let secret_keys = format!("[{MASTER:?}]");
    let env = [
        ("MILLRACE_WEBHOOKS__SECRET_KEYS", secret_keys.as_str()),
        ("MILLRACE_WEBHOOKS__ALLOW_PRIVATE", "true"),
        ("MILLRACE_WEBHOOKS__TIMEOUT_MS", "2000"),
        ("MILLRACE_STAGE__SESSION_TIMEOUT_MS", "6000"),
    ];
    let setup = Setup { bindings: false, ..Setup::copies(1).env(&env) };
    let mut pipeline = Pipeline::start(&stack, setup).await?;
    pipeline.secrets.add("what secrets are derived from", MASTER);

    let admin = Admin { pipeline: &pipeline, key: ADMIN_KEY.to_owned() };
    admin.ok(Method::PUT, TENANT, json!({ "name": "Northwind" })).await?;
    admin.ok(Method::PUT, "tenants/southwind", json!({})).await?;
    let key = admin.new_key(TENANT, json!({ "id": "web" })).await?;
    let ops = admin.new_key(TENANT, json!({ "id": "ops", "admin": true })).await?;
    let stranger = admin.new_key("tenants/southwind", json!({ "id": "ops", "admin": true })).await?;
    let own = Admin { pipeline: &pipeline, key: ops.clone() };

    let first = own.made(json!({ "id": "main", "url": format!("{url}/made") })).await?;
    what_may_not_be_is_refused(&own, &[stranger.as_str(), key.as_str()], &url).await?;
    tokio::time::sleep(TAKEN_UP).await;
    let told = told_of(&pipeline, &receiver, &key, "made").await?;
    ensure!(signed_with(&told, &[&first])?, "one secret signs: {:?}", told.headers);
    let second = rotated(&own, &receiver, &key, &first).await?;
    is_moved_and_deleted(&own, &receiver, (&key, &url), &second).await?;
    every_change_is_in_the_audit(&pipeline).await?;
    the_end_of_a_batch_is_told(&mut pipeline, &receiver, [&key, &ops, &url]).await?;

    // A process that starts knows what was made before, and that what was deleted is gone.
    let own = Admin { pipeline: &pipeline, key: ops };
    let kept = own.made(json!({ "id": "main", "url": format!("{url}/kept") })).await?;
    ensure!(kept != first && kept != second, "a secret that was shown before");
    pipeline.kill(SERVICE).await?;
    pipeline.restart(SERVICE)?;
    pipeline.until_ready().await?;
    let told = told_of(&pipeline, &receiver, &key, "kept").await?;
    ensure!(signed_with(&told, &[&kept])?, "{:?}", told.headers);
    no_secret_is_in_anything_that_was_written(&stack, &pipeline, &receiver).await?;
    pipeline.stop().await?;
    stack.stop().await
}

/// The administrative API with a key.
struct Admin<'a> {
    pipeline: &'a Pipeline,
    key: String,
}

impl Admin<'_> {
    async fn call(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let url = format!("{}/admin/v1/{path}", self.pipeline.http);
        let answer = client()?.request(method, url).bearer_auth(&self.key).json(body).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    async fn ok(&self, method: Method, path: &str, body: Value) -> anyhow::Result<Value> {
        let (status, said) = self.call(method, path, &body).await?;
        ensure!((200..300).contains(&status), "{path}: {status} {said}");
        Ok(said)
    }

    async fn new_key(&self, tenant: &str, body: Value) -> anyhow::Result<String> {
        let made = self.ok(Method::POST, &format!("{tenant}/keys"), body).await?;
        let key = made["key"].as_str().context("a key")?.to_owned();
        self.pipeline.secrets.add(format!("a key of {tenant}"), key.as_str());
        Ok(key)
    }

    /// Makes an endpoint; its secret, which nobody may find from now on.
    async fn made(&self, body: Value) -> anyhow::Result<String> {
        let made = self.ok(Method::POST, &format!("{TENANT}/webhooks"), body).await?;
        self.secret(&made)
    }

    fn secret(&self, said: &Value) -> anyhow::Result<String> {
        let secret = said["secret"].as_str().context("a secret")?.to_owned();
        let digits = secret.strip_prefix("whsec_").context("as Standard Webhooks writes it")?;
        let bytes = STANDARD.decode(digits)?;
        ensure!(bytes.len() == 32, "{} bytes", bytes.len());
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.pipeline.secrets.add("a derived secret", digits.trim_end_matches('='));
        self.pipeline.secrets.add("a derived secret in hexadecimal", hex);
        Ok(secret)
    }
}

async fn what_may_not_be_is_refused(own: &Admin<'_>, others: &[&str], url: &str) -> anyhow::Result<()> {
    let (list, main) = (format!("{TENANT}/webhooks"), format!("{TENANT}/webhooks/main"));
    let rotate = format!("{main}/rotate");
    let shown = own.ok(Method::GET, &main, json!({})).await?;
    ensure!(shown["object"] == "webhook" && shown["source"] == "api" && shown["tenant"] == "northwind", "{shown}");
    let members: BTreeSet<&str> = shown.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let expected = ["changed_at", "id", "object", "secret_key_id", "source", "tenant", "url"];
    ensure!(members == BTreeSet::from(expected), "{shown}");

    // Another tenant's administrator sees nothing of it, and who is none may do nothing.
    for (key, status) in others.iter().zip([404, 403]) {
        let other = Admin { pipeline: own.pipeline, key: (*key).to_owned() };
        for (method, path) in [
            (Method::GET, &list),
            (Method::POST, &list),
            (Method::GET, &main),
            (Method::PATCH, &main),
            (Method::DELETE, &main),
            (Method::POST, &rotate),
        ] {
            let (answered, said) = other.call(method, path, &json!({ "id": "x", "url": url })).await?;
            ensure!(answered == status, "{path}: {answered} {said}");
        }
    }
    let good = format!("{url}/x");
    for (body, status, part) in [
        (json!({ "id": "main", "url": good }), 409, "is there already"),
        (json!({ "url": good }), 400, "an 'id'"),
        (json!({ "id": "x" }), 400, "Give the endpoint a 'url'"),
        (json!({ "id": "x y", "url": good }), 400, "1 to 64"),
        (json!({ "id": "x", "url": "ftp://h.example" }), 400, "begin it with https"),
        (json!({ "id": "x", "url": "https://me:pw@h.example" }), 400, "credentials"),
        (json!({ "id": "x", "url": good, "events": ["response.done"] }), 400, "no event 'response.done'"),
        (json!({ "id": "x", "url": good, "secret": "whsec_mine" }), 400, "no member 'secret'"),
    ] {
        let (answered, said) = own.call(Method::POST, &list, &body).await?;
        let message = said["error"]["message"].as_str().unwrap_or_default();
        ensure!(answered == status && message.contains(part), "{body}: {answered} {said}");
    }
    let (answered, said) = own.call(Method::PATCH, &main, &json!({ "url": null })).await?;
    ensure!(answered == 400, "{said}");
    let (answered, said) = own.call(Method::POST, &format!("{TENANT}/webhooks/none/rotate"), &json!({})).await?;
    ensure!(answered == 404, "{said}");
    let quiet = |n: usize| json!({ "id": format!("more-{n}"), "url": good, "events": ["batch.expired"] });
    for n in 1..16 {
        own.made(quiet(n)).await?;
    }
    let (answered, said) = own.call(Method::POST, &list, &quiet(16)).await?;
    ensure!(answered == 409 && said["error"]["message"].to_string().contains("16 endpoints"), "{said}");
    for n in 1..16 {
        own.ok(Method::DELETE, &format!("{TENANT}/webhooks/more-{n}"), json!({})).await?;
    }
    let left = own.ok(Method::GET, &list, json!({})).await?;
    ensure!(left["data"].as_array().is_some_and(|data| data.len() == 1), "{left}");
    let (answered, said) = own.call(Method::GET, &format!("{TENANT}/webhooks/more-1"), &json!({})).await?;
    ensure!(answered == 404, "{said}");
    Ok(())
}

/// What an endpoint is told of a request that is made now.
async fn told_of(pipeline: &Pipeline, receiver: &Receiver, key: &str, path: &str) -> anyhow::Result<Arrived> {
    let id = ask(pipeline, key, "Tell me").await?;
    let is_it = |arrived: &Arrived| arrived.about() == id;
    eventually(20, "it is told", || receiver.taken(path).iter().any(is_it)).await?;
    receiver.taken(path).into_iter().find(is_it).context("it arrived")
}

/// Whether these secrets, in this order, and no others have signed.
fn signed_with(arrived: &Arrived, secrets: &[&str]) -> anyhow::Result<bool> {
    let header = |name: &str| arrived.headers.get(name).cloned().unwrap_or_default();
    let message = format!("{}.{}.{}", header("webhook-id"), header("webhook-timestamp"), arrived.body);
    let mut expected = Vec::new();
    for secret in secrets {
        let key = STANDARD.decode(secret.trim_start_matches("whsec_"))?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|error| anyhow::anyhow!("{error}"))?;
        mac.update(message.as_bytes());
        expected.push(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())));
    }
    Ok(header("webhook-signature") == expected.join(" "))
}

async fn rotated(own: &Admin<'_>, receiver: &Receiver, key: &str, first: &str) -> anyhow::Result<String> {
    let path = format!("{TENANT}/webhooks/main");
    let said = own.ok(Method::POST, &format!("{path}/rotate"), json!({ "overlap_seconds": OVERLAP })).await?;
    let (second, until) = (own.secret(&said)?, tokio::time::Instant::now() + Duration::from_secs(OVERLAP));
    ensure!(second != first && said["previous_until"].is_string(), "{said}");
    tokio::time::sleep(TAKEN_UP).await;
    let told = told_of(own.pipeline, receiver, key, "made").await?;
    ensure!(signed_with(&told, &[&second, first])?, "both sign: {:?}", told.headers);
    tokio::time::sleep_until(until).await;
    let told = told_of(own.pipeline, receiver, key, "made").await?;
    ensure!(signed_with(&told, &[&second])?, "the new one signs: {:?}", told.headers);
    Ok(second)
}

/// One that does not answer holds a delivery: what is deleted with it ends, clearly, and nothing is sent any more.
async fn is_moved_and_deleted(
    own: &Admin<'_>,
    receiver: &Receiver,
    (key, url): (&str, &str),
    secret: &str,
) -> anyhow::Result<()> {
    let path = format!("{TENANT}/webhooks/main");
    own.ok(Method::PATCH, &path, json!({ "url": format!("{url}/moved") })).await?;
    own.made(json!({ "id": "dead", "url": format!("{url}/dead") })).await?;
    tokio::time::sleep(TAKEN_UP).await;
    let told = told_of(own.pipeline, receiver, key, "moved").await?;
    ensure!(signed_with(&told, &[secret])?, "a change leaves the secret: {:?}", told.headers);
    eventually(20, "the dead one is asked", || !receiver.at("dead").is_empty()).await?;

    for id in ["main", "dead"] {
        own.ok(Method::DELETE, &format!("{TENANT}/webhooks/{id}"), json!({})).await?;
    }
    tokio::time::sleep(TAKEN_UP).await;
    let before = (receiver.at("moved").len(), receiver.at("made").len());
    ask(own.pipeline, key, "Tell nobody").await?;
    let list = format!("{}/v1/webhooks/deliveries?endpoint=dead", own.pipeline.http);
    for _ in 0..60 {
        let page: Value = client()?.get(&list).bearer_auth(&own.key).send().await?.json().await?;
        let delivery = &page["data"][0];
        if delivery["status"] == "failed" {
            ensure!(delivery["last_attempt"]["error"] == "the endpoint was deleted", "{delivery}");
            ensure!(page["data"].as_array().is_some_and(|data| data.len() == 1), "{page}");
            // It had a delivery of the last request by now, if it had any.
            ensure!((receiver.at("moved").len(), receiver.at("made").len()) == before, "it is told yet");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    anyhow::bail!("the delivery to what was deleted does not end")
}

/// By whichever replica finds it: the one that worked on it may be killed before it has told anybody.
async fn the_end_of_a_batch_is_told(
    pipeline: &mut Pipeline,
    receiver: &Receiver,
    [key, ops, url]: [&str; 3],
) -> anyhow::Result<()> {
    let own = Admin { pipeline: &*pipeline, key: ops.to_owned() };
    let body = json!({ "id": "batches", "url": format!("{url}/batches"), "events": ["batch.completed"] });
    let secret = own.made(body).await?;
    let first = batch(pipeline, key).await?;
    let told = batch_told(receiver, &first).await?;
    ensure!(signed_with(&told, &[&secret])?, "{:?}", told.headers);

    pipeline.kill(INGRESS).await?;
    pipeline.restart_with(INGRESS, &[("MILLRACE_FAIL_POINT", "kill:1:before store a webhook delivery")])?;
    pipeline.until_ready().await?;
    let second = batch(pipeline, key).await?;
    let began = Instant::now();
    while pipeline.state(INGRESS)? != State::Killed {
        ensure!(began.elapsed() < Duration::from_secs(60), "nobody is told:\n{}", pipeline.tails());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(!receiver.at("batches").iter().any(|arrived| arrived.about() == second), "it was told before");
    pipeline.restart(INGRESS)?;
    pipeline.until_ready().await?;
    batch_told(receiver, &second).await?;
    let ids: BTreeSet<String> = receiver.at("batches").into_iter().map(|arrived| arrived.id).collect();
    ensure!(ids.len() == 2, "{ids:?}");
    Ok(())
}

/// A batch of two requests.
async fn batch(pipeline: &Pipeline, key: &str) -> anyhow::Result<String> {
    let line = |n: u32| {
        let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "In a batch" }] });
        json!({ "custom_id": format!("line-{n}"), "method": "POST", "url": "/v1/chat/completions", "body": body })
    };
    let (kind, form) = form_of("batch", &format!("{}\n{}\n", line(1), line(2)));
    let post = |path: &str| anyhow::Ok(client()?.post(format!("{}{path}", pipeline.http)).bearer_auth(key));
    let file: Value = post("/v1/files")?.header("content-type", kind).body(form).send().await?.json().await?;
    let new = json!({ "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h" });
    let batch: Value = post("/v1/batches")?.json(&new).send().await?.json().await?;
    batch["id"].as_str().map(str::to_owned).with_context(|| batch.to_string())
}

async fn batch_told(receiver: &Receiver, batch: &str) -> anyhow::Result<Arrived> {
    let is_it = |arrived: &Arrived| arrived.about() == batch;
    eventually(60, "the batch is told", || receiver.taken("batches").iter().any(is_it)).await?;
    let told = receiver.taken("batches").into_iter().find(is_it).context("it arrived")?;
    let event = told.event();
    ensure!(event["type"] == "batch.completed" && event["data"]["status"] == "completed", "{event}");
    ensure!(event["data"]["request_counts"]["completed"] == 2, "{event}");
    Ok(told)
}

async fn every_change_is_in_the_audit(pipeline: &Pipeline) -> anyhow::Result<()> {
    let printed = pipeline.command(&["tap", "audit", "--from-beginning", "--no-follow"]).await?;
    let records: Vec<Value> = printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for action in ["create", "rotate", "change", "delete"] {
        let is_it = |record: &&Value| {
            record["value"]["name"] == "webhook/northwind/main" && record["value"]["action"] == action
        };
        let record = records.iter().find(is_it).with_context(|| format!("{action} in {printed}"))?;
        ensure!(record["value"]["actor"] == "key/northwind/ops", "{record}");
    }
    ensure!(!printed.contains("salt") && !printed.contains("webhook/southwind"), "{printed}");
    Ok(())
}

async fn no_secret_is_in_anything_that_was_written(
    stack: &Stack,
    pipeline: &Pipeline,
    receiver: &Receiver,
) -> anyhow::Result<()> {
    let (place, name) = ("topic e2e.tenants", "an endpoint");
    let mut search = pipeline.secrets.search(&[(name, "webhook/northwind/main")])?;
    for arrived in ["made", "moved", "kept", "dead", "batches"].into_iter().flat_map(|path| receiver.at(path)) {
        search.look("deliveries", format!("{:?} {}", arrived.headers, arrived.body).as_bytes());
    }
    let folder = pipeline.folder().join("searched");
    pipeline.command(&["backup", "create", "--dir", text(&folder)?]).await?;
    pipeline.look_through(stack, &mut search).await?;
    search.finds_no_secret()?;
    search.finds(name, place)?;
    search.finds(name, "topic e2e.audit")
}
