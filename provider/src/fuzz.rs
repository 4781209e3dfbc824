//! Answers of providers, whatever they are: bodies, headers, streams.

use std::time::Duration;

use futures::TryStreamExt;
use millrace_mutate as mutate;
use millrace_schemas::Operation;
use proptest::prelude::*;
use proptest::sample::select;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::failure::Refusal;
use crate::retry_after::retry_after;
use crate::usage::Usage;
use crate::{call, streamed, tokens};

const ANSWERS: &[&str] = &[
    r#"{"choices":[{"message":{"content":"Hé","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":5}}}"#,
    r#"{"data":[{"index":1,"embedding":[1,2.5]},{"index":0,"embedding":[-1e-3]}],"usage":{"prompt_tokens":2}}"#,
    r#"{"error":{"message":"Slow down","type":"rate_limit","code":429,"param":null}}"#,
    r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"q"}]}],"tools":[{}],"input":[1,[2,"a"]]}"#,
];

const STREAMS: &[&str] = &[
    "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n",
    ": comment\r\nevent: x\r\nid: 1\r\nretry: 5\r\ndata: a\r\ndata: b\r\n\r\n",
    "\u{feff}data: a\n\n",
    "\u{feff}\u{feff}data: a\n\n",
];

const NAMES: [&str; 6] = [
    "retry-after",
    "retry-after-ms",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
];

const WAITS: &[&str] =
    &["2", "0.25", "1e300", "-1", "NaN", "inf", "Wed, 21 Oct 2015 07:28:30 GMT", "6m0s", "1h2m3.5s", "120ms", "0"];

proptest! {
    #![proptest_config(mutate::cases(1_500))]

    #[test]
    fn any_wait_is_bounded(headers in prop::collection::vec((select(&NAMES[..]), mutate::bytes(WAITS)), 0..5), now: i64) {
        let headers: HeaderMap = headers
            .into_iter()
            .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_bytes(&value).ok()?)))
            .collect();
        let wait = retry_after(&headers, now);
        prop_assert!(wait.is_none_or(|wait| wait <= Duration::from_secs(24 * 60 * 60)), "{wait:?} {headers:?}");
    }

    #[test]
    fn any_answer_is_read_or_not(answer in mutate::bytes(ANSWERS), status in 300..600u16) {
        let refusal = Refusal::read(status, &answer, None);
        prop_assert!(refusal.message.chars().count() <= 1_000 && !refusal.message.is_empty());
        prop_assert_eq!(refusal.status, status);
        if let Some(usage) = Usage::read(&answer) {
            prop_assert!(usage.input_tokens >= 0 && usage.output_tokens >= 0 && !usage.estimated);
            prop_assert!((0..=usage.input_tokens).contains(&usage.cached_input_tokens));
        }
        for tokens in [tokens::written(&answer), tokens::asked(Operation::Chat, &answer), tokens::asked(Operation::Embeddings, &answer)] {
            prop_assert!((0..10_000).contains(&tokens), "no more than there are bytes: {tokens}");
        }
        if let Ok(vectors) = call::vectors(&String::from_utf8_lossy(&answer), 2) {
            prop_assert!(vectors.len() == 2 && vectors.iter().all(|vector| !vector.is_empty()));
        }
    }

    #[test]
    fn any_stream_is_handed_on_in_frames_of_ours(bytes in mutate::bytes(STREAMS), cut in 0..80usize) {
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        let parts = [first.to_vec(), second.to_vec()].map(Ok::<_, std::io::Error>);
        let body = reqwest::Body::wrap_stream(futures::stream::iter(parts));
        let response = streamed::events(http::Response::new(body).into());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let handed: Vec<_> = runtime.block_on(response.bytes_stream().try_collect()).expect("never an error of its own");
        for frame in handed {
            let text = std::str::from_utf8(&frame).expect("text");
            let json = text.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n")).expect("a frame");
            let event: Result<String, String> = serde_json::from_str(json).expect("an event or an error");
            prop_assert!(event.is_ok_and(|data| data.len() <= bytes.len() * 3) || text.len() < 1_000);
        }
    }
}
