//! A provider's pool of keys: one is limited, one is revoked and replaced by the file, all under load.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_tests::{Pipeline, TENANT_KEY, client};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::stream::set;
use crate::{tapped, text};

/// The name of a key that is in the pool all the time.
pub const STEADY: &str = "pool-steady";
const LIMITED: &str = "pool-limited";
const REVOKED: &str = "pool-revoked";
/// Comes with the file when that is written again.
const FRESH: &str = "pool-fresh";
const WORKERS: u64 = 12;
const ROUTERS: [&str; 2] = ["inference-router-0", "inference-router-1"];
const WITHIN: Duration = Duration::from_secs(60);

pub async fn of_a_pool_change_under_load(pipeline: &mut Pipeline) -> anyhow::Result<()> {
    for name in [STEADY, LIMITED, REVOKED, FRESH] {
        pipeline.secrets.add(format!("the provider's key {name}"), value(name));
    }
    let file = pipeline.folder().join("provider.keys");
    write(&file, &[STEADY, LIMITED, REVOKED])?;
    restart_routers(pipeline, &[("MILLRACE_PROVIDERS__SIM__API_KEYS_FILE", text(&file)?)]).await?;
    let_in(pipeline, false).await?;
    let before = pipeline.count().await?["billed_calls"].as_u64().context("calls")?;

    let load = Load::start(pipeline);
    let is_used =
        |counts: &Value| [STEADY, LIMITED, REVOKED].iter().all(|name| counts[name]["requests"].as_u64() > Some(0));
    until("every key is used", async || Ok(is_used(&counts(pipeline).await?)), &load).await?;
    let_in(pipeline, true).await?;
    let quarantined = format!("millrace_provider_key_quarantined{{key=\"{REVOKED}\",provider=\"sim\"}} 1");
    until("a router quarantines the key", async || Ok(shown(pipeline, &quarantined).await? > 0), &load).await?;
    write(&file, &[STEADY, LIMITED, FRESH])?;
    let called = format!("millrace_provider_key_calls_total{{key=\"{FRESH}\",provider=\"sim\",status=\"200\"}} ");
    let everywhere = async || Ok(shown(pipeline, &called).await? == ROUTERS.len());
    until("every router uses the new key", everywhere, &load).await?;
    let answers = load.end().await?;

    let counts = counts(pipeline).await?;
    println!("{} answers with a pool that changed: {counts}", answers.len());
    // Those that were on their way together when the first was refused.
    let most = WORKERS * u64::try_from(ROUTERS.len())?;
    ensure!((1..=most).contains(&counts[REVOKED]["refused"].as_u64().unwrap_or_default()), "{counts}");
    let paid = pipeline.count().await?["billed_calls"].as_u64().context("calls")? - before;
    ensure!(paid == u64::try_from(answers.len())?, "{} answers were {paid} calls", answers.len());
    each_has_one_outcome_and_one_answered_call(pipeline, &answers).await?;
    are_shown_by_name_only(pipeline, &answers).await?;
    set(pipeline, "keys", &Value::Null).await?;
    restart_routers(pipeline, &[]).await
}

fn value(name: &str) -> String {
    format!("sk-{name}-5bO9vQ2xT7")
}

/// As it is told to operators: beside it, then in its place.
fn write(file: &Path, names: &[&str]) -> anyhow::Result<()> {
    let lines: Vec<String> = names.iter().map(|name| format!("{name} = {}\n", value(name))).collect();
    let beside = file.with_file_name("new.keys");
    std::fs::write(&beside, lines.concat())?;
    Ok(std::fs::rename(beside, file)?)
}

async fn let_in(pipeline: &Pipeline, is_revoked: bool) -> anyhow::Result<()> {
    let rules = json!([
        { "name": STEADY, "key": value(STEADY) },
        { "name": LIMITED, "key": value(LIMITED), "requests": 5, "window_ms": 1_000 },
        { "name": REVOKED, "key": value(REVOKED), "refused": is_revoked.then_some(401) },
        { "name": FRESH, "key": value(FRESH) },
    ]);
    set(pipeline, "keys", &rules).await
}

async fn restart_routers(pipeline: &mut Pipeline, env: &[(&str, &str)]) -> anyhow::Result<()> {
    for router in ROUTERS {
        pipeline.terminate(router).await?;
        pipeline.restart_with(router, env)?;
    }
    pipeline.until_ready().await
}

/// What the provider counts by key.
async fn counts(pipeline: &Pipeline) -> anyhow::Result<Value> {
    Ok(client()?.get(format!("{}/keys", pipeline.provider)).send().await?.error_for_status()?.json().await?)
}

/// How many processes show a line that begins so.
async fn shown(pipeline: &Pipeline, start: &str) -> anyhow::Result<usize> {
    let pages = pipeline.metrics().await?;
    Ok(pages.iter().filter(|(_, page)| page.lines().any(|line| line.starts_with(start))).count())
}

async fn until(what: &str, is_so: impl AsyncFn() -> anyhow::Result<bool>, load: &Load) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is_so().await? {
        ensure!(!load.workers.iter().any(JoinHandle::is_finished), "a request fails before {what}");
        ensure!(began.elapsed() < WITHIN, "not within {WITHIN:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// An answer's request, and all that it says.
struct Answered {
    id: String,
    text: String,
}

/// Workers who ask one thing after another.
struct Load {
    is_over: Arc<AtomicBool>,
    workers: Vec<JoinHandle<anyhow::Result<Vec<Answered>>>>,
}

impl Load {
    fn start(pipeline: &Pipeline) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let doors = pipeline.doors.iter().cycle();
        let worker = |(worker, door): (u64, &String)| tokio::spawn(ask(door.clone(), worker, Arc::clone(&is_over)));
        Self { workers: (0..WORKERS).zip(doors).map(worker).collect(), is_over }
    }

    /// Every answer, each of which was good.
    async fn end(self) -> anyhow::Result<Vec<Answered>> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        for worker in self.workers {
            answers.extend(worker.await??);
        }
        Ok(answers)
    }
}

async fn ask(door: String, worker: u64, is_over: Arc<AtomicBool>) -> anyhow::Result<Vec<Answered>> {
    let (client, url) = (client()?, format!("{door}/v1/chat/completions"));
    let mut answers = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let content = format!("Question {} of worker {worker}", answers.len());
        let body = json!({
            "model": "sim-small", "max_completion_tokens": 9, "messages": [{ "role": "user", "content": content }],
        });
        let answer = client.post(&url).bearer_auth(TENANT_KEY).json(&body).send().await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = format!("{headers:?} {}", answer.text().await?);
        if status != 200 {
            println!("worker {worker} is told {status}: {text}");
            bail!("{status} {text}");
        }
        answers.push(Answered { id: headers["x-request-id"].to_str()?.to_owned(), text });
    }
    Ok(answers)
}

async fn each_has_one_outcome_and_one_answered_call(pipeline: &Pipeline, answers: &[Answered]) -> anyhow::Result<()> {
    let ids: HashSet<&str> = answers.iter().map(|answer| answer.id.as_str()).collect();
    ensure!(ids.len() == answers.len(), "an id is there twice");
    let outcomes = tapped(pipeline, "outcomes.interactive", ids.len()).await?;
    let ours = outcomes.iter().filter(|o| ids.contains(o["value"]["meta"]["request_id"].as_str().unwrap_or_default()));
    ensure!(ours.count() == ids.len(), "there is not one outcome of each");

    let until = Instant::now() + WITHIN;
    loop {
        let calls = tapped(pipeline, "calls", ids.len()).await?;
        let mut answered: BTreeMap<&str, usize> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for call in calls.iter().map(|call| &call["value"]) {
            let Some(id) = call["request_id"].as_str().filter(|id| ids.contains(id)) else { continue };
            names.extend(call["provider_key"].as_str());
            if call["kind"] == "finished" && call["http_status"] == 200 {
                *answered.entry(id).or_default() += 1;
            }
        }
        ensure!(answered.values().all(|calls| *calls == 1), "{answered:?}");
        if answered.len() == ids.len() {
            ensure!(names == BTreeSet::from([STEADY, LIMITED, REVOKED, FRESH]), "`calls` names {names:?}");
            return Ok(());
        }
        ensure!(Instant::now() < until, "{} of {} requests have an answered call", answered.len(), ids.len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// While routers have the pool: later their metrics begin anew.
async fn are_shown_by_name_only(pipeline: &Pipeline, answers: &[Answered]) -> anyhow::Result<()> {
    let mut search = pipeline.secrets.search(&[("a key's name", STEADY), ("an answer", "chat.completion")])?;
    for (name, page) in pipeline.metrics().await? {
        search.look(&name, page.as_bytes());
    }
    answers.iter().for_each(|answer| search.look("answers", answer.text.as_bytes()));
    search.finds_no_secret()?;
    search.finds("an answer", "answers")?;
    ROUTERS.iter().try_for_each(|router| search.finds("a key's name", router))
}
