//! What was used of one thing, in windows of time.

/// A minute, in milliseconds.
const MINUTE: i64 = 60_000;
/// A day, in milliseconds.
const DAY: i64 = 24 * 60 * MINUTE;

/// Use of one subject as one replica knows it. The minute slides: what was used in the one before counts by
/// the part of it that lies within the last sixty seconds, as if it had been spread evenly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Minutes since the epoch.
    pub minute: i64,
    /// In that minute, and in the one before.
    pub requests: [u64; 2],
    /// Likewise.
    pub tokens: [u64; 2],
    /// Days since the epoch.
    pub day: i64,
    /// In that day.
    pub day_tokens: u64,
    /// At this moment.
    pub concurrent: u64,
}

/// The minute and day of an instant in milliseconds since the epoch.
pub fn windows(now: i64) -> (i64, i64) {
    (now.div_euclid(MINUTE), now.div_euclid(DAY))
}

/// Milliseconds until the day ends.
pub fn rest_of_day(now: i64) -> u64 {
    u64::try_from(DAY - now.rem_euclid(DAY)).unwrap_or(0)
}

impl Count {
    /// The same, as of an instant.
    pub fn at(self, now: i64) -> Self {
        let (minute, day) = windows(now);
        let shift = |[current, previous]: [u64; 2]| match minute - self.minute {
            // Another replica's clock may be a little ahead.
            ..=0 => [current, previous],
            1 => [0, current],
            _ => [0, 0],
        };
        Self {
            minute,
            requests: shift(self.requests),
            tokens: shift(self.tokens),
            day,
            day_tokens: if self.day >= day { self.day_tokens } else { 0 },
            concurrent: self.concurrent,
        }
    }

    /// Adds tokens to the windows in which they were asked for, or to the day alone; takes them away, never below
    /// zero.
    pub fn add_tokens(&mut self, (minute, day): (Option<i64>, i64), tokens: i64) {
        let age = minute.map(|minute| usize::try_from(self.minute - minute).unwrap_or(0));
        if let Some(window) = age.and_then(|age| self.tokens.get_mut(age)) {
            *window = window.saturating_add_signed(tokens);
        }
        if self.day == day {
            self.day_tokens = self.day_tokens.saturating_add_signed(tokens);
        }
    }

    /// Whether nothing of it matters any more.
    pub fn is_nothing(&self) -> bool {
        Self { minute: 0, day: 0, ..*self } == Self::default()
    }
}

/// What counts of two windows at an instant.
pub fn sliding([current, previous]: [u64; 2], now: i64) -> u64 {
    let rest = u64::try_from(MINUTE - now.rem_euclid(MINUTE)).unwrap_or(0);
    current.saturating_add(part(previous, rest))
}

fn part(used: u64, millis: u64) -> u64 {
    let minute = u128::from(MINUTE.unsigned_abs());
    u64::try_from((u128::from(used) * u128::from(millis)).div_ceil(minute)).unwrap_or(u64::MAX)
}

/// Milliseconds until no more than `room` of two windows counts; `None` when it is more than there is ever room
/// for.
pub fn until_at_most(windows: [u64; 2], room: u64, now: i64) -> u64 {
    let [current, previous] = windows;
    let rest = u64::try_from(MINUTE - now.rem_euclid(MINUTE)).unwrap_or(0);
    if sliding(windows, now) <= room {
        return 0;
    }
    match room.checked_sub(current) {
        // Within this minute: what is left of the one before has to shrink.
        Some(room) => rest.saturating_sub(millis_of(previous, room)),
        // In the next one, of which this will be the one before.
        None => rest + MINUTE.unsigned_abs() - millis_of(current, room),
    }
}

/// How much of a minute there may be left for `used` in it to count as no more than `room`.
fn millis_of(used: u64, room: u64) -> u64 {
    if used == 0 {
        return MINUTE.unsigned_abs();
    }
    let millis = u128::from(room) * u128::from(MINUTE.unsigned_abs()) / u128::from(used);
    u64::try_from(millis).unwrap_or(u64::MAX).min(MINUTE.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minute_slides() {
        assert_eq!(sliding([3, 60], 0), 63);
        assert_eq!(sliding([3, 60], 30_000), 33);
        assert_eq!(sliding([3, 60], 59_999), 4, "a part counts as one");
        let count = Count { minute: 7, requests: [5, 9], tokens: [1, 2], ..Count::default() };
        assert_eq!(count.at(7 * MINUTE).requests, [5, 9]);
        assert_eq!(count.at(8 * MINUTE).requests, [0, 5]);
        assert_eq!(count.at(9 * MINUTE).requests, [0, 0]);
        assert_eq!(count.at(6 * MINUTE).requests, [5, 9], "another clock");
    }

    #[test]
    fn a_wait_is_just_long_enough() {
        for windows in [[0, 60], [10, 60], [59, 1], [60, 0], [60, 60], [7, 1_000]] {
            for room in [0, 1, 30, 59] {
                for now in [0, 1, 30_000, 59_999] {
                    let wait = until_at_most(windows, room, now);
                    let then = |wait: u64| {
                        let at = now + i64::try_from(wait).expect("short");
                        let count = Count { requests: windows, ..Count::default() }.at(at);
                        sliding(count.requests, at)
                    };
                    assert!(then(wait) <= room, "{windows:?} {room} {now} {wait}: {}", then(wait));
                    assert!(wait == 0 || then(wait - 1) > room, "{windows:?} {room} {now} {wait} is too long");
                }
            }
        }
    }

    #[test]
    fn tokens_are_corrected_in_the_windows_that_they_were_asked_for_in() {
        let mut count = Count { minute: 8, tokens: [10, 20], day: 1, day_tokens: 30, ..Count::default() };
        count.add_tokens((Some(7), 1), -5);
        count.add_tokens((Some(8), 1), 1);
        count.add_tokens((Some(6), 0), -99);
        assert_eq!((count.tokens, count.day_tokens), ([11, 15], 26));
        count.add_tokens((None, 1), 4);
        assert_eq!((count.tokens, count.day_tokens), ([11, 15], 30));
        count.add_tokens((Some(8), 1), -99);
        assert_eq!((count.tokens, count.day_tokens), ([0, 15], 0));
    }
}
