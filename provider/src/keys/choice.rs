//! Which key of a pool makes the next call. Pure: the clock is an argument.
//!
//! A key has room unless it waits (it was told that there are too many calls, or its answers say that nothing
//! remains of its limit), is quarantined (it was refused), or has as many calls on their way as its
//! answers say remain. Of those that have room, the one that is used up least is picked, then the one with the fewest
//! calls, then the one whose turn was longest ago.
//!
//! ```text
//!         refused                  its time is over, one call
//! good ───────────> quarantined ─────────────────────────────> on trial
//!   ^                    ^──────────────── refused ────────────────┘ │
//!   └─────────────────────────────── accepted ───────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// No key that was told to wait without a word for how long waits longer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// And none waits less, whatever the provider says: a call and its refusal must not go round and round.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
/// Keys are compared by how much of their limits they have used in so many steps.
const STEPS: u64 = 8;

/// A key, by the order in which it came. A value that is removed and added again is another key.
pub(crate) type Id = u64;

/// What a call told of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It was let in, whatever became of the request.
    Accepted,
    /// It has made too many calls; perhaps how long it should wait.
    TooMany(Option<Duration>),
    /// It is not known any more, or its account is used up.
    Refused,
    /// Nothing: there was no answer, or no call.
    Nothing,
}

/// What is left of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    /// All of it; 0 when it is not told.
    pub limit: u64,
    /// What remains.
    pub remaining: u64,
    /// How long until all of it is there again.
    pub reset: Duration,
}

/// What the headers of an answer say of its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Requests.
    pub requests: Option<Left>,
    /// Tokens.
    pub tokens: Option<Left>,
}

/// When a key has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Now.
    Now,
    /// At this instant at the latest; sooner when a call ends or the keys change.
    At(Instant),
    /// When a call ends or the keys change.
    Later,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    Quarantined { until: Instant },
    OnTrial,
}

#[derive(Debug)]
struct State {
    in_flight: u64,
    /// When it was picked last, in picks.
    picked: u64,
    standing: Standing,
    waits: Option<Instant>,
    /// Times in a row that it was told to wait.
    strikes: u32,
    requests: Option<(Left, Instant)>,
    tokens: Option<(Left, Instant)>,
}

/// The keys of one provider.
#[derive(Debug)]
pub(crate) struct Ring {
    quarantine: Duration,
    keys: BTreeMap<Id, State>,
    picks: u64,
}

impl State {
    fn new() -> Self {
        Self {
            in_flight: 0,
            picked: 0,
            standing: Standing::Good,
            waits: None,
            strikes: 0,
            requests: None,
            tokens: None,
        }
    }

    fn waits_until(&self, now: Instant) -> Option<Instant> {
        let used_up = |left: &Option<(Left, Instant)>| match left {
            Some((left, reset)) if left.remaining == 0 => Some(*reset),
            Some(_) | None => None,
        };
        let all = [self.waits, used_up(&self.requests), used_up(&self.tokens)];
        all.into_iter().flatten().max().filter(|until| *until > now)
    }

    fn room(&self, now: Instant) -> Room {
        match (self.standing, self.waits_until(now)) {
            (Standing::OnTrial, _) => return Room::Later,
            (Standing::Quarantined { until }, waits) if until > now => {
                return Room::At(waits.map_or(until, |waits| waits.max(until)));
            }
            (Standing::Good | Standing::Quarantined { .. }, Some(until)) => return Room::At(until),
            (Standing::Good | Standing::Quarantined { .. }, None) => {}
        }
        match self.requests {
            // Those on their way may be counted in what remains or not: rather one too few, but always one.
            Some((left, reset)) if reset > now && self.in_flight > 0 && self.in_flight >= left.remaining => {
                Room::At(reset)
            }
            Some(_) | None => Room::Now,
        }
    }

    /// How much of its limits is used, in steps.
    fn used(&self, now: Instant) -> u64 {
        let used = |left: &Option<(Left, Instant)>, more: u64| match left {
            Some((left, reset)) if *reset > now && left.limit > 0 => {
                let gone = left.limit.saturating_sub(left.remaining).saturating_add(more).min(left.limit);
                u128::from(gone) * u128::from(STEPS) / u128::from(left.limit)
            }
            Some(_) | None => 0,
        };
        let most = used(&self.requests, self.in_flight).max(used(&self.tokens, 0));
        u64::try_from(most).unwrap_or(STEPS)
    }
}

impl Ring {
    /// No keys yet; one that is refused is not used for `quarantine`.
    pub fn new(quarantine: Duration) -> Self {
        Self { quarantine, keys: BTreeMap::new(), picks: 0 }
    }

    /// Another key. Calls of it are told by `id`.
    pub fn add(&mut self, id: Id) {
        self.keys.insert(id, State::new());
    }

    /// Picks it no more. Its calls may go on.
    pub fn remove(&mut self, id: Id) {
        self.keys.remove(&id);
    }

    /// Forgets that keys were refused: somebody has seen to them.
    pub fn pardon(&mut self) {
        for state in self.keys.values_mut() {
            state.standing = Standing::Good;
        }
    }

    /// The key of the next call, which is told to [`ended`](Self::ended) once; none when none has room.
    pub fn pick(&mut self, now: Instant) -> Option<Id> {
        let free = self.keys.iter_mut().filter(|(_, state)| state.room(now) == Room::Now);
        // Those on trial come first: they get one call, and without it they would never come back.
        let best = free.min_by_key(|(_, state)| {
            (state.standing == Standing::Good, state.used(now), state.in_flight, state.picked)
        });
        let (id, state) = best?;
        self.picks += 1;
        state.picked = self.picks;
        state.in_flight += 1;
        if state.standing != Standing::Good {
            state.standing = Standing::OnTrial;
        }
        Some(*id)
    }

    /// When any key has room.
    pub fn room(&self, now: Instant) -> Room {
        let rank = |room: &Room| match room {
            Room::Now => (0, None),
            Room::At(instant) => (1, Some(*instant)),
            Room::Later => (2, None),
        };
        self.keys.values().map(|state| state.room(now)).min_by_key(rank).unwrap_or(Room::Later)
    }

    /// What an answer says of its key's limits.
    pub fn learn(&mut self, id: Id, limits: Limits, now: Instant) {
        let Some(state) = self.keys.get_mut(&id) else { return };
        let kept = |left: Option<Left>| left.map(|left| (left, now + left.reset));
        state.requests = kept(limits.requests).or(state.requests);
        state.tokens = kept(limits.tokens).or(state.tokens);
    }

    /// A call that was picked has ended; whether its key is newly quarantined.
    pub fn ended(&mut self, id: Id, told: Told, now: Instant) -> bool {
        let Some(state) = self.keys.get_mut(&id) else { return false };
        state.in_flight = state.in_flight.saturating_sub(1);
        match told {
            Told::Accepted => {
                state.strikes = 0;
                if state.standing == Standing::OnTrial {
                    state.standing = Standing::Good;
                }
            }
            Told::TooMany(wait) => {
                // Those that were on their way together are told the same together.
                let again = state.waits.is_none_or(|until| until <= now);
                state.strikes += u32::from(again);
                let own = SHORTEST_WAIT.saturating_mul(1 << state.strikes.min(10)).min(LONGEST_WAIT);
                let until = now + wait.unwrap_or(own).max(SHORTEST_WAIT);
                state.waits = Some(state.waits.map_or(until, |before| before.max(until)));
                if state.standing == Standing::OnTrial {
                    state.standing = Standing::Good;
                }
            }
            Told::Refused => {
                let newly = state.standing == Standing::Good;
                state.standing = Standing::Quarantined { until: now + self.quarantine };
                return newly;
            }
            Told::Nothing => {
                if state.standing == Standing::OnTrial {
                    state.standing = Standing::Quarantined { until: now };
                }
            }
        }
        false
    }

    /// Whether a key is quarantined or on trial.
    pub fn is_quarantined(&self, id: Id) -> bool {
        self.keys.get(&id).is_some_and(|state| state.standing != Standing::Good)
    }
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
