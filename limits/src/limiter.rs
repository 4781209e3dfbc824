//! Whether something may be used now, by what this replica used and by what it heard of the others.
//!
//! Between two words of theirs each replica takes at most its share of what is left, so that all of them
//! together take little more than that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_config::UsageLimits;
use millrace_schemas::LimitUse;

use crate::count::{Count, rest_of_day, sliding, until_at_most, windows};

/// How often replicas tell each other, milliseconds.
pub(crate) const TICK: i64 = 200;
/// A replica that was not heard of for so long is not there any more, milliseconds.
pub(crate) const SILENT: i64 = 6_000;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Requests in a minute.
    Requests,
    /// Tokens in a minute.
    Tokens,
    /// Tokens in a day.
    DayTokens,
    /// Requests at the same time.
    Concurrent,
}

const KINDS: [Kind; 4] = [Kind::Requests, Kind::Tokens, Kind::DayTokens, Kind::Concurrent];

impl Kind {
    fn limit(self, limits: &UsageLimits) -> Option<u64> {
        match self {
            Self::Requests => limits.requests_per_minute,
            Self::Tokens => limits.tokens_per_minute,
            Self::DayTokens => limits.tokens_per_day,
            Self::Concurrent => limits.concurrent_requests,
        }
    }

    fn need(self, need: Need) -> u64 {
        match (self, need) {
            (Self::Requests | Self::Concurrent, Need::Request(_)) => 1,
            (Self::Requests | Self::Concurrent | Self::Tokens, Need::OfDay(_)) => 0,
            (Self::Tokens | Self::DayTokens, Need::Request(tokens)) | (Self::DayTokens, Need::OfDay(tokens)) => tokens,
        }
    }

    fn used(self, count: &Count, now: i64) -> u64 {
        match self {
            Self::Requests => sliding(count.requests, now),
            Self::Tokens => sliding(count.tokens, now),
            Self::DayTokens => count.day_tokens,
            Self::Concurrent => count.concurrent,
        }
    }

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests per minute",
            Self::Tokens => "tokens per minute",
            Self::DayTokens => "tokens per day",
            Self::Concurrent => "concurrent requests",
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
enum Need {
    /// A request of so many tokens.
    Request(u64),
    /// So many of the day's tokens.
    OfDay(u64),
}

impl Need {
    fn tokens(self) -> u64 {
        match self {
            Self::Request(tokens) | Self::OfDay(tokens) => tokens,
        }
    }

    /// The windows that it counts in.
    fn windows(self, now: i64) -> (Option<i64>, i64) {
        let (minute, day) = windows(now);
        match self {
            Self::Request(_) => (Some(minute), day),
            Self::OfDay(_) => (None, day),
        }
    }
}

/// A limit that stands against a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// Whose limit it is.
    pub subject: String,
    /// Which one.
    pub kind: Kind,
    /// The limit.
    pub limit: u64,
    /// Of which so much is used.
    pub used: u64,
    /// What the request needs of it.
    pub need: u64,
    /// Milliseconds after which it may be different; `None` for a request that is more than the limit.
    pub retry_after: Option<u64>,
    /// There is something left, and this replica has had its share of it until the next word.
    pub is_share: bool,
}

/// What is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The limit.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// Milliseconds until all of it is there again.
    pub reset: u64,
}

/// What is left of the limits that a request came closest to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Of requests in a minute.
    pub requests: Option<Left>,
    /// Of tokens in a minute.
    pub tokens: Option<Left>,
}

#[derive(Default)]
struct Subject {
    own: Count,
    peers: HashMap<String, Count>,
    /// The tick that the shares are of, and what is left of them; `None` where nothing was taken in it.
    tick: i64,
    shares: [Option<u64>; KINDS.len()],
    is_changed: bool,
}

impl Subject {
    /// What everybody used. Who is silent has no requests any more.
    fn total(&self, heard: &HashMap<String, i64>, now: i64) -> Count {
        let mut total = self.own.at(now);
        for (replica, count) in &self.peers {
            let count = count.at(now);
            for window in [0, 1] {
                total.requests[window] += count.requests[window];
                total.tokens[window] += count.tokens[window];
            }
            total.day_tokens += count.day_tokens;
            if is_live(heard, replica, now) {
                total.concurrent += count.concurrent;
            }
        }
        total
    }
}

fn is_live(heard: &HashMap<String, i64>, replica: &str, now: i64) -> bool {
    heard.get(replica).is_some_and(|at| now - at < SILENT)
}

#[derive(Default)]
struct State {
    subjects: HashMap<String, Subject>,
    /// When each of the other replicas was last heard of.
    heard: HashMap<String, i64>,
}

/// The limits of one replica. Cheap to clone.
#[derive(Clone)]
pub struct Limiter {
    replica: String,
    state: Arc<Mutex<State>>,
}

impl Limiter {
    /// The limits of the replica of this name, which no other has.
    #[must_use]
    pub fn new(replica: impl Into<String>) -> Self {
        Self { replica: replica.into(), state: Arc::default() }
    }

    /// Takes what a request needs of every limit that it is under, or nothing. `now` is in milliseconds since
    /// the epoch.
    ///
    /// # Errors
    /// [`Exceeded`], of the first limit that stands against it.
    pub fn take(&self, limits: &[(String, UsageLimits)], tokens: u64, now: i64) -> Result<Taken, Exceeded> {
        let (reserved, standing) = self.take_all(limits, Need::Request(tokens), now)?;
        let permit = Permit { limiter: self.clone(), subjects: Arc::clone(&reserved.subjects) };
        Ok(Taken { permit, reserved, standing })
    }

    /// Takes tokens of the day alone, for what is paced by other means than requests are.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_of_day(&self, limits: &[(String, UsageLimits)], tokens: u64, now: i64) -> Result<Reserved, Exceeded> {
        self.take_all(limits, Need::OfDay(tokens), now).map(|(reserved, _)| reserved)
    }

    fn take_all(
        &self,
        limits: &[(String, UsageLimits)],
        need: Need,
        now: i64,
    ) -> Result<(Reserved, Standing), Exceeded> {
        let mut state = self.state();
        let replicas = 1 + u64::try_from(state.heard.values().filter(|at| now - **at < SILENT).count()).unwrap_or(0);
        for (name, limits) in limits {
            state.check(name, limits, need, (replicas, now))?;
        }
        let mut standing = Standing::default();
        for (name, limits) in limits {
            let left = state.take(name, limits, need, now);
            standing.requests = closer(standing.requests, left.requests);
            standing.tokens = closer(standing.tokens, left.tokens);
        }
        drop(state);
        let subjects = limits.iter().map(|(name, _)| name.clone()).collect();
        let (tokens, windows) = (need.tokens(), need.windows(now));
        Ok((Reserved { limiter: self.clone(), subjects, tokens, windows }, standing))
    }

    /// What the other replicas have to hear of; also that this one is there, when `is_beat`.
    pub(crate) fn news(&self, now: i64, is_beat: bool) -> Vec<LimitUse> {
        let mut state = self.state();
        let mut news = Vec::new();
        if is_beat {
            // An entry of nobody, so that the others count this replica.
            news.push(self.word(String::new(), &Count::default().at(now), now));
        }
        for (name, subject) in &mut state.subjects {
            if std::mem::take(&mut subject.is_changed) {
                subject.own = subject.own.at(now);
                news.push(self.word(name.clone(), &subject.own, now));
            }
        }
        state.subjects.retain(|_, subject| {
            subject.peers.retain(|_, count| !count.at(now).is_nothing());
            subject.is_changed || !subject.own.at(now).is_nothing() || !subject.peers.is_empty()
        });
        state.heard.retain(|_, at| now - *at < SILENT);
        news
    }

    fn word(&self, subject: String, count: &Count, now: i64) -> LimitUse {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        LimitUse {
            replica: self.replica.clone(),
            subject,
            at: now.saturating_mul(1_000),
            minute: count.minute,
            requests: number(count.requests[0]),
            previous_requests: number(count.requests[1]),
            tokens: number(count.tokens[0]),
            previous_tokens: number(count.tokens[1]),
            day: count.day,
            day_tokens: number(count.day_tokens),
            concurrent: number(count.concurrent),
        }
    }

    /// Takes up the word of a replica, in the order in which it was written; whether it is `news`, or from before
    /// this replica began.
    pub(crate) fn hear(&self, word: LimitUse, is_news: bool, now: i64) {
        if word.replica == self.replica {
            return;
        }
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        let count = Count {
            minute: word.minute,
            requests: [word.requests, word.previous_requests].map(number),
            tokens: [word.tokens, word.previous_tokens].map(number),
            day: word.day,
            day_tokens: number(word.day_tokens),
            concurrent: number(word.concurrent),
        };
        let mut state = self.state();
        // Clocks differ, so only of what is old its own time tells something.
        let said = if is_news { now } else { (word.at / 1_000).min(now) };
        let heard = state.heard.entry(word.replica.clone()).or_insert(said);
        *heard = said.max(*heard);
        if !word.subject.is_empty() {
            state.subjects.entry(word.subject).or_default().peers.insert(word.replica, count);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check(
        &mut self,
        name: &str,
        limits: &UsageLimits,
        asked: Need,
        (replicas, now): (u64, i64),
    ) -> Result<(), Exceeded> {
        let State { subjects, heard } = self;
        let subject = subjects.entry(name.to_owned()).or_default();
        let total = subject.total(heard, now);
        let tick = now.div_euclid(TICK);
        if subject.tick != tick {
            (subject.tick, subject.shares) = (tick, [None; KINDS.len()]);
        }
        for (kind, share) in KINDS.into_iter().zip(&mut subject.shares) {
            let Some(limit) = kind.limit(limits) else { continue };
            let (used, need) = (kind.used(&total, now), kind.need(asked));
            let remaining = limit.saturating_sub(used);
            let exceeded = |retry_after: Option<u64>, is_share: bool| Exceeded {
                subject: name.to_owned(),
                kind,
                limit,
                used,
                need,
                retry_after,
                is_share,
            };
            if need > remaining {
                let wait = limit.checked_sub(need).map(|room| match kind {
                    Kind::Requests => until_at_most(total.requests, room, now),
                    Kind::Tokens => until_at_most(total.tokens, room, now),
                    Kind::DayTokens => rest_of_day(now),
                    Kind::Concurrent => 1_000,
                });
                return Err(exceeded(wait, false));
            }
            // The first of a tick is always within the share: something is left.
            if share.is_some_and(|left| need > left) {
                let next = u64::try_from(TICK - now.rem_euclid(TICK)).unwrap_or(0);
                return Err(exceeded(Some(next), true));
            }
            if replicas > 1 {
                share.get_or_insert(remaining.div_ceil(replicas));
            }
        }
        Ok(())
    }

    fn take(&mut self, name: &str, limits: &UsageLimits, need: Need, now: i64) -> Standing {
        let State { subjects, heard } = self;
        let subject = subjects.entry(name.to_owned()).or_default();
        for (kind, share) in KINDS.into_iter().zip(&mut subject.shares) {
            *share = share.map(|left| left.saturating_sub(kind.need(need)));
        }
        subject.own = subject.own.at(now);
        subject.own.requests[0] += Kind::Requests.need(need);
        subject.own.concurrent += Kind::Concurrent.need(need);
        subject.own.add_tokens(need.windows(now), i64::try_from(need.tokens()).unwrap_or(i64::MAX));
        subject.is_changed = true;
        let total = subject.total(heard, now);
        let left = |kind: Kind, windows: [u64; 2]| {
            let limit = kind.limit(limits)?;
            let remaining = limit.saturating_sub(kind.used(&total, now));
            Some(Left { limit, remaining, reset: until_at_most(windows, 0, now) })
        };
        Standing { requests: left(Kind::Requests, total.requests), tokens: left(Kind::Tokens, total.tokens) }
    }
}

fn closer(one: Option<Left>, other: Option<Left>) -> Option<Left> {
    one.into_iter().chain(other).min_by_key(|left| left.remaining)
}

/// What a request took.
pub struct Taken {
    /// Its place among those at the same time.
    pub permit: Permit,
    /// Its tokens.
    pub reserved: Reserved,
    /// What is left.
    pub standing: Standing,
}

/// A place among the requests at the same time, given back when this is dropped.
pub struct Permit {
    limiter: Limiter,
    subjects: Arc<[String]>,
}

/// Tokens that count by what they may become. Dropped unsettled they stay counted so.
pub struct Reserved {
    limiter: Limiter,
    subjects: Arc<[String]>,
    tokens: u64,
    windows: (Option<i64>, i64),
}

impl Reserved {
    /// Tells how many tokens it became, in place of what it might have.
    pub fn settle(self, tokens: u64) {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let difference = number(tokens) - number(self.tokens);
        let mut state = self.limiter.state();
        for name in &*self.subjects {
            if let Some(subject) = state.subjects.get_mut(name) {
                subject.own.add_tokens(self.windows, difference);
                subject.is_changed = true;
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.limiter.state();
        for name in &*self.subjects {
            if let Some(subject) = state.subjects.get_mut(name) {
                subject.own.concurrent = subject.own.concurrent.saturating_sub(1);
                subject.is_changed = true;
            }
        }
    }
}

#[cfg(test)]
#[path = "limiter_tests.rs"]
mod tests;
