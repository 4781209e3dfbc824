//! Whether a process may still begin what costs money.
//!
//! A process that was frozen and wakes does not know that its partitions have moved, until its poll loop
//! hears of it. So nobody begins a paid call unless the loop was alive a moment ago, and after a gap not
//! before the broker has acknowledged a commit of this member: that of one that was given up is refused.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// A moment by two clocks: one may stand still while a machine sleeps, the other may be set.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Microseconds of a clock that is never set.
    pub steady: i64,
    /// Microseconds since the epoch.
    pub wall: i64,
}

impl Moment {
    /// This one.
    #[must_use]
    pub fn now() -> Self {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        Self {
            steady: i64::try_from(BEGAN.elapsed().as_micros()).unwrap_or(i64::MAX),
            wall: millrace_schemas::now_micros(),
        }
    }
}

#[derive(Debug)]
struct State {
    patience: i64,
    steady: AtomicI64,
    wall: AtomicI64,
    /// Gaps so far.
    doubts: AtomicU64,
    /// As many of them as were overcome.
    overcome: AtomicU64,
}

/// What the poll loop and the payers of a process share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lease(Arc<State>);

impl Lease {
    /// In nobody's doubt for `patience` from now.
    #[must_use]
    pub fn new(patience: Duration, now: Moment) -> Self {
        Self(Arc::new(State {
            patience: i64::try_from(patience.as_micros()).unwrap_or(i64::MAX),
            steady: AtomicI64::new(now.steady),
            wall: AtomicI64::new(now.wall),
            doubts: AtomicU64::new(0),
            overcome: AtomicU64::new(0),
        }))
    }

    /// One that always holds, for records that no poll loop brought.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(Duration::MAX, Moment { steady: 0, wall: 0 })
    }

    /// The poll loop lives. After a gap it first doubts, so that nobody sees it alive and sure.
    pub fn beat(&self, now: Moment) {
        if self.gap(now) > self.0.patience {
            self.0.doubts.fetch_add(1, Ordering::SeqCst);
        }
        self.0.steady.store(now.steady, Ordering::SeqCst);
        self.0.wall.store(now.wall, Ordering::SeqCst);
    }

    /// How many gaps there were, for [`confirm`](Self::confirm).
    #[must_use]
    pub fn doubts(&self) -> u64 {
        self.0.doubts.load(Ordering::SeqCst)
    }

    /// Whether a commit is needed to be sure again.
    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.doubts() != self.0.overcome.load(Ordering::SeqCst)
    }

    /// A commit that was sent after so many gaps was acknowledged.
    pub fn confirm(&self, doubts: u64) {
        self.0.overcome.fetch_max(doubts, Ordering::SeqCst);
    }

    /// Whether something paid may begin.
    #[must_use]
    pub fn holds(&self, now: Moment) -> bool {
        self.gap(now) <= self.0.patience && !self.is_doubted()
    }

    fn gap(&self, now: Moment) -> i64 {
        let steady = now.steady.saturating_sub(self.0.steady.load(Ordering::SeqCst));
        steady.max(now.wall.saturating_sub(self.0.wall.load(Ordering::SeqCst)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Moment {
        Moment { steady: seconds * 1_000_000, wall: (1_000 + seconds) * 1_000_000 }
    }

    fn lease() -> Lease {
        Lease::new(Duration::from_secs(3), at(0))
    }

    #[test]
    fn it_holds_while_the_loop_lives() {
        let lease = lease();
        (1..9).for_each(|second| lease.beat(at(second)));
        assert!(lease.holds(at(8)) && lease.holds(at(11)));
        assert!(!lease.holds(at(12)), "the loop is silent: this process may have been frozen");
    }

    #[test]
    fn after_a_gap_only_a_commit_that_was_sent_since_restores_it() {
        let lease = lease();
        let before = lease.doubts();
        assert!(!lease.holds(at(9)), "whoever wakes first");
        lease.beat(at(9));
        assert!(!lease.holds(at(9)) && lease.is_doubted());
        lease.confirm(before);
        assert!(!lease.holds(at(9)), "that commit was sent before the gap");
        lease.confirm(lease.doubts());
        assert!(lease.holds(at(9)) && !lease.is_doubted());
        lease.beat(at(20));
        assert!(!lease.holds(at(20)), "another gap");
    }

    #[test]
    fn a_clock_that_stood_still_or_was_set_back_hides_no_gap() {
        let (slept, set_back) = (Moment { wall: at(9).wall, ..at(0) }, Moment { steady: at(9).steady, ..at(0) });
        for woken in [slept, set_back] {
            let lease = lease();
            assert!(!lease.holds(woken));
            lease.beat(woken);
            assert!(!lease.holds(woken) && lease.is_doubted());
        }
    }
}
