//! The one retry helper: exponential with full jitter, and the server's own word wins.

use std::time::Duration;

/// Delays between tries of one thing.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    tries: u32,
}

impl Backoff {
    /// Delays drawn from `0..base`, then `0..2·base`, and so on up to `0..cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, tries: 0 }
    }

    /// How many delays were drawn.
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// The next delay. `random` is uniform in `0..1`; `after` is what the other side asked for
    /// (Retry-After), below which no delay falls.
    pub fn next(&mut self, random: f64, after: Option<Duration>) -> Duration {
        let ceiling = self.base.saturating_mul(1_u32.checked_shl(self.tries.min(31)).unwrap_or(u32::MAX)).min(self.cap);
        self.tries = self.tries.saturating_add(1);
        let jittered = ceiling.mul_f64(random.clamp(0.0, 1.0));
        // Spread what was told to wait equally long, or it all comes back at once.
        after.map_or(jittered, |after| after + jittered.min(after / 4 + self.base))
    }
}

/// A uniform random number in `0..1`.
#[must_use]
pub fn jitter() -> f64 {
    rand::random::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_never_undercut_the_server() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(10), ms(50));
        let delays: Vec<_> = (0..4).map(|_| backoff.next(1.0, None)).collect();
        assert_eq!(delays, [ms(10), ms(20), ms(40), ms(50)]);
        assert_eq!(backoff.next(0.0, None), ms(0));
        assert!(backoff.next(0.0, Some(ms(700))) >= ms(700));
        let mut long = Backoff::new(ms(10), ms(50));
        for _ in 0..100 {
            assert!(long.next(1.0, None) <= ms(50));
        }
    }
}
