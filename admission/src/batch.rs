//! A line of a batch's file: OpenAI's `{"custom_id", "method", "url", "body"}`, of which the body is judged as any
//! request is.

use millrace_schemas::{Ended, Lane, Operation, Request};

use crate::admit::{Admission, Admitted, PROMPTED};
use crate::body::EditableBody;
use crate::checks::{missing, wrong_type};
use crate::directory::Principal;
use crate::embeddings;
use crate::json::{self, Object};
use crate::messages::Messages;
use crate::meta::{Arrival, cut};
use crate::responses;
use crate::tokens::Counter;

/// The most lines of a file.
pub const MAX_BATCH_LINES: u32 = 50_000;
/// The largest file, in bytes.
pub const MAX_BATCH_BYTES: u64 = 200 * 1024 * 1024;

const MAX_CUSTOM_ID: usize = 512;

/// A line that was read; its body is not judged yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchLine {
    /// The client's own name for it.
    pub custom_id: String,
    /// The request's body, byte for byte.
    pub body: String,
}

/// What is asked for at an endpoint such as `/v1/embeddings`; `None` for one that takes no batches.
#[must_use]
pub fn batch_operation(endpoint: &str) -> Option<Operation> {
    Operation::ALL.iter().copied().find(|operation| endpoint == path(*operation))
}

fn path(operation: Operation) -> &'static str {
    match operation {
        Operation::Chat => "/v1/chat/completions",
        Operation::Embeddings => "/v1/embeddings",
        Operation::Responses => "/v1/responses",
    }
}

impl BatchLine {
    /// Reads a line of a batch that is for this endpoint.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(line: &str, operation: Operation) -> Result<Self, Ended> {
        let object = Object::parse(line).map_err(|_| {
            let message = "This line is not parseable as valid JSON: write one object a line.";
            Ended::invalid("invalid_json_line", None, message)
        })?;
        if let Some(key) = object.twice(&["custom_id", "method", "url", "body"]) {
            let message = format!("'{key}' is given twice: give it once.");
            return Err(Ended::invalid("duplicate_parameter", Some(key), message));
        }
        let text = |name: &str| {
            let raw = object.get(name).ok_or_else(|| missing(name, object.keys()))?;
            json::string(raw).ok_or_else(|| wrong_type(name, "a string", json::kind(raw)))
        };
        let custom_id = text("custom_id")?.into_owned();
        if custom_id.is_empty() || custom_id.chars().count() > MAX_CUSTOM_ID {
            let message = format!("'custom_id' must have 1 to {MAX_CUSTOM_ID} characters.");
            return Err(Ended::invalid("invalid_custom_id", Some("custom_id"), message));
        }
        let method = text("method")?;
        if method != "POST" {
            let message = format!("Invalid method '{}': use 'POST'.", cut(&method, 16));
            return Err(Ended::invalid("invalid_method", Some("method"), message));
        }
        let (url, wanted) = (text("url")?, path(operation));
        if url != wanted {
            let message = format!("The batch is for '{wanted}', and this line for '{}'.", cut(&url, 64));
            return Err(Ended::invalid("mismatched_url", Some("url"), message));
        }
        let body = object.get("body").ok_or_else(|| missing("body", object.keys()))?;
        if json::kind(body) != "an object" {
            return Err(wrong_type("body", "an object", json::kind(body)));
        }
        Ok(Self { custom_id, body: body.to_owned() })
    }
}

impl Admission {
    /// Judges a line as its record will be judged, but for the deadline, at `now` (microseconds).
    ///
    /// # Errors
    /// What is wrong with it, with the path within the line.
    pub fn judge_line(
        &self,
        principal: &Principal,
        operation: Operation,
        line: &BatchLine,
        now: i64,
    ) -> Result<Admitted, Ended> {
        let request = Request { operation: operation.to_string(), ..Request::new(line.body.clone().into_bytes()) };
        let arrival = Arrival { lane: Lane::Batch, at: None, timestamp: None, now, run: 0 };
        let within = |ended: Ended| Ended { param: ended.param.map(|param| format!("body.{param}")), ..ended };
        let admitted = self.admit(principal, request, &arrival).map_err(|rejected| within(rejected.ended))?;
        if admitted.stream.is_some() {
            let message = "An answer of a batch is not streamed: leave 'stream' out.";
            return Err(Ended::invalid("unsupported_parameter", Some("body.stream"), message));
        }
        Ok(admitted)
    }
}

/// Tokens of an admitted request's prompt, counted; where passages are to be fetched, without them.
#[must_use]
pub fn count_prompt(operation: Operation, body: &EditableBody) -> u32 {
    match operation {
        Operation::Chat => {
            let messages = body.get("messages").and_then(|raw| Messages::read(raw).ok());
            let mut counter = Counter::new(u32::MAX);
            messages.into_iter().for_each(|messages| messages.count(&mut counter));
            PROMPTED.iter().filter_map(|key| body.get(key)).for_each(|raw| counter.count(raw));
            counter.tokens()
        }
        Operation::Embeddings => embeddings::count(body),
        Operation::Responses => responses::read(body).map_or(0, |asked| asked.tokens(body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_its_body_kept_byte_for_byte() {
        let line = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body": {"n" :1.0}}"#;
        let read = BatchLine::read(line, Operation::Chat).expect("a line");
        assert_eq!(read, BatchLine { custom_id: "a".to_owned(), body: r#"{"n" :1.0}"#.to_owned() });
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        let check = |line: &str, code: &str, param: Option<&str>| {
            let error = BatchLine::read(line, Operation::Embeddings).expect_err(line);
            assert_eq!((error.code.as_str(), error.param.as_deref()), (code, param), "{line}");
        };
        check("{", "invalid_json_line", None);
        check("[]", "invalid_json_line", None);
        check("{}", "missing_required_parameter", Some("custom_id"));
        check(r#"{"custom_id":7}"#, "invalid_type", Some("custom_id"));
        check(r#"{"custom_id":""}"#, "invalid_custom_id", Some("custom_id"));
        check(r#"{"custom_id":"a","custom_id":"b"}"#, "duplicate_parameter", Some("custom_id"));
        check(r#"{"custom_id":"a","method":"GET"}"#, "invalid_method", Some("method"));
        let url = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions"}"#;
        check(url, "mismatched_url", Some("url"));
        let body = r#"{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":"b"}"#;
        check(body, "invalid_type", Some("body"));
    }

    #[test]
    fn endpoints_are_those_of_the_operations() {
        assert_eq!(batch_operation("/v1/embeddings"), Some(Operation::Embeddings));
        assert_eq!(batch_operation("/v1/completions"), None);
    }
}
