//! Streams as a provider may send them, whatever it is.

use millrace_chat_stream::{Chunk, NotAChunk, Whole, rest};
use millrace_mutate as mutate;
use proptest::prelude::*;

const CHUNKS: &[&str] = &[
    r#"{"id":"x","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"Hé"},"logprobs":{"content":[{"token":"H"}]},"finish_reason":null}]}"#,
    r#"{"choices":[{"index":1,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{\"a\""}}]}}]}"#,
    r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
    r#"{"choices":[{"message":{"content":"whole"},"finish_reason":"stop"}]}"#,
    r#"{"error":{"message":"secret","code":"server_error"}}"#,
];

proptest! {
    #![proptest_config(mutate::cases(1_000))]

    #[test]
    fn any_events_add_up_to_a_completion(events in prop::collection::vec(mutate::text(CHUNKS), 0..8)) {
        let mut whole = Whole::default();
        let size: usize = events.iter().map(String::len).sum();
        for event in &events {
            match Chunk::parse(event) {
                Ok(chunk) => {
                    prop_assert_eq!(Chunk::parse(&chunk.to_json()), Ok(chunk.clone()));
                    let _ = (chunk.finishes(), chunk.says_something());
                    whole.add(chunk);
                }
                Err(error @ (NotAChunk::Malformed(_) | NotAChunk::Error(_))) => {
                    prop_assert!(!error.to_string().contains("secret") && error.to_string().len() < 300, "{error}");
                }
            }
        }
        let _ = whole.is_complete();
        let completion = whole.to_completion();
        let value: serde_json::Value = serde_json::from_slice(&completion).expect("JSON");
        prop_assert!(value["choices"].is_array());
        prop_assert!(completion.len() < 200 * events.len() + 10 * size + 200, "it grows with what was said");
        for chunk in rest(&completion, &Whole::default(), true).unwrap_or_default() {
            prop_assert!(Chunk::parse(&chunk).is_ok(), "{chunk}");
        }
        // What was said already is not said again.
        let _ = rest(&completion, &whole, true);
    }

    #[test]
    fn any_bytes_have_a_rest_or_are_no_completion(answer in mutate::bytes(CHUNKS)) {
        if let Ok(chunks) = rest(&answer, &Whole::default(), false) {
            for chunk in chunks {
                prop_assert!(Chunk::parse(&chunk).is_ok(), "{chunk}");
            }
        }
    }
}
