//! One key at every door and at every time: one call, one charge, the same outcome to each.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_stack::Stack;
use millrace_tests::{FAST_OUTCOMES, FAST_REQUESTS, Pipeline, TENANT_KEY, client};
use rdkafka::producer::FutureProducer;
use serde_json::{Value, json};

use crate::{produce, producer, tapped, until};

/// A topic bound to the tenant and where its records want their outcomes, one of each lane.
const LANES: [(&str, &str); 2] = [("acme.requests", "acme.outcomes"), (FAST_REQUESTS, FAST_OUTCOMES)];

struct Doors<'a> {
    pipeline: &'a Pipeline,
    producer: FutureProducer,
}

/// What one HTTP door said.
struct Answer {
    status: u16,
    id: String,
    body: Value,
}

pub async fn one_key_is_one_call_at_every_door(stack: &Stack, pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let producer = producer(stack)?;
    let calls = at_rest(pipeline).await?;
    at_once_and_afterwards(&Doors { pipeline, producer: producer.clone() }).await?;
    over_a_topic_first(&Doors { pipeline, producer: producer.clone() }).await?;
    two_bodies_at_once(&Doors { pipeline, producer: producer.clone() }).await?;
    across_restarts(pipeline, producer).await?;
    let booked = at_rest(pipeline).await? - calls;
    ensure!(booked == 4, "four keys are four calls in the ledger, not {booked}");
    Ok(())
}

/// All four doors at the same time; then all of them again; then with another body.
async fn at_once_and_afterwards(doors: &Doors<'_>) -> anyhow::Result<()> {
    let (key, body) = ("matrix-at-once", body("What does a kettle cost?"));
    let before = doors.calls().await?;
    let (first, second, batch, fast) = tokio::join!(
        doors.post(0, key, &body),
        doors.post(1, key, &body),
        doors.publish(LANES[0], key, &body),
        doors.publish(LANES[1], key, &body)
    );
    let (answer, second) = (first?, second?);
    batch?;
    fast?;
    ensure!(answer.status == 200 && second.status == 200, "{} and {}", answer.body, second.body);
    ensure!(answer.body == second.body && answer.id == second.id, "{} is not {}", answer.body, second.body);
    let mut delivered = Vec::new();
    for (_, outcomes) in LANES {
        delivered.push(doors.outcomes_of(outcomes, &answer, 1).await?);
    }

    for door in [0, 1] {
        let again = doors.post(door, key, &body).await?;
        ensure!(again.body == answer.body && again.id == answer.id, "{} is not {}", again.body, answer.body);
    }
    for (lane, before) in LANES.into_iter().zip(delivered) {
        doors.publish(lane, key, &body).await?;
        doors.outcomes_of(lane.1, &answer, before + 1).await?;
    }
    doors.one_call_since(before, &answer).await?;
    doors.another_body_is_refused(key, &answer).await
}

async fn over_a_topic_first(doors: &Doors<'_>) -> anyhow::Result<()> {
    let (key, body) = ("matrix-topic-first", body("What does a teapot cost?"));
    let before = doors.calls().await?;
    doors.publish(LANES[0], key, &body).await?;
    let answer = doors.post(1, key, &body).await?;
    ensure!(answer.status == 200, "{}", answer.body);
    doors.outcomes_of(LANES[0].1, &answer, 1).await?;
    doors.publish(LANES[1], key, &body).await?;
    doors.outcomes_of(LANES[1].1, &answer, 1).await?;
    doors.one_call_since(before, &answer).await
}

/// Two bodies race for a key: one of them has it, the other is refused.
async fn two_bodies_at_once(doors: &Doors<'_>) -> anyhow::Result<()> {
    let key = "matrix-two-bodies";
    let bodies = [body("What does a cup cost?"), body("What does a saucer cost?")];
    let before = doors.calls().await?;
    let (first, second) = tokio::join!(doors.post(0, key, &bodies[0]), doors.post(1, key, &bodies[1]));
    let answers = [first?, second?];
    let winner = answers.iter().find(|answer| answer.status == 200).context("nobody had the key")?;
    let loser = answers.iter().find(|answer| answer.status == 422).context("both had the key")?;
    ensure!(loser.body["error"]["code"] == "idempotency_key_reused", "{}", loser.body);
    doors.one_call_since(before, winner).await
}

/// The key while its call runs, while the builders and a door are restarted, and after all doors were.
async fn across_restarts(pipeline: &mut Pipeline, producer: FutureProducer) -> anyhow::Result<()> {
    let (key, body) = ("matrix-restarts", body("What does a slow teapot cost?"));
    let slow = json!([{ "when": { "prompt_contains": "slow teapot" }, "then": { "kind": "hang", "ms": 8_000 } }]);
    let faults = format!("{}/faults", pipeline.provider);
    client()?.put(&faults).json(&slow).send().await?.error_for_status()?;
    let before = calls(pipeline).await?;
    let waiting = {
        let (url, body) = (pipeline.doors[0].clone(), body.clone());
        tokio::spawn(async move { post(&url, key, &body).await })
    };
    let until = Instant::now() + Duration::from_secs(20);
    while pipeline.count().await?["in_flight"].as_u64().is_some_and(|n| n == 0) {
        ensure!(Instant::now() < until, "the call never came");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // In the middle of the call: both lanes, and the services that judge duplicates come anew.
    let doors = Doors { pipeline, producer: producer.clone() };
    for lane in LANES {
        doors.publish(lane, key, &body).await?;
    }
    for name in ["prompt-builder-0", "prompt-builder-1", "ingress-1"] {
        pipeline.terminate(name).await?;
        pipeline.restart(name)?;
    }
    pipeline.until_ready().await?;
    let answer = waiting.await??;
    ensure!(answer.status == 200, "{}", answer.body);
    let again = post(&pipeline.doors[1], key, &body).await?;
    ensure!(again.body == answer.body && again.id == answer.id, "{} is not {}", again.body, answer.body);
    pipeline.terminate("ingress-0").await?;
    pipeline.restart("ingress-0")?;
    pipeline.until_ready().await?;
    let doors = Doors { pipeline, producer };
    let again = doors.post(0, key, &body).await?;
    ensure!(again.body == answer.body && again.id == answer.id, "{} is not {}", again.body, answer.body);
    for (_, outcomes) in LANES {
        doors.outcomes_of(outcomes, &answer, 1).await?;
    }
    doors.one_call_since(before, &answer).await?;
    doors.another_body_is_refused(key, &answer).await?;
    client()?.put(&faults).json(&json!([])).send().await?.error_for_status()?;
    Ok(())
}

impl Doors<'_> {
    async fn post(&self, door: usize, key: &str, body: &Value) -> anyhow::Result<Answer> {
        post(&self.pipeline.doors[door], key, body).await
    }

    async fn publish(&self, (topic, outcomes): (&str, &str), key: &str, body: &Value) -> anyhow::Result<()> {
        let headers = [("content-type", "application/json"), ("idempotency-key", key), ("reply-topic", outcomes)];
        produce(&self.producer, topic, &headers, body.to_string().as_bytes()).await
    }

    /// How many outcomes of the request are on the topic, once there are `at_least`; all are the answer.
    async fn outcomes_of(&self, topic: &str, answer: &Answer, at_least: usize) -> anyhow::Result<usize> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let all = tapped(self.pipeline, topic, 0).await?;
            let ours: Vec<_> = all.iter().filter(|o| o["value"]["meta"]["request_id"] == answer.id.as_str()).collect();
            for outcome in &ours {
                ensure!(outcome["value"]["status"] == "succeeded", "{outcome}");
                ensure!(outcome["value"]["response"] == answer.body, "{outcome} is not {}", answer.body);
            }
            if ours.len() >= at_least {
                return Ok(ours.len());
            }
            ensure!(Instant::now() < until, "{topic} has {} outcomes of {}, not {at_least}", ours.len(), answer.id);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn calls(&self) -> anyhow::Result<u64> {
        calls(self.pipeline).await
    }

    /// The provider charged once, and the customer is charged for that one.
    async fn one_call_since(&self, before: u64, answer: &Answer) -> anyhow::Result<()> {
        let paid = self.calls().await? - before;
        ensure!(paid == 1, "one key was {paid} calls");
        let url = format!("{}/v1/requests/{}", self.pipeline.http, answer.id);
        let stored = until(&url, |v| v["status"] != "in_progress").await?;
        let lines = stored["calls"].as_array().map_or(0, Vec::len);
        ensure!(stored["response"] == answer.body && lines == 1, "{stored}");
        ensure!(stored["charge_nanos"].as_i64() > Some(0), "{stored}");
        Ok(())
    }

    /// 422 over HTTP; over a topic a failed outcome and a dead letter, with an id of their own.
    async fn another_body_is_refused(&self, key: &str, answer: &Answer) -> anyhow::Result<()> {
        let before = self.calls().await?;
        let other = body("Something else altogether");
        for door in [0, 1] {
            let refused = self.post(door, key, &other).await?;
            ensure!(
                refused.status == 422 && refused.body["error"]["code"] == "idempotency_key_reused",
                "{}",
                refused.body
            );
        }
        for (topic, outcomes) in LANES {
            let known = refused_ids(&tapped(self.pipeline, outcomes, 0).await?).len();
            self.publish((topic, outcomes), key, &other).await?;
            let until = Instant::now() + Duration::from_secs(30);
            let ids = loop {
                let ids = refused_ids(&tapped(self.pipeline, outcomes, 0).await?);
                if ids.len() > known {
                    break ids;
                }
                ensure!(Instant::now() < until, "the refusal never came to {outcomes}");
                tokio::time::sleep(Duration::from_millis(300)).await;
            };
            ensure!(!ids.contains(&answer.id), "the refusal has the winner's id");
            let letters = tapped(self.pipeline, "dead-letters", 1).await?;
            let held = ids.iter().all(|id| letters.iter().any(|l| l["value"]["request_id"] == id.as_str()));
            ensure!(held, "a refusal of {ids:?} is no dead letter");
        }
        ensure!(self.calls().await? == before, "a refusal was paid for");
        Ok(())
    }
}

/// Ids of the outcomes that say that a key was used with another body.
fn refused_ids(outcomes: &[Value]) -> Vec<String> {
    let refused = outcomes.iter().filter(|o| o["value"]["error"]["code"] == "idempotency_key_reused");
    refused.filter_map(|o| o["value"]["meta"]["request_id"].as_str().map(str::to_owned)).collect()
}

async fn post(door: &str, key: &str, body: &Value) -> anyhow::Result<Answer> {
    let request = client()?.post(format!("{door}/v1/chat/completions")).bearer_auth(TENANT_KEY);
    let answer = request.header("idempotency-key", key).json(body).send().await?;
    let id = answer.headers().get("x-request-id").context("an id")?.to_str()?.to_owned();
    Ok(Answer { status: answer.status().as_u16(), id, body: answer.json().await? })
}

fn body(question: &str) -> Value {
    json!({ "model": "sim-small", "messages": [{ "role": "user", "content": question }] })
}

async fn calls(pipeline: &Pipeline) -> anyhow::Result<u64> {
    pipeline.count().await?["billed_calls"].as_u64().context("a count")
}

/// Calls in the ledger, once it has all that the provider charged.
async fn at_rest(pipeline: &Pipeline) -> anyhow::Result<u64> {
    let storage = pipeline.storage().await?;
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let (paid, totals) = (calls(pipeline).await?, storage.usage.totals().await?);
        if totals.calls == paid && totals.entries_sum == totals.rollups_sum {
            return Ok(paid);
        }
        if Instant::now() >= until {
            bail!("the provider charged {paid} calls, the ledger has {totals:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
