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
    /// Generation of the topics: raised when partitions must grow (topics never grow in place).
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

impl KafkaConfig {
    /// The name on the broker of one of Millrace's topics, such as `requests.batch`.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.topic_prefix)
    }

    /// The name on the broker of one of Millrace's consumer groups, such as `moderator`.
    pub fn group(&self, name: &str) -> String {
        format!("{}{name}", self.group_prefix)
    }
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
        serializer.collect_map(self.printable())
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
