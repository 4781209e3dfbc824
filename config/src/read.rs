//! Reads the merged tree into typed values, so that every error knows its key and its layer.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, forward_to_deserialize_any};

use crate::ConfigError;
use crate::kafka::SETTING;
use crate::layers::{Node, Value, parse_text, variable_of};
use crate::secret::{OPTIONAL_SECRET, SECRET};

/// Reads the tree. `env` resolves `{ env = "NAME" }`; optional secrets of the `withheld` sections
/// become None.
pub(crate) fn read<T: DeserializeOwned>(
    root: &Node,
    env: &BTreeMap<String, String>,
    withheld: &[&str],
) -> Result<T, ConfigError> {
    let context = Context { env, withheld };
    T::deserialize(Reader { node: root, path: Vec::new(), context: &context }).map_err(|error| *error.at(&[], root).0)
}

struct Context<'a> {
    env: &'a BTreeMap<String, String>,
    withheld: &'a [&'a str],
}

#[derive(Clone)]
struct Reader<'a> {
    node: &'a Node,
    path: Vec<String>,
    context: &'a Context<'a>,
}

/// An error that does not know its place yet, or is finished.
#[derive(Debug)]
enum ReadError {
    /// A required key is missing in the table that is being read.
    Missing(&'static str),
    /// The value that is being read is wrong.
    Wrong(String),
    /// Nothing more to add.
    Placed(Box<ConfigError>),
}

struct Placed(Box<ConfigError>);

impl ReadError {
    fn at(self, path: &[String], node: &Node) -> Placed {
        match self {
            Self::Placed(error) => Placed(error),
            Self::Missing(key) => {
                let full: Vec<String> = path.iter().cloned().chain([key.to_owned()]).collect();
                Placed(Box::new(ConfigError::Missing { key: written(&full), variable: variable_of(&full) }))
            }
            Self::Wrong(reason) => Placed(Box::new(ConfigError::WrongValue {
                key: written(path),
                origin: node.origin.to_string(),
                reason,
            })),
        }
    }
}

impl From<Placed> for ReadError {
    fn from(placed: Placed) -> Self {
        Self::Placed(placed.0)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(key) => write!(f, "missing key `{key}`"),
            Self::Wrong(reason) => f.write_str(reason),
            Self::Placed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Wrong(message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::Wrong(format!("does not know `{variant}`; {}", hint(variant, expected, "")))
    }
}

/// A path of keys as a person would write it.
pub(crate) fn written(path: &[String]) -> String {
    let bare = |key: &str| {
        let index = key.strip_prefix('[').and_then(|key| key.strip_suffix(']'));
        let name = index.unwrap_or(key);
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    };
    let parts: Vec<String> = path.iter().map(|key| if bare(key) { key.clone() } else { format!("{key:?}") }).collect();
    parts.join(".").replace(".[", "[")
}

/// "did you mean", when something is near enough; else all there is.
fn hint(given: &str, known: &[&str], prefix: &str) -> String {
    let nearest = known
        .iter()
        .map(|name| (strsim::jaro_winkler(&given.to_ascii_lowercase(), name), name))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match nearest {
        Some((_, name)) => format!("did you mean `{prefix}{name}`?"),
        None if known.is_empty() => "remove it".to_owned(),
        None => format!("use one of: {}", known.join(", ")),
    }
}

fn kind_of(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::String(_) => "a string",
        toml::Value::Integer(_) => "a whole number",
        toml::Value::Float(_) => "a number with a fraction",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Datetime(_) => "a date",
        toml::Value::Array(_) => "a list",
        toml::Value::Table(_) => "a table",
    }
}

impl<'a> Reader<'a> {
    fn child(&self, key: String, node: &'a Node) -> Self {
        let mut path = self.path.clone();
        path.push(key);
        Self { node, path, context: self.context }
    }

    fn refuse(&self, expected: &str) -> ReadError {
        let found = match &self.node.value {
            Value::Text(text) => format!("`{text}`"),
            Value::Table(_) | Value::List(_) | Value::Leaf(_) => kind_of(&self.node.to_toml()).to_owned(),
        };
        ReadError::Wrong(format!("must be {expected}, not {found}"))
    }

    /// The scalar here, text of the environment being read as TOML.
    fn scalar(&self) -> Option<toml::Value> {
        match &self.node.value {
            Value::Leaf(leaf) => Some(leaf.clone()),
            Value::Text(text) => parse_text(text.trim()),
            Value::Table(_) | Value::List(_) => None,
        }
    }

    fn string(&self) -> Result<String, ReadError> {
        match &self.node.value {
            Value::Text(text) | Value::Leaf(toml::Value::String(text)) => Ok(text.clone()),
            Value::Leaf(_) | Value::Table(_) | Value::List(_) => Err(self.refuse("a string")),
        }
    }

    fn integer(&self) -> Result<i64, ReadError> {
        match self.scalar() {
            Some(toml::Value::Integer(integer)) => Ok(integer),
            _ => Err(self.refuse("a whole number")),
        }
    }

    /// Reads a table out of text of the environment.
    fn with_structure<T>(
        &self,
        expected: &str,
        then: impl FnOnce(&Reader<'_>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        match &self.node.value {
            Value::Text(text) => {
                let parsed = match parse_text(text.trim()) {
                    Some(value @ (toml::Value::Table(_) | toml::Value::Array(_))) => value,
                    _ if expected == "a list" => toml::Value::Array(
                        text.split(',')
                            .map(str::trim)
                            .filter(|item| !item.is_empty())
                            .map(|item| toml::Value::String(item.to_owned()))
                            .collect(),
                    ),
                    _ => return Err(self.refuse(expected)),
                };
                let node = Node::new(parsed, &self.node.origin);
                then(&Reader { node: &node, path: self.path.clone(), context: self.context })
            }
            Value::Table(_) | Value::List(_) | Value::Leaf(_) => then(self),
        }
    }

    fn table(&self, fields: Option<&[&str]>) -> Result<Entries<'_>, ReadError> {
        let Value::Table(table) = &self.node.value else { return Err(self.refuse("a table")) };
        if let Some(fields) = fields
            && let Some((key, node)) = table.iter().find(|(key, _)| !fields.contains(&key.as_str()))
        {
            let prefix = if self.path.is_empty() { String::new() } else { format!("{}.", written(&self.path)) };
            return Err(ReadError::Placed(Box::new(ConfigError::UnknownKey {
                key: written(&self.child(key.clone(), node).path),
                origin: node.origin.to_string(),
                hint: hint(key, fields, &prefix),
            })));
        }
        Ok(Entries { reader: self, entries: table.iter(), next: None })
    }

    /// A secret or setting: a string, or where to find it. None when it is withheld.
    fn pointed(&self, withholdable: bool) -> Result<Option<String>, ReadError> {
        let Value::Table(table) = &self.node.value else {
            return match self.scalar() {
                // A number or boolean in the file; text of the environment stays as it is.
                Some(leaf @ (toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_)))
                    if !withholdable && matches!(self.node.value, Value::Leaf(_)) =>
                {
                    Ok(Some(leaf.to_string()))
                }
                _ => self.string().map(Some).map_err(|_| self.refuse(POINTED)),
            };
        };
        let mut entries = table.iter();
        let (Some((kind, target)), None) = (entries.next(), entries.next()) else { return Err(self.refuse(POINTED)) };
        let target = self.child(kind.clone(), target).string()?;
        let refuse =
            |reason: String| Err(ReadError::Placed(Box::new(ConfigError::Secret { key: written(&self.path), reason })));
        match kind.as_str() {
            "env" => match self.context.env.get(&target) {
                Some(value) if !value.is_empty() => Ok(Some(value.clone())),
                Some(_) => refuse(format!("the environment variable {target} is empty; set it or remove the key")),
                None => refuse(format!("the environment variable {target} is not set; set it or remove the key")),
            },
            "file" => match std::fs::read_to_string(&target) {
                Ok(text) => Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned())),
                Err(error) => refuse(format!("cannot read {target}: {error}; check the path and its permissions")),
            },
            _ => Err(self.refuse(POINTED)),
        }
    }

    fn is_withheld(&self) -> bool {
        let is_withheld = |section: &str| self.context.withheld.contains(&section);
        match self.path.as_slice() {
            [tenants, _, section, ..] if tenants == "tenants" && is_withheld(section) => true,
            [tenants, _, section, ..] if tenants == "tenants" && is_withheld(&format!("tenants.*.{section}")) => true,
            [section, ..] => is_withheld(section),
            [] => false,
        }
    }
}

const POINTED: &str = "a string, { env = \"NAME\" } or { file = \"path\" }";

macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            visitor.visit_i64(self.integer()?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = ReadError;

    integers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16
    deserialize_u32 deserialize_u64 }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.node.to_toml().deserialize_any(visitor).map_err(|error| ReadError::Wrong(error.message().to_owned()))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.scalar() {
            Some(toml::Value::Boolean(value)) => visitor.visit_bool(value),
            _ => Err(self.refuse("true or false")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_string(self.string()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_string(self.string()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            // An empty variable takes a lower layer's value away.
            Value::Text(text) if text.is_empty() => visitor.visit_none(),
            Value::Text(_) | Value::Leaf(_) | Value::Table(_) | Value::List(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let text = match name {
            OPTIONAL_SECRET if self.is_withheld() => None,
            OPTIONAL_SECRET if matches!(&self.node.value, Value::Text(text) if text.is_empty()) => None,
            SECRET | OPTIONAL_SECRET => self.pointed(true)?,
            SETTING => self.pointed(false)?,
            _ => return visitor.visit_newtype_struct(self),
        };
        match text {
            None => visitor.visit_none(),
            Some(text) if name == SETTING => visitor.visit_newtype_struct(text.into_deserializer()),
            Some(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.with_structure("a list", |reader| match &reader.node.value {
            Value::List(list) => visitor.visit_seq(Items { reader, items: list.iter().enumerate() }),
            Value::Table(_) | Value::Leaf(_) | Value::Text(_) => Err(reader.refuse("a list")),
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.with_structure("a table", |reader| visitor.visit_map(reader.table(None)?))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.with_structure("a table", |reader| visitor.visit_map(reader.table(Some(fields))?))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_enum(self.string()?.into_deserializer())
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Entries<'a> {
    reader: &'a Reader<'a>,
    entries: std::collections::btree_map::Iter<'a, String, Node>,
    next: Option<(&'a String, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        self.next = self.entries.next();
        let Some((key, _)) = self.next else { return Ok(None) };
        let key: StrDeserializer<'_, ReadError> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let Some((key, node)) = self.next.take() else {
            return Err(ReadError::Wrong("was read out of order".to_owned()));
        };
        let child = self.reader.child(key.clone(), node);
        let path = child.path.clone();
        seed.deserialize(child).map_err(|error| error.at(&path, node).into())
    }
}

struct Items<'a> {
    reader: &'a Reader<'a>,
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        let child = self.reader.child(format!("[{index}]"), node);
        let path = child.path.clone();
        seed.deserialize(child).map(Some).map_err(|error| error.at(&path, node).into())
    }
}
