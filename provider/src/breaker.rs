//! When a provider that does not answer is called again. Pure: the clock and the dice are arguments.
//!
//! ```text
//!            a run of outages                     the pause is over
//! closed ───────────────────────> open(until) ───────────────────────> probing
//!    ^                              ^      a longer pause                 │ │
//!    │                              └───────────── silent ────────────────┘ │
//!    └────────────────────────────── answered ───────────────────────────────┘
//! ```
//!
//! While it is open nobody calls; while it is probing exactly one call is on its way. Calls that were
//! on their way when the state changed say nothing about the state after it.

use std::time::Duration;

use tokio::time::Instant;

/// How long a breaker is patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Outages in a row that open it.
    pub failures: u32,
    /// The first pause; each further one in a row is twice as long.
    pub first_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
}

/// What a call told of its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It is there: it answered, be it with a refusal.
    Answered,
    /// It could not be reached, broke down, or gave no complete answer.
    Silent,
    /// Nothing: the call was called off or had too little time.
    Nothing,
}

/// Whether a provider may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Yes.
    Closed,
    /// Yes, by one call.
    ProbeDue,
    /// Not before this instant.
    Open(Instant),
    /// Not before the probe on its way has ended.
    Probing,
}

/// A call that was let through, by the number of the state that let it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pass(u64);

/// A change that is worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// No calls for so long.
    Opened(Duration),
    /// Calls as before.
    Closed,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed { failures: u32 },
    Open { until: Instant },
    Probing,
}

/// The breaker of one provider.
#[derive(Debug)]
pub(crate) struct Breaker {
    patience: Patience,
    phase: Phase,
    /// Moves with every state: a call that a former state let through decides nothing.
    state: u64,
    /// Pauses since it was last closed.
    pauses: u32,
}

impl Breaker {
    pub fn new(patience: Patience) -> Self {
        Self { patience, phase: Phase::Closed { failures: 0 }, state: 0, pauses: 0 }
    }

    pub fn look(&self, now: Instant) -> Look {
        match self.phase {
            Phase::Closed { .. } => Look::Closed,
            Phase::Open { until } if until <= now => Look::ProbeDue,
            Phase::Open { until } => Look::Open(until),
            Phase::Probing => Look::Probing,
        }
    }

    /// Lets a call through, or not. A pass must be given back by [`Breaker::heard`].
    pub fn enter(&mut self, now: Instant) -> Option<Pass> {
        match self.look(now) {
            Look::Closed => {}
            Look::ProbeDue => {
                self.phase = Phase::Probing;
                self.state += 1;
            }
            Look::Open(_) | Look::Probing => return None,
        }
        Some(Pass(self.state))
    }

    /// A call that was let through has ended. `random` is uniform in `0..1`.
    pub fn heard(&mut self, pass: Pass, heard: Heard, now: Instant, random: f64) -> Option<Change> {
        if pass.0 != self.state {
            return None;
        }
        match (self.phase, heard) {
            (Phase::Closed { .. }, Heard::Answered) => {
                self.phase = Phase::Closed { failures: 0 };
                None
            }
            (Phase::Closed { failures }, Heard::Silent) if failures + 1 < self.patience.failures => {
                self.phase = Phase::Closed { failures: failures + 1 };
                None
            }
            (Phase::Closed { .. } | Phase::Probing, Heard::Silent) => Some(self.open(now, random)),
            (Phase::Probing, Heard::Answered) => {
                self.phase = Phase::Closed { failures: 0 };
                self.pauses = 0;
                Some(Change::Closed)
            }
            (Phase::Probing, Heard::Nothing) => {
                // Another call may probe at once.
                self.phase = Phase::Open { until: now };
                self.state += 1;
                None
            }
            (Phase::Closed { .. }, Heard::Nothing) | (Phase::Open { .. }, _) => None,
        }
    }

    fn open(&mut self, now: Instant, random: f64) -> Change {
        let Patience { first_pause, longest_pause, .. } = self.patience;
        let doubled = first_pause.saturating_mul(1_u32.checked_shl(self.pauses.min(31)).unwrap_or(u32::MAX));
        // Processes spread their probes, and each still makes a number that can be counted beforehand.
        let pause = doubled.min(longest_pause).mul_f64(1.0 - random.clamp(0.0, 1.0) / 4.0);
        self.pauses = self.pauses.saturating_add(1);
        self.phase = Phase::Open { until: now + pause };
        self.state += 1;
        Change::Opened(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { failures: 3, first_pause: Duration::from_secs(1), longest_pause: Duration::from_secs(30) };

    fn breaker() -> (Breaker, Instant) {
        (Breaker::new(PATIENCE), Instant::now())
    }

    fn call(breaker: &mut Breaker, now: Instant, heard: Heard) -> Option<Change> {
        let pass = breaker.enter(now).expect("it lets calls through");
        breaker.heard(pass, heard, now, 0.0)
    }

    #[test]
    fn only_outages_in_a_row_open_it() {
        let (mut breaker, now) = breaker();
        for heard in [Heard::Silent, Heard::Silent, Heard::Answered, Heard::Silent, Heard::Nothing, Heard::Silent] {
            assert_eq!(call(&mut breaker, now, heard), None);
        }
        assert_eq!(breaker.look(now), Look::Closed);
        assert_eq!(call(&mut breaker, now, Heard::Silent), Some(Change::Opened(Duration::from_secs(1))));
        assert_eq!(breaker.look(now), Look::Open(now + Duration::from_secs(1)));
        assert_eq!(breaker.enter(now), None);
    }

    #[test]
    fn exactly_one_call_probes_and_pauses_grow_to_the_longest() {
        let (mut breaker, mut now) = breaker();
        let mut pauses = Vec::new();
        for _ in 0..PATIENCE.failures - 1 {
            call(&mut breaker, now, Heard::Silent);
        }
        for _ in 0..8 {
            let Some(Change::Opened(pause)) = call(&mut breaker, now, Heard::Silent) else {
                panic!("a probe that fails opens it again")
            };
            pauses.push(pause.as_secs());
            assert_eq!(breaker.enter(now + pause / 2), None);
            now += pause;
            let (probe, second) = (breaker.enter(now), breaker.enter(now));
            assert!(probe.is_some() && second.is_none());
            assert_eq!(breaker.look(now), Look::Probing);
            // It is given back unused, and the next one probes.
            assert_eq!(breaker.heard(probe.expect("let through"), Heard::Nothing, now, 0.0), None);
            assert_eq!(breaker.look(now), Look::ProbeDue);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(call(&mut breaker, now, Heard::Answered), Some(Change::Closed));
        assert_eq!(breaker.look(now), Look::Closed);
        for _ in 0..PATIENCE.failures - 1 {
            assert_eq!(call(&mut breaker, now, Heard::Silent), None);
        }
        assert_eq!(call(&mut breaker, now, Heard::Silent), Some(Change::Opened(Duration::from_secs(1))));
    }

    #[test]
    fn a_pause_is_shortened_by_a_quarter_at_most() {
        let (mut breaker, now) = breaker();
        let passes = [(); 3].map(|()| breaker.enter(now).expect("closed"));
        let changes = passes.map(|pass| breaker.heard(pass, Heard::Silent, now, 1.0));
        assert_eq!(changes[2], Some(Change::Opened(Duration::from_millis(750))));
    }

    #[test]
    fn calls_of_an_earlier_state_decide_nothing() {
        let (mut breaker, now) = breaker();
        let passes = [(); 6].map(|()| breaker.enter(now).expect("closed"));
        let changes = passes.map(|pass| breaker.heard(pass, Heard::Silent, now, 0.0));
        assert_eq!(changes.iter().flatten().count(), 1, "{changes:?}");
        let later = now + Duration::from_secs(2);
        let probe = breaker.enter(later).expect("due");
        assert_eq!(breaker.heard(passes[0], Heard::Answered, later, 0.0), None);
        assert_eq!(breaker.look(later), Look::Probing, "the probe alone decides");
        assert_eq!(breaker.heard(probe, Heard::Silent, later, 0.0), Some(Change::Opened(Duration::from_secs(2))));
        assert_eq!(breaker.heard(probe, Heard::Answered, later, 0.0), None, "and once");
    }
}
