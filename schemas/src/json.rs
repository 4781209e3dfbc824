//! Any Avro value as JSON that a person or `jq` can read.

use apache_avro::types::Value;
use serde_json::{Map, Value as Json};

/// A decoded record for people.
#[derive(Debug, Clone)]
pub struct JsonView {
    /// Full name of the record's schema.
    pub name: String,
    /// The value.
    pub value: Json,
}

/// Bytes that hold JSON become that JSON, other text becomes a string, the rest `{"hex": …}`.
#[must_use]
pub fn value_to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(b) => Json::from(*b),
        Value::Int(i) | Value::Date(i) | Value::TimeMillis(i) => Json::from(*i),
        Value::Long(l)
        | Value::TimeMicros(l)
        | Value::TimestampMillis(l)
        | Value::TimestampMicros(l)
        | Value::TimestampNanos(l)
        | Value::LocalTimestampMillis(l)
        | Value::LocalTimestampMicros(l)
        | Value::LocalTimestampNanos(l) => Json::from(*l),
        Value::Float(f) => Json::from(*f),
        Value::Double(d) => Json::from(*d),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => bytes_to_json(bytes),
        Value::String(s) | Value::Enum(_, s) => Json::from(s.as_str()),
        Value::Union(_, inner) => value_to_json(inner),
        Value::Array(items) => items.iter().map(value_to_json).collect(),
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            Json::Object(entries.into_iter().map(|(k, v)| (k.clone(), value_to_json(v))).collect())
        }
        Value::Record(fields) => {
            Json::Object(fields.iter().map(|(k, v)| (k.clone(), value_to_json(v))).collect::<Map<_, _>>())
        }
        Value::Uuid(uuid) => Json::from(uuid.to_string()),
        Value::Decimal(_) | Value::BigDecimal(_) | Value::Duration(_) => Json::from(format!("{value:?}")),
    }
}

fn bytes_to_json(bytes: &[u8]) -> Json {
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text).unwrap_or_else(|_| Json::from(text)),
        Err(_) => serde_json::json!({ "hex": hex::encode(bytes) }),
    }
}
