//! Reads all partitions of a topic that every process has to know, by a thread of its own and without
//! commits.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_config::KafkaConfig;
use millrace_schemas::{Codec, CodecError, Event};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::kafka::client_config;

const ANSWER: Duration = Duration::from_secs(10);
/// Between two tries to begin, or to read a record whose schema can not be fetched.
const PAUSE: Duration = Duration::from_secs(1);

/// So often a follower that nothing comes for looks up, for the shutdown's sake.
const IDLE: Duration = Duration::from_millis(500);

/// Called with whether everything that was there at the start is known, and a word why.
pub type Report = Box<dyn Fn(bool, &str) + Send>;

/// What is read, and from where on.
#[derive(Debug, Clone)]
pub struct Followed {
    /// Logical name of the topic.
    pub topic: &'static str,
    /// Joined by nobody: it only makes librdkafka's consumer queue. Without prefix.
    pub group: String,
    /// Where reading begins.
    pub since: Since,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// At the first record.
    Beginning,
    /// At the first record that is as young as this, milliseconds since the epoch, and at most so many
    /// records before the end.
    Recent(i64, i64),
}

/// What becomes of the records.
pub trait Follower: Send {
    /// How long a record is waited for, at most: one that comes ends the waiting.
    fn patience(&self) -> Duration {
        IDLE
    }

    /// Reading begins, maybe again.
    ///
    /// # Errors
    /// Then it begins once more in a moment.
    fn begins(&mut self, _consumer: &BaseConsumer) -> Result<(), KafkaError> {
        Ok(())
    }

    /// Takes a record; it may block as long as it needs to.
    fn take(&mut self, message: &BorrowedMessage<'_>);

    /// Everything that was there at the start was taken.
    fn caught_up(&mut self);

    /// Everything that has come was taken.
    fn is_idle(&mut self, _consumer: &BaseConsumer) {}
}

/// The number of partitions of a topic, by its name on the broker.
///
/// # Errors
/// When the broker does not answer or does not know the topic.
pub fn partitions_of(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let partitions = metadata.topics().iter().find(|t| t.name() == topic).map_or(&[][..], |t| t.partitions());
    if partitions.is_empty() {
        return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
    }
    Ok(partitions.iter().map(|partition| partition.id()).collect())
}

/// Reads what followers take.
#[derive(Clone)]
pub struct Decoder {
    codec: Codec,
    shutdown: CancellationToken,
    runtime: Handle,
}

impl Decoder {
    /// One that gives up at `shutdown`. Made on the runtime that asks the registry.
    #[must_use]
    pub fn new(codec: Codec, shutdown: CancellationToken) -> Self {
        Self { codec, shutdown, runtime: Handle::current() }
    }

    /// The event in `value`; while its schema can not be fetched that is tried again.
    ///
    /// # Errors
    /// [`CodecError`]: it will never be read, or not before `shutdown`.
    pub fn decode<E: Event>(&self, value: &[u8]) -> Result<E, CodecError> {
        loop {
            match self.runtime.block_on(self.codec.decode(value)) {
                Err(error) if error.is_outage() && !self.shutdown.is_cancelled() => {
                    tracing::warn!(event = E::NAME, %error, "a record is read again");
                    std::thread::sleep(PAUSE);
                }
                decoded => return decoded,
            }
        }
    }
}

/// Reads until `shutdown`; a broker that does not answer is asked again, and then everything is read
/// again.
///
/// # Errors
/// When there is no thread for it.
pub fn follow(
    kafka: &KafkaConfig,
    followed: Followed,
    follower: impl Follower + 'static,
    report: Report,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let name = followed.topic.to_owned();
    let mut reader =
        Reader { kafka: kafka.clone(), topic: kafka.topic(followed.topic), followed, follower, report, shutdown };
    std::thread::Builder::new().name(name).spawn(move || reader.run()).map(|_| ())
}

struct Reader<F> {
    kafka: KafkaConfig,
    topic: String,
    followed: Followed,
    follower: F,
    report: Report,
    shutdown: CancellationToken,
}

/// Partitions whose past is not read yet, with the ends of their logs at the start.
type Behind = BTreeMap<i32, i64>;

impl<F: Follower> Reader<F> {
    fn run(&mut self) {
        while !self.shutdown.is_cancelled() {
            match self.begin() {
                Ok((consumer, behind)) => self.read(&consumer, behind),
                Err(error) => {
                    tracing::warn!(topic = self.topic, %error, "a topic can not be read; was `millrace topics apply` run?");
                    (self.report)(false, "its topic can not be read");
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn begin(&mut self) -> Result<(BaseConsumer, Behind), KafkaError> {
        let consumer = self.consumer()?;
        let numbers = partitions_of(&consumer, &self.topic)?;
        let young = self.young(&consumer, &numbers)?;
        let mut starts = TopicPartitionList::new();
        let mut behind = Behind::new();
        for number in numbers {
            let (low, end) = consumer.fetch_watermarks(&self.topic, number, ANSWER)?;
            let young = young.find_partition(&self.topic, number).map(|element| element.offset());
            let start = start(self.followed.since, young, (low, end));
            starts.add_partition_offset(&self.topic, number, Offset::Offset(start))?;
            if start < end {
                behind.insert(number, end);
            }
        }
        self.follower.begins(&consumer)?;
        consumer.assign(&starts)?;
        Ok((consumer, behind))
    }

    /// The first records that are young enough, where that is asked for.
    fn young(&self, consumer: &BaseConsumer, numbers: &[i32]) -> Result<TopicPartitionList, KafkaError> {
        let mut asked = TopicPartitionList::new();
        let Since::Recent(since, _) = self.followed.since else { return Ok(asked) };
        for number in numbers {
            asked.add_partition_offset(&self.topic, *number, Offset::Offset(since.max(0)))?;
        }
        consumer.offsets_for_times(asked, ANSWER)
    }

    fn read(&mut self, consumer: &BaseConsumer, mut behind: Behind) {
        let mut told = false;
        let mut wait = self.follower.patience();
        while !self.shutdown.is_cancelled() {
            if behind.is_empty() && !told {
                told = true;
                self.follower.caught_up();
                (self.report)(true, "following");
            }
            // Whatever is there comes first.
            wait = match consumer.poll(wait) {
                Some(Ok(message)) => {
                    self.follower.take(&message);
                    behind.retain(|number, end| *number != message.partition() || message.offset() + 1 < *end);
                    Duration::ZERO
                }
                // What is left before the end are markers of transactions, or was compacted.
                Some(Err(KafkaError::PartitionEOF(number))) => {
                    behind.remove(&number);
                    Duration::ZERO
                }
                Some(Err(error)) => {
                    tracing::warn!(topic = self.topic, %error, "a topic can not be read now");
                    self.follower.is_idle(consumer);
                    self.follower.patience()
                }
                None => {
                    self.follower.is_idle(consumer);
                    self.follower.patience()
                }
            };
        }
    }

    fn consumer(&self) -> Result<BaseConsumer, KafkaError> {
        let mut config = client_config(&self.kafka);
        config
            .set("group.id", self.kafka.group(&self.followed.group))
            .set("enable.auto.commit", "false")
            // What retention has removed meanwhile is too old to matter.
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "500");
        for (name, value) in &self.kafka.consumer {
            config.set(name, value);
        }
        config.create()
    }
}

/// Where reading begins: at the first record that may matter, and no further back than is remembered.
fn start(since: Since, young: Option<Offset>, (low, end): (i64, i64)) -> i64 {
    let Since::Recent(_, most) = since else { return low };
    let young = match young {
        Some(Offset::Offset(offset)) => offset,
        // No record is as young as that.
        Some(Offset::End) => end,
        Some(Offset::Beginning | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_)) | None => low,
    };
    young.max(end.saturating_sub(most)).clamp(low, end.max(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_begins_where_it_matters_and_within_what_is_remembered() {
        let check = |young: Option<Offset>, log: (i64, i64), expected: i64| {
            assert_eq!(start(Since::Recent(0, 100_000), young, log), expected, "{young:?} {log:?}");
            assert_eq!(start(Since::Beginning, young, log), log.0);
        };
        check(Some(Offset::Offset(7)), (0, 10), 7);
        check(Some(Offset::Offset(7)), (8, 10), 8);
        check(Some(Offset::End), (0, 10), 10);
        check(Some(Offset::Invalid), (3, 10), 3);
        check(None, (3, 10), 3);
        check(Some(Offset::Offset(7)), (0, 1_000_000), 900_000);
        check(Some(Offset::End), (0, 0), 0);
    }
}
