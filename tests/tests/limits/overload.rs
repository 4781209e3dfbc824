//! Ten times what the slowest stage can do, over HTTP and a topic.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_stack::Stack;
use millrace_tests::{Pipeline, RIVAL_KEY, TENANT_KEY, client};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{eventually, tapped};

/// Four calls at a time, each of a tenth of a second.
const CAPACITY: u32 = 40;
const OFFERED: u32 = 10 * CAPACITY;
/// One of so many is another tenant's, which asks for less than half of its share.
const RIVALS: u32 = 50;
/// How long, in seconds; `MILLRACE_OVERLOAD_SECONDS` says otherwise.
const SECONDS: u32 = 20;
/// Records that a customer publishes meanwhile, and how long they are; a topic takes what comes. Together they have five times the
/// bytes that a stage may hold.
const PUBLISHED: usize = 200;
const WORDS: usize = 42_000;
/// The most that any process may have had in memory, in MiB: docs/reliability.md says how it comes about.
const MEMORY: u64 = 160;

/// What one client got.
struct Answer {
    key: &'static str,
    status: u16,
    after: Duration,
    id: Option<String>,
    retry_after: Option<u64>,
    body: String,
}

pub async fn ten_times_the_capacity(stack: &Stack, pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let latency = json!({ "kind": "constant", "ms": 100.0 });
    client()?.put(format!("{}/latency", pipeline.provider)).json(&latency).send().await?.error_for_status()?;
    let mut expected = warmed_up(pipeline).await?;
    too_many_bytes_are_sent_away(pipeline).await?;

    // Accepted by a door that then stops reading its answers: nobody else may wait for it.
    let frozen =
        tokio::spawn(post(client()?, TENANT_KEY, pipeline.doors[1].clone(), "Asked before the door froze".to_owned()));
    eventually(Duration::from_secs(20), "the door has accepted", async || {
        Ok(tapped(pipeline, "requests.interactive").await?.len() == expected.len() + 1)
    })
    .await?;
    pipeline.signal("ingress-1", "STOP").await?;

    publish(stack).await?;
    let answers = offer(pipeline).await?;
    expected.extend(judged(&answers)?);
    pipeline.signal("ingress-1", "CONT").await?;
    let asked = frozen.await??;
    // Its client's patience may have ended with the freeze; the outcome is there all the same.
    ensure!(matches!(asked.status, 200 | 504), "the frozen door lost its answer: {} {}", asked.status, asked.body);

    expected.extend(asked.id);
    everything_accepted_ends_once(pipeline, &expected).await?;
    memory_stays_under_its_bound(pipeline)
}

/// Everything has been used before it is measured: a second's worth of requests. The ids of the accepted.
async fn warmed_up(pipeline: &Pipeline) -> anyhow::Result<HashSet<String>> {
    let client = client()?;
    let mut ids = HashSet::new();
    for n in 0..CAPACITY / 4 {
        let mut four = tokio::task::JoinSet::new();
        for m in 0..4 {
            four.spawn(post(client.clone(), TENANT_KEY, pipeline.doors[0].clone(), format!("Warm up {n}.{m}")));
        }
        for answer in four.join_all().await {
            let answer = answer?;
            match answer.status {
                200 | 504 => drop(ids.insert(answer.id.context("an id")?)),
                429 => {}
                other => bail!("{other}: {}", answer.body),
            }
        }
    }
    Ok(ids)
}

/// Room for four bodies of the largest size: one of five is not even read, and a question costs nothing.
async fn too_many_bytes_are_sent_away(pipeline: &Pipeline) -> anyhow::Result<()> {
    let address = pipeline.doors[0].trim_start_matches("http://").to_owned();
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push((announce(&address).await?, String::new()));
    }
    eventually(Duration::from_secs(60), "one of five bodies is sent away", async || {
        for (stream, answer) in &mut held {
            *answer += &said(stream).await?;
        }
        Ok(held.iter().any(|(_, answer)| !answer.is_empty()))
    })
    .await?;
    let answers: Vec<&str> = held.iter().map(|(_, answer)| answer.as_str()).filter(|a| !a.is_empty()).collect();
    let [refused] = answers[..] else { bail!("more than one is sent away: {answers:?}") };
    ensure!(refused.starts_with("http/1.1 503") && refused.contains("retry-after: 1"), "{refused}");
    let models = client()?.get(format!("{}/v1/models", pipeline.doors[0])).bearer_auth(TENANT_KEY).send().await?;
    ensure!(models.status() == 200, "a question needs no room");
    drop(held);
    eventually(Duration::from_secs(10), "their places come back", async || {
        Ok(said(&mut announce(&address).await?).await?.is_empty())
    })
    .await
}

/// Sends the head of a request whose body has the largest size.
async fn announce(address: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {TENANT_KEY}\r\n\
         content-type: application/json\r\ncontent-length: 1048576\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

/// What it is answered in the next moment, in small letters.
async fn said(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut answer = [0_u8; 512];
    let read = tokio::time::timeout(Duration::from_millis(500), stream.read(&mut answer)).await;
    let read = read.ok().transpose()?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&answer[..read]).to_lowercase())
}

async fn publish(stack: &Stack) -> anyhow::Result<()> {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", stack.bootstrap_servers()).create()?;
    for n in 0..PUBLISHED {
        let headers = OwnedHeaders::new().insert(Header { key: "content-type", value: Some("application/json") });
        let body = body(&format!("Published {n}{}", " word".repeat(WORDS)));
        let record = FutureRecord::<(), [u8]>::to("acme.requests").headers(headers).payload(body.as_bytes());
        producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
    }
    Ok(())
}

/// Requests come at their own pace, whatever becomes of those before them.
async fn offer(pipeline: &Pipeline) -> anyhow::Result<Vec<Answer>> {
    let seconds = std::env::var("MILLRACE_OVERLOAD_SECONDS").ok().map_or(Ok(SECONDS), |s| s.parse())?;
    let client = client()?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / OFFERED);
    let mut running = tokio::task::JoinSet::new();
    for n in 0..OFFERED * seconds {
        ticks.tick().await;
        let key = if n % RIVALS == 0 { RIVAL_KEY } else { TENANT_KEY };
        let question = format!("Offered {n} {}", "x".repeat(4_000));
        running.spawn(post(client.clone(), key, pipeline.doors[0].clone(), question));
    }
    running.join_all().await.into_iter().collect()
}

/// Ids of the accepted; everything else was sent away and told when to come back.
fn judged(answers: &[Answer]) -> anyhow::Result<HashSet<String>> {
    let mut accepted = HashSet::new();
    let mut by_status = BTreeMap::<u16, usize>::new();
    for answer in answers {
        *by_status.entry(answer.status).or_default() += 1;
        match answer.status {
            // Told to ask again later: accepted, too.
            200 | 504 => {
                accepted.insert(answer.id.clone().context("an id")?);
            }
            429 | 503 => {
                ensure!(answer.retry_after.is_some_and(|s| (1..=60).contains(&s)), "no Retry-After: {}", answer.body);
                ensure!(answer.body.contains("\"overloaded\""), "{}", answer.body);
            }
            other => bail!("{other}: {}", answer.body),
        }
    }
    println!("overload: {by_status:?}");
    for (whose, key) in [("the tenant that asks for too much", TENANT_KEY), ("the other one", RIVAL_KEY)] {
        let of = || answers.iter().filter(|answer| answer.key == key);
        let mut served: Vec<Duration> = of().filter(|answer| answer.status == 200).map(|answer| answer.after).collect();
        served.sort_unstable();
        let [median, slowest] = [1, 2].map(|halves| served.get((served.len() * halves / 2).saturating_sub(1)));
        println!(
            "overload: {whose}: {} of {} served, {median:?} in the middle, {slowest:?} at most",
            served.len(),
            of().count()
        );
    }
    let rivals = answers.iter().filter(|answer| answer.key == RIVAL_KEY);
    let (away, rivals) = rivals.fold((0, 0), |(away, all), a| (away + usize::from(a.status == 429), all + 1));
    ensure!(away < rivals / 4, "{away} of {rivals} were sent away for what another tenant asks");
    let shed = by_status.get(&429).copied().unwrap_or_default();
    ensure!(shed > answers.len() / 2, "too few were sent away by lag: {by_status:?}");
    // On a machine as slow as it may be; what it accepted has to end in any case.
    ensure!(accepted.len() > CAPACITY as usize, "hardly any was let in: {by_status:?}");
    Ok(accepted)
}

async fn everything_accepted_ends_once(pipeline: &Pipeline, accepted: &HashSet<String>) -> anyhow::Result<()> {
    let written = ids(&tapped(pipeline, "requests.interactive").await?);
    let unknown = written.keys().filter(|id| !accepted.contains(*id)).count();
    ensure!(unknown == 0 && written.len() == accepted.len(), "{unknown} requests that were sent away are in the log");
    eventually(Duration::from_secs(120), "everything accepted has ended", async || {
        let ended = ids(&tapped(pipeline, "outcomes.interactive").await?);
        let batch = ids(&tapped(pipeline, "outcomes.batch").await?);
        ensure!(ended.values().chain(batch.values()).all(|copies| *copies == 1), "an outcome is there twice");
        Ok(accepted.iter().all(|id| ended.contains_key(id)) && batch.len() == PUBLISHED)
    })
    .await
}

/// How many records name each request.
fn ids(records: &[Value]) -> HashMap<String, usize> {
    let mut found = HashMap::new();
    for id in records.iter().filter_map(|r| r["headers"]["request_id"].as_str()) {
        *found.entry(id.to_owned()).or_default() += 1;
    }
    found
}

fn memory_stays_under_its_bound(pipeline: &Pipeline) -> anyhow::Result<()> {
    let mut most = BTreeMap::new();
    for (name, pid) in pipeline.names().into_iter().zip(pipeline.pids()) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("a peak")?;
        let kib: u64 = peak.split_whitespace().next().context("a number")?.parse()?;
        most.insert(name, kib / 1024);
    }
    println!("overload: MiB at most: {most:?}");
    ensure!(most.values().all(|mib| *mib < MEMORY), "more than {MEMORY} MiB: {most:?}");
    Ok(())
}

async fn post(client: reqwest::Client, key: &'static str, door: String, question: String) -> anyhow::Result<Answer> {
    let began = Instant::now();
    let url = format!("{door}/v1/chat/completions");
    let answer = client.post(url).bearer_auth(key).body(body(&question)).send().await?;
    let text = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (id, retry_after) = (text("x-request-id"), text("retry-after").and_then(|s| s.parse().ok()));
    let status = answer.status().as_u16();
    let body = answer.text().await?;
    Ok(Answer { key, status, after: began.elapsed(), id, retry_after, body })
}

fn body(question: &str) -> String {
    json!({ "model": "sim-small", "max_completion_tokens": 10, "messages": [{ "role": "user", "content": question }] })
        .to_string()
}
