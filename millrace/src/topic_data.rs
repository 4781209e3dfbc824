//! `infra/kafka/topics.json`, held against a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use millrace_config::Config;
use millrace_stage::{admin_client, client_config, fetch_metadata};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::positions;

const BUILT_IN: &str = include_str!("../../infra/kafka/topics.json");
const ANSWER: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    defaults: Defaults,
    topics: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    replication_factor: i32,
    configs: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    partitions: i32,
    #[serde(default)]
    generations: bool,
    #[serde(default)]
    configs: BTreeMap<String, String>,
    #[serde(default)]
    groups: Vec<String>,
}

/// One topic as it should be, names as on the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Topic {
    pub name: String,
    pub partitions: i32,
    pub replication_factor: i32,
    pub has_generations: bool,
    pub configs: BTreeMap<String, String>,
    pub groups: Vec<String>,
}

/// One thing that differs, and what apply does about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// The topic is missing.
    Create { topic: String, partitions: i32, replication_factor: i32 },
    /// A setting differs.
    Configure { topic: String, name: String, from: Option<String>, to: String },
    /// A group has no committed offset.
    Commit { topic: String, group: String, partitions: Vec<i32> },
    /// Apply can not mend it.
    Refuse { topic: String, why: String },
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Create { topic, partitions, replication_factor } => {
                write!(f, "+ topic {topic}: {partitions} partitions, {replication_factor} replicas")
            }
            Self::Configure { topic, name, from, to } => {
                write!(f, "~ topic {topic}: {name} {} -> {to}", from.as_deref().unwrap_or("(default)"))
            }
            Self::Commit { topic, group, partitions } => {
                write!(f, "+ group {group} on {topic}: committed at the start of {} partitions", partitions.len())
            }
            Self::Refuse { topic, why } => write!(f, "! topic {topic}: {why}"),
        }
    }
}

/// The topics that `config` needs, from the data file (built in unless `file` is given).
pub fn wanted(config: &Config, file: Option<&str>) -> anyhow::Result<Vec<Topic>> {
    let file: File = serde_json::from_str(file.unwrap_or(BUILT_IN)).context("the topics file")?;
    let kafka = &config.kafka;
    let replicas = kafka.replication_factor.map_or(file.defaults.replication_factor, i32::from);
    let partitions = kafka.partitions.map(i32::from);
    let resolve = |name: String, entry: &Entry| {
        let mut configs = file.defaults.configs.clone();
        configs.extend(entry.configs.clone());
        if let Some(in_sync) = configs.get_mut("min.insync.replicas") {
            let named: i32 = in_sync.parse().unwrap_or(1);
            *in_sync = named.min(replicas - 1).max(1).to_string();
        }
        Topic {
            name,
            partitions: if entry.partitions == 1 { 1 } else { partitions.unwrap_or(entry.partitions) },
            replication_factor: replicas,
            has_generations: entry.generations,
            configs,
            groups: entry.groups.iter().map(|g| config.kafka.group(g)).collect(),
        }
    };
    let mut topics: Vec<Topic> = file.topics.iter().map(|e| resolve(config.kafka.topic(&e.name), e)).collect();
    // A customer's bound topic is made like the requests topic of its lane.
    for (name, binding) in config.topic_bindings.iter().filter(|(_, b)| b.is_read_by(kafka.generation)) {
        let like = format!("requests.{}", binding.lane);
        if let Some(entry) = file.topics.iter().find(|e| e.name == like)
            && topics.iter().all(|t| t.name != *name)
        {
            topics.push(Topic { has_generations: false, ..resolve(name.clone(), entry) });
        }
    }
    // So is a reply topic, which nobody of ours reads.
    for name in config.tenants.values().flat_map(|t| &t.reply_topics) {
        if let Some(entry) = file.topics.iter().find(|e| e.name == "outcomes.batch")
            && topics.iter().all(|t| t.name != *name)
        {
            topics.push(Topic { has_generations: false, groups: Vec::new(), ..resolve(name.clone(), entry) });
        }
    }
    Ok(topics)
}

/// Compares the cluster with `wanted`.
pub async fn plan(config: &Config, wanted: &[Topic]) -> anyhow::Result<Vec<Change>> {
    let admin = admin_client(&config.kafka)?;
    let existing = existing(config).await?;
    let mut changes = Vec::new();
    for topic in wanted {
        match existing.get(&topic.name) {
            None => {
                changes.push(Change::Create {
                    topic: topic.name.clone(),
                    partitions: topic.partitions,
                    replication_factor: topic.replication_factor,
                });
                let all: Vec<i32> = (0..topic.partitions).collect();
                changes.extend(topic.groups.iter().map(|group| Change::Commit {
                    topic: topic.name.clone(),
                    group: group.clone(),
                    partitions: all.clone(),
                }));
            }
            Some((count, replicas)) => {
                if *replicas < topic.replication_factor {
                    let why = format!(
                        "it has {replicas} replicas and should have {}: reassign its partitions with Kafka's own tool, \
                         or say so with kafka.replication_factor",
                        topic.replication_factor
                    );
                    changes.push(Change::Refuse { topic: topic.name.clone(), why });
                }
                // Those without generations stay as the first generation made them.
                if *count != topic.partitions && (topic.has_generations || config.kafka.generation == 0) {
                    let why = format!(
                        "it has {count} partitions and should have {}: topics never change partitions in place; make a new generation",
                        topic.partitions
                    );
                    changes.push(Change::Refuse { topic: topic.name.clone(), why });
                }
                changes.extend(differing_configs(&admin, topic).await?);
                for change in missing_commits(config, topic).await? {
                    changes.push(if config.topic_bindings.contains_key(&topic.name) && config.kafka.generation > 0 {
                        // From its start every record would be asked and paid for again.
                        let why =
                            "an earlier generation reads it: when that is drained, run `millrace topics hand-over`";
                        Change::Refuse { topic: topic.name.clone(), why: why.to_owned() }
                    } else {
                        change
                    });
                }
            }
        }
    }
    Ok(changes)
}

/// Makes the cluster as `wanted`; the changes made are returned.
pub async fn apply(config: &Config, wanted: &[Topic]) -> anyhow::Result<Vec<Change>> {
    let changes = plan(config, wanted).await?;
    if let Some(refused) = changes.iter().find(|c| matches!(c, Change::Refuse { .. })) {
        bail!("nothing was changed: {refused}");
    }
    let admin = admin_client(&config.kafka)?;
    create(&admin, wanted, &changes).await?;
    configure(&admin, wanted, &changes).await?;
    for change in &changes {
        if let Change::Commit { topic, group, partitions } = change {
            commit_start(config, topic, group, partitions.clone()).await?;
        }
    }
    Ok(changes)
}

async fn create(admin: &AdminClient<DefaultClientContext>, wanted: &[Topic], changes: &[Change]) -> anyhow::Result<()> {
    let missing: Vec<&Topic> = wanted
        .iter()
        .filter(|t| changes.iter().any(|c| matches!(c, Change::Create { topic, .. } if *topic == t.name)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let new: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|t| {
            let mut new = NewTopic::new(&t.name, t.partitions, TopicReplication::Fixed(t.replication_factor));
            for (name, value) in &t.configs {
                new = new.set(name, value);
            }
            new
        })
        .collect();
    for result in admin.create_topics(&new, &options()).await.context("topics could not be made")? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, error)) => bail!("topic `{topic}` could not be made: {error}"),
        }
    }
    Ok(())
}

async fn configure(
    admin: &AdminClient<DefaultClientContext>,
    wanted: &[Topic],
    changes: &[Change],
) -> anyhow::Result<()> {
    for topic in wanted {
        if !changes.iter().any(|c| matches!(c, Change::Configure { topic: t, .. } if *t == topic.name)) {
            continue;
        }
        // The request replaces all settings of the topic, so all are named: also those of somebody else.
        let mut settings = own_settings(admin, topic).await?;
        settings.extend(topic.configs.clone());
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(&topic.name));
        for (name, value) in &settings {
            alter = alter.set(name, value);
        }
        for result in admin.alter_configs([&alter], &options()).await? {
            result.map_err(|(_, error)| anyhow::anyhow!("topic `{}` could not be configured: {error}", topic.name))?;
        }
    }
    Ok(())
}

/// What was set for this very topic.
async fn own_settings(
    admin: &AdminClient<DefaultClientContext>,
    topic: &Topic,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut settings = BTreeMap::new();
    for resource in admin.describe_configs([&ResourceSpecifier::Topic(&topic.name)], &options()).await? {
        let resource = resource.map_err(|e| anyhow::anyhow!("topic `{}` can not be described: {e}", topic.name))?;
        let own = resource.entries.into_iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
        settings.extend(own.filter_map(|entry| Some((entry.name, entry.value?))));
    }
    Ok(settings)
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER))
}

/// Partitions, and replicas of the partition that has the fewest, of the topics that are there.
async fn existing(config: &Config) -> anyhow::Result<BTreeMap<String, (i32, i32)>> {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let kafka = config.kafka.clone();
    tokio::task::spawn_blocking(move || {
        let metadata =
            fetch_metadata(&kafka, ANSWER).context("kafka does not answer; are the settings under [kafka] right?")?;
        Ok(metadata
            .topics()
            .iter()
            .filter(|t| t.error().is_none() && !t.partitions().is_empty())
            .map(|t| {
                let replicas = t.partitions().iter().map(|p| p.replicas().len()).min().unwrap_or(0);
                (t.name().to_owned(), (count(t.partitions().len()), count(replicas)))
            })
            .collect())
    })
    .await?
}

async fn differing_configs(admin: &AdminClient<DefaultClientContext>, topic: &Topic) -> anyhow::Result<Vec<Change>> {
    let described = admin.describe_configs([&ResourceSpecifier::Topic(&topic.name)], &options()).await?;
    let mut changes = Vec::new();
    for resource in described {
        let resource = resource.map_err(|e| anyhow::anyhow!("topic `{}` can not be described: {e}", topic.name))?;
        let entries = resource.entry_map();
        for (name, to) in &topic.configs {
            let from = entries.get(name.as_str()).and_then(|e| e.value.clone());
            if from.as_ref() != Some(to) {
                changes.push(Change::Configure { topic: topic.name.clone(), name: name.clone(), from, to: to.clone() });
            }
        }
    }
    Ok(changes)
}

fn group_consumer(config: &Config, group: &str) -> anyhow::Result<BaseConsumer> {
    Ok(client_config(&config.kafka).set("group.id", group).set("enable.auto.commit", "false").create()?)
}

async fn missing_commits(config: &Config, topic: &Topic) -> anyhow::Result<Vec<Change>> {
    let mut changes = Vec::new();
    for group in &topic.groups {
        let consumer = group_consumer(config, group)?;
        let (name, group_name) = (topic.name.clone(), group.clone());
        let committed =
            tokio::task::spawn_blocking(move || positions::committed(&consumer, &group_name, &name)).await??;
        let partitions: Vec<i32> = committed.into_iter().filter(|(_, o)| o.is_none()).map(|(p, _)| p).collect();
        if !partitions.is_empty() {
            changes.push(Change::Commit { topic: topic.name.clone(), group: group.clone(), partitions });
        }
    }
    Ok(changes)
}

async fn commit_start(config: &Config, topic: &str, group: &str, partitions: Vec<i32>) -> anyhow::Result<()> {
    let consumer = group_consumer(config, group)?;
    let (topic, group) = (topic.to_owned(), group.to_owned());
    tokio::task::spawn_blocking(move || {
        let (mut list, mut is_empty) = (TopicPartitionList::new(), true);
        for partition in partitions {
            // A new topic's leader may not be known for a moment.
            let mut tries = 0;
            let (low, end) = loop {
                match consumer.fetch_watermarks(&topic, partition, ANSWER) {
                    Ok(bounds) => break bounds,
                    Err(error) if tries >= 50 => return Err(error.into()),
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
                tries += 1;
            };
            is_empty &= (low, end) == (0, 0);
            list.add_partition_offset(&topic, partition, Offset::Offset(low))?;
        }
        match consumer.commit(&list, CommitMode::Sync) {
            // A running group takes over a topic that nothing was ever written to by itself.
            Err(error) if is_empty && error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownMemberId) => Ok(()),
            committed => committed.with_context(|| {
                format!("group `{group}` could not be committed on `{topic}`: stop its members first")
            }),
        }
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_data_covers_every_topic_that_the_services_use() {
        let mut config = Config::default();
        (config.kafka.partitions, config.kafka.replication_factor) = (Some(4), Some(1));
        let topics = wanted(&config, None).expect("valid");
        for (name, _) in crate::subjects::subjects(&config) {
            let name = name.strip_suffix(crate::subjects::CHUNKS).unwrap_or(&name);
            let topic = topics.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(topic.configs["min.insync.replicas"], "1");
        }
        let file: File = serde_json::from_str(BUILT_IN).expect("valid");
        for entry in &file.topics {
            assert_eq!(entry.generations, millrace_config::has_generations(&entry.name), "{}", entry.name);
        }
        let lanes: Vec<_> = topics.iter().filter(|t| t.name.contains('.') || t.name == "calls").collect();
        assert!(lanes.iter().all(|t| t.partitions == 4), "every hop keeps the partition number");
    }
}
