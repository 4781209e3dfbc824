//! What a call consumed, as the provider says.

use serde::Deserialize;
use serde_json::Value;

/// Tokens of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Prompt tokens, cached ones included.
    pub input_tokens: i64,
    /// Prompt tokens served from the provider's cache.
    pub cached_input_tokens: i64,
    /// Tokens that the model wrote.
    pub output_tokens: i64,
    /// True when the provider gave no usage and the tokens were counted here.
    pub estimated: bool,
}

impl Usage {
    /// Reads `usage` of an answer; `None` when it has none that makes sense.
    #[must_use]
    pub fn read(answer: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Outer {
            #[serde(default)]
            usage: Value,
        }
        let Outer { usage } = serde_json::from_slice(answer).ok()?;
        let tokens = |value: &Value| value.as_i64().filter(|tokens| *tokens >= 0);
        // Chats and embeddings name them one way, responses the other.
        let either = |name: &str, other: &str| usage.pointer(name).or(usage.pointer(other)).and_then(tokens);
        let input_tokens = either("/prompt_tokens", "/input_tokens")?;
        let cached = either("/prompt_tokens_details/cached_tokens", "/input_tokens_details/cached_tokens").unwrap_or(0);
        Some(Self {
            input_tokens,
            cached_input_tokens: cached.min(input_tokens),
            // Embeddings have none.
            output_tokens: either("/completion_tokens", "/output_tokens").unwrap_or(0),
            estimated: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_leniently_and_never_negative() {
        let check = |answer: &str, expected: Option<(i64, i64, i64)>| {
            let usage = Usage::read(answer.as_bytes());
            assert_eq!(usage.map(|u| (u.input_tokens, u.cached_input_tokens, u.output_tokens)), expected, "{answer}");
            assert!(usage.is_none_or(|u| !u.estimated));
        };
        check(r#"{"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#, Some((7, 0, 3)));
        check(
            r#"{"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":5,"new":1}}}"#,
            Some((7, 5, 3)),
        );
        check(r#"{"usage":{"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":50}}}"#, Some((7, 7, 0)));
        check(r#"{"usage":{"prompt_tokens":7,"prompt_tokens_details":null}}"#, Some((7, 0, 0)));
        check(
            r#"{"usage":{"input_tokens":7,"output_tokens":3,"input_tokens_details":{"cached_tokens":5}}}"#,
            Some((7, 5, 3)),
        );
        check(r#"{"usage":{"prompt_tokens":-7,"completion_tokens":3}}"#, None);
        check(r#"{"usage":{"completion_tokens":3}}"#, None);
        check(r#"{"usage":null}"#, None);
        check(r#"{"choices":[]}"#, None);
        check("[]", None);
    }
}
