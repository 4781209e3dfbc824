//! Reads all partitions of `cancellations`, by a thread of its own and without a group: every process
//! has to know all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_admission::Directory;
use millrace_config::Config;
use millrace_schemas::{Codec, SIGNATURE_HEADER, now_millis, topics};
use millrace_stage::client_config;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::record::{self, Ignored};
use crate::set::{Cancellations, KEPT};

const ANSWER: Duration = Duration::from_secs(10);
/// Between two tries to begin, or to read a record whose schema can not be fetched.
const PAUSE: Duration = Duration::from_secs(1);
/// Brokers' clocks may differ from ours by this much, milliseconds.
const CLOCKS: i64 = 60 * 60 * 1_000;

/// Called with whether all earlier cancellations are known, and a word why.
pub type Report = Box<dyn Fn(bool, &str) + Send>;

/// Reads the topic into `cancellations` until `shutdown`; a broker that does not answer is asked
/// again. `group` is joined by nobody: it only makes librdkafka's consumer queue.
///
/// # Errors
/// When there is no thread for it.
pub fn follow(
    config: &Config,
    group: &str,
    (directory, codec): (Directory, Codec),
    cancellations: Cancellations,
    report: Report,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let follower = Follower {
        config: config.clone(),
        group: config.kafka.group(group),
        topic: config.kafka.topic(topics::CANCELLATIONS),
        directory,
        codec,
        cancellations,
        report,
        shutdown,
        runtime: Handle::current(),
    };
    std::thread::Builder::new().name("cancellations".to_owned()).spawn(move || follower.run()).map(|_| ())
}

struct Follower {
    config: Config,
    group: String,
    topic: String,
    directory: Directory,
    codec: Codec,
    cancellations: Cancellations,
    report: Report,
    shutdown: CancellationToken,
    runtime: Handle,
}

/// Partitions whose past is not read yet, with the ends of their logs at the start.
type Behind = BTreeMap<i32, i64>;

impl Follower {
    fn run(self) {
        while !self.shutdown.is_cancelled() {
            match self.begin() {
                Ok((consumer, behind)) => self.read(&consumer, behind),
                Err(error) => {
                    tracing::warn!(topic = self.topic, %error, "cancellations can not be read; was `millrace topics apply` run?");
                    (self.report)(false, "cancellations can not be read");
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn begin(&self) -> Result<(BaseConsumer, Behind), KafkaError> {
        let consumer = self.consumer()?;
        let metadata = consumer.fetch_metadata(Some(&self.topic), ANSWER)?;
        let partitions = metadata.topics().iter().find(|t| t.name() == self.topic).map_or(&[][..], |t| t.partitions());
        if partitions.is_empty() {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
        }
        // An older cancellation is of a request that has expired.
        let oldest = i64::try_from(self.config.limits.max_deadline_ms).unwrap_or(i64::MAX).saturating_add(CLOCKS);
        let since = now_millis().saturating_sub(oldest).max(0);
        let mut asked = TopicPartitionList::new();
        for partition in partitions {
            asked.add_partition_offset(&self.topic, partition.id(), Offset::Offset(since))?;
        }
        let found = consumer.offsets_for_times(asked, ANSWER)?;
        let mut starts = TopicPartitionList::new();
        let mut behind = Behind::new();
        for partition in partitions {
            let number = partition.id();
            let (low, end) = consumer.fetch_watermarks(&self.topic, number, ANSWER)?;
            let since = found.find_partition(&self.topic, number).map(|element| element.offset());
            let start = start(since, (low, end));
            starts.add_partition_offset(&self.topic, number, Offset::Offset(start))?;
            if start < end {
                behind.insert(number, end);
            }
        }
        consumer.assign(&starts)?;
        Ok((consumer, behind))
    }

    fn read(&self, consumer: &BaseConsumer, mut behind: Behind) {
        let mut told = false;
        while !self.shutdown.is_cancelled() {
            if behind.is_empty() && !told {
                told = true;
                self.cancellations.caught_up();
                (self.report)(true, "following");
            }
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    self.take(&message);
                    behind.retain(|number, end| *number != message.partition() || message.offset() + 1 < *end);
                }
                // What is left before the end are markers of transactions.
                Some(Err(KafkaError::PartitionEOF(number))) => {
                    behind.remove(&number);
                }
                Some(Err(error)) => tracing::warn!(%error, "cancellations can not be read now"),
                None => {}
            }
        }
    }

    fn take(&self, message: &BorrowedMessage<'_>) {
        let headers = message.headers();
        let signature = headers
            .and_then(|headers| headers.iter().find(|header| header.key == SIGNATURE_HEADER)?.value)
            .and_then(|value| std::str::from_utf8(value).ok());
        let value = message.payload().unwrap_or_default();
        let (partition, offset) = (message.partition(), message.offset());
        loop {
            match self.runtime.block_on(record::read(&self.directory, &self.codec, signature, value)) {
                Ok(cancellation) => {
                    return self.cancellations.cancel(&cancellation.tenant, &cancellation.request_id);
                }
                Err(error @ Ignored::Unreadable(_)) if error.is_outage() && !self.shutdown.is_cancelled() => {
                    tracing::warn!(partition, offset, %error, "cancellation is read again");
                    std::thread::sleep(PAUSE);
                }
                Err(error) => {
                    return tracing::warn!(partition, offset, %error, "cancellation is ignored");
                }
            }
        }
    }

    fn consumer(&self) -> Result<BaseConsumer, KafkaError> {
        let mut config = client_config(&self.config.kafka);
        config
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            // What retention has removed meanwhile is too old to matter.
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "500");
        for (name, value) in &self.config.kafka.consumer {
            config.set(name, value);
        }
        config.create()
    }
}

/// Where reading begins: at the first record that may matter, and no further back than is remembered.
fn start(since: Option<Offset>, (low, end): (i64, i64)) -> i64 {
    let kept = i64::try_from(KEPT).unwrap_or(i64::MAX);
    let since = match since {
        Some(Offset::Offset(offset)) => offset,
        // No record is as young as that.
        Some(Offset::End) => end,
        Some(Offset::Beginning | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_)) | None => low,
    };
    since.max(end.saturating_sub(kept)).clamp(low, end.max(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_begins_where_it_matters_and_within_what_is_remembered() {
        let check = |since: Option<Offset>, log: (i64, i64), expected: i64| {
            assert_eq!(start(since, log), expected, "{since:?} {log:?}");
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
