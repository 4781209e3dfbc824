//! Clients of an OpenAI-compatible door: each asks again as soon as it has its answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::usage;
use crate::ui::quantile;

/// A door, and who works behind it.
pub struct Door {
    pub url: String,
    pub key: &'static str,
    /// The processes whose time counts.
    pub pids: Vec<u32>,
}

/// What some clients saw for a while.
#[derive(Debug, Clone)]
pub struct Seen {
    pub requests: u64,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// CPU time behind the door for each request, in microseconds.
    pub cpu_micros: f64,
}

static ASKED: AtomicU64 = AtomicU64::new(0);

/// A request of 1 KB that nobody has asked before.
fn body(stream: bool) -> Value {
    let filler = "word ".repeat(180);
    let content = format!("{} {filler}", ASKED.fetch_add(1, Ordering::Relaxed));
    let message = json!({ "role": "user", "content": content });
    json!({ "model": "sim-small", "max_completion_tokens": 20, "stream": stream, "messages": [message] })
}

/// So many clients for so long.
pub async fn load(door: &Door, clients: usize, lasting: Duration) -> anyhow::Result<Seen> {
    let http = http()?;
    let (cpu_before, _) = usage::sum(&door.pids);
    let began = Instant::now();
    let until = began + lasting;
    let all = try_join_all((0..clients).map(|_| {
        let http = http.clone();
        let (url, key) = (format!("{}/v1/chat/completions", door.url), door.key);
        async move {
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < until {
                    let body = body(false);
                    let began = Instant::now();
                    let answer = http.post(&url).bearer_auth(key).json(&body).send().await?;
                    let status = answer.status();
                    let text = answer.text().await?;
                    ensure!(status == 200, "{status}: {text}");
                    latencies.push(began.elapsed().as_micros() as i64);
                }
                anyhow::Ok(latencies)
            })
            .await?
        }
    }))
    .await?;
    let wall = began.elapsed().as_secs_f64();
    let (cpu_after, _) = usage::sum(&door.pids);
    let mut latencies: Vec<i64> = all.into_iter().flatten().collect();
    latencies.sort_unstable();
    let requests = latencies.len() as u64;
    Ok(Seen {
        requests,
        per_second: requests as f64 / wall,
        p50_ms: quantile(&latencies, 0.5) as f64 / 1000.0,
        p99_ms: quantile(&latencies, 0.99) as f64 / 1000.0,
        cpu_micros: (cpu_after - cpu_before) * 1e6 / requests as f64,
    })
}

/// Milliseconds until the first text of streams, one after the other: p50 and p99.
pub async fn first_text(door: &Door, streams: usize) -> anyhow::Result<(f64, f64)> {
    let http = http()?;
    let mut latencies = Vec::new();
    for _ in 0..streams {
        let began = Instant::now();
        let mut stream = Stream::open(&http, door, &body(true)).await?;
        stream.until_text().await?;
        latencies.push(began.elapsed().as_micros() as i64);
        stream.until_done().await?;
    }
    latencies.sort_unstable();
    Ok((quantile(&latencies, 0.5) as f64 / 1000.0, quantile(&latencies, 0.99) as f64 / 1000.0))
}

/// Opens so many streams at once and, when each has its first text, says how many MiB `pids` have; then reads
/// all of them to their end.
pub async fn memory_with(door: &Door, streams: usize, pids: &[u32]) -> anyhow::Result<f64> {
    let http = http()?;
    let opened = try_join_all((0..streams).map(|_| async {
        let mut stream = Stream::open(&http, door, &body(true)).await?;
        stream.until_text().await?;
        anyhow::Ok(stream)
    }))
    .await?;
    let resident = usage::resident(pids);
    try_join_all(opened.into_iter().map(Stream::until_done)).await?;
    Ok(resident)
}

fn http() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(300)).build()?)
}

struct Stream {
    answer: reqwest::Response,
    read: String,
}

impl Stream {
    async fn open(http: &reqwest::Client, door: &Door, body: &Value) -> anyhow::Result<Self> {
        let url = format!("{}/v1/chat/completions", door.url);
        let answer = http.post(url).bearer_auth(door.key).json(body).send().await?;
        ensure!(answer.status() == 200, "{}", answer.text().await?);
        Ok(Self { answer, read: String::new() })
    }

    async fn until_text(&mut self) -> anyhow::Result<()> {
        loop {
            let said = self.read.lines().any(|line| {
                let data = line.strip_prefix("data: ").and_then(|data| serde_json::from_str::<Value>(data).ok());
                data.is_some_and(|data| data["choices"][0]["delta"]["content"].as_str().is_some_and(|t| !t.is_empty()))
            });
            if said {
                return Ok(());
            }
            self.more().await?;
        }
    }

    async fn until_done(mut self) -> anyhow::Result<()> {
        while !self.read.contains("data: [DONE]") {
            self.more().await?;
        }
        Ok(())
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        let Some(chunk) = self.answer.chunk().await? else { bail!("a stream ended early: {}", self.read) };
        self.read.push_str(std::str::from_utf8(&chunk).context("chunks in UTF-8")?);
        Ok(())
    }
}
