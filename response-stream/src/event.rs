//! One event of a stream.

use serde_json::{Map, Value};

use crate::script::{Group, Step};

/// An event as a provider sends it: an object with a type.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    kind: String,
    members: Map<String, Value>,
}

/// What is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEvent {
    /// Not an object with a type. The text tells no content.
    #[error("an event of the stream is none ({0})")]
    Malformed(String),
    /// The provider says in mid-stream that it failed.
    #[error("the stream ended with the error `{0}`")]
    Error(String),
}

impl Event {
    /// Reads the data of an event.
    ///
    /// # Errors
    /// [`NotAnEvent`].
    pub fn parse(data: &str) -> Result<Self, NotAnEvent> {
        let malformed = |what: String| NotAnEvent::Malformed(what);
        let value: Value = serde_json::from_str(data)
            .map_err(|e| malformed(format!("not JSON at column {} of {} bytes", e.column(), data.len())))?;
        let Value::Object(members) = value else { return Err(malformed("not an object".to_owned())) };
        // A server that does not stream sends its whole answer as one event.
        if members.get("object").and_then(Value::as_str) == Some("response") {
            let kind = "response.completed".to_owned();
            return Ok(Self { kind, members: Map::from_iter([("response".to_owned(), Value::Object(members))]) });
        }
        let error = members.get("error").filter(|error| error.is_object());
        let kind = members.get("type").and_then(Value::as_str);
        if error.is_some() || kind == Some("error") {
            let code =
                |from: &Value| ["code", "type"].iter().find_map(|name| from.get(name)?.as_str()).map(str::to_owned);
            let code = error.and_then(code).or_else(|| members.get("code")?.as_str().map(str::to_owned));
            return Err(NotAnEvent::Error(code.unwrap_or_else(|| "unknown".to_owned()).chars().take(64).collect()));
        }
        match kind {
            Some(kind) => Ok(Self { kind: kind.to_owned(), members }),
            None => Err(malformed("it has no type".to_owned())),
        }
    }

    /// Its type, such as `response.output_text.delta`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The whole response, of the event that ends a stream.
    #[must_use]
    pub fn whole(&self) -> Option<&Value> {
        let ends = matches!(
            self.kind.as_str(),
            "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled"
        );
        self.members.get("response").filter(|response| ends && response.is_object())
    }

    /// A member.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    /// The piece of a text that it brings.
    #[must_use]
    pub fn delta(&self) -> Option<&str> {
        self.members.get("delta").and_then(Value::as_str)
    }

    /// The same event with another value of a member.
    #[must_use]
    pub fn with(&self, name: &str, value: Value) -> Self {
        let mut members = self.members.clone();
        members.insert(name.to_owned(), value);
        Self { kind: self.kind.clone(), members }
    }

    /// The event as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.members).expect("a map with string keys is JSON")
    }

    /// The text that it says is whole.
    pub(crate) fn done(&self) -> Option<&str> {
        ["text", "refusal", "arguments", "input", "code"].iter().find_map(|name| self.members.get(*name)?.as_str())
    }

    /// Which step of a response it is; `None` for one that only tells how the work goes on, and for what comes next
    /// month.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        let index = |name: &str| self.members.get(name).and_then(Value::as_u64);
        let item = index("output_index");
        let name = self.kind.strip_prefix("response.")?;
        match name {
            "created" => return Some(Step::Created),
            "in_progress" => return Some(Step::InProgress),
            "output_item.added" => return Some(Step::Item(item?)),
            "output_item.done" => return Some(Step::ItemDone(item?)),
            "content_part.added" => return Some(Step::Part(item?, Group::Content, index("content_index")?)),
            "content_part.done" => return Some(Step::PartDone(item?, Group::Content, index("content_index")?)),
            "reasoning_summary_part.added" => return Some(Step::Part(item?, Group::Summary, index("summary_index")?)),
            "reasoning_summary_part.done" => {
                return Some(Step::PartDone(item?, Group::Summary, index("summary_index")?));
            }
            _ => {}
        }
        let (text, is_delta) = match name.strip_suffix(".delta") {
            Some(text) => (text, true),
            None => (name.strip_suffix(".done")?, false),
        };
        let (group, part) = match text {
            "output_text" | "refusal" | "reasoning_text" => (Group::Content, index("content_index")?),
            "reasoning_summary_text" => (Group::Summary, index("summary_index")?),
            "function_call_arguments"
            | "custom_tool_call_input"
            | "mcp_call_arguments"
            | "code_interpreter_call_code" => (Group::Call, 0),
            _ => return None,
        };
        Some(if is_delta { Step::Text(item?, group, part) } else { Step::TextDone(item?, group, part) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_event() {
        let check = |data: &str, expected: &str| {
            let got = Event::parse(data).map_or_else(|error| error.to_string(), |event| event.kind().to_owned());
            assert!(got.contains(expected), "{data}: {got}");
        };
        check(r#"{"type":"response.created","response":{}}"#, "response.created");
        check(r#"{"object":"response","id":"x","error":null}"#, "response.completed");
        check(r#"{"type":"error","code":"server_error","message":"secret"}"#, "`server_error`");
        check(r#"{"type":"error","error":{"type":"overloaded","code":null,"message":"secret"}}"#, "`overloaded`");
        check(r#"{"error":{"message":"secret"}}"#, "`unknown`");
        check(r#"{"choices":[]}"#, "no type");
        check("[]", "not an object");
        check(r#"{"type":"resp"#, "not JSON at column");
    }

    #[test]
    fn events_know_their_steps() {
        let check =
            |data: &str, expected: Option<Step>| assert_eq!(Event::parse(data).expect("an event").step(), expected);
        check(r#"{"type":"response.created"}"#, Some(Step::Created));
        check(r#"{"type":"response.output_item.added","output_index":2}"#, Some(Step::Item(2)));
        check(
            r#"{"type":"response.output_text.delta","output_index":1,"content_index":3,"delta":"a"}"#,
            Some(Step::Text(1, Group::Content, 3)),
        );
        check(
            r#"{"type":"response.reasoning_summary_text.done","output_index":0,"summary_index":1}"#,
            Some(Step::TextDone(0, Group::Summary, 1)),
        );
        check(
            r#"{"type":"response.function_call_arguments.delta","output_index":1}"#,
            Some(Step::Text(1, Group::Call, 0)),
        );
        check(r#"{"type":"response.web_search_call.searching","output_index":1}"#, None);
        check(r#"{"type":"response.output_text.annotation.added","output_index":1}"#, None);
        check(r#"{"type":"response.next_month.delta","output_index":1}"#, None);
    }
}
