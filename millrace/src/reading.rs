//! Reading topics without a group.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use millrace_config::Config;
use millrace_stage::client_config;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message, OwnedMessage};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// How long a broker may take for an answer.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a broker may be silent while records are known to be there.
const SILENCE: Duration = Duration::from_secs(60);

/// A consumer of all partitions of a topic (its name on the broker), without a group.
pub fn whole_topic(
    config: &Config,
    topic: &str,
    from_beginning: bool,
) -> anyhow::Result<(BaseConsumer, Vec<(i32, i64)>)> {
    let consumer = reader(config)?;
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER).context("kafka does not answer")?;
    let found = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none());
    let partitions: Vec<i32> = found.map(|t| t.partitions().iter().map(|p| p.id()).collect()).unwrap_or_default();
    if partitions.is_empty() {
        bail!("there is no topic `{topic}`; `millrace topics plan` shows what is missing");
    }
    let mut list = TopicPartitionList::new();
    let mut ends = Vec::new();
    for partition in partitions {
        let (low, end) = consumer.fetch_watermarks(topic, partition, ANSWER)?;
        list.add_partition_offset(topic, partition, Offset::Offset(if from_beginning { low } else { end }))?;
        if end > low {
            ends.push((partition, end));
        }
    }
    consumer.assign(&list)?;
    Ok((consumer, ends))
}

fn reader(config: &Config) -> anyhow::Result<BaseConsumer> {
    let mut settings = client_config(&config.kafka);
    settings
        .set("group.id", config.kafka.group("millrace-tools"))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "100")
        .set("enable.partition.eof", "true");
    Ok(settings.create()?)
}

/// Asks for single records, each from where it lies.
pub struct Places(BaseConsumer);

impl Places {
    /// Nothing is read yet.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self(reader(config)?))
    }

    /// The record at a place of a topic (its name on the broker); `None` when it is not in the log, or not
    /// any more. Blocks.
    pub fn get(&self, topic: &str, partition: i32, offset: i64) -> anyhow::Result<Option<OwnedMessage>> {
        let bounds = self.0.fetch_watermarks(topic, partition, ANSWER);
        let (low, end) = match bounds {
            Ok(bounds) => bounds,
            Err(error) if is_unknown(&error) => return Ok(None),
            Err(error) => return Err(error).context("kafka does not answer"),
        };
        if !(low..end).contains(&offset) {
            return Ok(None);
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        self.0.assign(&list)?;
        let asked = Instant::now();
        let found = loop {
            match next(&self.0)? {
                Some(Next::Record(message)) => break (message.offset() == offset).then(|| message.detach()),
                Some(Next::End(_)) => break None,
                None if asked.elapsed() > SILENCE => bail!("the broker does not answer: `{topic}` can not be read"),
                None => {}
            }
        };
        self.0.unassign()?;
        Ok(found)
    }
}

fn is_unknown(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicOrPartition
        )
    )
}

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
