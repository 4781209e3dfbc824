//! What can become of a call that brought no answer, decided where it is seen.

use std::time::Duration;

use serde_json::Value;

/// Messages of providers are cut to this many characters.
const MESSAGE_LIMIT: usize = 1_000;

/// Why a call brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No byte of the request left: nobody can have charged for it.
    #[error("the call was not sent: {0}")]
    NotSent(String),
    /// The provider answered with an error. Providers do not charge for these.
    #[error("the provider answered {}", .0.status)]
    Answered(Refusal),
    /// The request was sent; the answer never came, was cut, or can not be read. The provider may
    /// have charged for it.
    #[error("the answer was lost: {0}")]
    Lost(String),
}

/// A provider's error answer, in OpenAI's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status; never 200.
    pub status: u16,
    /// What the provider says, at most 1,000 characters. May quote the request or hint at the key.
    pub message: String,
    /// OpenAI's error type, e.g. `invalid_request_error`; empty when it gave none.
    pub kind: String,
    /// OpenAI's error code, e.g. `context_length_exceeded`.
    pub code: Option<String>,
    /// The field of the request that the error is about.
    pub param: Option<String>,
    /// How long the provider asked to wait.
    pub retry_after: Option<Duration>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Whether it was a key of a pool that was refused, or had made too many calls, rather than the request: the same call
    /// may be made at once with whatever key has room.
    pub of_key: bool,
}

impl Refusal {
    /// Reads an error answer, of whatever shape.
    #[must_use]
    pub(crate) fn read(status: u16, body: &[u8], retry_after: Option<Duration>) -> Self {
        let parsed: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let error = parsed.get("error").unwrap_or(&parsed);
        let text = |name: &str| match error.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            // Some servers give their codes as numbers.
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let message = text("message")
            .or_else(|| text("detail"))
            .or_else(|| error.as_str().map(str::to_owned))
            .unwrap_or_else(|| format!("HTTP status {status} without a message"));
        let code = text("code");
        // Waiting does not fill an account.
        let out_of_quota = code.as_deref() == Some("insufficient_quota");
        Self {
            status,
            message: message.chars().take(MESSAGE_LIMIT).collect(),
            kind: text("type").unwrap_or_default(),
            param: text("param"),
            retry_after,
            retryable: is_retryable(status) && !out_of_quota,
            of_key: false,
            code,
        }
    }
}

/// Whether a request that was answered with this status may succeed later, unchanged.
fn is_retryable(status: u16) -> bool {
    matches!(status, 408 | 409 | 429 | 500..=599)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_of_many_shapes() {
        let check = |status: u16, body: &str, message: &str, code: Option<&str>, retryable: bool| {
            let refusal = Refusal::read(status, body.as_bytes(), None);
            assert_eq!((refusal.message.as_str(), refusal.code.as_deref()), (message, code), "{body}");
            assert_eq!(refusal.retryable, retryable, "{status} {body}");
        };
        let openai = r#"{"error":{"message":"Too long","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#;
        check(400, openai, "Too long", Some("context_length_exceeded"), false);
        check(429, r#"{"error":{"message":"Slow down","code":429}}"#, "Slow down", Some("429"), true);
        check(
            429,
            r#"{"error":{"message":"Pay","code":"insufficient_quota"}}"#,
            "Pay",
            Some("insufficient_quota"),
            false,
        );
        check(404, r#"{"error":"model 'x' not found"}"#, "model 'x' not found", None, false);
        check(422, r#"{"detail":"bad field"}"#, "bad field", None, false);
        check(401, r#"{"message":"no","error":null}"#, "HTTP status 401 without a message", None, false);
        check(502, "<html>", "HTTP status 502 without a message", None, true);
        check(503, "", "HTTP status 503 without a message", None, true);
        let refusal = Refusal::read(400, openai.as_bytes(), None);
        assert_eq!((refusal.kind.as_str(), refusal.param.as_deref()), ("invalid_request_error", Some("messages")));
        let long = format!(r#"{{"error":{{"message":"{}"}}}}"#, "é".repeat(5_000));
        assert_eq!(Refusal::read(500, long.as_bytes(), None).message.chars().count(), 1_000);
    }

    #[test]
    fn which_statuses_may_pass() {
        let retryable: Vec<u16> = (300..600).filter(|status| is_retryable(*status)).collect();
        let expected: Vec<u16> = [408, 409, 429].into_iter().chain(500..600).collect();
        assert_eq!(retryable, expected);
    }
}
