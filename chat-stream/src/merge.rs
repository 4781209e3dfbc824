//! How two parts of a value become one.

use serde_json::{Map, Value};

/// Strings that are given once, or again as they were; all others are given in pieces.
const NAMES: [&str; 8] = ["id", "index", "name", "object", "role", "status", "type", "finish_reason"];

/// Whether a string of this name is never given in pieces.
pub(crate) fn is_name(key: &str) -> bool {
    NAMES.contains(&key)
}

/// Adds the members of `delta`: texts and lists go on, objects are merged, other values replaced.
pub(crate) fn merge(into: &mut Map<String, Value>, delta: Map<String, Value>) {
    for (key, value) in delta {
        match into.get_mut(&key) {
            None => {
                let mut slot = empty_like(&value);
                merge_value(&mut slot, value, &key);
                into.insert(key, slot);
            }
            Some(slot) => merge_value(slot, value, &key),
        }
    }
}

/// A list may name one of its places twice from the start, so it is merged like any later one.
fn empty_like(value: &Value) -> Value {
    match value {
        Value::Array(_) => Value::Array(Vec::new()),
        Value::Object(_) => Value::Object(Map::new()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Value::Null,
    }
}

fn merge_value(slot: &mut Value, value: Value, key: &str) {
    match (slot, value) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) if !is_name(key) => text.push_str(&more),
        (Value::String(text), Value::String(again)) if again.is_empty() && !text.is_empty() => {}
        (Value::Array(items), Value::Array(more)) => more.into_iter().for_each(|item| add_item(items, item)),
        (Value::Object(members), Value::Object(more)) => merge(members, more),
        (slot, value) => *slot = value,
    }
}

/// An item that names its place is merged with the one of that place.
fn add_item(items: &mut Vec<Value>, item: Value) {
    let Some(index) = item.get("index").and_then(Value::as_u64) else { return items.push(item) };
    let known = items.iter_mut().find(|known| known.get("index").and_then(Value::as_u64) == Some(index));
    match (known, item) {
        (Some(Value::Object(known)), Value::Object(item)) => merge(known, item),
        (_, item) => {
            let mut slot = empty_like(&item);
            merge_value(&mut slot, item, "");
            items.push(slot);
        }
    }
}
