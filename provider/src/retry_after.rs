//! How long a provider asks to wait, in the several ways that providers say it.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Nobody is made to wait longer than this by a header.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads `retry-after-ms`, else `retry-after` (seconds or an HTTP date), else the reset times of
/// exhausted `x-ratelimit-*` limits. `now` is in milliseconds since the Unix epoch.
pub(crate) fn retry_after(headers: &HeaderMap, now: i64) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let wait = text("retry-after-ms")
        .and_then(|ms| seconds(ms.parse::<f64>().ok()? / 1_000.0))
        .or_else(|| text(RETRY_AFTER.as_str()).and_then(|value| seconds_or_date(value, now)))
        .or_else(|| {
            ["requests", "tokens"]
                .into_iter()
                .filter(|what| text(&format!("x-ratelimit-remaining-{what}")) == Some("0"))
                .filter_map(|what| text(&format!("x-ratelimit-reset-{what}")).and_then(go_duration))
                .max()
        })?;
    Some(wait.min(LONGEST))
}

fn seconds(value: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value).ok()
}

fn seconds_or_date(value: &str, now: i64) -> Option<Duration> {
    if let Ok(number) = value.parse::<f64>() {
        return seconds(number);
    }
    let until = httpdate::parse_http_date(value).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    // A date that has passed means: now.
    Some(until.saturating_sub(Duration::from_millis(u64::try_from(now).ok()?)))
}

/// `1s`, `6m0s`, `120ms`, `1h2m3.5s`: how OpenAI writes its reset times.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit_seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return None,
        };
        total = total.checked_add(seconds(number.parse::<f64>().ok()? * unit_seconds)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn every_way_of_saying_it() {
        // 2015-10-21 07:28:00 UTC
        let now = 1_445_412_480_000;
        let check = |headers: &[(&'static str, &'static str)], expected_ms: Option<u64>| {
            let headers: HeaderMap = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect();
            assert_eq!(retry_after(&headers, now), expected_ms.map(Duration::from_millis), "{headers:?}");
        };
        check(&[], None);
        check(&[("retry-after", "2")], Some(2_000));
        check(&[("retry-after", "0.25")], Some(250));
        check(&[("retry-after", "2"), ("retry-after-ms", "1500")], Some(1_500));
        check(&[("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT")], Some(30_000));
        check(&[("retry-after", "Wed, 21 Oct 2015 07:27:30 GMT")], Some(0));
        check(&[("retry-after", "soon")], None);
        check(&[("retry-after", "-3")], None);
        check(&[("retry-after", "1e300")], None);
        check(&[("retry-after", "9999999")], Some(86_400_000));
        check(&[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6m0s")], Some(360_000));
        check(&[("x-ratelimit-remaining-requests", "7"), ("x-ratelimit-reset-requests", "6m0s")], None);
        check(
            &[
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "120ms"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "1h2m3.5s"),
            ],
            Some(3_723_500),
        );
    }
}
