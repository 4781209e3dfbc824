//! How clients reach Kafka and the schema registry.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Secret;
use crate::secret::{self, HIDDEN};

/// The brokers, and how this installation shares them with others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// Comma-separated `host:port` list. Default `127.0.0.1:9092`.
    pub bootstrap_servers: String,
    /// Put before every topic name that Millrace owns. Default empty.
    pub topic_prefix: String,
    /// Put before every consumer group name. Default empty.
    pub group_prefix: String,
    /// Generation of the topics that must have the same number of partitions: raised when that number
    /// must grow, for topics never grow in place. Generation 1 of `calls` is `calls.g1`. Default 0.
    pub generation: u32,
    /// Partitions of the topics that `millrace topics` makes, in place of those in the data file.
    pub partitions: Option<u16>,
    /// Replicas of the topics that `millrace topics` makes, in place of those in the data file.
    pub replication_factor: Option<u16>,
    /// librdkafka settings for every client (SASL, TLS, …).
    pub client: KafkaSettings,
    /// librdkafka settings for consumers only; they win over `client`.
    pub consumer: KafkaSettings,
    /// librdkafka settings for producers only; they win over `client`.
    pub producer: KafkaSettings,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            bootstrap_servers: "127.0.0.1:9092".to_owned(),
            topic_prefix: String::new(),
            group_prefix: String::new(),
            generation: 0,
            partitions: None,
            replication_factor: None,
            client: KafkaSettings::default(),
            consumer: KafkaSettings::default(),
            producer: KafkaSettings::default(),
        }
    }
}

/// The topics whose records keep their partition number from hop to hop, as written before a lane.
const STAYING: [&str; 5] = ["requests", "redrives", "prompts", "completions", "outcomes"];
/// The consumer groups that read them, as written before a lane.
const READERS: [&str; 6] = ["prompt-builder", "redriver", "inference-router", "moderator", "result-sink", "webhooks"];

impl KafkaConfig {
    /// The name on the broker of one of Millrace's topics, such as `requests.batch`.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}{}", self.topic_prefix, suffix(self.generation_of(name)))
    }

    /// The name on the broker of one of Millrace's consumer groups, such as `moderator.batch`.
    pub fn group(&self, name: &str) -> String {
        let generation = if name == "cost-ledger" || is_of_a_lane(name, &READERS) { self.generation } else { 0 };
        format!("{}{name}{}", self.group_prefix, suffix(generation))
    }

    /// The generation of one of Millrace's topics: the configured one for those whose records keep their
    /// partition number from hop to hop, 0 for the others and for customers' topics.
    pub fn generation_of(&self, name: &str) -> u32 {
        if has_generations(name) { self.generation } else { 0 }
    }
}

/// Whether a topic of Millrace is made anew for each generation.
pub fn has_generations(name: &str) -> bool {
    name == "calls" || is_of_a_lane(name, &STAYING)
}

fn is_of_a_lane(name: &str, bases: &[&str]) -> bool {
    name.split_once('.').is_some_and(|(base, lane)| bases.contains(&base) && crate::services::LANES.contains(&lane))
}

fn suffix(generation: u32) -> String {
    if generation == 0 { String::new() } else { format!(".g{generation}") }
}

/// librdkafka settings by name. Values may be written as strings, numbers or booleans, or as
/// `{ env = "NAME" }` / `{ file = "path" }`. Passwords and keys among them are not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaSettings(BTreeMap<String, String>);

impl KafkaSettings {
    /// Whether the setting of this name holds a credential and is never printed.
    pub fn is_secret(name: &str) -> bool {
        const PARTS: [&str; 5] = ["password", "secret", "key.pem", "jaas", "oauthbearer.config"];
        PARTS.iter().any(|part| name.contains(part))
    }

    fn printable(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), if Self::is_secret(name) { HIDDEN } else { value.as_str() }))
    }
}

impl Deref for KafkaSettings {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for KafkaSettings {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl From<BTreeMap<String, String>> for KafkaSettings {
    fn from(settings: BTreeMap<String, String>) -> Self {
        Self(settings)
    }
}

impl FromIterator<(String, String)> for KafkaSettings {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(settings: I) -> Self {
        Self(settings.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a KafkaSettings {
    type Item = (&'a String, &'a String);
    type IntoIter = std::collections::btree_map::Iter<'a, String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.printable()).finish()
    }
}

impl Serialize for KafkaSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = |name: &str, value: &str| match Self::is_secret(name) {
            true => secret::serialized(value, HIDDEN).into_owned(),
            false => value.to_owned(),
        };
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, shown(name, value))))
    }
}

impl<'de> Deserialize<'de> for KafkaSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let settings = BTreeMap::<String, Setting>::deserialize(deserializer)?;
        Ok(settings.into_iter().map(|(name, value)| (name, value.0)).collect())
    }
}

/// The newtype name by which the layered loader recognises a setting: it then gives numbers and
/// booleans as text, and resolves `{ env = "NAME" }` and `{ file = "path" }`.
pub(crate) const SETTING: &str = "$millrace::Setting";

#[derive(Deserialize)]
#[serde(rename = "$millrace::Setting")]
struct Setting(String);

/// The schema registry (Confluent API).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Root of the API, without a trailing slash. Default `http://127.0.0.1:8081`.
    pub url: String,
    /// For basic authentication, together with `password`.
    pub username: Option<String>,
    /// For basic authentication, together with `username`.
    #[serde(deserialize_with = "secret::optional")]
    pub password: Option<Secret>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self { url: "http://127.0.0.1:8081".to_owned(), username: None, password: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_keeps_its_partition_number_has_generations() {
        let first =
            KafkaConfig { topic_prefix: "p.".to_owned(), group_prefix: "q.".to_owned(), ..KafkaConfig::default() };
        let third = KafkaConfig { generation: 2, ..first.clone() };
        for (name, expected) in [
            ("requests.batch", "p.requests.batch.g2"),
            ("outcomes.interactive", "p.outcomes.interactive.g2"),
            ("calls", "p.calls.g2"),
            ("replies", "p.replies"),
            ("documents", "p.documents"),
            ("dead-letters", "p.dead-letters"),
            // A customer's.
            ("requests.acme", "p.requests.acme"),
        ] {
            assert_eq!(third.topic(name), expected);
            assert_eq!(first.topic(name), format!("p.{name}"));
        }
        for (name, expected) in [
            ("prompt-builder.batch", "q.prompt-builder.batch.g2"),
            ("cost-ledger", "q.cost-ledger.g2"),
            ("indexer", "q.indexer"),
            ("ingress-replies", "q.ingress-replies"),
        ] {
            assert_eq!(third.group(name), expected);
            assert_eq!(first.group(name), format!("q.{name}"));
        }
        assert_eq!((third.generation_of("calls"), third.generation_of("requests.acme")), (2, 0));
    }
}
