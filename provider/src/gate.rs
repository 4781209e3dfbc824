//! What stands before every call to a provider: its circuit breaker and its concurrency limit.
//!
//! Thousands of records may wait for a provider that is gone. They stand in one queue; only its head
//! sleeps until the next probe is due or is woken when a probe ends. There is no timer per record,
//! and when the provider is back they go on one after the other, in the order of their coming.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_config::ProviderConfig;
use millrace_stage::core::jitter;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::breaker::{Breaker, Change, Heard, Look, Pass, Patience};
use crate::limit::Round;
use crate::metrics::OfProvider;
use crate::places::{Place, Places};

/// The provider is held to be away; no call was made and no place was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the provider does not answer; it is asked again in {after:?}")]
pub struct Refused {
    /// When a call may be let through at the earliest.
    pub after: Duration,
}

/// How a call weighs on the concurrency limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// It was answered.
    Carried,
    /// It was told that there are too many.
    TooMuch,
    /// It says nothing about it.
    Unknown,
}

/// The gate of one provider.
pub(crate) struct Gate {
    provider: String,
    breaker: Mutex<Breaker>,
    places: Arc<Places>,
    /// Held by the record that is next when the breaker is open. Fair.
    turn: tokio::sync::Mutex<()>,
    /// Wakes that record when a probe has ended.
    probe_ended: Notify,
    metrics: OfProvider,
}

/// The way through, for one call.
pub(crate) struct Entry {
    gate: Arc<Gate>,
    pass: Pass,
    round: Round,
    /// `None` once it was given back.
    place: Option<Place>,
}

impl Gate {
    pub fn new(name: &str, provider: &ProviderConfig, metrics: OfProvider) -> Self {
        let most = usize::try_from(provider.max_concurrency).unwrap_or(usize::MAX);
        metrics.limit.set(gauge(most));
        let patience = Patience {
            failures: provider.breaker_failures,
            first_pause: Duration::from_millis(provider.breaker_pause_ms),
            longest_pause: Duration::from_millis(provider.breaker_max_pause_ms),
        };
        Self {
            provider: name.to_owned(),
            breaker: Mutex::new(Breaker::new(patience)),
            places: Places::new(most),
            turn: tokio::sync::Mutex::new(()),
            probe_ended: Notify::new(),
            metrics,
        }
    }

    /// Waits until the provider may have one more call.
    pub async fn enter(self: &Arc<Self>, lane: &str, tenant: &str) -> Entry {
        loop {
            let turn = self.turn().await;
            let place = self.places.take(lane, tenant).await;
            let entry = self.admit(place);
            drop(turn);
            if let Some(entry) = entry {
                return entry;
            }
            // The breaker opened while this one waited for a place.
        }
    }

    pub fn is_open(&self) -> bool {
        match self.look() {
            Look::Closed | Look::ProbeDue => false,
            Look::Open(_) | Look::Probing => true,
        }
    }

    /// Waits for the limit alone: refuses as soon as the breaker is found open.
    pub async fn enter_unless_open(self: &Arc<Self>, lane: &str, tenant: &str) -> Result<Entry, Refused> {
        if let Some(refused) = self.refused() {
            return Err(refused);
        }
        let place = self.places.take(lane, tenant).await;
        match self.admit(place) {
            Some(entry) => Ok(entry),
            None => Err(self.refused().unwrap_or(Refused { after: Duration::ZERO })),
        }
    }

    fn refused(&self) -> Option<Refused> {
        let now = Instant::now();
        let after = match self.breaker().look(now) {
            Look::Closed | Look::ProbeDue => return None,
            Look::Open(until) => until - now,
            Look::Probing => Duration::ZERO,
        };
        self.metrics.refused.inc();
        Some(Refused { after })
    }

    /// Waits until calls are let through. Whoever may only probe keeps its turn until it has: the
    /// next one would be turned away.
    async fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if self.look() == Look::Closed {
            return None;
        }
        let turn = self.turn.lock().await;
        loop {
            match self.look() {
                Look::Closed => return None,
                Look::ProbeDue => return Some(turn),
                Look::Open(until) => tokio::time::sleep_until(until).await,
                Look::Probing => self.probe_ended.notified().await,
            }
        }
    }

    fn admit(self: &Arc<Self>, place: Place) -> Option<Entry> {
        let round = self.places.round();
        let mut breaker = self.breaker();
        let now = Instant::now();
        let pass = breaker.enter(now);
        self.show(breaker.look(now));
        drop(breaker);
        pass.map(|pass| Entry { gate: Arc::clone(self), pass, round, place: Some(place) })
    }

    fn heard(&self, pass: Pass, heard: Heard) {
        let now = Instant::now();
        let mut breaker = self.breaker();
        let change = breaker.heard(pass, heard, now, jitter());
        let look = breaker.look(now);
        self.show(look);
        drop(breaker);
        if change.is_some() || look != Look::Closed {
            self.probe_ended.notify_one();
        }
        match change {
            Some(Change::Opened(pause)) => {
                tracing::warn!(provider = self.provider, ?pause, "provider does not answer, its calls are held back");
            }
            Some(Change::Closed) => tracing::info!(provider = self.provider, "provider answers again"),
            None => {}
        }
    }

    fn weighed(&self, round: Round, load: Load) {
        match load {
            Load::Carried => {
                if !self.places.succeeded() {
                    return;
                }
            }
            Load::TooMuch => {
                if self.places.rate_limited(round) == 0 {
                    return;
                }
                let limit = self.places.limit();
                tracing::warn!(
                    provider = self.provider,
                    limit,
                    "provider limits the rate, fewer calls are made at once"
                );
            }
            Load::Unknown => return,
        }
        self.metrics.limit.set(gauge(self.places.limit()));
    }

    fn show(&self, look: Look) {
        self.metrics.state.set(match look {
            Look::Closed => 0,
            Look::ProbeDue | Look::Open(_) => 1,
            Look::Probing => 2,
        });
    }

    fn look(&self) -> Look {
        self.breaker().look(Instant::now())
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The call has ended.
    pub fn ended(mut self, heard: Heard, load: Load) {
        self.gate.weighed(self.round, load);
        self.leave(heard);
    }

    fn leave(&mut self, heard: Heard) {
        if let Some(place) = self.place.take() {
            // In this order: whoever gets the place sees what this call found out.
            self.gate.heard(self.pass, heard);
            drop(place);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // The call was never made, or called off.
        self.leave(Heard::Nothing);
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
