//! What must be in the log before anything else happens: a call before it is paid, a request before it is accepted. And
//! what is there already is not paid again.

use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_schemas::RequestId;
use millrace_stack::{Part, Stack};
use millrace_tests::{Pipeline, State, TENANT_KEY};
use serde_json::{Value, json};

use crate::{JSON, eventually, publish, tapped, until};

const PARTITION: i32 = 4;
const ROUTERS: [&str; 2] = ["inference-router-0", "inference-router-1"];
const BROKER: Part = Part::Broker(0);
const KEY: &str = "asked of a silent broker";
/// How long the broker may be silent, and is still a part of its cluster: longer than an ingress waits for it.
pub const SILENCE: Duration = Duration::from_secs(25);

/// The router is killed when the broker has its completion, before anything else that follows from it.
pub async fn a_recorded_call_is_not_paid_again(stack: &Stack, pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let killed = ("MILLRACE_FAIL_POINT", "kill:1:after produce completions.batch");
    // So that its group gives it up soon.
    the_only_router(pipeline, &[killed, ("MILLRACE_STAGE__SESSION_TIMEOUT_MS", "6000")]).await?;
    let before = paid(pipeline).await?;
    let id = chat(stack, "Recorded, then killed").await?;
    until_it_is(pipeline, State::Killed).await?;
    ensure!(paid(pipeline).await? == before + 1, "the call was made");
    ensure!(ends(pipeline, &id).await?.is_empty(), "its end was written: it was killed too late");
    both_routers(pipeline).await?;
    answered(pipeline, &id).await?;
    let is_booked = async || Ok(!ends(pipeline, &id).await?.is_empty());
    eventually("the next owner writes how the call ended", is_booked).await?;
    let ends = ends(pipeline, &id).await?;
    ensure!(ends == ["finished"], "{ends:?}");
    ensure!(paid(pipeline).await? == before + 1, "the call was paid again");
    Ok(())
}

/// A broker that is silent: no call is made that is not announced, and nobody is told that a request was accepted.
pub async fn nothing_is_paid_or_accepted_before_it_is_written(
    stack: &Stack,
    pipeline: &mut Pipeline,
) -> anyhow::Result<()> {
    // Without the promise the call is made, so it would be seen.
    let silent = Silent::begin(stack, pipeline, &[("MILLRACE_OFF", "write-ahead")]).await?;
    let is_paid = async || Ok(paid(pipeline).await? > silent.paid);
    let early = eventually("the call does not wait for the broker", is_paid).await;
    silent.end(stack, pipeline).await?;
    early?;

    let silent = Silent::begin(stack, pipeline, &[]).await?;
    let (told, told_without_key) =
        tokio::time::timeout(SILENCE, async { tokio::join!(ask(pipeline, Some(KEY)), ask(pipeline, None)) }).await?;
    let (early, paid_before) = (paid(pipeline).await? - silent.paid, silent.paid);
    silent.end(stack, pipeline).await?;
    ensure!(early == 0, "a call was paid that is not announced");
    for (told, retries) in [(told?, "true"), (told_without_key?, "false")] {
        ensure!(told.status == 503 && told.body["error"]["code"] == "acceptance_unknown", "{told:?}");
        // A library that asks again without a key would pay twice.
        ensure!(told.should_retry == retries, "{told:?}");
    }
    // With the same key it is one request, whether the first was written or not.
    let told = ask(pipeline, Some(KEY)).await?;
    ensure!(told.status == 202 || told.status == 200, "{told:?}");
    let id = RequestId::of_key("acme", KEY).into_string();
    answered(pipeline, &id).await?;
    let is_booked = async || Ok(!ends(pipeline, &id).await?.is_empty());
    eventually("the end of its call is written", is_booked).await?;
    let ends = ends(pipeline, &id).await?;
    ensure!(ends == ["finished"], "the same key is more than one call: {ends:?}");
    // What was asked without a key was given up, or written: nobody knows.
    let calls = paid(pipeline).await? - paid_before;
    ensure!(calls == 2 || calls == 3, "{calls} calls for two requests, or three");
    Ok(())
}

/// A broker that was silenced while the only router was about to announce a call.
struct Silent {
    id: String,
    /// Calls before it.
    paid: u64,
}

impl Silent {
    async fn begin(stack: &Stack, pipeline: &mut Pipeline, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let frozen = [("MILLRACE_FAIL_POINT", "freeze:1:before produce calls")];
        the_only_router(pipeline, &[&frozen[..], env].concat()).await?;
        let paid = paid(pipeline).await?;
        let id = chat(stack, "While the broker is silent").await?;
        until_it_is(pipeline, State::Frozen).await?;
        stack.sigstop(BROKER).await?;
        pipeline.signal(ROUTERS[0], "CONT").await?;
        Ok(Self { id, paid })
    }

    async fn end(self, stack: &Stack, pipeline: &mut Pipeline) -> anyhow::Result<()> {
        stack.sigcont(BROKER).await?;
        answered(pipeline, &self.id).await?;
        pipeline.terminate(ROUTERS[0]).await?;
        both_routers(pipeline).await
    }
}

/// What a client is told.
#[derive(Debug)]
struct Told {
    status: u16,
    should_retry: String,
    body: Value,
}

/// A request whose client does not want to wait.
async fn ask(pipeline: &Pipeline, key: Option<&str>) -> anyhow::Result<Told> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Is anybody there?" }] });
    let mut asked =
        millrace_tests::client()?.post(format!("{}/v1/chat/completions", pipeline.http)).bearer_auth(TENANT_KEY);
    if let Some(key) = key {
        asked = asked.header("idempotency-key", key);
    }
    let answer = asked.header("prefer", "respond-async").json(&body).send().await?;
    let should_retry = answer.headers().get("x-should-retry").map_or("", |value| value.to_str().unwrap_or_default());
    Ok(Told { status: answer.status().as_u16(), should_retry: should_retry.to_owned(), body: answer.json().await? })
}

/// One router alone, with this environment.
async fn the_only_router(pipeline: &mut Pipeline, env: &[(&str, &str)]) -> anyhow::Result<()> {
    for router in ROUTERS {
        pipeline.terminate(router).await?;
    }
    pipeline.restart_with(ROUTERS[0], env)?;
    pipeline.until_ready().await
}

async fn both_routers(pipeline: &mut Pipeline) -> anyhow::Result<()> {
    for router in ROUTERS {
        pipeline.restart(router)?;
    }
    pipeline.until_ready().await
}

async fn chat(stack: &Stack, text: &str) -> anyhow::Result<String> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": text }] }).to_string();
    Ok(publish(stack, PARTITION, &[JSON], body.as_bytes()).await?.1)
}

async fn until_it_is(pipeline: &mut Pipeline, state: State) -> anyhow::Result<()> {
    eventually("the router reaches its fail point", async || Ok(pipeline.state(ROUTERS[0])? == state)).await
}

async fn paid(pipeline: &Pipeline) -> anyhow::Result<u64> {
    pipeline.count().await?["requests"].as_u64().context("a count")
}

async fn answered(pipeline: &Pipeline, id: &str) -> anyhow::Result<()> {
    let outcome = until(&format!("{}/v1/requests/{id}", pipeline.http), |v| v["status"] != "in_progress").await?;
    ensure!(outcome["status"] == "succeeded", "{outcome}");
    Ok(())
}

/// How the calls of a request ended, as the ledger reads it.
async fn ends(pipeline: &Pipeline, id: &str) -> anyhow::Result<Vec<String>> {
    let calls = tapped(pipeline, "calls", 1).await?;
    let of_it = calls.iter().map(|call| &call["value"]).filter(|call| call["request_id"] == id);
    let kinds = of_it.filter_map(|call| call["kind"].as_str()).filter(|kind| *kind != "started");
    Ok(kinds.map(str::to_owned).collect())
}
