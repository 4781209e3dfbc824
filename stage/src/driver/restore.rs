//! Rebuilding what a partition's owner must know, from the log alone.
//!
//! A reader reads back the records before its committed offset and so knows which source offsets
//! it has seen. A stage that pays reads the tail of its own output and so knows which records at
//! and beyond its committed offset were worked off by an earlier owner.
//! How far back is decided in [`crate::core::read_back`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use futures::StreamExt;
use millrace_config::{KafkaConfig, StageConfig};
use millrace_schemas::{Coordinates, SOURCE_HEADER, Source};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::handler::{Assignment, Handler};
use super::kafka::consumer_config;
use super::position::{Place, position};
use super::run::{DriverError, DriverSpec};
use crate::core::{
    Backoff, Duplicates, Lease, Partition, Sourced, derived_from, jitter, read_back, set_back, worked_off,
};
use crate::{Received, StageError};

const NO_PROGRESS: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(10);
/// Partitions read back at the same time.
const AT_ONCE: usize = 4;
/// Every writer is taken to have had at least this window, so that windows up to this one may be
/// made smaller between two deployments.
const LEAST_WINDOW: u32 = 1_024;

/// What a partition's owner starts with.
pub struct Restored {
    pub partition: Partition,
    pub token: CancellationToken,
    pub committed: i64,
    /// The group had no position, and nothing was ever written: this one is still to be committed.
    pub is_new: bool,
    pub duplicates: Duplicates,
    pub done: HashMap<i64, Option<String>>,
}

/// What the poll loop is told.
pub enum Told {
    /// A partition's state is rebuilt.
    Restored(Restored),
    /// The client missed the position of a new partition, which gets one when its state is rebuilt.
    New,
    /// The client missed a position, and all of them are there.
    Unexplained(String),
}

/// Restores partitions in the background.
pub struct Restorer<H> {
    pub spec: Arc<DriverSpec>,
    pub kafka: KafkaConfig,
    pub config: StageConfig,
    pub handler: Arc<H>,
    pub results: Sender<Result<Told, DriverError>>,
    pub runtime: tokio::runtime::Handle,
}

struct Found {
    committed: i64,
    is_new: bool,
    end: i64,
    duplicates: Duplicates,
    outputs: Vec<Received>,
}

pub(super) enum ScanError {
    Outage(String),
    Operator(String),
}

impl From<KafkaError> for ScanError {
    fn from(error: KafkaError) -> Self {
        Self::Outage(error.to_string())
    }
}

impl<H: Handler> Restorer<H> {
    /// Restores these partitions and reports each, or the failure that ends the stage.
    pub fn start(&self, tokens: BTreeMap<Partition, CancellationToken>) {
        let task = Arc::new(Task {
            spec: Arc::clone(&self.spec),
            kafka: self.kafka.clone(),
            config: self.config.clone(),
            handler: Arc::clone(&self.handler),
        });
        let results = self.results.clone();
        self.runtime.spawn(async move {
            futures::stream::iter(tokens)
                .for_each_concurrent(AT_ONCE, |(partition, token)| {
                    let (task, results) = (Arc::clone(&task), results.clone());
                    async move {
                        if let Some(restored) = task.until_restored(&partition, &token).await {
                            // The poll loop is gone when the stage has ended: nobody waits.
                            let _gone = results.send(restored.map(Told::Restored));
                        }
                    }
                })
                .await;
        });
    }
}

impl<H: Handler> Restorer<H> {
    /// Reports which of these positions makes no sense; when all do, only `error`.
    pub fn explain(&self, partitions: Vec<Partition>, error: String) {
        let scan = Scan { spec: Arc::clone(&self.spec), kafka: self.kafka.clone(), config: self.config.clone() };
        let results = self.results.clone();
        self.runtime.spawn_blocking(move || {
            let (mut why, mut any_new) = (None, false);
            for partition in &partitions {
                match scan.begin(partition) {
                    Err(ScanError::Operator(sentence)) => why = why.or(Some(sentence)),
                    Ok(begin) => any_new |= begin.is_new,
                    Err(ScanError::Outage(_)) => {}
                }
            }
            let answer = match why {
                Some(why) => Err(DriverError::NoCommit(why)),
                None if any_new => Ok(Told::New),
                None => Ok(Told::Unexplained(error)),
            };
            // The poll loop is gone when the stage has ended: nobody waits.
            let _gone = results.send(answer);
        });
    }
}

struct Task<H> {
    spec: Arc<DriverSpec>,
    kafka: KafkaConfig,
    config: StageConfig,
    handler: Arc<H>,
}

impl<H: Handler> Task<H> {
    /// Tries through outages; `None` when the partition was taken away meanwhile.
    async fn until_restored(
        &self,
        partition: &Partition,
        token: &CancellationToken,
    ) -> Option<Result<Restored, DriverError>> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            match token.run_until_cancelled(self.restore(partition, token)).await? {
                Ok(restored) => return Some(Ok(restored)),
                Err(ScanError::Operator(error)) => return Some(Err(DriverError::NoCommit(error))),
                Err(ScanError::Outage(error)) => {
                    tracing::warn!(stage = self.spec.stage, error, "state can not be rebuilt yet, trying again");
                    tokio::time::sleep(backoff.next(jitter(), None)).await;
                }
            }
        }
    }

    async fn restore(&self, partition: &Partition, token: &CancellationToken) -> Result<Restored, ScanError> {
        let scan = Scan { spec: Arc::clone(&self.spec), kafka: self.kafka.clone(), config: self.config.clone() };
        let wanted = partition.clone();
        let found = tokio::task::spawn_blocking(move || scan.find(&wanted))
            .await
            .map_err(|e| ScanError::Outage(e.to_string()))??;
        let mut done = HashMap::new();
        for output in &found.outputs {
            self.handler.recover(output).await.map_err(outage)?;
            if let Some(source) = &output.source {
                done.insert(source.from.offset, output.header("request_id").map(str::to_owned));
            }
        }
        if !done.is_empty() {
            tracing::info!(
                stage = self.spec.stage,
                ?partition,
                records = done.len(),
                "an earlier owner's work was found"
            );
        }
        let assignment = Assignment {
            partition: partition.clone(),
            committed: found.committed,
            end: found.end,
            token: token.clone(),
        };
        self.handler.assigned(&assignment).await.map_err(outage)?;
        Ok(Restored {
            partition: partition.clone(),
            token: token.clone(),
            committed: found.committed,
            is_new: found.is_new,
            duplicates: found.duplicates,
            done,
        })
    }
}

fn outage(error: StageError) -> ScanError {
    match error {
        StageError::Retry { error, .. } => ScanError::Outage(error),
        StageError::Fatal(error) => ScanError::Operator(error),
        StageError::Poison(poison) => ScanError::Operator(poison.message),
    }
}

struct Scan {
    spec: Arc<DriverSpec>,
    kafka: KafkaConfig,
    config: StageConfig,
}

struct Begin {
    consumer: BaseConsumer,
    topic: String,
    low: i64,
    committed: i64,
    is_new: bool,
    end: i64,
}

impl Scan {
    /// Where a partition's owner begins, in which log.
    fn begin(&self, partition: &Partition) -> Result<Begin, ScanError> {
        let group = self.kafka.group(&self.spec.group);
        let mut config = consumer_config(&self.kafka, &self.config, &group);
        config.set("enable.partition.eof", "true").set("fetch.wait.max.ms", "10").set("statistics.interval.ms", "0");
        let consumer: BaseConsumer = config.create()?;
        let topic = self.spec.on_broker(&partition.topic, &self.kafka);
        let (low, end) = consumer.fetch_watermarks(&topic, partition.number, ANSWER)?;
        let committed = committed(&consumer, &topic, partition.number)?;
        let place = Place { group: &group, topic: &topic, partition: partition.number };
        let is_new = committed.is_none();
        let committed = position(&place, committed, (low, end)).map_err(ScanError::Operator)?;
        Ok(Begin { consumer, topic, low, committed, is_new, end })
    }

    fn find(&self, partition: &Partition) -> Result<Found, ScanError> {
        let Begin { consumer, topic, low, committed, is_new, end } = self.begin(partition)?;
        let mut found = Found { committed, is_new, end, duplicates: Duplicates::default(), outputs: Vec::new() };
        if self.spec.drop_duplicates {
            let sources =
                read_tail(&consumer, &topic, partition.number, (low, committed), self.config.window, |message| {
                    source_of(message)
                })?;
            sources.iter().for_each(|source| {
                found.duplicates.observe(source);
            });
        }
        if let Some(output) = self.spec.own_output.as_ref().filter(|_| committed < end) {
            found.outputs = self.own_tail(&consumer, output, partition, committed)?;
        }
        Ok(found)
    }

    /// What an earlier owner wrote for records at and beyond `committed`, each once.
    fn own_tail(
        &self,
        consumer: &BaseConsumer,
        output: &str,
        partition: &Partition,
        committed: i64,
    ) -> Result<Vec<Received>, ScanError> {
        let topic = self.kafka.topic(output);
        let metadata = consumer.fetch_metadata(Some(&topic), ANSWER)?;
        let count = metadata.topics().first().map_or(0, |t| t.partitions().len());
        // As it was written: a customer's topic may have more partitions than ours.
        let number = i32::try_from(count)
            .ok()
            .and_then(|count| partition.number.checked_rem(count))
            .ok_or_else(|| ScanError::Outage(format!("`{topic}` has no partition")))?;
        let (low, end) = consumer.fetch_watermarks(&topic, number, ANSWER)?;
        let (generation, own) = (self.kafka.generation_of(&partition.topic), self.kafka.generation_of(output));
        let all = read_tail(consumer, &topic, number, (low, end), self.config.window, |message| {
            let source = source_of(message).filter(|source| derived_from(source, partition, generation))?;
            let record = (source.from.offset >= committed).then(|| copy(message, output, own, &source));
            Some(Tail { record, source })
        })?;
        if let Some(least) = set_back(&all, committed) {
            return Err(ScanError::Operator(format!(
                "group `{}` is committed at {committed} on `{}` partition {}, but what it wrote to `{topic}` proves that \
                 it was at {least}: it was set back, or the topic was made anew. Whoever pays is never set back, \
                 because that would pay again: set it to {least}, or give the topics a new generation",
                self.kafka.group(&self.spec.group),
                self.spec.on_broker(&partition.topic, &self.kafka),
                partition.number,
            )));
        }
        Ok(worked_off(all, committed).into_iter().filter_map(|tail| tail.record).collect())
    }
}

struct Tail {
    source: Source,
    /// Copied only where it is wanted: most of the tail is not.
    record: Option<Received>,
}

impl Sourced for Tail {
    fn source(&self) -> &Source {
        &self.source
    }
}

/// Reads back from `end` far enough that no earlier record can matter.
fn read_tail<T: Sourced>(
    consumer: &BaseConsumer,
    topic: &str,
    partition: i32,
    range: (i64, i64),
    window: u32,
    mut pick: impl FnMut(&BorrowedMessage<'_>) -> Option<T>,
) -> Result<Vec<T>, ScanError> {
    read_back(range, window.max(LEAST_WINDOW), |start, end| {
        let mut found = Vec::new();
        read_range(consumer, topic, partition, start, end, |message| found.extend(pick(message)))?;
        Ok(found)
    })
}

fn read_range(
    consumer: &BaseConsumer,
    topic: &str,
    partition: i32,
    start: i64,
    end: i64,
    mut each: impl FnMut(&BorrowedMessage<'_>),
) -> Result<(), ScanError> {
    if start >= end {
        return Ok(());
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(start))?;
    consumer.assign(&list)?;
    let mut heard = Instant::now();
    let result = loop {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                if message.offset() < end {
                    each(&message);
                }
                if message.offset() + 1 >= end {
                    break Ok(());
                }
            }
            // The end of the log: what is left before `end` are markers.
            Some(Err(KafkaError::PartitionEOF(_))) => break Ok(()),
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                break Err(ScanError::Outage(format!("the log of `{topic}` moved while it was read back: {error}")));
            }
            Some(Err(_)) | None if heard.elapsed() > NO_PROGRESS => {
                break Err(ScanError::Outage(format!(
                    "reading back `{topic}` partition {partition} makes no progress"
                )));
            }
            Some(Err(_)) | None => {}
        }
    };
    consumer.unassign()?;
    result
}

pub(super) fn committed(consumer: &BaseConsumer, topic: &str, partition: i32) -> Result<Option<i64>, ScanError> {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    let answered = consumer.committed_offsets(list, ANSWER)?;
    let Some(element) = answered.find_partition(topic, partition) else { return Ok(None) };
    element.error()?;
    match element.offset() {
        Offset::Offset(offset) => Ok(Some(offset)),
        Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => Ok(None),
    }
}

fn source_of(message: &BorrowedMessage<'_>) -> Option<Source> {
    let headers = message.headers()?;
    let value = headers.iter().filter(|h| h.key == SOURCE_HEADER).last()?.value?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn copy(message: &BorrowedMessage<'_>, topic: &str, generation: u32, source: &Source) -> Received {
    Received {
        at: Coordinates {
            topic: topic.to_owned(),
            generation,
            partition: message.partition(),
            offset: message.offset(),
        },
        timestamp: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec).unwrap_or_default(),
        headers: message
            .headers()
            .map(|h| h.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect())
            .unwrap_or_default(),
        source: Some(source.clone()),
        as_source: source.clone(),
        assignment: CancellationToken::new(),
        lease: Lease::unlimited(),
    }
}
