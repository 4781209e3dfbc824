//! Dead letters: run again once their cause is mended, and written before anything is passed over.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use millrace_schemas::RequestId;
use millrace_stack::Stack;
use millrace_tests::{FAST_REQUESTS, Pipeline, State, TENANT_KEY};
use serde_json::{Value, json};

use crate::{
    BOUND, JSON, WITHIN, allow_records_of, committed, eventually, produce_to, producer, publish, tapped, until,
};

const PARTITION: i32 = 2;
/// Who judges requests, and who must know a model to call it.
const CHANGED: [&str; 6] =
    ["prompt-builder-0", "prompt-builder-1", "inference-router-0", "inference-router-1", "ingress-0", "ingress-1"];
const BUILDERS: [&str; 2] = ["prompt-builder-0", "prompt-builder-1"];

/// A model that nobody has configured; then somebody does.
pub async fn mended_and_run_again_once(stack: &Stack, pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let body = json!({ "model": "late-model", "messages": [{ "role": "user", "content": "Am I late?" }] });
    let producer = producer(stack)?;
    produce_to(&producer, BOUND, Some(PARTITION), &[JSON, ("idempotency-key", "late")], body.to_string().as_bytes())
        .await?;
    let id = RequestId::of_key("acme", "late").into_string();
    let first = letter(pipeline, |l| l["request_id"] == id.as_str()).await?;
    ensure!(first["history"] == json!([]) && first["code"] == "model_not_found", "{first}");
    let url = format!("{}/v1/requests/{id}", pipeline.http);
    let failed = until(&url, |v| v["status"] != "in_progress").await?;
    ensure!(failed["status"] == "failed", "{failed}");

    // The cause persists: it comes back with its history, and a dry run changes nothing.
    let calls = pipeline.count().await?["requests"].clone();
    let would = pipeline.command(&["dlq", "redrive", &text(&first, "letter")?, "--dry-run"]).await?;
    ensure!(would.contains("would be done: batch request, run 1"), "{would}");
    redriven_by_two(pipeline, &text(&first, "letter")?).await?;
    let second = letter(pipeline, |l| l["request_id"] == id.as_str()).await?;
    ensure!(second["history"] == json!([first["letter"]]) && second["letter"] != first["letter"], "{second}");
    ensure!(pipeline.count().await?["requests"] == calls, "nothing was asked");

    // It is mended.
    let model =
        "[models.late-model]\nprovider = \"sim\"\nupstream = \"sim-small\"\ncontext_tokens = 128000\n\n[knowledge]";
    for name in CHANGED {
        pipeline.terminate(name).await?;
        pipeline.edit(name, |settings| settings.replace("[knowledge]", model))?;
        pipeline.restart(name)?;
    }
    pipeline.until_ready().await?;
    redriven_by_two(pipeline, &text(&second, "letter")?).await?;
    let answered = until(&url, |v| v["status"] != "failed").await?;
    ensure!(answered["status"] == "succeeded", "{answered}");

    // Each redrive was one run, and the last one call.
    let outcomes = tapped(pipeline, "outcomes.batch", 1).await?;
    let of_it = outcomes.iter().filter(|o| o["value"]["meta"]["request_id"] == id.as_str());
    let mut runs: Vec<_> = of_it.map(|o| (o["value"]["meta"]["run"].as_i64(), o["value"]["status"].clone())).collect();
    runs.sort_by_key(|(run, _)| *run);
    let expected = [(Some(0), json!("failed")), (Some(1), json!("failed")), (Some(2), json!("succeeded"))];
    ensure!(runs == expected, "{runs:?}");
    let now = pipeline.count().await?["requests"].clone();
    ensure!(now.as_i64() == calls.as_i64().map(|calls| calls + 1), "{calls} became {now}");
    // The key's own outcome is the latest run.
    let client = millrace_tests::client()?;
    let replay = client.post(format!("{}/v1/chat/completions", pipeline.http)).bearer_auth(TENANT_KEY);
    let replay = replay.header("idempotency-key", "late").json(&body).send().await?;
    ensure!(replay.status() == 200, "{}", replay.text().await?);
    ensure!(pipeline.count().await?["requests"] == now, "a replay is no call");

    let left = pipeline.command(&["dlq", "list", "--json", "--request-id", &id]).await?;
    ensure!(left.is_empty(), "{left}");
    let all = pipeline.command(&["dlq", "list", "--json", "--request-id", &id, "--state", "redriven"]).await?;
    ensure!(all.lines().count() == 2, "{all}");
    Ok(())
}

/// A record at the size limit is kept whole, and can be run again.
pub async fn of_any_size(stack: &Stack, pipeline: &Pipeline) -> anyhow::Result<()> {
    let content = "x".repeat((1 << 20) - 400);
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": content }] }).to_string();
    let offset = produce_to(&producer(stack)?, FAST_REQUESTS, Some(PARTITION), &[JSON], body.as_bytes()).await?;
    let place = format!("{FAST_REQUESTS}/{PARTITION}/{offset}");
    let first = letter(pipeline, |l| l["from"] == place.as_str()).await?;
    redriven_by_two(pipeline, &text(&first, "letter")?).await?;
    let second = letter(pipeline, |l| l["from"] == place.as_str()).await?;
    ensure!(second["history"] == json!([first["letter"]]), "{second}");
    let shown: Value =
        serde_json::from_str(&pipeline.command(&["dlq", "show", &text(&second, "letter")?, "--json"]).await?)?;
    ensure!(shown["bytes"] == body.len() && shown["value"]["messages"][0]["content"] == content, "not kept whole");
    pipeline.command(&["dlq", "drop", &text(&second, "letter")?]).await?;
    let left = pipeline.command(&["dlq", "list", "--json"]).await?;
    ensure!(!left.contains(&place), "{left}");
    Ok(())
}

/// What an inner stage gave up runs again from the request that it came from.
pub async fn from_the_request_of_what_an_inner_stage_gave_up(
    stack: &Stack,
    pipeline: &mut Pipeline,
) -> anyhow::Result<()> {
    let producer = producer(stack)?;
    for builder in BUILDERS {
        pipeline.terminate(builder).await?;
    }
    let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Was it damaged?" }] });
    let (at, id) = publish(stack, PARTITION, &[JSON], body.to_string().as_bytes()).await?;
    // Its prompt, damaged on its way.
    let source = format!("{at} 1024 00000000000000ff");
    let headers = [("source", source.as_str()), ("request_id", id.as_str()), ("tenant", "acme")];
    produce_to(&producer, "e2e.prompts.batch", Some(PARTITION), &headers, b"damaged").await?;
    for builder in BUILDERS {
        pipeline.restart(builder)?;
    }
    pipeline.until_ready().await?;
    let lost = letter(pipeline, |l| l["request_id"] == id.as_str()).await?;
    ensure!(lost["stage"] == "inference-router" && lost["code"] == "prompt_unreadable", "{lost}");
    let url = format!("{}/v1/requests/{id}", pipeline.http);
    let failed = until(&url, |v| v["status"] != "in_progress").await?;
    ensure!(failed["status"] == "failed" && failed["run"] == 0, "{failed}");
    redriven_by_two(pipeline, &text(&lost, "letter")?).await?;
    let answered = until(&url, |v| v["run"] == 1).await?;
    ensure!(answered["status"] == "succeeded", "{answered}");

    // What is damaged on a later run's way is that run's failure.
    let id = RequestId::fresh("acme").into_string();
    let headers = [("request_id", id.as_str()), ("tenant", "acme"), ("run", "2")];
    produce_to(&producer, "e2e.completions.batch", Some(PARTITION), &headers, b"damaged").await?;
    let url = format!("{}/v1/requests/{id}", pipeline.http);
    let failed = until(&url, |v| v["status"] == "failed").await?;
    ensure!(failed["run"] == 2 && failed["error"]["code"] == "internal_error", "{failed}");
    Ok(())
}

/// While a dead letter can not be written, its record is not passed over.
pub async fn written_before_its_record_is_passed_over(stack: &Stack, pipeline: &mut Pipeline) -> anyhow::Result<()> {
    allow_records_of(stack, "e2e.dead-letters", "2000").await?;
    // Random enough that it does not shrink.
    let bytes: Vec<u8> = (0_u32..10_000).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let (at, id) = publish(stack, PARTITION, &[], &bytes).await?;
    eventually("no builder goes on without the dead letter", async || both_failed(pipeline)).await?;
    let committed = committed(stack, "e2e.prompt-builder.batch", BOUND, PARTITION).await?;
    ensure!(committed <= at.offset, "the record at {} is passed over: committed at {committed}", at.offset);
    let prompts = tapped(pipeline, "prompts.batch", 1).await?;
    let ended = prompts.iter().find(|prompt| prompt["headers"]["request_id"] == id.as_str());
    ensure!(ended.is_none(), "it ended before its dead letter was written: {ended:?}");

    pipeline.command(&["topics", "apply"]).await?;
    for builder in BUILDERS {
        pipeline.restart(builder)?;
    }
    pipeline.until_ready().await?;
    let place = format!("{BOUND}/{PARTITION}/{}", at.offset);
    let found = letter(pipeline, |l| l["from"] == place.as_str()).await?;
    ensure!(found["request_id"] == id.as_str(), "{found} is not of {id}");
    let url = format!("{}/v1/requests/{id}", pipeline.http);
    let failed = until(&url, |v| v["status"] != "in_progress").await?;
    ensure!(failed["error"]["code"] == "undecodable", "{failed}");
    Ok(())
}

fn both_failed(pipeline: &mut Pipeline) -> anyhow::Result<bool> {
    Ok(pipeline.state(BUILDERS[0])? == State::Failed && pipeline.state(BUILDERS[1])? == State::Failed)
}

/// The open dead letter that is so, once there is one.
async fn letter(pipeline: &Pipeline, is_it: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let until = Instant::now() + WITHIN;
    loop {
        let list = pipeline.command(&["dlq", "list", "--json", "--limit", "1000"]).await?;
        let letters = list.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        if let Some(found) = letters.iter().find(|letter| is_it(letter)) {
            return Ok(found.clone());
        }
        ensure!(Instant::now() < until, "no such dead letter among {list}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Two operators at the same time; then a third.
async fn redriven_by_two(pipeline: &Pipeline, letter: &str) -> anyhow::Result<()> {
    let redrive = ["dlq", "redrive", letter];
    let (one, other) = tokio::join!(pipeline.command(&redrive), pipeline.command(&redrive));
    let said = [one?, other?].concat();
    ensure!(said.contains("done: "), "{said}");
    let third = pipeline.command(&redrive).await?;
    ensure!(third.contains("skipped: it was redriven"), "{third}");
    Ok(())
}

fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    Ok(value[name].as_str().with_context(|| format!("no {name} in {value}"))?.to_owned())
}
