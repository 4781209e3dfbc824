//! Budgets, on real Kafka and Cassandra, with three processes of every service.
//!
//! The bound that is promised: what is charged exceeds a budget by less than one reservation for each
//! partition of each lane (`budgets/src/rule.rs`).

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_stack::Stack;
use millrace_tests::{ADMIN_KEY, Pipeline, RIVAL_KEY, Setup, TENANT_KEY, client};
use reqwest::Client;
use serde_json::{Value, json};

/// Partitions of each lane: every router has one.
const PARTITIONS: i64 = 3;
const OWNERS: i64 = 2 * PARTITIONS;
/// The most that one of these requests may be charged, to be held against what `calls` says.
const RESERVE: i64 = 32_000;
/// 20 requests.
const BUDGET: i64 = 20 * RESERVE;

fn env(nanos: i64) -> String {
    format!("{{ amount = \"0.{nanos:09}\" }}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_holds_within_its_bound_and_can_be_spent() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let budget = env(BUDGET);
    let settings = [
        ("MILLRACE_TENANTS__ACME__BUDGET", budget.as_str()),
        ("MILLRACE_STAGE__SESSION_TIMEOUT_MS", "10000"),
        ("MILLRACE_LEDGER__GRACE_MS", "3000"),
    ];
    let mut pipeline = Pipeline::start(&stack, Setup::copies(3).partitions(3).env(&settings)).await?;
    five_hundred_at_once(&pipeline).await?;
    one_after_the_other(&pipeline, BUDGET).await?;
    others_are_not_held_back(&pipeline).await?;
    a_key_has_its_own(&pipeline).await?;
    raised_it_goes_on(&mut pipeline).await?;
    killed_in_the_middle(&mut pipeline).await?;
    pipeline.stop().await?;
    stack.stop().await
}

async fn five_hundred_at_once(pipeline: &Pipeline) -> anyhow::Result<()> {
    let (answered, refused) = flood(pipeline, 500).await?;
    let settled = settled(pipeline, BUDGET).await?;
    eprintln!("500 at once: {answered} answered, {refused} refused, {settled:?}");
    ensure!(answered + refused == 500 && refused > 400, "{answered} answered, {refused} refused");
    settled.is_within_the_bound()?;
    ensure!(settled.spent > BUDGET / 3, "hardly anything was let through: {settled:?}");
    let reserved = reserved(pipeline).await?;
    ensure!(reserved.iter().all(|nanos| *nanos <= RESERVE), "a reservation is larger than thought: {reserved:?}");
    Ok(())
}

/// What is left is spent, up to the last request that fits.
async fn one_after_the_other(pipeline: &Pipeline, budget: i64) -> anyhow::Result<()> {
    let client = client()?;
    let until = Instant::now() + Duration::from_secs(120);
    let mut number = 0;
    while ask(&client, pipeline, TENANT_KEY, number).await? {
        number += 1;
        ensure!(Instant::now() < until, "the budget is never used up");
    }
    let settled = settled(pipeline, budget).await?;
    eprintln!("{number} more, one after the other: {settled:?}");
    settled.is_within_the_bound()?;
    ensure!(settled.spent + RESERVE > budget, "refused with room for another: {settled:?}");
    Ok(())
}

async fn others_are_not_held_back(pipeline: &Pipeline) -> anyhow::Result<()> {
    ensure!(ask(&client()?, pipeline, RIVAL_KEY, 0).await?, "a tenant without a budget was refused");
    Ok(())
}

/// Made while everything runs, for a tenant that has none.
async fn a_key_has_its_own(pipeline: &Pipeline) -> anyhow::Result<()> {
    let amount = 5 * RESERVE;
    let budget = format!("budget.amount=0.{amount:09}");
    let door = ["--url", &pipeline.http, "--admin-key", ADMIN_KEY, "--json"];
    let create = ["keys", "create", "small", "--tenant", "rival", &budget];
    let made: Value = serde_json::from_str(&pipeline.command(&[&create, &door[..]].concat()).await?)?;
    let key = made["key"].as_str().context("a key")?;
    let client = client()?;
    let until = Instant::now() + Duration::from_secs(60);
    let mut answered = 0;
    // Known at every door within two seconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    while ask(&client, pipeline, key, answered).await? {
        answered += 1;
        ensure!(Instant::now() < until, "the key's budget is never used up");
    }
    ensure!(answered > 0, "nothing was answered with a key that has a budget");
    ensure!(ask(&client, pipeline, RIVAL_KEY, 0).await?, "another key of the tenant was refused");
    let usage = ["usage", "--tenant", "rival"];
    let usage: Value = serde_json::from_str(&pipeline.command(&[&usage, &door[..]].concat()).await?)?;
    let standing = &usage["budgets"][0];
    let spent = standing["spent_nanos"].as_i64().context("spent")?;
    ensure!(standing["key_id"] == "small" && usage["budgets"][1].is_null(), "{usage}");
    ensure!(spent + RESERVE > amount && spent < amount + OWNERS * RESERVE, "{answered} answered: {usage}");
    Ok(())
}

async fn raised_it_goes_on(pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let raised = env(2 * BUDGET);
    restart(pipeline, &["inference-router", "ingress"], &raised).await?;
    one_after_the_other(pipeline, 2 * BUDGET).await
}

/// Routers and the ledger are killed while a budget is spent.
async fn killed_in_the_middle(pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let budget = 6 * BUDGET;
    let raised = env(budget);
    restart(pipeline, &["inference-router", "ingress"], &raised).await?;
    let doors = pipeline.doors.clone();
    let flooding = tokio::spawn(async move { flood_at(&doors, 300).await });
    for round in 0..3 {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        for service in ["inference-router", "cost-ledger"] {
            let name = format!("{service}-{round}");
            pipeline.kill(&name).await?;
            pipeline.restart_with(&name, &[("MILLRACE_TENANTS__ACME__BUDGET", &raised)])?;
        }
    }
    let (answered, refused) = flooding.await??;
    pipeline.until_ready().await?;
    let settled = settled(pipeline, budget).await?;
    eprintln!("through kills: {answered} answered, {refused} refused, {settled:?}");
    settled.is_within_the_bound()?;
    ensure!(settled.spent > 3 * BUDGET, "{settled:?}");
    Ok(())
}

async fn restart(pipeline: &mut Pipeline, services: &[&str], budget: &str) -> anyhow::Result<()> {
    let is_one = |name: &String| services.iter().any(|service| name.starts_with(service));
    let names: Vec<String> = pipeline.names().into_iter().filter(is_one).collect();
    for name in &names {
        pipeline.terminate(name).await?;
        pipeline.restart_with(name, &[("MILLRACE_TENANTS__ACME__BUDGET", budget)])?;
    }
    pipeline.until_ready().await
}

/// How many were answered and how many refused.
async fn flood(pipeline: &Pipeline, count: usize) -> anyhow::Result<(usize, usize)> {
    flood_at(&pipeline.doors, count).await
}

async fn flood_at(doors: &[String], count: usize) -> anyhow::Result<(usize, usize)> {
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(180)).build()?;
    let asks: Vec<_> = (0..count)
        .map(|number| {
            let (client, door) = (client.clone(), doors[number % doors.len()].clone());
            tokio::spawn(async move { ask_at(&client, &door, TENANT_KEY, number).await })
        })
        .collect();
    let (mut answered, mut refused) = (0, 0);
    for ask in asks {
        if ask.await?? {
            answered += 1;
        } else {
            refused += 1;
        }
    }
    Ok((answered, refused))
}

async fn ask(client: &Client, pipeline: &Pipeline, key: &str, number: usize) -> anyhow::Result<bool> {
    ask_at(client, &pipeline.doors[number % pipeline.doors.len()], key, number).await
}

/// Whether it was answered; anything but an answer and the right refusal is an error.
async fn ask_at(client: &Client, door: &str, key: &str, number: usize) -> anyhow::Result<bool> {
    let body = json!({
        "model": "sim-small",
        "max_tokens": 40,
        "messages": [{ "role": "user", "content": format!("What costs number {number:04}?") }],
    });
    let answer = client.post(format!("{door}/v1/chat/completions")).bearer_auth(key).json(&body).send().await?;
    let status = answer.status();
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (retry, left) = (header("x-should-retry"), header("x-millrace-budget-remaining"));
    let body: Value = answer.json().await?;
    match status.as_u16() {
        200 => {
            let is_told = left.is_some_and(|left| left.ends_with(" USD"));
            ensure!(is_told == (key != RIVAL_KEY), "what is left is told to whoever has a budget");
            Ok(true)
        }
        429 => {
            let error = &body["error"];
            let is_right = error["code"] == "insufficient_quota" && error["type"] == "insufficient_quota";
            ensure!(is_right && retry.as_deref() == Some("false"), "{retry:?} {body}");
            Ok(false)
        }
        _ => bail!("{status}: {body}"),
    }
}

#[derive(Debug)]
struct Settled {
    budget: i64,
    spent: i64,
}

impl Settled {
    fn is_within_the_bound(&self) -> anyhow::Result<()> {
        ensure!(self.spent < self.budget + OWNERS * RESERVE, "more than the bound: {self:?}");
        Ok(())
    }
}

/// Waits until nothing is reserved any more; then the budget, as the front door knows it, says what the
/// ledger's own lines say.
async fn settled(pipeline: &Pipeline, budget: i64) -> anyhow::Result<Settled> {
    let client = client()?;
    let mut last = Value::Null;
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let answer = client.get(format!("{}/v1/usage", pipeline.doors[0])).bearer_auth(TENANT_KEY).send().await;
        // A door may just have been started again.
        let Ok(answer) = answer else { continue };
        last = answer.json().await?;
        let standing = &last["budgets"][0];
        let spent = standing["spent_nanos"].as_i64().context("spent")?;
        ensure!(standing["budget_nanos"] == budget && standing["period"] == "month", "{last}");
        ensure!(standing["currency"] == "USD" && last["budgets"][1].is_null(), "{last}");
        let booked = last["total"]["charge_nanos"]["USD"].as_i64().unwrap_or(0);
        if standing["reserved_nanos"] == 0 && booked == spent && spent > 0 {
            return Ok(Settled { budget, spent });
        }
    }
    bail!("the budget and the ledger do not agree: {last}")
}

/// What was reserved for each call.
async fn reserved(pipeline: &Pipeline) -> anyhow::Result<Vec<i64>> {
    let text = pipeline.command(&["tap", "calls", "--from-beginning", "--no-follow"]).await?;
    let calls = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    Ok(calls.iter().filter_map(|call| call["value"]["reserved_charge_nanos"].as_i64()).collect())
}
