//! Committed positions of the groups: kept beside a backup of the store, and set back with it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use millrace_config::Config;
use millrace_stage::client_config;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::topic_data::Topic;

const ANSWER: Duration = Duration::from_secs(15);
const COORDINATOR_TRIES: u32 = 40;
const COORDINATOR_PAUSE: Duration = Duration::from_millis(250);

/// How far a group had worked off a partition. Names as on the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    pub group: String,
    pub topic: String,
    pub partition: i32,
    /// Offset of the next record to work off.
    pub committed: i64,
    /// Where the log ended.
    pub end: i64,
}

/// What becomes of a group's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// It is set to this offset.
    To(i64),
    /// It stays where it is.
    Stays,
}

/// Where a group goes on after the store was restored. What writes the store goes over the log again
/// from where the backup was taken: its writes are the same again. Whoever pays goes on where it is,
/// unless its own position was lost.
pub fn restored(writes_the_store: bool, now: Option<i64>, saved: i64) -> Restored {
    match now {
        None => Restored::To(saved),
        Some(now) if writes_the_store && now > saved => Restored::To(saved),
        Some(_) => Restored::Stays,
    }
}

/// The positions of every group of `topics`. Blocks.
pub fn read(config: &Config, topics: &[Topic]) -> anyhow::Result<Vec<Position>> {
    let mut positions = Vec::new();
    for (group, topics) in by_group(topics) {
        let consumer = consumer(config, group)?;
        for topic in topics {
            for (partition, committed) in committed(&consumer, group, &topic.name)? {
                let Some(committed) = committed else {
                    bail!("group `{group}` has no position on `{}`; run `millrace topics check`", topic.name);
                };
                let (_, end) = consumer.fetch_watermarks(&topic.name, partition, ANSWER)?;
                positions.push(Position {
                    group: group.to_owned(),
                    topic: topic.name.clone(),
                    partition,
                    committed,
                    end,
                });
            }
        }
    }
    Ok(positions)
}

/// Sets positions as [`restored`] says, and tells how many were set; with `dry_run`, how many would be.
/// Blocks. Nothing is set unless every saved position is still in the log.
pub fn restore(config: &Config, topics: &[Topic], saved: &[Position], dry_run: bool) -> anyhow::Result<usize> {
    let store_writers = ["result-sink", "webhooks", "cost-ledger"].map(|name| config.kafka.group(name));
    let mut moves = Vec::new();
    for (group, topics) in by_group(topics) {
        let consumer = consumer(config, group)?;
        let writes_the_store = store_writers.iter().any(|writer| group.starts_with(writer.as_str()));
        let mut list = TopicPartitionList::new();
        for topic in topics {
            let now: BTreeMap<i32, Option<i64>> = committed(&consumer, group, &topic.name)?.into_iter().collect();
            for position in saved.iter().filter(|p| p.group == group && p.topic == topic.name) {
                let now = now.get(&position.partition).copied().with_context(|| {
                    format!("`{}` has no partition {} any more", position.topic, position.partition)
                })?;
                let Restored::To(offset) = restored(writes_the_store, now, position.committed) else { continue };
                let (low, end) = consumer.fetch_watermarks(&topic.name, position.partition, ANSWER)?;
                ensure!(
                    offset <= end,
                    "`{}` partition {} ends at {end}, before the backup's position {offset}: the topic was made anew; \
                     use a new kafka.generation",
                    topic.name,
                    position.partition
                );
                ensure!(
                    offset >= low,
                    "`{}` partition {} begins at {low}, behind the backup's position {offset}: retention removed \
                     records that this backup needs; use a later one",
                    topic.name,
                    position.partition
                );
                list.add_partition_offset(&topic.name, position.partition, Offset::Offset(offset))?;
            }
        }
        moves.push((group, consumer, list));
    }
    for (group, consumer, list) in moves.iter().filter(|(_, _, list)| list.count() > 0 && !dry_run) {
        consumer
            .commit(list, CommitMode::Sync)
            .with_context(|| format!("group `{group}` could not be set back: stop every service first"))?;
    }
    Ok(moves.iter().map(|(_, _, list)| list.count()).sum())
}

fn by_group(topics: &[Topic]) -> BTreeMap<&str, Vec<&Topic>> {
    let mut groups: BTreeMap<&str, Vec<&Topic>> = BTreeMap::new();
    for topic in topics {
        for group in &topic.groups {
            groups.entry(group).or_default().push(topic);
        }
    }
    groups
}

fn consumer(config: &Config, group: &str) -> anyhow::Result<BaseConsumer> {
    Ok(client_config(&config.kafka).set("group.id", group).set("enable.auto.commit", "false").create()?)
}

/// Positions of `group` on a topic, partition by partition. Blocks.
pub fn committed(consumer: &BaseConsumer, group: &str, topic: &str) -> anyhow::Result<Vec<(i32, Option<i64>)>> {
    let mut list = TopicPartitionList::new();
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER).context("kafka does not answer")?;
    let partitions = metadata.topics().first().map_or(0, |t| t.partitions().len());
    ensure!(partitions > 0, "there is no topic `{}`; run `millrace topics apply`", topic);
    for partition in 0..i32::try_from(partitions).unwrap_or(i32::MAX) {
        list.add_partition(topic, partition);
    }
    let mut tries = 0;
    let answered = loop {
        match consumer.committed_offsets(list.clone(), ANSWER) {
            Ok(answered) => break answered,
            // A cluster that was just made has no coordinators for a moment.
            Err(error) if tries < COORDINATOR_TRIES && is_moving(&error) => tries += 1,
            Err(error) => return Err(error).with_context(|| format!("the position of group `{group}` on `{topic}`")),
        }
        std::thread::sleep(COORDINATOR_PAUSE);
    };
    let offset = |offset| match offset {
        Offset::Offset(offset) => Some(offset),
        Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
    };
    Ok(answered.elements().iter().map(|e| (e.partition(), offset(e.offset()))).collect())
}

/// Whether the group's coordinator is being found or is on its way.
fn is_moving(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_writes_the_store_is_set_back_and_nothing_is_set_forward() {
        for (writes_the_store, now, saved, expected) in [
            (true, Some(9), 5, Restored::To(5)),
            (true, Some(5), 5, Restored::Stays),
            (true, Some(3), 5, Restored::Stays),
            (true, None, 5, Restored::To(5)),
            (false, Some(9), 5, Restored::Stays),
            (false, None, 5, Restored::To(5)),
        ] {
            assert_eq!(restored(writes_the_store, now, saved), expected, "{writes_the_store} {now:?} {saved}");
        }
    }
}
