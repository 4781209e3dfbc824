//! What the chunks of a stream add up to.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::chunk::{Chunk, index_of};
use crate::merge::merge;

/// A completion that is being put together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Whole {
    /// Everything beside the choices and the usage.
    head: Map<String, Value>,
    /// By index; each has its `message`.
    pub(crate) choices: BTreeMap<u64, Map<String, Value>>,
    usage: Option<Value>,
}

impl Whole {
    /// Adds a chunk.
    pub fn add(&mut self, chunk: Chunk) {
        for (key, value) in chunk.0 {
            match (key.as_str(), value) {
                ("choices", Value::Array(choices)) => {
                    choices.into_iter().enumerate().for_each(|(place, choice)| self.add_choice(place, choice));
                }
                ("usage", usage @ Value::Object(_)) => self.usage = Some(usage),
                ("choices" | "usage" | "object", _) | (_, Value::Null) => {}
                (_, value) => drop(self.head.insert(key, value)),
            }
        }
    }

    fn add_choice(&mut self, place: usize, choice: Value) {
        let index = index_of(&choice, place);
        let Value::Object(mut choice) = choice else { return };
        // A server that does not stream sends its whole answer as one event.
        if let Some(delta) = choice.remove("delta") {
            choice.insert("message".to_owned(), delta);
        }
        let known = self.choices.entry(index).or_insert_with(|| {
            let empty = [
                ("index", Value::from(index)),
                ("message", Value::Object(Map::new())),
                ("logprobs", Value::Null),
                ("finish_reason", Value::Null),
            ];
            empty.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
        });
        merge(known, choice);
    }

    /// Whether there are choices and every one has its end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let has_ended = |choice: &Map<String, Value>| choice.get("finish_reason").is_some_and(|r| !r.is_null());
        !self.choices.is_empty() && self.choices.values().all(has_ended)
    }

    /// The completion, as it would have come in one piece.
    #[must_use]
    pub fn to_completion(&self) -> Vec<u8> {
        let mut completion = Map::new();
        let (object, head) = (Value::from("chat.completion"), |key| self.head.get(key));
        let first =
            [("id", head("id")), ("object", Some(&object)), ("created", head("created")), ("model", head("model"))];
        completion.extend(first.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.clone()))));
        let choices = self.choices.values().cloned().map(completed).collect();
        completion.insert("choices".to_owned(), Value::Array(choices));
        self.usage.iter().for_each(|usage| drop(completion.insert("usage".to_owned(), usage.clone())));
        for (key, value) in &self.head {
            completion.entry(key.clone()).or_insert_with(|| value.clone());
        }
        Value::Object(completion).to_string().into_bytes()
    }
}

/// A choice as a completion has it: a message with role and content, and calls without their places.
fn completed(mut choice: Map<String, Value>) -> Value {
    let given = match choice.get_mut("message") {
        Some(Value::Object(message)) => std::mem::take(message),
        Some(_) | None => Map::new(),
    };
    let mut message = Map::new();
    message.insert("role".to_owned(), Value::from("assistant"));
    message.insert("content".to_owned(), Value::Null);
    message.extend(given);
    for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        call.as_object_mut().into_iter().for_each(|call| drop(call.shift_remove("index")));
    }
    choice.insert("message".to_owned(), Value::Object(message));
    Value::Object(choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(chunks: &[&str]) -> Whole {
        let mut whole = Whole::default();
        chunks.iter().for_each(|chunk| whole.add(Chunk::parse(chunk).expect("a chunk")));
        whole
    }

    fn check(chunks: &[&str], is_complete: bool, expected: &str) {
        let whole = whole(chunks);
        assert_eq!(whole.is_complete(), is_complete);
        assert_eq!(String::from_utf8(whole.to_completion()).expect("UTF-8"), expected);
    }

    #[test]
    fn a_text_in_pieces() {
        check(
            &[
                r#"{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","fingerprint":"f","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}"#,
                r#"{"id":"x","choices":[{"index":0,"delta":{"content":"Hel"},"next_month":1}]}"#,
                r#"{"id":"x","choices":[{"index":0,"delta":{"content":"lo"}}]}"#,
                r#"{"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
                r#"{"id":"x","choices":[],"usage":{"total_tokens":3}}"#,
            ],
            true,
            r#"{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello","refusal":null},"logprobs":null,"finish_reason":"stop","next_month":1}],"usage":{"total_tokens":3},"fingerprint":"f"}"#,
        );
    }

    #[test]
    fn tools_choices_and_probabilities_in_pieces() {
        check(
            &[
                r#"{"choices":[{"index":1,"delta":{"content":"b"},"logprobs":{"content":[{"token":"b"}]}}]}"#,
                r#"{"choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":""}}]}}]}"#,
                r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"","function":{"arguments":"{\"a\""}},{"index":1,"id":"d","function":{"name":"g","arguments":"1"}}]}}]}"#,
                r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":":1}"}}]},"finish_reason":"tool_calls"},{"index":1,"delta":{},"logprobs":{"content":[{"token":"!"}]}}]}"#,
            ],
            false,
            r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},{"id":"d","function":{"name":"g","arguments":"1"}}]},"logprobs":null,"finish_reason":"tool_calls"},{"index":1,"message":{"role":"assistant","content":"b"},"logprobs":{"content":[{"token":"b"},{"token":"!"}]},"finish_reason":null}]}"#,
        );
    }

    #[test]
    fn a_whole_answer_is_one_event() {
        let answer = r#"{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"logprobs":null,"finish_reason":"stop"}],"usage":{"total_tokens":3}}"#;
        check(&[answer], true, answer);
        check(&[], false, r#"{"object":"chat.completion","choices":[]}"#);
    }
}
