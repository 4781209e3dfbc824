//! The layers, merged into one tree whose values know where they came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::{Config, ConfigError};

/// What the name of every environment variable of ours begins with.
const PREFIX: &str = "MILLRACE_";
/// What separates a section from its key in the name of an environment variable.
const SEPARATOR: &str = "__";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file of this name.
    File(String),
    /// The environment variable of this name.
    Environment(String),
    /// A flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(path),
            Self::Environment(variable) => write!(f, "the environment variable {variable}"),
            Self::Flag => f.write_str("a command-line flag"),
        }
    }
}

/// Where each value that is not a default came from, by its path of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<Vec<String>, Origin>);

impl Origins {
    pub(crate) fn of(root: &Node) -> Self {
        let mut origins = Self::default();
        origins.collect(root, &mut Vec::new());
        origins
    }

    fn collect(&mut self, node: &Node, path: &mut Vec<String>) {
        match &node.value {
            Value::Table(table) => {
                for (key, child) in table {
                    path.push(key.clone());
                    self.collect(child, path);
                    path.pop();
                }
            }
            Value::List(_) | Value::Leaf(_) | Value::Text(_) => {
                self.0.insert(path.clone(), node.origin.clone());
            }
        }
    }

    /// Where the value at this path of keys came from. None: it is a default.
    pub fn get(&self, path: &[String]) -> Option<&Origin> {
        // A secret is one value here and a table `{ env = … }` in the file.
        self.0.get(path).or_else(|| {
            let longer = self.0.range(path.to_vec()..).next()?;
            (longer.0.starts_with(path)).then_some(longer.1)
        })
    }
}

/// A value and the layer that gave it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub value: Value,
    pub origin: Origin,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Table(BTreeMap<String, Node>),
    List(Vec<Node>),
    /// A string, number, boolean or date.
    Leaf(toml::Value),
    /// Text of the environment, whose type is what the key asks for.
    Text(String),
}

impl Node {
    pub fn new(value: toml::Value, origin: &Origin) -> Self {
        let value = match value {
            toml::Value::Table(table) => {
                Value::Table(table.into_iter().map(|(key, value)| (key, Self::new(value, origin))).collect())
            }
            toml::Value::Array(list) => Value::List(list.into_iter().map(|value| Self::new(value, origin)).collect()),
            leaf @ (toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)) => Value::Leaf(leaf),
        };
        Self { value, origin: origin.clone() }
    }

    pub fn to_toml(&self) -> toml::Value {
        match &self.value {
            Value::Table(table) => {
                toml::Value::Table(table.iter().map(|(key, node)| (key.clone(), node.to_toml())).collect())
            }
            Value::List(list) => toml::Value::Array(list.iter().map(Self::to_toml).collect()),
            Value::Leaf(leaf) => leaf.clone(),
            Value::Text(text) => parse_text(text).unwrap_or_else(|| toml::Value::String(text.clone())),
        }
    }

    fn overlay(&mut self, upper: Self) {
        match (&mut self.value, upper) {
            (Value::Table(lower), Self { value: Value::Table(upper), .. }) => {
                for (key, node) in upper {
                    match lower.get_mut(&key) {
                        Some(existing) => existing.overlay(node),
                        None => {
                            lower.insert(key, node);
                        }
                    }
                }
            }
            (_, upper) => *self = upper,
        }
    }
}

/// The text of an environment variable read as a TOML value, if it is one.
pub(crate) fn parse_text(text: &str) -> Option<toml::Value> {
    let mut table = format!("value = {text}").parse::<toml::Table>().ok()?;
    let value = table.remove("value")?;
    table.is_empty().then_some(value)
}

/// The variables of this process that are valid Unicode (others cannot be ours).
pub fn process_env() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Merges file, environment and flags, later over earlier.
pub(crate) fn merge(
    path: Option<&Path>,
    env: &BTreeMap<String, String>,
    overrides: impl IntoIterator<Item = (String, toml::Value)>,
) -> Result<Node, ConfigError> {
    let mut root = match path {
        Some(path) => read_file(path)?,
        None => Node { value: Value::Table(BTreeMap::new()), origin: Origin::Flag },
    };
    for (variable, text) in env {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        // Variables without a section belong to the commands (MILLRACE_ADMIN_KEY, …).
        if !name.contains(SEPARATOR) {
            refuse_single_underscore(variable, name)?;
            continue;
        }
        let keys: Vec<String> = name.to_ascii_lowercase().split(SEPARATOR).map(str::to_owned).collect();
        let node = Node { value: Value::Text(text.clone()), origin: Origin::Environment(variable.clone()) };
        insert(&mut root, fold_flat(keys, true), node, true)?;
    }
    for (key, value) in overrides {
        insert(&mut root, fold_flat(split_key(&key)?, false), Node::new(value, &Origin::Flag), false)?;
    }
    Ok(root)
}

fn read_file(path: &Path) -> Result<Node, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: name.clone(), reason: error.to_string() })?;
    let table = text.parse::<toml::Table>().map_err(|error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        ConfigError::Syntax {
            path: name.clone(),
            line: text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1,
            reason: error.message().lines().collect::<Vec<_>>().join(" "),
        }
    })?;
    // People read `millrace.toml`, not the path they typed a moment ago.
    let short = path.file_name().map_or(name, |file| file.to_string_lossy().into_owned());
    Ok(Node::new(toml::Value::Table(table), &Origin::File(short)))
}

/// `MILLRACE_KAFKA_BOOTSTRAP_SERVERS` would otherwise be ignored without a word.
fn refuse_single_underscore(variable: &str, name: &str) -> Result<(), ConfigError> {
    let name = name.to_ascii_lowercase();
    let Ok(serde_json::Value::Object(sections)) = serde_json::to_value(Config::default()) else { return Ok(()) };
    for (section, keys) in &sections {
        let Some(key) = name.strip_prefix(section.as_str()).and_then(|rest| rest.strip_prefix('_')) else { continue };
        if keys.get(key).is_some() {
            return Err(ConfigError::UnknownKey {
                key: name.clone(),
                origin: Origin::Environment(variable.to_owned()).to_string(),
                hint: format!("did you mean {}?", variable_of(&[section.clone(), key.to_owned()])),
            });
        }
    }
    Ok(())
}

/// The environment variable that sets the value at this path of keys.
pub(crate) fn variable_of(path: &[String]) -> String {
    let keys: Vec<String> = path.iter().map(|key| normal(key).to_ascii_uppercase()).collect();
    format!("{PREFIX}{}", keys.join(SEPARATOR))
}

/// The keys of `a.b."c.d"`.
fn split_key(key: &str) -> Result<Vec<String>, ConfigError> {
    let refused = || ConfigError::WrongValue {
        key: key.to_owned(),
        origin: Origin::Flag.to_string(),
        reason: "is not a key; write section.key, and quote a part that has dots".to_owned(),
    };
    let mut table = format!("{key} = 0").parse::<toml::Table>().map_err(|_| refused())?;
    let mut keys = Vec::new();
    loop {
        let mut entries = table.into_iter();
        let (Some((key, value)), None) = (entries.next(), entries.next()) else { return Err(refused()) };
        keys.push(key);
        table = match value {
            toml::Value::Table(inner) => inner,
            other if other.as_integer() == Some(0) => return Ok(keys),
            toml::Value::Integer(_)
            | toml::Value::String(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_) => return Err(refused()),
        };
    }
}

/// Below these, everything is one key, because the key itself may have dots: librdkafka's setting
/// names (which have dots where a variable can only have underscores) and topic names, which may be
/// followed by a field of the binding.
fn fold_flat(keys: Vec<String>, from_environment: bool) -> Vec<String> {
    let head: Vec<&str> = keys.iter().take(2).map(String::as_str).collect();
    let (flat, is_setting) = match head.as_slice() {
        ["kafka", "client" | "consumer" | "producer"] => (2, true),
        ["topic_bindings", ..] => (1, false),
        _ => return keys,
    };
    if keys.len() <= flat {
        return keys;
    }
    let is_field = |key: &String| !is_setting && matches!(key.as_str(), "tenant" | "lane");
    let end = if keys.len() > flat + 1 && keys.last().is_some_and(is_field) { keys.len() - 1 } else { keys.len() };
    let mut folded = keys[..flat].to_vec();
    let rest = keys[flat..end].join(".");
    folded.push(if is_setting && from_environment { rest.replace('_', ".") } else { rest });
    folded.extend_from_slice(&keys[end..]);
    folded
}

/// A key as the name of a variable can spell it.
fn normal(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
}

/// Puts a node at a path, creating tables on the way. With `loosely`, a key that exists under a
/// name that no variable can spell (`my-model.v2`) is found by its normal form.
fn insert(root: &mut Node, path: Vec<String>, node: Node, loosely: bool) -> Result<(), ConfigError> {
    let mut current = root;
    let mut path = path.into_iter();
    let mut seen: Vec<String> = Vec::new();
    let Some(mut key) = path.next() else { return Ok(()) };
    loop {
        let Value::Table(table) = &mut current.value else {
            return Err(ConfigError::WrongValue {
                key: seen.join("."),
                origin: current.origin.to_string(),
                reason: format!("is a value, but {} sets `{key}` inside it; remove one of the two", node.origin),
            });
        };
        if loosely && !table.contains_key(&key) {
            let wanted = normal(&key);
            if let Some(existing) = table.keys().find(|existing| normal(existing) == wanted) {
                key = existing.clone();
            }
        }
        seen.push(key.clone());
        let Some(next) = path.next() else {
            match table.get_mut(&key) {
                Some(existing) => existing.overlay(node),
                None => {
                    table.insert(key, node);
                }
            }
            return Ok(());
        };
        current = table
            .entry(key)
            .or_insert_with(|| Node { value: Value::Table(BTreeMap::new()), origin: node.origin.clone() });
        key = next;
    }
}

/// A value as TOML writes it on one line.
pub(crate) fn inline(value: &impl Serialize) -> String {
    toml::Value::try_from(value).map_or_else(|_| String::new(), |value| value.to_string())
}
