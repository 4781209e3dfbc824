//! What must be in the log before anything else happens: a call before it is paid, a request before it is accepted. And
//! what is there already is not paid again.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_schemas::{Coordinates, RequestId};
use millrace_stack::{Part, Stack};
use millrace_tests::{Pipeline, State, TENANT_KEY};
use serde_json::{Value, json};

use crate::{produce_to, producer, tapped, until};

const BOUND: &str = "acme.requests";
const PARTITION: i32 = 4;
const ROUTERS: [&str; 2] = ["inference-router-0", "inference-router-1"];
const BROKER: Part = Part::Broker(0);
const KEY: &str = "asked of a silent broker";
const WITHIN: Duration = Duration::from_secs(60);
/// How long is looked whether a call is made, or an answer given, that must not be: those that may be take a tenth. Much longer,
/// and the broker would be taken for dead.
const LOOK: Duration = Duration::from_secs(3);

/// The router is killed when the broker has its completion, before anything else that follows from it.
pub async fn a_recorded_call_is_not_paid_again(stack: &Stack, pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let killed = ("MILLRACE_FAIL_POINT", "kill:1:after produce completions.batch");
    // So that its group gives it up soon.
    the_only_router(pipeline, &[killed, ("MILLRACE_STAGE__SESSION_TIMEOUT_MS", "6000")]).await?;
    let before = paid(pipeline).await?;
    let id = publish(stack, "Recorded, then killed").await?;
    until_it_is(pipeline, State::Killed).await?;
    ensure!(paid(pipeline).await? == before + 1, "the call was made");
    ensure!(ends(pipeline, &id).await?.is_empty(), "its end was written: it was killed too late");
    both_routers(pipeline).await?;
    answered(pipeline, &id).await?;
    let until_booked = Instant::now() + WITHIN;
    while ends(pipeline, &id).await?.is_empty() {
        ensure!(Instant::now() < until_booked, "the next owner does not write how the call ended");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    ensure!(ends(pipeline, &id).await? == ["finished"], "{:?}", ends(pipeline, &id).await?);
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
    let early = silent.until_paid(pipeline).await;
    silent.end(stack, pipeline).await?;
    early?;

    let silent = Silent::begin(stack, pipeline, &[]).await?;
    let told = tokio::time::timeout(LOOK, ask(pipeline)).await;
    let (early, paid_before) = (paid(pipeline).await? - silent.paid, silent.paid);
    silent.end(stack, pipeline).await?;
    ensure!(early == 0, "a call was paid that is not announced");
    if let Ok(told) = told {
        bail!("the client was told {:?} of a request that nobody has written", told?);
    }
    // With the same key it is one request, whether the first was written or not.
    let (status, body) = ask(pipeline).await?;
    ensure!(status == 202 || status == 200, "{status} {body}");
    answered(pipeline, &RequestId::of_key("acme", KEY).into_string()).await?;
    ensure!(paid(pipeline).await? == paid_before + 2, "two requests are not two calls");
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
        let id = publish(stack, "While the broker is silent").await?;
        until_it_is(pipeline, State::Frozen).await?;
        stack.sigstop(BROKER).await?;
        pipeline.signal(ROUTERS[0], "CONT").await?;
        Ok(Self { id, paid })
    }

    async fn until_paid(&self, pipeline: &Pipeline) -> anyhow::Result<()> {
        let until = Instant::now() + WITHIN;
        while paid(pipeline).await? == self.paid {
            ensure!(Instant::now() < until, "the call waits for the broker although it need not");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn end(self, stack: &Stack, pipeline: &mut Pipeline) -> anyhow::Result<()> {
        stack.sigcont(BROKER).await?;
        answered(pipeline, &self.id).await?;
        pipeline.terminate(ROUTERS[0]).await?;
        both_routers(pipeline).await
    }
}

/// A request whose client does not want to wait.
async fn ask(pipeline: &Pipeline) -> anyhow::Result<(u16, Value)> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Is anybody there?" }] });
    let asked =
        millrace_tests::client()?.post(format!("{}/v1/chat/completions", pipeline.http)).bearer_auth(TENANT_KEY);
    let answer = asked.header("prefer", "respond-async").header("idempotency-key", KEY).json(&body).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
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

async fn publish(stack: &Stack, text: &str) -> anyhow::Result<String> {
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": text }] }).to_string();
    let json = [("content-type", "application/json")];
    let offset = produce_to(&producer(stack)?, BOUND, Some(PARTITION), &json, body.as_bytes()).await?;
    let at = Coordinates { topic: BOUND.to_owned(), generation: 0, partition: PARTITION, offset };
    Ok(RequestId::of_coordinates("acme", &at).into_string())
}

async fn until_it_is(pipeline: &mut Pipeline, state: State) -> anyhow::Result<()> {
    let until = Instant::now() + WITHIN;
    while pipeline.state(ROUTERS[0])? != state {
        ensure!(Instant::now() < until, "the router does not reach its fail point");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
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
