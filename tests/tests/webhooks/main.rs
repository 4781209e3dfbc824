//! Webhooks on real Kafka and Cassandra: every outcome is told, through refusals and kills, by ids that stay.

mod made;
mod receiver;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use millrace_stack::Stack;
use millrace_tests::{Pipeline, RIVAL_KEY, Setup, State, TENANT_KEY, client, millrace, run};
use serde_json::{Value, json};

use receiver::Receiver;

const OLD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW_SECRET: &str = "whsec_dGhpcyBpcyBhIHNlY3JldCBvZiAzMiBieXRlcyEhISE=";
const OPS_KEY: &str = "mr_test_acme_ops";
const SERVICE: &str = "webhooks-0";
/// Where it is killed: before and after each.
const EFFECTS: [&str; 5] =
    ["store a webhook delivery", "schedule a webhook", "deliver a webhook", "strike a webhook off", "commit"];

#[tokio::test(flavor = "multi_thread")]
async fn every_outcome_is_told() -> anyhow::Result<()> {
    let (receiver, url) = Receiver::start().await?;
    let stack = Stack::builder().start().await?;
    let endpoint = |id: &str, path: &str, secrets: &[&str]| {
        format!("{{ id = \"{id}\", url = \"{url}/{path}\", secrets = {secrets:?} }}")
    };
    let both = [OLD_SECRET, NEW_SECRET];
    let acme = format!("[{}, {}]", endpoint("main", "flaky", &both), endpoint("dead", "dead", &both[..1]));
    let rival = format!("[{}]", endpoint("quick", "quick", &both[..1]));
    let keys = format!(
        "[{{ id = \"default\", key = \"{TENANT_KEY}\" }}, {{ id = \"ops\", key = \"{OPS_KEY}\", admin = true }}]"
    );
    let env = [
        ("MILLRACE_TENANTS__ACME__WEBHOOKS", acme.as_str()),
        ("MILLRACE_TENANTS__ACME__KEYS", keys.as_str()),
        ("MILLRACE_TENANTS__RIVAL__WEBHOOKS", rival.as_str()),
        ("MILLRACE_WEBHOOKS__ALLOW_PRIVATE", "true"),
        ("MILLRACE_WEBHOOKS__TIMEOUT_MS", "3000"),
        ("MILLRACE_WEBHOOKS__CONCURRENCY", "4"),
        ("MILLRACE_STAGE__SESSION_TIMEOUT_MS", "6000"),
    ];
    let mut pipeline = Pipeline::start(&stack, Setup::copies(1).env(&env)).await?;
    let mut asked =
        through_refusals_and_a_kill(&pipeline_requests(&pipeline, 20).await?, &receiver, &mut pipeline).await?;
    one_dead_endpoint_delays_nobody(&pipeline, &receiver).await?;
    as_openais_libraries_read_it(&pipeline, &receiver).await?;
    looked_at_and_sent_again(&pipeline, &receiver).await?;
    nothing_is_lost_wherever_it_is_killed(&mut pipeline, &receiver, &mut asked).await?;
    private_addresses_are_refused(&pipeline, &url).await?;
    no_secret_is_in_anything_that_was_written(&stack, &pipeline, &receiver).await?;
    pipeline.stop().await?;
    stack.stop().await
}

/// Asks over HTTP and by the batch topic; the ids.
async fn pipeline_requests(pipeline: &Pipeline, count: usize) -> anyhow::Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    for n in 0..count {
        ids.insert(ask(pipeline, TENANT_KEY, &format!("request {n}")).await?);
    }
    let file = pipeline.folder().join("requests.jsonl");
    let line = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "by topic" }] }).to_string();
    std::fs::write(&file, format!("{line}\n").repeat(5))?;
    let out = pipeline.folder().join("outcomes.jsonl");
    let (file, out) = (text(&file)?, text(&out)?);
    pipeline.command(&["publish", "--file", file, "--tenant", "acme", "--key", TENANT_KEY, "--out", out]).await?;
    for line in std::fs::read_to_string(out)?.lines() {
        let outcome: Value = serde_json::from_str(line)?;
        let id = outcome.pointer("/meta/request_id").or_else(|| outcome.get("request_id")).and_then(Value::as_str);
        ids.insert(id.with_context(|| format!("an id in {outcome}"))?.to_owned());
    }
    ensure!(ids.len() == count + 5, "{} ids", ids.len());
    Ok(ids)
}

async fn ask(pipeline: &Pipeline, key: &str, content: &str) -> anyhow::Result<String> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": content }] });
    let post = client()?.post(format!("{}/v1/chat/completions", pipeline.http)).bearer_auth(key).json(&body);
    let answer = post.send().await?.error_for_status()?;
    Ok(answer.headers().get("x-request-id").context("an id")?.to_str()?.to_owned())
}

async fn through_refusals_and_a_kill(
    asked: &BTreeSet<String>,
    receiver: &Receiver,
    pipeline: &mut Pipeline,
) -> anyhow::Result<BTreeSet<String>> {
    eventually(60, "some were refused", || !receiver.at("flaky").is_empty()).await?;
    pipeline.kill(SERVICE).await?;
    pipeline.restart(SERVICE)?;
    all_are_told(receiver, asked).await?;
    Ok(asked.clone())
}

/// The endpoint that refuses first has taken every one; a request has one event and one delivery, however
/// often it was sent.
async fn all_are_told(receiver: &Receiver, asked: &BTreeSet<String>) -> anyhow::Result<()> {
    let told = || receiver.taken("flaky").iter().map(receiver::Arrived::about).collect::<BTreeSet<_>>();
    if let Err(error) = eventually(120, "all are told", || told() == *asked).await {
        let missing: Vec<_> = asked.difference(&told()).cloned().collect();
        return Err(error.context(format!("{} of {} are missing: {missing:?}", missing.len(), asked.len())));
    }
    let mut by_request: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for arrived in receiver.at("flaky") {
        let event = arrived.event()["id"].as_str().context("an event's id")?.to_owned();
        by_request.entry(arrived.about()).or_default().insert((arrived.id.clone(), event));
        ensure!(arrived.event()["type"] == "response.completed", "{}", arrived.body);
    }
    let forked: Vec<_> = by_request.iter().filter(|(_, ids)| ids.len() != 1).collect();
    ensure!(forked.is_empty(), "events with several ids: {forked:?}");
    Ok(())
}

async fn one_dead_endpoint_delays_nobody(pipeline: &Pipeline, receiver: &Receiver) -> anyhow::Result<()> {
    ensure!(!receiver.at("dead").is_empty(), "nothing hangs");
    let id = ask(pipeline, RIVAL_KEY, "quickly").await?;
    let began = Instant::now();
    eventually(10, "the rival is told", || receiver.taken("quick").iter().any(|arrived| arrived.about() == id)).await?;
    println!("told after {:?} beside an endpoint that does not answer", began.elapsed());
    Ok(())
}

async fn as_openais_libraries_read_it(pipeline: &Pipeline, receiver: &Receiver) -> anyhow::Result<()> {
    let id = ask(pipeline, TENANT_KEY, "for a library").await?;
    let is_it = |arrived: &receiver::Arrived| arrived.about() == id;
    eventually(60, "it is told", || receiver.taken("flaky").iter().any(is_it)).await?;
    let arrived = receiver.taken("flaky").into_iter().find(is_it).context("it arrived")?;
    let file = pipeline.folder().join("webhook.json");
    std::fs::write(&file, json!({ "headers": arrived.headers, "body": arrived.body }).to_string())?;
    let file = text(&file)?;
    let interpreter = run(repository().join("tests/clients.sh"), &[]).await?;
    let script = repository().join("tests/clients/openai_webhook.py");
    let printed = run(interpreter.trim(), &[text(&script)?, file, OLD_SECRET, NEW_SECRET]).await?;
    println!("Python: {}", printed.trim());
    let printed: Value = serde_json::from_str(&printed)?;
    ensure!(printed["class"] == "ResponseCompletedWebhookEvent" && printed["data_id"] == id.as_str(), "{printed}");

    // Where a module is read from decides where its packages are found.
    let packages = Path::new(interpreter.trim()).ancestors().nth(3).context("the cache")?.join("node");
    let module = packages.join("openai_webhook.mjs");
    std::fs::copy(repository().join("tests/clients/node/openai_webhook.mjs"), &module)?;
    let printed: Value = serde_json::from_str(&run("node", &[text(&module)?, file, OLD_SECRET, NEW_SECRET]).await?)?;
    ensure!(printed["type"] == "response.completed" && printed["data_id"] == id.as_str(), "{printed}");
    Ok(())
}

async fn looked_at_and_sent_again(pipeline: &Pipeline, receiver: &Receiver) -> anyhow::Result<()> {
    let command = async |args: &[&str]| {
        let door = ["--url", &pipeline.http, "--key", OPS_KEY, "--json"];
        let printed = pipeline.command(&[&["webhooks"], args, &door[..]].concat()).await?;
        anyhow::Ok(serde_json::from_str::<Value>(&printed)?)
    };
    let first = command(&["list", "--endpoint", "main", "--status", "delivered", "--limit", "2"]).await?;
    ensure!(first["data"].as_array().is_some_and(|data| data.len() == 2) && first["has_more"] == true, "{first}");
    let after = first["last_id"].as_str().context("an id")?;
    let second = command(&["list", "--endpoint", "main", "--status", "delivered", "--after", after]).await?;
    let ids = |page: &Value| page["data"].as_array().into_iter().flatten().map(|d| d["id"].clone()).collect::<Vec<_>>();
    ensure!(ids(&second).iter().all(|id| !ids(&first).contains(id)) && ids(&second).len() >= 20, "{second}");
    let pending = command(&["list", "--endpoint", "dead"]).await?;
    ensure!(pending["data"][0]["status"] == "pending", "{pending}");

    let id = after;
    let shown = command(&["show", id]).await?;
    ensure!(shown["attempts"].as_u64() >= Some(2) && shown["log"][0]["http_status"] == 500, "{shown}");
    ensure!(shown["log"][0]["answer"] == "not now" && shown["payload"]["data"]["id"].is_string(), "{shown}");
    let before = receiver.at("flaky").iter().filter(|arrived| arrived.id == id).count();
    command(&["resend", id]).await?;
    let count = || receiver.at("flaky").iter().filter(|arrived| arrived.id == id).count();
    eventually(20, "it is sent again", || count() == before + 1).await?;

    let list = format!("{}/v1/webhooks/deliveries", pipeline.http);
    for (key, path, expected) in [
        (TENANT_KEY, String::new(), 403),
        ("mr_nobody", String::new(), 401),
        (OPS_KEY, "/wh_nothing".to_owned(), 404),
        (OPS_KEY, "?limit=0".to_owned(), 400),
        (OPS_KEY, "?status=done".to_owned(), 400),
        (OPS_KEY, "?after=x".to_owned(), 400),
    ] {
        let answer = client()?.get(format!("{list}{path}")).bearer_auth(key).send().await?;
        ensure!(answer.status() == expected, "{path} with {key}: {}", answer.text().await?);
        let error: Value = answer.json().await?;
        ensure!(error["error"]["message"].is_string(), "{error}");
    }
    Ok(())
}

async fn nothing_is_lost_wherever_it_is_killed(
    pipeline: &mut Pipeline,
    receiver: &Receiver,
    asked: &mut BTreeSet<String>,
) -> anyhow::Result<()> {
    let told = receiver.taken("flaky").iter().map(receiver::Arrived::about).collect::<BTreeSet<_>>();
    asked.extend(told);
    for effect in EFFECTS {
        for side in ["before", "after"] {
            pipeline.kill(SERVICE).await?;
            let point = format!("kill:2:{side} {effect}");
            pipeline.restart_with(SERVICE, &[("MILLRACE_FAIL_POINT", &point)])?;
            // One after the other: what comes together may be committed together, and so only once.
            let began = Instant::now();
            while pipeline.state(SERVICE)? != State::Killed {
                ensure!(began.elapsed() < Duration::from_secs(60), "`{point}` is not reached:\n{}", pipeline.tails());
                asked.insert(ask(pipeline, TENANT_KEY, &point).await?);
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            pipeline.restart(SERVICE)?;
            println!("killed {side} {effect}");
        }
    }
    all_are_told(receiver, asked).await
}

async fn private_addresses_are_refused(pipeline: &Pipeline, url: &str) -> anyhow::Result<()> {
    let port = url.rsplit_once(':').context("a port")?.1;
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"] {
        let config = pipeline.folder().join("closed.toml");
        let endpoint = format!(
            "[tenants.t]\nwebhooks = [{{ id = \"a\", url = \"https://{host}:{port}\", secrets = [\"{OLD_SECRET}\"] }}]"
        );
        std::fs::write(&config, endpoint)?;
        let args = ["webhooks", "test", "--tenant", "t", "--endpoint", "a", "--config", text(&config)?];
        let error = run(millrace()?, &args).await.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(error.contains("is no public address"), "{host}: {error}");
    }
    Ok(())
}

async fn no_secret_is_in_anything_that_was_written(
    stack: &Stack,
    pipeline: &Pipeline,
    receiver: &Receiver,
) -> anyhow::Result<()> {
    pipeline.secrets.add("the old webhook secret", OLD_SECRET.trim_start_matches("whsec_"));
    pipeline.secrets.add("the new webhook secret", NEW_SECRET.trim_start_matches("whsec_").trim_end_matches('='));
    pipeline.secrets.add("the key of operators", OPS_KEY);
    let delivery = receiver.taken("flaky").pop().context("a delivery")?;
    let about = delivery.about();
    let mut search = pipeline.secrets.search(&[("a request", &about), ("a delivery", &delivery.id)])?;
    for arrived in ["flaky", "quick", "dead"].into_iter().flat_map(|path| receiver.at(path)) {
        search.look("deliveries", format!("{:?} {}", arrived.headers, arrived.body).as_bytes());
    }
    let folder = pipeline.folder().join("searched");
    pipeline.command(&["backup", "create", "--dir", text(&folder)?]).await?;
    pipeline.look_through(stack, &mut search).await?;
    search.finds_no_secret()?;
    search.finds("a delivery", "deliveries")?;
    for place in ["deliveries", "topic e2e.outcomes.interactive", "file searched/store.jsonl"] {
        search.finds("a request", place)?;
    }
    search.finds("a delivery", "file searched/store.jsonl")
}

async fn eventually(seconds: u64, what: &str, is_so: impl Fn() -> bool) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(seconds);
    while !is_so() {
        ensure!(Instant::now() < until, "not within {seconds} seconds: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}
