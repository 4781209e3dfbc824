//! One chunk of a stream.

use serde_json::{Map, Value};

/// A chunk as a provider sends it: an object, with choices or without.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk(pub(crate) Map<String, Value>);

/// What is no chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAChunk {
    /// Not an object of the shape of a chunk. The text tells no content.
    #[error("an event of the stream is no chunk ({0})")]
    Malformed(String),
    /// The provider says in mid-stream that it failed.
    #[error("the stream ended with the error `{0}`")]
    Error(String),
}

impl Chunk {
    /// Reads the data of an event.
    ///
    /// # Errors
    /// [`NotAChunk`].
    pub fn parse(data: &str) -> Result<Self, NotAChunk> {
        let malformed = |what: &str| NotAChunk::Malformed(what.to_owned());
        let value: Value = serde_json::from_str(data)
            .map_err(|e| malformed(&format!("not JSON at column {} of {} bytes", e.column(), data.len())))?;
        let Value::Object(chunk) = value else { return Err(malformed("not an object")) };
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            let code = ["code", "type"].iter().find_map(|name| error.get(name)?.as_str());
            return Err(NotAChunk::Error(code.unwrap_or("unknown").chars().take(64).collect()));
        }
        match chunk.get("choices") {
            None | Some(Value::Null) => Ok(Self(chunk)),
            Some(Value::Array(choices)) if choices.iter().all(Value::is_object) => Ok(Self(chunk)),
            Some(_) => Err(malformed("its choices are no list of objects")),
        }
    }

    /// Its choices.
    pub fn choices(&self) -> &[Value] {
        self.0.get("choices").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether it ends a choice.
    #[must_use]
    pub fn finishes(&self) -> bool {
        self.choices().iter().any(|choice| choice.get("finish_reason").is_some_and(|reason| !reason.is_null()))
    }

    /// Whether it says more than whose turn it is.
    #[must_use]
    pub fn says_something(&self) -> bool {
        let deltas = self.choices().iter().filter_map(|choice| choice.get("delta")?.as_object());
        deltas.flatten().any(|(name, value)| name != "role" && !is_blank(value))
    }

    /// A chunk with the same head and these choices.
    #[must_use]
    pub fn with_choices(&self, choices: Vec<Value>) -> Self {
        let mut chunk = self.0.clone();
        chunk.insert("choices".to_owned(), Value::Array(choices));
        Self(chunk)
    }

    /// The chunk as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.0).expect("a map with string keys is JSON")
    }
}

/// Where a choice stands among the answers; by its place where it does not say.
pub(crate) fn index_of(value: &Value, place: usize) -> u64 {
    value.get("index").and_then(Value::as_u64).unwrap_or(place as u64)
}

/// Nothing, or nothing yet.
pub(crate) fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(is_blank),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_chunk() {
        let check = |data: &str, expected: &str| {
            let got = Chunk::parse(data).map_or_else(|error| error.to_string(), |_| "a chunk".to_owned());
            assert!(got.contains(expected), "{data}: {got}");
        };
        check(r#"{"choices":[{"delta":{}}]}"#, "a chunk");
        check(r#"{"choices":[],"usage":{}}"#, "a chunk");
        check(r#"{"error":null}"#, "a chunk");
        check(r#"{"choices":[1]}"#, "no list of objects");
        check(r#"{"choices":{}}"#, "no list of objects");
        check("[]", "not an object");
        check(r#"{"choices":[{"del"#, "not JSON at column");
        check(r#"{"error":{"message":"secret","type":"server_error","code":null}}"#, "`server_error`");
        check(r#"{"error":"secret"}"#, "`unknown`");
    }

    #[test]
    fn what_a_chunk_says() {
        let check = |choice: &str, says: bool, finishes: bool| {
            let chunk = Chunk::parse(&format!(r#"{{"choices":[{choice}]}}"#)).expect("a chunk");
            assert_eq!((chunk.says_something(), chunk.finishes()), (says, finishes), "{choice}");
        };
        check(r#"{"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}"#, false, false);
        check(r#"{"delta":{"content":"a"}}"#, true, false);
        check(r#"{"delta":{"tool_calls":[{"index":0}]}}"#, true, false);
        check(r#"{"delta":{},"finish_reason":"stop"}"#, false, true);
    }
}
