//! Reads the topic `budgets`. A router also asks where `calls` ends, to know as of when its view is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_config::KafkaConfig;
use millrace_schemas::{Budget, Codec, Lane, topics};
use millrace_stage::{Decoder, Followed, Follower, Report, Since, follow as follow_topic, partitions_of};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::budgets::Budgets;
use crate::cells::Place;

/// Between two questions where `calls` ends, and how long the answer may take.
const ASK: Duration = Duration::from_millis(100);
const ENDS: Duration = Duration::from_secs(2);

/// How long a record is waited for while somebody has a budget, and while nobody has.
const LOOK: Duration = Duration::from_millis(50);
const UNUSED: Duration = Duration::from_millis(500);

/// Reads the topic into `budgets` until `shutdown`. With `in_use` it is also found out as of when the view is,
/// while that says that somebody has a budget.
///
/// # Errors
/// When there is no thread for it.
pub fn follow(
    kafka: &KafkaConfig,
    group: &str,
    codec: Codec,
    budgets: Budgets,
    in_use: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    report: Report,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let followed = Followed { topic: topics::BUDGETS, group: group.to_owned(), since: Since::Beginning };
    let reader = Reader {
        calls: kafka.topic(topics::CALLS),
        generation: i32::try_from(kafka.generation).unwrap_or(i32::MAX),
        partitions: Vec::new(),
        decoder: Decoder::new(codec, shutdown.clone()),
        budgets,
        in_use,
        asked: None,
        last_asked: None,
    };
    follow_topic(kafka, followed, reader, report, shutdown)
}

struct Reader {
    /// Name of `calls` on the broker.
    calls: String,
    generation: i32,
    /// Those of `calls`, where their ends are asked for.
    partitions: Vec<i32>,
    decoder: Decoder,
    budgets: Budgets,
    in_use: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    /// The newest answer that the view does not cover yet.
    asked: Option<Asked>,
    last_asked: Option<Instant>,
}

/// Where `calls` ended at an instant.
type Asked = (Instant, HashMap<Place, i64>);

impl Follower for Reader {
    fn patience(&self) -> Duration {
        if self.is_in_use() { LOOK } else { UNUSED }
    }

    fn begins(&mut self, consumer: &BaseConsumer) -> Result<(), KafkaError> {
        self.partitions = match self.in_use {
            Some(_) => partitions_of(consumer, &self.calls)?,
            None => Vec::new(),
        };
        (self.asked, self.last_asked) = (None, None);
        let owners = Lane::ALL.len() * self.partitions.len();
        self.budgets.owners(i64::try_from(owners).unwrap_or(i64::MAX));
        Ok(())
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        // A tombstone: nobody of ours writes one.
        let Some(value) = message.payload() else { return };
        match self.decoder.decode::<Budget>(value) {
            Ok(budget) => self.budgets.take(budget),
            Err(error) => {
                let (partition, offset) = (message.partition(), message.offset());
                tracing::warn!(partition, offset, %error, "spending is ignored");
            }
        }
    }

    fn caught_up(&mut self) {
        self.budgets.caught_up();
    }

    fn is_idle(&mut self, consumer: &BaseConsumer) {
        let in_use = self.is_in_use();
        self.forget_what_is_covered();
        if in_use && self.asked.is_none() && self.last_asked.is_none_or(|when| when.elapsed() >= ASK) {
            self.last_asked = Some(Instant::now());
            self.asked = self.ask(consumer);
            self.forget_what_is_covered();
        }
        self.budgets.look_again(in_use);
    }
}

impl Reader {
    fn is_in_use(&self) -> bool {
        self.in_use.as_ref().is_some_and(|in_use| in_use())
    }

    fn forget_what_is_covered(&mut self) {
        self.asked = self.asked.take().filter(|(when, ends)| !self.budgets.is_as_of(*when, ends));
    }

    /// Where `calls` ends, in all partitions.
    fn ask(&self, consumer: &BaseConsumer) -> Option<Asked> {
        let when = Instant::now();
        match self.ends(consumer) {
            Ok(ends) => Some((when, ends)),
            Err(error) => {
                tracing::warn!(%error, "where `calls` ends is not known now");
                None
            }
        }
    }

    fn ends(&self, consumer: &BaseConsumer) -> Result<HashMap<Place, i64>, KafkaError> {
        let mut asked = TopicPartitionList::new();
        for partition in &self.partitions {
            // As a point in time it means the end.
            asked.add_partition_offset(&self.calls, *partition, Offset::End)?;
        }
        let found = consumer.offsets_for_times(asked, ENDS)?;
        let end = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            element.error()?;
            match element.offset() {
                Offset::Offset(end) => Ok(((self.generation, element.partition()), end)),
                Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => {
                    Err(KafkaError::OffsetFetch(RDKafkaErrorCode::OffsetNotAvailable))
                }
            }
        };
        found.elements().iter().map(end).collect()
    }
}
