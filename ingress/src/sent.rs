//! What a client has seen of its answer, and how it is told the rest.

use axum::response::sse::Event as Sse;
use millrace_admission::EditableBody;
use millrace_chat_stream::{Chunk, Whole, rest};
use millrace_response_stream::{self as response_stream, Admitted, Event, Progress, number_of};
use millrace_schemas::{Operation, Outcome};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::response_object;

/// An event as a client gets it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Its type, where events have one.
    pub name: Option<String>,
    /// Where to go on after it, for who comes back.
    pub id: Option<u64>,
    /// Its data.
    pub data: String,
}

impl Told {
    pub(crate) fn data(data: String) -> Self {
        Self { name: None, id: None, data }
    }

    /// An event of a response, which names its type and number itself.
    fn of_response(data: String) -> Self {
        let event: Value = serde_json::from_str(&data).unwrap_or(Value::Null);
        let name = event.get("type").and_then(Value::as_str).map(str::to_owned);
        Self { name, id: event.get("sequence_number").and_then(Value::as_u64), data }
    }

    pub(crate) fn into_sse(self) -> Sse {
        let mut event = Sse::default().data(self.data);
        if let Some(name) = self.name {
            event = event.event(name);
        }
        match self.id {
            Some(id) => event.id(id.to_string()),
            None => event,
        }
    }
}

/// The part of an answer that was sent.
pub(crate) enum Sent {
    Chat(Box<Chat>),
    Response(Box<Response>),
}

/// Of a chat.
pub(crate) struct Chat {
    whole: Whole,
    with_usage: bool,
    call_id: String,
    /// Characters of the only answer's text, as long as nothing else was said.
    characters: Option<u64>,
}

/// Of a response.
pub(crate) struct Response {
    asked: EditableBody,
    progress: Progress,
}

impl Sent {
    pub(crate) fn chat(with_usage: bool) -> Self {
        Self::Chat(Box::new(Chat { whole: Whole::default(), with_usage, call_id: String::new(), characters: Some(0) }))
    }

    pub(crate) fn response(asked: EditableBody) -> Self {
        Self::Response(Box::new(Response { asked, progress: Progress::default() }))
    }

    /// From now on it is of this call.
    pub(crate) fn begin(&mut self, call_id: &str) {
        match self {
            Self::Chat(chat) => call_id.clone_into(&mut chat.call_id),
            Self::Response(response) => response.progress = Progress::of_call(call_id),
        }
    }

    /// The event as it is sent; none from the first on that is out of turn.
    pub(crate) fn add(&mut self, event: String) -> Option<Told> {
        match self {
            Self::Chat(chat) => match Chunk::parse(&event) {
                Ok(chunk) => {
                    let id = chat.count(&chunk);
                    chat.whole.add(chunk);
                    Some(Told { id, ..Told::data(event) })
                }
                Err(error) => {
                    tracing::warn!(%error, "a router sent what is no chunk");
                    None
                }
            },
            Self::Response(response) => {
                let event = Event::parse(&event).ok()?;
                match response.progress.admit(&event) {
                    Admitted::Gap => None,
                    Admitted::Numbered(number) => {
                        let data = event.with("sequence_number", number.into()).to_json();
                        Some(Told { name: Some(event.kind().to_owned()), id: Some(number), data })
                    }
                }
            }
        }
    }

    /// What is left of an answer, and its end.
    pub(crate) fn rest(&self, outcome: &Outcome, answer: &[u8]) -> Option<Vec<Told>> {
        match self {
            Self::Chat(chat) => match rest(answer, &chat.whole, chat.with_usage) {
                Ok(chunks) => Some(chunks.into_iter().chain(["[DONE]".to_owned()]).map(Told::data).collect()),
                Err(error) => {
                    tracing::info!(%error, "a stream ends without the rest of its answer");
                    None
                }
            },
            Self::Response(response) => {
                let whole = serde_json::from_slice(answer).ok()?;
                match response.progress.rest(&whole, answered_by(outcome)) {
                    Ok(events) => Some(events.into_iter().map(Told::of_response).collect()),
                    Err(error) => {
                        tracing::info!(%error, "a stream ends without the rest of its answer");
                        None
                    }
                }
            }
        }
    }

    /// The last event of a request that ended without an answer.
    pub(crate) fn failed(&self, outcome: &Outcome, error: ApiError) -> Told {
        match self {
            Self::Chat(_) => Told::data(error.to_json().to_string()),
            Self::Response(response) => {
                let object = response_object::of_outcome(outcome, Some(&response.asked)).unwrap_or(Value::Null);
                let number = response.progress.number().unwrap_or(0);
                let event = json!({ "type": "response.failed", "response": object, "sequence_number": number });
                Told::of_response(event.to_string())
            }
        }
    }

    /// The last event of a stream whose end is not known.
    pub(crate) fn broken(&self, error: &ApiError) -> Told {
        let mut event = error.to_json();
        match self {
            Self::Chat(_) => Told::data(event.to_string()),
            // With `error` in it, libraries raise it.
            Self::Response(response) => {
                event["type"] = "error".into();
                event["sequence_number"] = response.progress.number().unwrap_or(0).into();
                Told::of_response(event.to_string())
            }
        }
    }
}

impl Chat {
    /// Where to go on after a chunk: known as long as there is one text and nothing else.
    fn count(&mut self, chunk: &Chunk) -> Option<u64> {
        let before = self.characters.take()?;
        let mut more = 0;
        for choice in chunk.choices() {
            let is_other = |(name, value): (&String, &Value)| match name.as_str() {
                "delta" => value.as_object().is_some_and(|delta| {
                    delta.iter().any(|(name, value)| !matches!(name.as_str(), "role" | "content") && is_said(value))
                }),
                "index" => value.as_u64() != Some(0),
                _ => is_said(value),
            };
            if choice.as_object().is_some_and(|choice| choice.iter().any(is_other)) {
                return None;
            }
            let text = choice.pointer("/delta/content").and_then(Value::as_str).unwrap_or_default();
            more += text.chars().count() as u64;
        }
        self.characters = Some(before + more);
        Some(number_of(&self.call_id, before + more))
    }
}

fn is_said(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => true,
    }
}

/// The call that an answer comes from.
fn answered_by(outcome: &Outcome) -> &str {
    let of_answer = |line: &&millrace_schemas::CallLine| {
        line.status == millrace_schemas::CallKind::Finished.as_str() && line.operation == outcome.meta.operation
    };
    outcome.bill.iter().rev().find(of_answer).map_or("", |line| line.call_id.as_str())
}

/// The events of a whole answer after the one of this number, or all of them.
///
/// # Errors
/// [`ApiError`]: the number is none of this answer's, or the answer is none that comes in events.
pub(crate) fn after(
    outcome: &Outcome,
    answer: &[u8],
    number: Option<u64>,
    with_usage: bool,
) -> Result<Vec<Told>, ApiError> {
    let call_id = answered_by(outcome);
    let another = || {
        let message = "'starting_after' is no number of this answer, which may have been begun anew: read it from its \
                       beginning.";
        ApiError::invalid(Some("starting_after"), message)
    };
    match outcome.meta.operation.parse() {
        Ok(Operation::Chat) => {
            let characters = match number {
                None => 0,
                Some(number) => response_stream::place_of(number, call_id).ok_or_else(another)?,
            };
            let mut sent = Chat { whole: Whole::default(), with_usage, call_id: String::new(), characters: None };
            if characters > 0 {
                sent.whole.add(seen_of(answer, characters).ok_or_else(another)?);
            }
            Sent::Chat(Box::new(sent)).rest(outcome, answer).ok_or_else(another)
        }
        Ok(Operation::Responses) => {
            let whole = serde_json::from_slice(answer).unwrap_or(Value::Null);
            let events = response_stream::rest_after(&whole, number, call_id).map_err(|_| another())?;
            Ok(events.into_iter().map(Told::of_response).collect())
        }
        Ok(Operation::Embeddings) | Err(_) => {
            Err(ApiError::invalid(Some("stream"), "This answer does not come in events: ask for it without 'stream'."))
        }
    }
}

/// The beginning of the only text of a chat, as a chunk.
fn seen_of(answer: &[u8], characters: u64) -> Option<Chunk> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let text = answer.pointer("/choices/0/message/content")?.as_str()?;
    let seen: String = text.chars().take(usize::try_from(characters).ok()?).collect();
    let delta = json!({ "role": "assistant", "content": seen });
    Chunk::parse(&json!({ "choices": [{ "index": 0, "delta": delta }] }).to_string()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(delta: &Value) -> String {
        json!({ "choices": [{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": null }] }).to_string()
    }

    #[test]
    fn a_chat_tells_where_to_go_on_while_it_has_one_text() {
        let mut sent = Sent::chat(false);
        sent.begin("call_1");
        let mut id = |delta: Value| sent.add(chunk(&delta)).expect("a chunk").id;
        assert_eq!(id(json!({ "role": "assistant", "content": "" })), Some(number_of("call_1", 0)));
        assert_eq!(id(json!({ "content": "wör" })), Some(number_of("call_1", 3)));
        assert_eq!(id(json!({ "content": "ld", "refusal": null })), Some(number_of("call_1", 5)));
        assert_eq!(id(json!({ "tool_calls": [{ "index": 0 }] })), None);
        assert_eq!(id(json!({ "content": "!" })), None, "never again");
    }

    #[test]
    fn what_was_seen_of_a_chat_is_not_told_again() {
        let answer = br#"{"choices":[{"index":0,"message":{"role":"assistant","content":"w\u00f6rld"},"finish_reason":"stop"}]}"#;
        let seen = seen_of(answer, 3).expect("a text");
        let mut whole = Whole::default();
        whole.add(seen);
        let left = rest(answer, &whole, false).expect("a rest").concat();
        assert!(left.contains(r#"{"content":"ld"}"#), "{left}");
    }
}
