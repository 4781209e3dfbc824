//! What the pipeline is given to do while it is broken.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use millrace_config::Config;
use millrace_schemas::{Lane, RequestId, topics};
use millrace_stage::Producer;
use millrace_tests::{Pipeline, TENANT_KEY, client};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::publish::{Proof, Publisher};
use crate::wiring::connect_codec;

/// The tenant that publishes.
pub const TENANT: &str = "acme";
/// Its collection of documents.
const COLLECTION: &str = "chaos";
/// How often something is asked at one ingress or the other until somebody answers, and how long one
/// answer may take.
const ATTEMPTS: usize = 60;
const PATIENCE: Duration = Duration::from_secs(15);
/// Time between two attempts, or two requests of one client.
const PAUSE: Duration = Duration::from_millis(300);
/// Requests over topics go out in bundles this often.
const BUNDLE: Duration = Duration::from_millis(500);

/// Who publishes.
pub struct Tenant {
    pub id: String,
    pub key: String,
}

/// Both lanes, published to as a tenant.
struct Lanes {
    interactive: Publisher,
    batch: Publisher,
}

impl Lanes {
    async fn open(config: &Config, tenant: &Tenant) -> anyhow::Result<Self> {
        let codec = connect_codec(config).await?;
        let producer = Producer::new(&config.kafka)?;
        let publisher = |lane| Publisher {
            producer: producer.clone(),
            codec: codec.clone(),
            topic: topics::of(topics::REQUESTS, lane),
            foreign: false,
            tenant: tenant.id.clone(),
            proof: Proof::Key { id: "default".to_owned(), key: tenant.key.clone() },
            user: None,
        };
        Ok(Self { interactive: publisher(Lane::Interactive), batch: publisher(Lane::Batch) })
    }

    /// Publishes to the batch lane, and each fourth time to the interactive one.
    async fn publish(&self, time: u32, numbers: std::ops::Range<u32>) -> anyhow::Result<Vec<String>> {
        let to = if time.is_multiple_of(4) { &self.interactive } else { &self.batch };
        let body = |n: u32| question(&format!("Write a sentence about item {n}."), None).to_string().into_bytes();
        to.publish(numbers.map(body), || ()).await
    }

    /// One request to each lane that names a model which nobody has.
    async fn publish_bad(&self) -> anyhow::Result<Vec<String>> {
        let body = json!({ "model": "nobody-has-it", "messages": [{ "role": "user", "content": "Who are you?" }] });
        let mut ids = Vec::new();
        for lane in [&self.interactive, &self.batch] {
            ids.extend(lane.publish(std::iter::once(body.to_string().into_bytes()), || ()).await?);
        }
        Ok(ids)
    }
}

/// Publishes evenly over `length`, to both lanes; every id that is returned was acknowledged.
pub async fn publish(config: Config, tenant: Tenant, requests: u32, length: Duration) -> anyhow::Result<Vec<String>> {
    const STEPS: u32 = 50;
    let lanes = Lanes::open(&config, &tenant).await?;
    let began = Instant::now();
    let mut accepted = Vec::new();
    for step in 0..STEPS {
        tokio::time::sleep((length * step / STEPS).saturating_sub(began.elapsed())).await;
        let numbers = requests * step / STEPS..requests * (step + 1) / STEPS;
        accepted.extend(lanes.publish(step, numbers).await?);
    }
    Ok(accepted)
}

/// How much is asked at once, for as long as it takes.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Requests over topics in a second.
    pub per_second: u32,
    /// Clients over HTTP, each of which asks one thing after the other, with keys.
    pub clients: u32,
    /// Whether there are documents, too, and questions about them.
    pub documents: bool,
    /// Whether some requests are taken back while they run.
    pub cancels: bool,
    /// Whether some requests over topics can never succeed.
    pub bad: bool,
    /// Whether most answers over HTTP are streamed.
    pub streams: bool,
    /// Whether some requests over HTTP are too large for their records.
    pub pictures: bool,
}

/// Requests that keep coming until they are [stopped](Load::stop).
pub struct Load {
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<Given>>,
}

/// What was accepted.
#[derive(Default)]
pub struct Given {
    /// Ids of the requests.
    pub requests: Vec<String>,
    /// Of these, the ones that can never succeed.
    pub bad: Vec<String>,
    /// Ids of the documents.
    pub documents: Vec<String>,
}

impl Load {
    /// Begins.
    pub fn start(pipeline: &Pipeline, rate: Rate) -> anyhow::Result<Self> {
        let config = Config::load(Some(&pipeline.config), std::iter::empty(), [])?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(over_topics(config, rate, stop.clone()));
        for number in 0..rate.clients {
            let asker = Asker { doors: pipeline.doors.clone(), number, rate };
            tasks.spawn(asker.run(stop.clone()));
        }
        Ok(Self { stop, tasks })
    }

    /// Whether everybody still asks.
    ///
    /// # Errors
    /// Why somebody gave up.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let Some(ended) = self.tasks.try_join_next() else { return Ok(()) };
        ended??;
        bail!("a client ended before it was told to")
    }

    /// Ends it and returns what was accepted; everything asked is answered first.
    pub async fn stop(mut self) -> anyhow::Result<Given> {
        self.stop.cancel();
        let mut all = Given::default();
        while let Some(ended) = self.tasks.join_next().await {
            let given = ended??;
            all.requests.extend(given.requests);
            all.bad.extend(given.bad);
            all.documents.extend(given.documents);
        }
        Ok(all)
    }
}

async fn over_topics(config: Config, rate: Rate, stop: CancellationToken) -> anyhow::Result<Given> {
    let tenant = Tenant { id: TENANT.to_owned(), key: TENANT_KEY.to_owned() };
    let lanes = Lanes::open(&config, &tenant).await?;
    let bundle = (rate.per_second / 2).max(1);
    let mut given = Given::default();
    let mut time = 0;
    while stop.run_until_cancelled(tokio::time::sleep(BUNDLE)).await.is_some() {
        given.requests.extend(lanes.publish(time, time * bundle..(time + 1) * bundle).await?);
        if rate.bad {
            let bad = lanes.publish_bad().await?;
            given.requests.extend(bad.iter().cloned());
            given.bad.extend(bad);
        }
        time += 1;
    }
    Ok(given)
}

/// A client over HTTP.
struct Asker {
    doors: Vec<String>,
    number: u32,
    rate: Rate,
}

impl Asker {
    async fn run(self, stop: CancellationToken) -> anyhow::Result<Given> {
        let client = client()?;
        let mut given = Given::default();
        let mut time = 0;
        while stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
            if self.rate.documents {
                given.documents.push(self.document(&client).await?);
            }
            // All combinations of a question about documents, a stream and a picture come up.
            let about = (self.rate.documents && time % 2 == 0).then_some(COLLECTION);
            let mut body = question("", about);
            body["stream"] = (self.rate.streams && time % 3 != 0).into();
            given.requests.push(self.ask(&client, body, self.rate.pictures && time % 4 < 2).await?);
            if self.rate.cancels {
                given.requests.push(self.take_back(&client).await?);
            }
            time += 1;
        }
        Ok(given)
    }

    /// Asks with a key of its own, at both doors at once and once more when it is answered: whoever
    /// dies in between, it is one request. Returns its id.
    /// What was said is the same each time, streamed or not.
    async fn ask(&self, client: &reqwest::Client, mut body: Value, shows: bool) -> anyhow::Result<String> {
        let key = format!("chaos-{:016x}", rand::random::<u64>());
        let text = format!("Write a sentence about {key}.");
        body["messages"][0]["content"] = if shows { picture(&text) } else { text.into() };
        let asked = |first: usize| self.until_answered(client, "chat/completions", Some(&key), &body, first);
        let first = usize::try_from(self.number)?;
        let answers = futures::future::try_join(asked(first), asked(first + 1)).await?;
        let again = asked(first).await?;
        let Answered { id, said } = &again;
        let is_one = !id.is_empty() && [&answers.0, &answers.1].iter().all(|answer| answer.id == *id);
        ensure!(is_one, "one key has several requests, or none: {answers:?} and {again:?}");
        let is_same = !said.is_empty() && [&answers.0, &answers.1].iter().all(|answer| answer.said == *said);
        ensure!(is_same, "one request has several answers, or none: {answers:?} and {again:?}");
        Ok(again.id)
    }

    /// Asks, and takes the request back at the other door meanwhile. Returns its id, which ends either way.
    async fn take_back(&self, client: &reqwest::Client) -> anyhow::Result<String> {
        let key = format!("chaos-{:016x}", rand::random::<u64>());
        let id = RequestId::of_key(TENANT, &key).into_string();
        let body = question(&format!("Think better of {key}."), None);
        let first = usize::try_from(self.number)?;
        let other = &self.doors[(first + 1) % self.doors.len()];
        let taken_back = client.delete(format!("{other}/v1/requests/{id}")).timeout(PATIENCE).bearer_auth(TENANT_KEY);
        let asked = self.until_answered(client, "chat/completions", Some(&key), &body, first);
        let (asked, _whoever_died_takes_nothing_back) = futures::future::join(asked, taken_back.send()).await;
        ensure!(asked?.id == id, "a key has another id than its own");
        Ok(id)
    }

    async fn document(&self, client: &reqwest::Client) -> anyhow::Result<String> {
        let id = format!("chaos-{:016x}", rand::random::<u64>());
        let body = json!({ "collection": COLLECTION, "id": id, "text": format!("All that is known about {id}.") });
        self.until_answered(client, "documents", None, &body, usize::try_from(self.number)?).await?;
        Ok(id)
    }

    /// Asks at one door after the other until somebody says yes.
    async fn until_answered(
        &self,
        client: &reqwest::Client,
        path: &str,
        key: Option<&str>,
        body: &Value,
        first: usize,
    ) -> anyhow::Result<Answered> {
        let mut last = String::new();
        for door in self.doors.iter().cycle().skip(first % self.doors.len()).take(ATTEMPTS) {
            let mut request = client.post(format!("{door}/v1/{path}")).timeout(PATIENCE).bearer_auth(TENANT_KEY);
            if let Some(key) = key {
                request = request.header("idempotency-key", key);
            }
            match request.json(body).send().await {
                Ok(answer) if is_final(answer.status()) => {
                    let id = answer.headers().get("x-request-id").and_then(|id| id.to_str().ok());
                    let id = id.unwrap_or_default().to_owned();
                    match said(answer).await {
                        Ok(said) => return Ok(Answered { id, said }),
                        Err(error) => last = error.to_string(),
                    }
                }
                Ok(answer) => last = answer.status().to_string(),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("no ingress accepted /v1/{path} in {ATTEMPTS} attempts, the last time: {last}")
    }
}

/// 499: it was taken back.
fn is_final(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::ACCEPTED) || status.as_u16() == 499
}

#[derive(Debug)]
struct Answered {
    id: String,
    said: String,
}

/// The text of an answer, whole or streamed to its end.
async fn said(answer: reqwest::Response) -> anyhow::Result<String> {
    let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_stream = kind.starts_with("text/event-stream");
    let text = answer.text().await?;
    if !is_stream {
        let answer: Value = serde_json::from_str(&text)?;
        return Ok(answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned());
    }
    let mut said = String::new();
    for data in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
        if data == "[DONE]" {
            return Ok(said);
        }
        let event: Value = serde_json::from_str(data)?;
        ensure!(event["error"].is_null(), "{event}");
        said += event["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
    }
    bail!("a stream without an end")
}

/// A text, and a picture that is larger than a record may be.
fn picture(text: &str) -> Value {
    let url = format!("data:image/png;base64,{}", "iVBOR".repeat(60_000));
    json!([{ "type": "text", "text": text }, { "type": "image_url", "image_url": { "url": url } }])
}

fn question(content: &str, collection: Option<&str>) -> Value {
    let message = json!({ "role": "user", "content": content });
    let mut body = json!({ "model": "sim-small", "max_completion_tokens": 20, "messages": [message] });
    if let Some(collection) = collection {
        body["millrace"] = json!({ "collection": collection });
    }
    body
}
