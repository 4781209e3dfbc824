//! The file of every process changes under load: what can be taken up is, what can not changes nothing, and no
//! request is lost.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_tests::{Pipeline, TENANT_KEY, client};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// A second key of a tenant that there is.
const SECOND_KEY: &str = "mr_test_acme_second";
/// The key of a tenant that comes and goes.
const LATE_KEY: &str = "mr_test_late";
/// Askers of each key.
const ASKERS: usize = 4;

pub async fn is_taken_up_under_load(pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let first = values(pipeline, "millrace_config_info").await?;
    let (stop, mut asking) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for asker in 0..ASKERS {
        asking.spawn(asks(door(pipeline, asker), TENANT_KEY, Arc::clone(&stop)));
    }

    let late = |settings: String| {
        let key = format!("keys = [{{ id = \"default\", key = \"{TENANT_KEY}\" }}");
        let second = format!("{key}, {{ id = \"second\", key = \"{SECOND_KEY}\" }}");
        let late = format!("\n[tenants.late]\nkeys = [{{ id = \"k\", key = \"{LATE_KEY}\" }}]\n");
        format!("{}{late}", settings.replace(&key, &second))
    };
    edit(pipeline, late)?;
    until(pipeline, "millrace_config_reloads_total{result=\"applied\"}", |n| n == 1).await?;
    let second = values(pipeline, "millrace_config_info").await?;
    ensure!(first.iter().zip(&second).all(|(first, second)| first != second), "{first:?} became {second:?}");
    known(pipeline, LATE_KEY, true).await?;
    // Signed with the new key, read by builders that were told first.
    for asker in 0..ASKERS {
        asking.spawn(asks(door(pipeline, asker), SECOND_KEY, Arc::clone(&stop)));
    }

    // By signals, which are not waited for.
    edit(pipeline, |settings| settings + "\n[tenants.late\n")?;
    hang_up(pipeline).await?;
    until(pipeline, "millrace_config_last_reload_successful", |n| n == 0).await?;
    let restarts =
        |settings: String| settings.replace("\n[tenants.late\n", "\n[stage]\nwindow = 7\n").replace(LATE_KEY, "other");
    edit(pipeline, restarts)?;
    hang_up(pipeline).await?;
    until(pipeline, "millrace_config_reloads_total{result=\"needs_restart\"}", |n| n > 0).await?;
    ensure!(values(pipeline, "millrace_config_info").await? == second, "what was good stays");
    known(pipeline, LATE_KEY, true).await?;
    known(pipeline, "other", false).await?;

    // A tenant and a key go.
    stop.store(true, Ordering::Relaxed);
    let answered = counted(&mut asking).await?;
    ensure!(answered.iter().all(|answered| *answered > 0), "{answered:?}");
    stop.store(false, Ordering::Relaxed);
    for asker in 0..ASKERS {
        asking.spawn(asks(door(pipeline, asker), TENANT_KEY, Arc::clone(&stop)));
    }
    edit(pipeline, |settings| {
        let end = settings.find("\n[tenants.late]").unwrap_or(settings.len());
        settings[..end].replace(&format!(", {{ id = \"second\", key = \"{SECOND_KEY}\" }}"), "")
    })?;
    hang_up(pipeline).await?;
    until(pipeline, "millrace_config_reloads_total{result=\"applied\"}", |n| n == 2).await?;
    ensure!(values(pipeline, "millrace_config_info").await? == first, "it says what it said at first");
    known(pipeline, LATE_KEY, false).await?;
    known(pipeline, SECOND_KEY, false).await?;
    stop.store(true, Ordering::Relaxed);
    let answered = counted(&mut asking).await?;
    ensure!(answered.iter().all(|answered| *answered > 0), "{answered:?}");
    Ok(())
}

/// Each process by itself takes up another rule, another price table, and a model at a provider that is new, and gives them up
/// again.
pub async fn changes_rules_prices_and_routes_under_load(pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let first = values(pipeline, "millrace_config_info").await?;
    let (stop, mut asking) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for asker in 0..ASKERS {
        asking.spawn(asks(door(pipeline, asker), TENANT_KEY, Arc::clone(&stop)));
    }
    // The cost stays: what the provider takes is held against it later.
    let row = |model: &str, input: u64, cached: u64, output: u64| {
        format!(
            "[[price]]\nprovider = \"*\"\nmodel = \"{model}\"\neffective_from = 2020-01-01\ninput_per_million = {input}\n\
             cached_input_per_million = {cached}\noutput_per_million = {output}\ncharge_input_per_million = {NANOS}000000\n\
             charge_cached_input_per_million = {NANOS}000000\ncharge_output_per_million = {NANOS}000000\n"
        )
    };
    let table = [
        "version = \"real-stack-2\"\ncurrency = \"USD\"\n".to_owned(),
        row("sim-small", 150_000_000, 75_000_000, 600_000_000),
        row("sim-large", 2_500_000_000, 1_250_000_000, 10_000_000_000),
        row("sim-embed", 20_000_000, 20_000_000, 0),
    ];
    let prices = pipeline.folder().join("prices-2.toml");
    std::fs::write(&prices, table.concat())?;
    edit(pipeline, |settings| changed(&settings, &prices))?;
    until(pipeline, "millrace_config_reloads_total{result=\"applied\"}", |n| n == 3).await?;
    for door in pipeline.doors.clone() {
        let (status, provider, nanos) = asked(&door, "house", "Are you new?").await?;
        ensure!((status, provider.as_str(), nanos) == (200, "spare", Some(NANOS)), "{status} {provider} {nanos:?}");
        let (status, ..) = asked(&door, "house", "Where is Atlantis?").await?;
        ensure!(status == 403, "{status}");
    }

    // The table goes wrong: the one before stays.
    std::fs::write(&prices, "version = ")?;
    hang_up(pipeline).await?;
    until(pipeline, "millrace_config_last_reload_successful", |n| n == 0).await?;
    for door in pipeline.doors.clone() {
        let (status, _, nanos) = asked(&door, "house", "Are you still there?").await?;
        ensure!((status, nanos) == (200, Some(NANOS)), "{status} {nanos:?}");
    }
    edit(pipeline, |settings| unchanged(&settings))?;
    until(pipeline, "millrace_config_reloads_total{result=\"applied\"}", |n| n == 4).await?;
    ensure!(values(pipeline, "millrace_config_info").await? == first, "it says what it said at first");
    for door in pipeline.doors.clone() {
        ensure!(asked(&door, "house", "Are you gone?").await?.0 == 404);
        ensure!(asked(&door, "sim-small", "Where is Atlantis?").await?.0 == 200);
    }
    stop.store(true, Ordering::Relaxed);
    let answered = counted(&mut asking).await?;
    ensure!(answered.iter().all(|answered| *answered > 0), "{answered:?}");
    Ok(())
}

/// What a token is charged by the second table.
const NANOS: u64 = 7_000;
const RULES: &str = "[moderation.rule_sets.default]\n";
const OTHER_RULES: &str = "[moderation.rule_sets.default]\n\
                           prompt = { terms = [{ name = \"t\", words = [\"Atlantis\"], action = \"block\" }] }\n";
const ADDED: &str = "\n[providers.spare]\n";

fn changed(settings: &str, prices: &Path) -> String {
    let url = settings.split_once("[providers.sim]\nbase_url = ").and_then(|(_, rest)| rest.lines().next());
    format!(
        "{}{ADDED}base_url = {}\n[models.house]\nprovider = \"spare\"\nupstream = \"sim-small\"\ncontext_tokens = 8000\n\
         [pricing]\nfile = {prices:?}\n",
        settings.replace(RULES, OTHER_RULES),
        url.unwrap_or_default()
    )
}

fn unchanged(settings: &str) -> String {
    let end = settings.find(ADDED).unwrap_or(settings.len());
    settings[..end].replace(OTHER_RULES, RULES)
}

/// The status of an answer, who gave it, and what a token of it was charged.
async fn asked(door: &str, model: &str, content: &str) -> anyhow::Result<(u16, String, Option<u64>)> {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": content }] });
    let answer =
        client()?.post(format!("{door}/v1/chat/completions")).bearer_auth(TENANT_KEY).json(&body).send().await?;
    let header =
        |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (status, provider, cost) = (answer.status().as_u16(), header("x-millrace-provider"), header("x-millrace-cost"));
    let answer: Value = answer.json().await?;
    let nanos = cost.trim_end_matches(" USD").replace('.', "").parse::<u64>().ok();
    Ok((status, provider, nanos.zip(answer["usage"]["total_tokens"].as_u64()).map(|(nanos, tokens)| nanos / tokens)))
}

fn edit(pipeline: &mut Pipeline, edit: impl Fn(String) -> String) -> anyhow::Result<()> {
    pipeline.names().iter().try_for_each(|name| pipeline.edit(name, &edit))
}

async fn hang_up(pipeline: &mut Pipeline) -> anyhow::Result<()> {
    for name in pipeline.names() {
        pipeline.signal(&name, "HUP").await?;
    }
    Ok(())
}

fn door(pipeline: &Pipeline, asker: usize) -> String {
    pipeline.doors[asker % pipeline.doors.len()].clone()
}

/// Asks one thing after the other until it is told to stop; every one must be answered. Returns how many were.
async fn asks(door: String, key: &'static str, stop: Arc<AtomicBool>) -> anyhow::Result<usize> {
    let client = client()?;
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        let body = json!({ "model": "sim-small", "messages": [{ "role": "user", "content": "Still there?" }] });
        let asked = client.post(format!("{door}/v1/chat/completions")).bearer_auth(key).json(&body).send().await?;
        let (status, text) = (asked.status(), asked.text().await?);
        ensure!(status == 200, "after {answered}: {status} {text}");
        answered += 1;
    }
    Ok(answered)
}

async fn counted(asking: &mut JoinSet<anyhow::Result<usize>>) -> anyhow::Result<Vec<usize>> {
    let mut answered = Vec::new();
    while let Some(ended) = asking.join_next().await {
        answered.push(ended??);
    }
    Ok(answered)
}

/// Whether every door lets a key in.
async fn known(pipeline: &Pipeline, key: &str, expected: bool) -> anyhow::Result<()> {
    for door in &pipeline.doors {
        let status = client()?.get(format!("{door}/v1/models")).bearer_auth(key).send().await?.status();
        ensure!(status == if expected { 200 } else { 401 }, "{door}: {status}");
    }
    Ok(())
}

/// Waits until a metric of every process is as it should be.
async fn until(pipeline: &Pipeline, metric: &str, is_right: impl Fn(i64) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let values = values(pipeline, metric).await?;
        let number = |line: &String| line.strip_prefix(metric).and_then(|value| value.trim().parse().ok());
        if values.iter().all(|line| number(line).is_some_and(&is_right)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{metric} does not become what it should: {values:?}\n{}", pipeline.tails());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// The line of a metric in each process.
async fn values(pipeline: &Pipeline, metric: &str) -> anyhow::Result<Vec<String>> {
    let mut values = Vec::new();
    for (name, text) in pipeline.metrics().await? {
        let line = text.lines().find(|line| line.starts_with(metric));
        values.push(line.with_context(|| format!("{name} has no {metric}"))?.to_owned());
    }
    Ok(values)
}
