//! Groups that fall so far behind that the log may be deleted before they have read it.

use std::time::Duration;

use anyhow::Context;
use millrace_config::Config;
use millrace_schemas::now_millis;
use millrace_stage::{admin_client, client_config};
use rdkafka::admin::{AdminOptions, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::topic_data::Topic;

const ANSWER: Duration = Duration::from_secs(15);

/// A partition whose group is late, and how late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// The oldest record that it has not settled is older than half of the topic's retention.
    Half,
    /// Records that it has not settled are deleted already.
    Lost,
}

/// What is known of a group's partition.
#[derive(Debug, Clone, Copy)]
struct Position {
    committed: i64,
    low: i64,
    end: i64,
    /// The first record younger than half of the retention; none when all are older.
    young: Option<i64>,
}

fn judge(position: Position) -> Option<Late> {
    let Position { committed, low, end, young } = position;
    if committed < low {
        Some(Late::Lost)
    } else if committed < end && committed < young.unwrap_or(end) {
        Some(Late::Half)
    } else {
        None
    }
}

/// One sentence for each group of `topics` that is late on a topic.
pub async fn late(config: &Config, topics: &[Topic]) -> anyhow::Result<Vec<String>> {
    let mut sentences = Vec::new();
    for topic in topics.iter().filter(|topic| !topic.groups.is_empty()) {
        let Some(retention) = retention(config, &topic.name).await? else { continue };
        for group in &topic.groups {
            let (config, topic, group) = (config.clone(), topic.clone(), group.clone());
            let asked = tokio::task::spawn_blocking(move || {
                let late = partitions(&config, &topic, &group, retention)?;
                anyhow::Ok(sentence(&topic.name, &group, retention, &late))
            });
            sentences.extend(asked.await??);
        }
    }
    Ok(sentences)
}

fn sentence(topic: &str, group: &str, retention_ms: i64, late: &[Late]) -> Option<String> {
    let lost = late.iter().filter(|late| **late == Late::Lost).count();
    if lost > 0 {
        return Some(format!(
            "group {group} has not read records of {topic} that are deleted already, in {lost} partitions: \
             raise retention.ms, and look for what is missing"
        ));
    }
    let hours = retention_ms / 3_600_000;
    (!late.is_empty()).then(|| {
        format!(
            "group {group} on {topic}: its oldest record is older than half of the retention ({hours} h) in {} \
             partitions: add replicas, or raise retention.ms before records are deleted unread",
            late.len()
        )
    })
}

/// How long records of a topic are kept, milliseconds; none where they are kept for ever.
async fn retention(config: &Config, topic: &str) -> anyhow::Result<Option<i64>> {
    let options = AdminOptions::new().request_timeout(Some(ANSWER));
    let admin = admin_client(&config.kafka)?;
    let mut described = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await?;
    let Some(resource) = described.pop() else { return Ok(None) };
    let resource = resource.map_err(|e| anyhow::anyhow!("topic `{topic}` can not be described: {e}"))?;
    let entries = resource.entry_map();
    let value = |name: &str| entries.get(name).and_then(|entry| entry.value.clone());
    let deletes = value("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
    Ok(value("retention.ms").and_then(|ms| ms.parse().ok()).filter(|ms| deletes && *ms > 0))
}

/// The partitions of a topic in which a group is late. Blocks.
fn partitions(config: &Config, topic: &Topic, group: &str, retention_ms: i64) -> anyhow::Result<Vec<Late>> {
    let consumer: BaseConsumer =
        client_config(&config.kafka).set("group.id", group).set("enable.auto.commit", "false").create()?;
    let mut list = TopicPartitionList::new();
    (0..topic.partitions).for_each(|partition| {
        list.add_partition(&topic.name, partition);
    });
    let committed = consumer.committed_offsets(list, ANSWER).with_context(|| format!("commits of group {group}"))?;
    let mut behind = Vec::new();
    for element in committed.elements() {
        // A missing commit is a difference that the topics' own check names.
        let Offset::Offset(committed) = element.offset() else { continue };
        let (low, end) = consumer.fetch_watermarks(&topic.name, element.partition(), ANSWER)?;
        if committed < end {
            behind.push((element.partition(), Position { committed, low, end, young: None }));
        }
    }
    if behind.is_empty() {
        return Ok(Vec::new());
    }
    let mut times = TopicPartitionList::new();
    for (partition, _) in &behind {
        times.add_partition_offset(&topic.name, *partition, Offset::Offset(now_millis() - retention_ms / 2))?;
    }
    let young = consumer.offsets_for_times(times, ANSWER)?;
    Ok(behind
        .into_iter()
        .filter_map(|(partition, position)| {
            let found = young.find_partition(&topic.name, partition).map(|element| element.offset());
            let young = found.and_then(|offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None });
            judge(Position { young, ..position })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_late_when_what_it_reads_next_is_old_or_gone() {
        let check = |committed, young, expected| {
            assert_eq!(judge(Position { committed, low: 10, end: 100, young }), expected, "{committed} {young:?}");
        };
        check(100, None, None);
        check(50, Some(50), None);
        check(51, Some(50), None);
        check(49, Some(50), Some(Late::Half));
        check(99, None, Some(Late::Half));
        check(10, Some(10), None);
        check(9, Some(10), Some(Late::Lost));
    }

    #[test]
    fn lost_records_are_said_first() {
        let said = sentence("calls", "cost-ledger", 7_200_000, &[Late::Half, Late::Lost]).expect("it is late");
        assert!(said.contains("deleted already, in 1 partitions"), "{said}");
        let said = sentence("calls", "cost-ledger", 7_200_000, &[Late::Half, Late::Half]).expect("it is late");
        assert!(said.contains("(2 h) in 2 partitions"), "{said}");
        assert_eq!(sentence("calls", "cost-ledger", 7_200_000, &[]), None);
    }
}
