//! When an attempt is made again.

use std::time::Duration;

const SECOND: i64 = 1_000_000;

/// The longest pause after the first attempt, the second, and so on, seconds. A fifth of each is left to
/// chance, so that what failed together does not come back together.
pub const PAUSES: [u32; 10] = [5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 28_800];

/// No attempt is begun later than this after a round began.
pub const ROUND: Duration = Duration::from_secs(24 * 3_600);

/// When the next attempt is due, after `made` of them, the last at `now`; `None` when there is none. Instants
/// are in microseconds; `after` is what the endpoint asked for (Retry-After); `random` is in `0..1`.
pub(crate) fn next(round_began: i64, made: u32, now: i64, after: Option<Duration>, random: f64) -> Option<i64> {
    let pause = PAUSES.get(usize::try_from(made.checked_sub(1)?).ok()?)?;
    let end = round_began.saturating_add(micros(ROUND));
    if now >= end {
        return None;
    }
    let pause = Duration::from_secs((*pause).into()).mul_f64(1.0 - 0.2 * random.clamp(0.0, 1.0));
    let pause = after.map_or(pause, |after| after.max(pause));
    Some(now.saturating_add(micros(pause)).min(end))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The minute of an instant, counted from the epoch. Minute 0 is never one of them.
pub(crate) fn minute_of(at: i64) -> i64 {
    (at / (60 * SECOND)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a round whose every attempt fails; when each was made, in seconds.
    fn round(after: Option<Duration>, random: f64) -> Vec<i64> {
        let (began, mut now) = (1_700_000_000 * SECOND, 1_700_000_000 * SECOND);
        let mut made = vec![0];
        while let Some(at) = next(began, u32::try_from(made.len()).unwrap(), now, after, random) {
            assert!(at > now);
            now = at;
            made.push((at - began) / SECOND);
        }
        made
    }

    #[test]
    fn a_round_is_eleven_attempts_in_a_day() {
        let slow = round(None, 0.0);
        assert_eq!(slow, [0, 5, 35, 155, 755, 2_555, 6_155, 13_355, 27_755, 56_555, 85_355]);
        let quick = round(None, 1.0);
        assert_eq!(quick.len(), 11);
        assert!(*quick.last().unwrap() > 18 * 3_600 && *slow.last().unwrap() < 24 * 3_600);
    }

    #[test]
    fn an_endpoint_that_asks_for_time_gets_it_within_the_day() {
        assert_eq!(round(Some(Duration::from_secs(60)), 0.0)[..4], [0, 60, 120, 240]);
        assert_eq!(round(Some(Duration::from_secs(50_000)), 0.0), [0, 50_000, 86_400]);
        assert_eq!(round(Some(Duration::MAX), 0.5), [0, 86_400]);
    }

    #[test]
    fn what_was_held_up_for_more_than_a_day_is_tried_once() {
        assert_eq!(next(0, 1, micros(ROUND), None, 0.5), None);
        assert_eq!(next(0, 11, 0, None, 0.5), None);
        assert_eq!(next(0, 0, 0, None, 0.5), None);
    }
}
