//! Every step boundary, one by one: each fail point kills one process of its service, and freezes one
//! until its partitions have moved and their new owner has read back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_config::Config;
use millrace_schemas::now_micros;
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup, State, TENANT_KEY, client};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::real::{COPIES, ENV, gather};
use super::storm::{Storm, TENANT, Tenant, publish};
use super::verdict::{Verdict, judge};
use crate::cli::ChaosArgs;

/// Requests that a round gets: enough to reach each point a few times in each process.
const REQUESTS: u32 = 240;
/// Of these over HTTP, and how often each is tried.
const HTTP: u32 = 8;
const HTTP_ATTEMPTS: usize = 60;
/// How long a round's requests are spread, and how long a point may take to be reached.
const LENGTH: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(15);
/// Longer than a session and the reading back after it.
const FROZEN: Duration = Duration::from_secs(10);
const SERVICES: [&str; 6] =
    ["ingress", "prompt-builder", "inference-router", "moderator", "result-sink", "cost-ledger"];

/// One point and what it does to its process.
type Shot = (String, &'static str);

/// Arms one point of every service at a time, until each has killed and has frozen.
pub async fn run(args: &ChaosArgs) -> anyhow::Result<Verdict> {
    eprintln!("starting Kafka, Cassandra, the registry and {COPIES} processes of every service …");
    let stack = Stack::builder().start().await?;
    let mut pipeline = Pipeline::start(&stack, Setup { copies: COPIES, env: &ENV }).await?;
    let mut storm = Storm { accepted: Vec::new(), losses: Vec::new() };

    let points = discover(&mut pipeline, &mut storm).await?;
    let mut shots = shots(&points, args);
    let mut not_reached = Vec::new();
    let mut round = 0;
    while shots.values().any(|left| !left.is_empty()) {
        round += 1;
        let armed: Vec<(String, Shot)> =
            shots.iter_mut().filter_map(|(service, left)| Some((format!("{service}-0"), left.pop()?))).collect();
        eprintln!(
            "round {round}: {}",
            armed.iter().map(|(n, (p, a))| format!("{n} {a} {p}")).collect::<Vec<_>>().join(", ")
        );
        for (name, (point, action)) in &armed {
            pipeline.terminate(name).await?;
            let armed = format!("{action}:{}:{point}", 1 + round % 3);
            pipeline.restart_with(name, &[("MILLRACE_FAIL_POINT", armed.as_str())])?;
        }
        pipeline.until_ready().await?;
        not_reached.extend(play(&mut pipeline, &armed, &mut storm).await?);
    }
    pipeline.until_ready().await?;
    let mut verdict = judge(&gather(&pipeline, &storm).await?, &storm);
    if !not_reached.is_empty() {
        verdict.broken.push(format!("never reached: {}", not_reached.join(", ")));
    }
    if !verdict.broken.is_empty() {
        eprintln!("{}", pipeline.tails());
    }
    pipeline.stop().await?;
    stack.stop().await?;
    Ok(verdict)
}

/// Runs every service once with its points logged: by service, what it reaches.
async fn discover(pipeline: &mut Pipeline, storm: &mut Storm) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let folder = pipeline.folder().to_owned();
    for service in SERVICES {
        let log = folder.join(format!("{service}.points"));
        for copy in 0..COPIES {
            let name = format!("{service}-{copy}");
            pipeline.terminate(&name).await?;
            pipeline.restart_with(&name, &[("MILLRACE_FAIL_POINT_LOG", log.to_str().context("UTF-8")?)])?;
        }
    }
    pipeline.until_ready().await?;
    ask(pipeline, storm).await?;
    let mut points = BTreeMap::new();
    for service in SERVICES {
        let text = std::fs::read_to_string(folder.join(format!("{service}.points"))).unwrap_or_default();
        // Reading has no effect.
        let mut reached: Vec<String> =
            text.lines().filter(|point| !point.contains(" read ")).map(str::to_owned).collect();
        reached.sort();
        reached.dedup();
        ensure!(!reached.is_empty(), "{service} reaches no fail point: is the feature `armed` on?");
        points.insert(service.to_owned(), reached);
    }
    Ok(points)
}

/// Each point with each action, in an order that the seed decides; half of them with `--half`.
fn shots(points: &BTreeMap<String, Vec<String>>, args: &ChaosArgs) -> BTreeMap<String, Vec<Shot>> {
    let mut dice = StdRng::seed_from_u64(args.seed);
    let shots = points.iter().map(|(service, points)| {
        let mut shots: Vec<Shot> =
            points.iter().flat_map(|point| [(point.clone(), "kill"), (point.clone(), "freeze")]).collect();
        for i in (1..shots.len()).rev() {
            shots.swap(i, dice.random_range(0..=i));
        }
        if args.half {
            shots.truncate(shots.len().div_ceil(2));
        }
        (service.clone(), shots)
    });
    shots.collect()
}

/// Sends requests until every armed point was reached, and brings its process back. Returns those
/// that were not.
async fn play(pipeline: &mut Pipeline, armed: &[(String, Shot)], storm: &mut Storm) -> anyhow::Result<Vec<String>> {
    let mut waiting: Vec<_> = armed.to_vec();
    let mut frozen: Vec<(String, Instant)> = Vec::new();
    let until = Instant::now() + PATIENCE;
    while !waiting.is_empty() && Instant::now() < until {
        ask(pipeline, storm).await?;
        let mut left = Vec::new();
        for (name, shot) in waiting {
            match pipeline.state(&name)? {
                State::Running => left.push((name, shot)),
                State::Ended => {
                    storm.losses.push(now_micros());
                    pipeline.restart(&name)?;
                }
                State::Frozen => {
                    storm.losses.push(now_micros());
                    frozen.push((name, Instant::now()));
                }
            }
        }
        waiting = left;
    }
    for (name, since) in frozen {
        tokio::time::sleep(FROZEN.saturating_sub(since.elapsed())).await;
        pipeline.signal(&name, "CONT").await?;
    }
    Ok(waiting.into_iter().map(|(name, (point, action))| format!("{name} {action} {point}")).collect())
}

/// Requests in both lanes over topics, and some over HTTP.
async fn ask(pipeline: &Pipeline, storm: &mut Storm) -> anyhow::Result<()> {
    let config = Config::load(Some(&pipeline.config), std::iter::empty(), [])?;
    let tenant = Tenant { id: TENANT.to_owned(), key: TENANT_KEY.to_owned() };
    let publishing = tokio::spawn(publish(config, tenant, REQUESTS, LENGTH));
    let asking = (0..HTTP).map(|_| over_http(&pipeline.doors));
    storm.accepted.extend(futures::future::try_join_all(asking).await?);
    storm.accepted.extend(publishing.await??);
    Ok(())
}

/// Asks with a key of its own until somebody answers, at one ingress and the other: whoever dies in
/// between, it is one request. Returns its id.
async fn over_http(doors: &[String]) -> anyhow::Result<String> {
    let key = format!("points-{:016x}", rand::random::<u64>());
    let body = json!({ "model": "sim-small", "max_completion_tokens": 20,
        "messages": [{ "role": "user", "content": format!("Write a sentence about {key}.") }] });
    let client = client()?;
    for door in doors.iter().cycle().take(HTTP_ATTEMPTS) {
        let request = client.post(format!("{door}/v1/chat/completions")).timeout(PATIENCE).bearer_auth(TENANT_KEY);
        let answer = request.header("idempotency-key", &key).json(&body).send().await;
        if let Ok(answer) = answer
            && answer.status() == 200
            && let Some(id) = answer.headers().get("x-request-id").and_then(|id| id.to_str().ok())
        {
            return Ok(id.to_owned());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    bail!("no ingress gave out an id in {HTTP_ATTEMPTS} attempts")
}
