//! What is left of a key's limits, as OpenAI's headers say it.

use reqwest::header::HeaderMap;

use super::choice::{Left, Limits};
use crate::retry_after::go_duration;

/// Reads `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`. What remains says nothing without the time after
/// which it does not hold any more.
pub(crate) fn limits(headers: &HeaderMap) -> Limits {
    Limits { requests: left(headers, "requests"), tokens: left(headers, "tokens") }
}

fn left(headers: &HeaderMap, what: &str) -> Option<Left> {
    let text = |part: &str| headers.get(format!("x-ratelimit-{part}-{what}"))?.to_str().ok().map(str::trim);
    // Some servers give seconds without a unit.
    let reset = |text: &str| go_duration(text).or_else(|| go_duration(&format!("{text}s")));
    Some(Left {
        limit: text("limit").and_then(|limit| limit.parse().ok()).unwrap_or(0),
        remaining: text("remaining")?.parse().ok()?,
        reset: text("reset").and_then(reset)?.min(crate::retry_after::LONGEST),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn what_remains_is_read_with_its_time() {
        let check = |values: [&str; 3], expected: Option<(u64, u64, u64)>| {
            let mut headers = HeaderMap::new();
            for (part, value) in ["limit", "remaining", "reset"].iter().zip(values).filter(|(_, value)| *value != "-") {
                let name = HeaderName::try_from(format!("x-ratelimit-{part}-requests")).expect("a name");
                headers.insert(name, HeaderValue::from_str(value).expect("a value"));
            }
            let read = limits(&headers);
            let expected =
                expected.map(|(limit, remaining, ms)| Left { limit, remaining, reset: Duration::from_millis(ms) });
            assert_eq!((read.requests, read.tokens), (expected, None), "{values:?}");
        };
        check(["500", "499", "120ms"], Some((500, 499, 120)));
        check(["-", "0", "6m0s"], Some((0, 0, 360_000)));
        check(["60", "59", "12"], Some((60, 59, 12_000)));
        check(["60", "59", "-"], None);
        check(["60", "-", "1s"], None);
        check(["60", "-1", "1s"], None);
        check(["60", "1", "soon"], None);
        check(["60", "1", "999999h"], Some((60, 1, 86_400_000)));
    }
}
