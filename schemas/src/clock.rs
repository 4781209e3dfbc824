//! The wall clock, read in one place so that every event means the same thing by "now".

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch.
#[must_use]
pub fn now_micros() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    let now = SystemTime::now();
    let elapsed = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn now_millis() -> i64 {
    now_micros() / 1000
}

/// From now until an instant, milliseconds since the epoch as deadlines are; `None` when it has passed.
#[must_use]
pub fn time_until(instant: i64) -> Option<Duration> {
    between(now_micros(), instant)
}

/// From `now`, in microseconds, until `instant`, in milliseconds.
fn between(now: i64, instant: i64) -> Option<Duration> {
    let left = u64::try_from(instant.saturating_sub(now / 1_000)).ok()?;
    (left > 0).then(|| Duration::from_millis(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_until_the_deadline() {
        let now = 1_700_000_000_000_000;
        assert_eq!(between(now, 1_700_000_600_000), Some(Duration::from_secs(600)));
        assert_eq!(between(now, 1_700_000_000_000), None);
        assert_eq!(between(now, 1_699_999_999_999), None);
    }
}
