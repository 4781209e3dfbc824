//! Following `outcomes` for requests that were published here.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use millrace_config::Config;
use millrace_schemas::{Codec, Lane, Outcome, topics};
use millrace_stage::client_config;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Outcomes of a lane from now on: request id and bytes of each.
pub struct Follower {
    records: mpsc::Receiver<(String, Vec<u8>)>,
    stop: CancellationToken,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A consumer of all partitions of a topic (its name on the broker), without a group.
pub fn whole_topic(
    config: &Config,
    topic: &str,
    from_beginning: bool,
) -> anyhow::Result<(BaseConsumer, Vec<(i32, i64)>)> {
    let consumer: BaseConsumer = client_config(&config.kafka)
        .set("group.id", config.kafka.group("millrace-tools"))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "100")
        .set("enable.partition.eof", "true")
        .create()?;
    let timeout = Duration::from_secs(15);
    let metadata = consumer.fetch_metadata(Some(topic), timeout).context("kafka does not answer")?;
    let found = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none());
    let partitions: Vec<i32> = found.map(|t| t.partitions().iter().map(|p| p.id()).collect()).unwrap_or_default();
    if partitions.is_empty() {
        bail!("there is no topic `{topic}`; `millrace topics plan` shows what is missing");
    }
    let mut list = TopicPartitionList::new();
    let mut ends = Vec::new();
    for partition in partitions {
        let (low, end) = consumer.fetch_watermarks(topic, partition, timeout)?;
        list.add_partition_offset(topic, partition, Offset::Offset(if from_beginning { low } else { end }))?;
        if end > low {
            ends.push((partition, end));
        }
    }
    consumer.assign(&list)?;
    Ok((consumer, ends))
}

/// How long a broker may be silent while records are known to be there.
const SILENCE: Duration = Duration::from_secs(60);

/// Hands out the records of a consumer of [`whole_topic`] up to `ends`, until `each` says stop. Blocks.
pub fn read_to_end(
    consumer: &BaseConsumer,
    ends: Vec<(i32, i64)>,
    mut each: impl FnMut(&BorrowedMessage<'_>) -> bool,
) -> anyhow::Result<()> {
    let mut left: HashMap<i32, i64> = ends.into_iter().collect();
    let mut heard = Instant::now();
    while !left.is_empty() {
        match next(consumer)? {
            Some(Next::Record(message)) => {
                heard = Instant::now();
                if left.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                    left.remove(&message.partition());
                }
                if !each(&message) {
                    return Ok(());
                }
            }
            // What is left there are markers of transactions, or compacted away.
            Some(Next::End(partition)) => {
                left.remove(&partition);
            }
            None if heard.elapsed() > SILENCE => bail!("the broker does not answer: the topic is not read to its end"),
            None => {}
        }
    }
    Ok(())
}

/// What a consumer of a whole topic hears of.
pub enum Next<'a> {
    /// A record.
    Record(BorrowedMessage<'a>),
    /// There is nothing more in this partition now.
    End(i32),
}

/// Waits a moment for the next record. Blocks.
///
/// # Errors
/// When the broker will never answer: it is not allowed. Everything else is an outage.
pub fn next(consumer: &BaseConsumer) -> anyhow::Result<Option<Next<'_>>> {
    match consumer.poll(Duration::from_millis(200)) {
        Some(Ok(message)) => Ok(Some(Next::Record(message))),
        Some(Err(KafkaError::PartitionEOF(partition))) => Ok(Some(Next::End(partition))),
        Some(Err(error)) => match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed,
            ) => Err(error).context("kafka refuses; check the ACLs and credentials of this user"),
            _ => {
                tracing::debug!(%error, "the topic can not be read now");
                Ok(None)
            }
        },
        None => Ok(None),
    }
}

impl Follower {
    /// Follows the outcomes of `lane` from their present end.
    pub async fn start(config: &Config, lane: Lane) -> anyhow::Result<Self> {
        let (config, topic) = (config.clone(), config.kafka.topic(&topics::of(topics::OUTCOMES, lane)));
        let (consumer, _) = tokio::task::spawn_blocking(move || whole_topic(&config, &topic, false)).await??;
        let (sender, records) = mpsc::channel(4096);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        std::thread::Builder::new().name("outcomes".to_owned()).spawn(move || {
            while !stopped.is_cancelled() {
                match consumer.poll(Duration::from_millis(100)) {
                    Some(Ok(message)) => {
                        let Some(id) = request_id(&message) else { continue };
                        let value = message.payload().map(<[u8]>::to_vec).unwrap_or_default();
                        if sender.blocking_send((id, value)).is_err() {
                            return;
                        }
                    }
                    Some(Err(error)) => tracing::debug!(%error, "outcomes can not be read now"),
                    None => {}
                }
            }
        })?;
        Ok(Self { records, stop })
    }

    /// Collects the outcomes of `expected`, the first of each in log order, and tells each one.
    pub async fn collect(
        &mut self,
        codec: &Codec,
        expected: HashSet<String>,
        timeout: Duration,
        mut each: impl FnMut(&Outcome, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut left = Expected::new(expected, timeout);
        while let Some(bytes) = left.next(&mut self.records).await? {
            each(&codec.decode(&bytes).await?, &bytes)?;
        }
        Ok(())
    }

    /// Waits until all of `expected` have an outcome, whatever it is.
    #[cfg(feature = "harness")]
    pub async fn wait(&mut self, expected: HashSet<String>, timeout: Duration) -> anyhow::Result<()> {
        let mut left = Expected::new(expected, timeout);
        while left.next(&mut self.records).await?.is_some() {}
        Ok(())
    }
}

struct Expected {
    ids: HashSet<String>,
    timeout: Duration,
    until: Instant,
}

impl Expected {
    fn new(ids: HashSet<String>, timeout: Duration) -> Self {
        Self { ids, timeout, until: Instant::now() + timeout }
    }

    /// The next outcome of one of these, until there is none left.
    async fn next(&mut self, records: &mut mpsc::Receiver<(String, Vec<u8>)>) -> anyhow::Result<Option<Vec<u8>>> {
        while !self.ids.is_empty() {
            let left = self.until.saturating_duration_since(Instant::now());
            let Ok(record) = tokio::time::timeout(left, records.recv()).await else {
                bail!(
                    "{} requests have no outcome after {} s; they are accepted and go on: `millrace tap` shows them later",
                    self.ids.len(),
                    self.timeout.as_secs()
                );
            };
            let (id, bytes) = record.context("reading outcomes ended")?;
            if self.ids.remove(&id) {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

fn request_id(message: &BorrowedMessage<'_>) -> Option<String> {
    let header = message.headers()?.iter().find(|header| header.key == "request_id")?;
    String::from_utf8(header.value?.to_vec()).ok()
}
