//! From one generation of the topics to the next, while both run.

use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_config::{Config, KafkaConfig, StorageConfig};
use millrace_stage::client_config;
use millrace_storage::Storage;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::TopicPartitionList;
use serde::Serialize;

use crate::positions::{self, Position};
use crate::topic_data::Topic;

const ANSWER: Duration = Duration::from_secs(15);

/// What a generation has not worked off.
#[derive(Debug, Serialize)]
pub struct Left {
    /// Records between a group's position and the end of its log, by group and topic; none that are 0.
    pub records: Vec<(String, String, i64)>,
    /// Calls whose end was not seen yet.
    pub open_calls: usize,
}

impl Left {
    /// Whether nothing is left.
    pub fn is_nothing(&self) -> bool {
        self.records.is_empty() && self.open_calls == 0
    }
}

/// What the configured generation has not worked off yet.
pub async fn left(config: &Config, topics: Vec<Topic>) -> anyhow::Result<Left> {
    let positions = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || positions::read(&config, &topics)).await??
    };
    let mut records: Vec<(String, String, i64)> = Vec::new();
    for Position { group, topic, committed, end, .. } in &positions {
        match records.iter_mut().find(|(g, t, _)| g == group && t == topic) {
            Some((_, _, lag)) => *lag += end - committed,
            None => records.push((group.clone(), topic.clone(), end - committed)),
        }
    }
    records.retain(|(_, _, lag)| *lag > 0);
    let calls = config.kafka.topic(millrace_schemas::topics::CALLS);
    let partitions = positions.iter().filter(|p| p.topic == calls).map(|p| p.partition).collect();
    Ok(Left { records, open_calls: open_calls(config, partitions).await? })
}

async fn open_calls(config: &Config, partitions: Vec<i32>) -> anyhow::Result<usize> {
    if matches!(config.storage, StorageConfig::Embedded { .. }) {
        return Ok(0);
    }
    let storage = Storage::open(&config.storage).await?;
    let mut open = 0;
    for partition in partitions {
        if let Some((upto, state)) = storage.ledger.checkpoint(config.kafka.generation, partition).await? {
            open += millrace_cost_ledger::open_calls(upto, &state).map_err(anyhow::Error::msg)?;
        }
    }
    Ok(open)
}

/// Lets this generation's builders go on with customers' own topics where those of generation `from`
/// stopped, and tells how many partitions were handed over. Blocks.
pub fn hand_over(config: &Config, from: u32) -> anyhow::Result<usize> {
    let ours = &config.kafka;
    ensure!(from != ours.generation, "kafka.generation is {from} itself: name another with --from");
    let theirs = KafkaConfig { generation: from, ..ours.clone() };
    let mut count = 0;
    for (topic, binding) in config.topic_bindings.iter().filter(|(_, b)| b.is_read_by(ours.generation)) {
        let group = format!("prompt-builder.{}", binding.lane);
        let (old, new) = (consumer(&theirs, &group)?, consumer(ours, &group)?);
        let name = theirs.group(&group);
        let groups = old.fetch_group_list(Some(&name), ANSWER).context("kafka does not answer")?;
        let members: usize = groups.groups().iter().filter(|g| g.name() == name).map(|g| g.members().len()).sum();
        ensure!(
            members == 0,
            "group `{name}` has {members} members: stop the builders of generation {from} with SIGTERM, so that they drain"
        );
        let mut list = TopicPartitionList::new();
        let known = positions::committed(&new, &ours.group(&group), topic)?;
        for ((partition, offset), (_, held)) in positions::committed(&old, &name, topic)?.into_iter().zip(known) {
            if let (Some(offset), None) = (offset, held) {
                list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(offset))?;
            }
        }
        if list.count() > 0 {
            new.commit(&list, CommitMode::Sync).with_context(|| {
                format!(
                    "group `{}` could not be set: stop this generation's builders, too, until this is done",
                    ours.group(&group)
                )
            })?;
        }
        count += list.count();
    }
    Ok(count)
}

fn consumer(kafka: &KafkaConfig, group: &str) -> anyhow::Result<BaseConsumer> {
    Ok(client_config(kafka).set("group.id", kafka.group(group)).set("enable.auto.commit", "false").create()?)
}
