//! What happens at the limits: more work than can be done, tokens of a day, and positions that make no sense.

mod overload;
mod refusals;
mod tokens;

use std::time::{Duration, Instant};

use anyhow::ensure;
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup, millrace, run};
use serde_json::Value;

/// Small bounds, so that little work is too much: two routers with two calls at a time each.
const ENV: [(&str, &str); 7] = [
    ("MILLRACE_PROVIDERS__SIM__MAX_CONCURRENCY", "2"),
    ("MILLRACE_INGRESS__MAX_LAG", "200"),
    ("MILLRACE_INGRESS__WAIT_MS", "15000"),
    ("MILLRACE_INGRESS__MAX_BODY_BYTES", "1048576"),
    ("MILLRACE_INGRESS__MAX_IN_FLIGHT_BYTES", "4194304"),
    ("MILLRACE_STAGE__MAX_BYTES", "8388608"),
    ("MILLRACE_STAGE__SESSION_TIMEOUT_MS", "10000"),
];

#[tokio::test(flavor = "multi_thread")]
async fn at_its_limits_it_sheds_and_refuses_and_loses_nothing() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let mut pipeline = Pipeline::start(&stack, Setup::copies(2).env(&ENV)).await?;
    overload::ten_times_the_capacity(&stack, &mut pipeline).await?;
    tokens::count_by_what_they_became(&pipeline).await?;
    refusals::a_missing_commit(&stack, &mut pipeline).await?;
    refusals::a_commit_beyond_the_end(&stack, &mut pipeline).await?;
    refusals::a_topic_made_anew_under_an_old_store(&stack, &mut pipeline).await?;
    pipeline.stop().await?;
    stack.stop().await
}

#[tokio::test]
async fn a_drain_that_exceeds_the_session_is_refused_at_start() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("millrace.toml");
    std::fs::write(&config, "[stage]\ndrain_ms = 600000\nmax_poll_interval_ms = 600000\n")?;
    let path = config.to_string_lossy().into_owned();
    for service in ["moderator", "inference-router", "ingress"] {
        let refused = run(millrace()?, &["run", service, "--config", &path]).await;
        let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(error.contains("stage.drain_ms") && error.contains("max_poll_interval_ms"), "{service}: {error}");
    }
    Ok(())
}

/// Records of `topic` from its beginning.
async fn tapped(pipeline: &Pipeline, topic: &str) -> anyhow::Result<Vec<Value>> {
    let text = pipeline.command(&["tap", topic, "--from-beginning", "--no-follow"]).await?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// Asks again until it is so.
async fn eventually(
    within: Duration,
    what: &str,
    mut is_so: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let until = Instant::now() + within;
    while !is_so().await? {
        ensure!(Instant::now() < until, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}
