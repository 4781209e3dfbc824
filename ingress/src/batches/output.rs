//! The lines that a batch writes, as OpenAI's clients read them.

use millrace_schemas::{Outcome, OutcomeStatus, derived_uuid};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::ApiError;

/// A line for one of the two files.
pub(crate) struct Written {
    /// With its line break.
    pub line: Vec<u8>,
    /// Whether it belongs into the output file; else into the error file.
    pub succeeded: bool,
    /// Whether the request was too late.
    pub expired: bool,
}

const EXPIRED: (&str, &str) =
    ("batch_expired", "This request could not be executed before the completion window expired.");
const CANCELLED: (&str, &str) = ("batch_cancelled", "The batch was cancelled before this request was executed.");

/// The line of a request that has its outcome. What is taken back because its time is over is late, not cancelled.
pub(crate) fn answered(batch: &str, number: u32, custom_id: &str, outcome: &Outcome, is_late: bool) -> Written {
    let name = Name { batch, number, custom_id };
    let response = |status: u16, body: &str| {
        let request_id = json!(outcome.meta.request_id);
        format!("{{\"status_code\":{status},\"request_id\":{request_id},\"body\":{body}}}")
    };
    match (outcome.status, &outcome.response, &outcome.error) {
        (OutcomeStatus::Succeeded, Some(answer), _) => match in_one_line(answer) {
            Some(body) => name.write(&response(200, &body), &Value::Null, true),
            None => name.write(&response(500, &no_answer().to_string()), &Value::Null, false),
        },
        (OutcomeStatus::Expired, ..) => name.not_executed(EXPIRED),
        (OutcomeStatus::Cancelled, ..) => name.not_executed(if is_late { EXPIRED } else { CANCELLED }),
        // A call that was cut short.
        (OutcomeStatus::Failed, ..) if outcome.finished_at / 1_000 >= outcome.meta.deadline => {
            name.not_executed(EXPIRED)
        }
        (_, _, Some(error)) => {
            let status = u16::try_from(error.http_status).unwrap_or(500);
            name.write(&response(status, &ApiError::from(error.clone()).to_json().to_string()), &Value::Null, false)
        }
        (_, _, None) => name.write(&response(500, &no_answer().to_string()), &Value::Null, false),
    }
}

/// The line of a request that was not executed: the time was over, or it was cancelled.
pub(crate) fn not_executed(batch: &str, number: u32, custom_id: &str, is_late: bool) -> Written {
    Name { batch, number, custom_id }.not_executed(if is_late { EXPIRED } else { CANCELLED })
}

/// Of the tokens that a model wrote, those that nobody sees.
pub(crate) fn reasoning_tokens(outcome: &Outcome) -> i64 {
    #[derive(Default, Deserialize)]
    struct Answer {
        usage: Option<Usage>,
    }
    #[derive(Default, Deserialize)]
    struct Usage {
        completion_tokens_details: Option<Details>,
    }
    #[derive(Default, Deserialize)]
    struct Details {
        reasoning_tokens: Option<i64>,
    }
    let answer = outcome.response.as_deref().and_then(|answer| serde_json::from_slice::<Answer>(answer).ok());
    let details = answer.and_then(|answer| answer.usage?.completion_tokens_details);
    details.and_then(|details| details.reasoning_tokens).unwrap_or(0)
}

/// An answer's own bytes. Between the words of JSON a line break is as good as a blank, and there is none within.
fn in_one_line(answer: &[u8]) -> Option<String> {
    let raw: &RawValue = serde_json::from_slice(answer).ok()?;
    Some(raw.get().replace(['\n', '\r'], " "))
}

fn no_answer() -> Value {
    ApiError::busy("The request ended without an answer that can be read.", 1).to_json()
}

struct Name<'a> {
    batch: &'a str,
    number: u32,
    custom_id: &'a str,
}

impl Name<'_> {
    fn not_executed(&self, (code, message): (&str, &str)) -> Written {
        let error = json!({ "code": code, "message": message });
        Written { expired: code == EXPIRED.0, ..self.write("null", &error, false) }
    }

    fn write(&self, response: &str, error: &Value, succeeded: bool) -> Written {
        let id = derived_uuid(&["batch request", self.batch, &self.number.to_string()]).simple();
        let custom_id = json!(self.custom_id);
        let line = format!(
            "{{\"id\":\"batch_req_{id}\",\"custom_id\":{custom_id},\"response\":{response},\"error\":{error}}}\n"
        );
        Written { line: line.into_bytes(), succeeded, expired: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_keep_their_bytes_in_one_line() {
        let answer = "{ \"n\": 1.0,\r\n \"text\": \"a\\nb\" }";
        assert_eq!(in_one_line(answer.as_bytes()).as_deref(), Some("{ \"n\": 1.0,   \"text\": \"a\\nb\" }"));
        assert_eq!(in_one_line(b"no JSON"), None);
    }

    #[test]
    fn a_request_that_was_not_executed_says_why() {
        for (is_late, code) in [(true, "batch_expired"), (false, "batch_cancelled")] {
            let written = not_executed("batch_1", 7, "a\"b", is_late);
            let line: Value = serde_json::from_slice(&written.line).expect("JSON");
            assert_eq!((&line["custom_id"], &line["response"]), (&json!("a\"b"), &Value::Null));
            assert_eq!((line["error"]["code"].as_str(), written.succeeded), (Some(code), false));
            assert_eq!((written.expired, written.line.last()), (is_late, Some(&b'\n')));
        }
    }
}
