//! What is left of a completion after a part of it was sent.

use serde_json::{Map, Value, json};

use crate::chunk::{index_of, is_blank};
use crate::merge::is_name;
use crate::whole::Whole;

/// Why there is no rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// The bytes are no chat completion.
    #[error("the answer is no chat completion")]
    NotACompletion,
    /// What was sent is no part of this completion.
    #[error("what was sent is not the beginning of this answer")]
    AnotherAnswer,
}

/// The chunks that complete a stream of which `sent` has been sent, in their order: of each choice what
/// it still has to say, then its end; last, where it is wanted, the usage.
///
/// # Errors
/// [`RestError`].
pub fn rest(completion: &[u8], sent: &Whole, with_usage: bool) -> Result<Vec<String>, RestError> {
    let completion: Map<String, Value> = serde_json::from_slice(completion).map_err(|_| RestError::NotACompletion)?;
    let choices = completion.get("choices").and_then(Value::as_array).ok_or(RestError::NotACompletion)?;
    let head = Head::of(&completion, with_usage);
    let mut chunks = Vec::new();
    for (place, choice) in choices.iter().enumerate() {
        let index = index_of(choice, place);
        let sent = sent.choices.get(&index);
        let part = |name: &str| sent.and_then(|sent| sent.get(name));
        let of = |name: &str| choice.get(name).unwrap_or(&Value::Null);
        let delta = remaining(of("message"), part("message"), "message")?;
        let logprobs = remaining(of("logprobs"), part("logprobs"), "logprobs")?;
        if delta.is_some() || logprobs.is_some() {
            let delta = delta.unwrap_or_else(|| json!({}));
            chunks.push(
                head.chunk(json!([{ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": null }])),
            );
        }
        if let Some(reason) = remaining(of("finish_reason"), part("finish_reason"), "finish_reason")? {
            chunks
                .push(head.chunk(json!([{ "index": index, "delta": {}, "logprobs": null, "finish_reason": reason }])));
        }
    }
    let known = |index: &u64| choices.iter().enumerate().any(|(place, choice)| index_of(choice, place) == *index);
    if !sent.choices.keys().all(known) {
        return Err(RestError::AnotherAnswer);
    }
    if let Some(usage) = completion.get("usage").filter(|usage| with_usage && !usage.is_null()) {
        let mut chunk = head.members.clone();
        chunk.insert("choices".to_owned(), json!([]));
        chunk.insert("usage".to_owned(), usage.clone());
        chunks.push(Value::Object(chunk).to_string());
    }
    Ok(chunks)
}

/// What all chunks have in common.
struct Head {
    members: Map<String, Value>,
}

impl Head {
    fn of(completion: &Map<String, Value>, with_usage: bool) -> Self {
        let mut members = completion.clone();
        members.insert("object".to_owned(), Value::from("chat.completion.chunk"));
        members.insert("choices".to_owned(), Value::Null);
        if with_usage {
            members.insert("usage".to_owned(), Value::Null);
        } else {
            members.shift_remove("usage");
        }
        Self { members }
    }

    fn chunk(&self, choices: Value) -> String {
        let mut chunk = self.members.clone();
        chunk.insert("choices".to_owned(), choices);
        Value::Object(chunk).to_string()
    }
}

/// What `sent` lacks of `whole`; `None` when that is nothing.
fn remaining(whole: &Value, sent: Option<&Value>, key: &str) -> Result<Option<Value>, RestError> {
    let sent = sent.filter(|sent| !sent.is_null());
    match (whole, sent) {
        (Value::Null, sent) => {
            if sent.is_none_or(is_blank) {
                Ok(None)
            } else {
                Err(RestError::AnotherAnswer)
            }
        }
        (Value::String(whole), Some(Value::String(sent))) if !is_name(key) => {
            let rest = whole.strip_prefix(sent.as_str()).ok_or(RestError::AnotherAnswer)?;
            Ok((!rest.is_empty()).then(|| Value::from(rest)))
        }
        (Value::Array(whole), sent) if key == "tool_calls" => calls(whole, sent),
        (Value::Array(whole), Some(Value::Array(sent))) => match whole.strip_prefix(sent.as_slice()) {
            Some([]) => Ok(None),
            Some(rest) => Ok(Some(Value::from(rest))),
            None => Err(RestError::AnotherAnswer),
        },
        (Value::Object(whole), sent @ (None | Some(Value::Object(_)))) => {
            members(whole, sent.and_then(Value::as_object))
        }
        (whole, None) => Ok(Some(whole.clone())),
        (whole, Some(sent)) => {
            if whole == sent {
                Ok(None)
            } else {
                Err(RestError::AnotherAnswer)
            }
        }
    }
}

fn members(whole: &Map<String, Value>, sent: Option<&Map<String, Value>>) -> Result<Option<Value>, RestError> {
    let is_known = |(key, value): (&String, &Value)| key == "index" || is_blank(value) || whole.contains_key(key);
    if !sent.into_iter().flatten().all(is_known) {
        return Err(RestError::AnotherAnswer);
    }
    let mut rest = Map::new();
    for (key, value) in whole {
        if let Some(value) = remaining(value, sent.and_then(|sent| sent.get(key)), key)? {
            rest.insert(key.clone(), value);
        }
    }
    Ok((!rest.is_empty()).then_some(Value::Object(rest)))
}

/// Calls name their places in a stream, and only there.
fn calls(whole: &[Value], sent: Option<&Value>) -> Result<Option<Value>, RestError> {
    let sent = sent.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let place_of = |(place, call): (usize, &Value)| index_of(call, place);
    if sent.iter().enumerate().map(place_of).any(|index| index >= whole.len() as u64) {
        return Err(RestError::AnotherAnswer);
    }
    let mut rest = Vec::new();
    for (index, call) in whole.iter().enumerate() {
        let sent = sent.iter().enumerate().find(|sent| place_of(*sent) == index as u64).map(|(_, call)| call);
        if let Some(Value::Object(more)) = remaining(call, sent, "tool_call")? {
            let mut call = Map::new();
            call.insert("index".to_owned(), Value::from(index));
            call.extend(more);
            rest.push(Value::Object(call));
        }
    }
    Ok((!rest.is_empty()).then_some(Value::Array(rest)))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::Chunk;

    const COMPLETION: &str = r#"{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello wörld","next_month":{"a":"b"}},"logprobs":{"content":[{"token":"H"},{"token":"i"}]},"finish_reason":"stop"},{"index":1,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},{"id":"d","type":"function","function":{"name":"g","arguments":"{}"}}]},"logprobs":null,"finish_reason":"tool_calls"}],"usage":{"total_tokens":3},"service_tier":"default"}"#;

    fn add(whole: &mut Whole, chunks: &[String]) {
        chunks.iter().for_each(|chunk| whole.add(Chunk::parse(chunk).expect("a chunk")));
    }

    #[test]
    fn nothing_sent_leaves_everything() {
        let mut whole = Whole::default();
        let chunks = rest(COMPLETION.as_bytes(), &whole, true).expect("a rest");
        assert_eq!(chunks.len(), 5);
        add(&mut whole, &chunks);
        assert_eq!(String::from_utf8(whole.to_completion()).expect("UTF-8"), COMPLETION);
        let without_usage = rest(COMPLETION.as_bytes(), &Whole::default(), false).expect("a rest");
        assert!(without_usage.iter().all(|chunk| !chunk.contains("usage")));
    }

    /// Cuts every text of a chunk's delta at a random place: two chunks instead of one.
    fn cut(chunk: &str, dice: &mut StdRng) -> Vec<String> {
        fn halves(value: &Value, key: &str, dice: &mut StdRng) -> (Value, Value) {
            match value {
                Value::String(text) if !is_name(key) => {
                    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
                    let at = places[dice.random_range(0..places.len())];
                    (Value::from(&text[..at]), Value::from(&text[at..]))
                }
                Value::Object(members) => {
                    let (mut first, mut second) = (Map::new(), Map::new());
                    for (key, value) in members {
                        let (one, two) = halves(value, key, dice);
                        first.insert(key.clone(), one);
                        second.insert(key.clone(), two);
                    }
                    (first.into(), second.into())
                }
                Value::Array(items) if key == "tool_calls" => {
                    let halved: Vec<_> = items.iter().map(|item| halves(item, "", dice)).collect();
                    (halved.iter().map(|h| h.0.clone()).collect(), halved.iter().map(|h| h.1.clone()).collect())
                }
                Value::Array(items) => {
                    let at = dice.random_range(0..=items.len());
                    (items[..at].into(), items[at..].into())
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (value.clone(), value.clone()),
            }
        }
        let chunk: Value = serde_json::from_str(chunk).expect("JSON");
        let (mut first, mut second) = (chunk.clone(), chunk.clone());
        for (place, choice) in chunk["choices"].as_array().into_iter().flatten().enumerate() {
            for part in ["delta", "logprobs"] {
                let (one, two) = halves(&choice[part], part, dice);
                first["choices"][place][part] = one;
                second["choices"][place][part] = two;
            }
        }
        vec![first.to_string(), second.to_string()]
    }

    #[test]
    fn what_was_sent_and_its_rest_are_the_whole() {
        let mut dice = StdRng::seed_from_u64(1);
        for _ in 0..2_000 {
            let mut chunks = rest(COMPLETION.as_bytes(), &Whole::default(), true).expect("a rest");
            for _ in 0..dice.random_range(0..4) {
                chunks = chunks.iter().flat_map(|chunk| cut(chunk, &mut dice)).collect();
            }
            let mut sent = Whole::default();
            add(&mut sent, &chunks[..dice.random_range(0..=chunks.len())]);
            let rest = rest(COMPLETION.as_bytes(), &sent, true).expect("a rest");
            add(&mut sent, &rest);
            let whole: Value = serde_json::from_slice(&sent.to_completion()).expect("JSON");
            assert_eq!(whole, serde_json::from_str::<Value>(COMPLETION).expect("JSON"));
        }
    }

    #[test]
    fn another_answer_is_told_apart() {
        let check = |sent: &str, expected: Option<RestError>| {
            let mut whole = Whole::default();
            whole.add(Chunk::parse(&format!(r#"{{"choices":[{sent}]}}"#)).expect("a chunk"));
            assert_eq!(rest(COMPLETION.as_bytes(), &whole, false).err(), expected, "{sent}");
        };
        let other = Some(RestError::AnotherAnswer);
        check(r#"{"index":0,"delta":{"content":"Hello"}}"#, None);
        check(r#"{"index":0,"delta":{"content":"Hullo"}}"#, other);
        check(r#"{"index":0,"delta":{"content":"Hello wörld!"}}"#, other);
        check(r#"{"index":0,"delta":{"role":"tool"}}"#, other);
        check(r#"{"index":0,"delta":{"reasoning":"why"}}"#, other);
        check(r#"{"index":0,"delta":{"reasoning":""}}"#, None);
        check(r#"{"index":0,"delta":{},"finish_reason":"length"}"#, other);
        check(r#"{"index":0,"delta":{},"logprobs":{"content":[{"token":"i"}]}}"#, other);
        check(r#"{"index":1,"delta":{"content":""}}"#, None);
        check(r#"{"index":1,"delta":{"content":"a"}}"#, other);
        check(r#"{"index":1,"delta":{"tool_calls":[{"index":0,"id":"c"},{"index":1,"id":"d"}]}}"#, None);
        check(r#"{"index":1,"delta":{"tool_calls":[{"index":0,"id":"e"}]}}"#, other);
        check(r#"{"index":1,"delta":{"tool_calls":[{"index":2,"id":"e"}]}}"#, other);
        check(r#"{"index":2,"delta":{}}"#, other);
        assert_eq!(rest(b"[]", &Whole::default(), false), Err(RestError::NotACompletion));
        assert_eq!(rest(b"{}", &Whole::default(), false), Err(RestError::NotACompletion));
    }
}
