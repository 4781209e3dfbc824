//! Places for calls at one provider: as many as its limit says, given out in turn.
//!
//! While places are free, whoever comes takes one. When they are not, each tenant's calls of each lane wait in a
//! queue of their own, and a place that is free goes to the oldest of the next queue. So thousands that wait cost
//! another tenant, or the other lane, a turn and not the length of their queue.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::limit::{Limit, Round};

/// The places of one provider.
pub(crate) struct Places(Mutex<Inner>);

struct Inner {
    limit: Limit,
    taken: usize,
    /// Never an empty queue.
    waiting: HashMap<Turn, VecDeque<oneshot::Sender<Place>>>,
    /// Who has something in `waiting`, the next one first.
    turns: VecDeque<Turn>,
}

/// Who waits side by side with others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Turn(Arc<str>);

impl Turn {
    /// Of a tenant in a lane.
    fn of(lane: &str, tenant: &str) -> Self {
        // No lane has a space in its name.
        Self(format!("{lane} {tenant}").into())
    }
}

/// One of them, until it is dropped.
pub(crate) struct Place {
    /// `None` once it was handed on.
    places: Option<Arc<Places>>,
}

impl Places {
    pub fn new(most: usize) -> Arc<Self> {
        let inner = Inner { limit: Limit::new(most), taken: 0, waiting: HashMap::new(), turns: VecDeque::new() };
        Arc::new(Self(Mutex::new(inner)))
    }

    /// Waits for a place. Called off, it takes none.
    pub async fn take(self: &Arc<Self>, lane: &str, tenant: &str) -> Place {
        let given = {
            let mut inner = self.lock();
            if inner.taken < inner.limit.current() {
                // Nobody waits: a place is given to somebody as soon as it is free.
                inner.taken += 1;
                return Place { places: Some(Arc::clone(self)) };
            }
            inner.queue(Turn::of(lane, tenant))
        };
        given.await.expect("a sender is only dropped when its place was taken")
    }

    pub fn limit(&self) -> usize {
        self.lock().limit.current()
    }

    /// How many are free. While any is, whoever comes waits for nobody.
    pub fn free(&self) -> usize {
        let inner = self.lock();
        inner.limit.current().saturating_sub(inner.taken)
    }

    pub fn round(&self) -> Round {
        self.lock().limit.round()
    }

    /// A call was answered; whether the limit is one higher now.
    pub fn succeeded(self: &Arc<Self>) -> bool {
        let is_higher = self.lock().limit.succeeded();
        if is_higher {
            self.hand_out();
        }
        is_higher
    }

    /// A call of `round` was told that there are too many; by how much the limit is lower now. Calls that are on
    /// their way keep their places.
    pub fn rate_limited(&self, round: Round) -> usize {
        self.lock().limit.rate_limited(round)
    }

    fn give_back(self: &Arc<Self>) {
        self.lock().taken -= 1;
        self.hand_out();
    }

    /// Gives free places to whoever is next.
    fn hand_out(self: &Arc<Self>) {
        while let Some(next) = self.next() {
            if let Err(mut place) = next.send(Place { places: Some(Arc::clone(self)) }) {
                // It left meanwhile. Counted back here rather than by dropping: thousands may have left.
                place.places = None;
                self.lock().taken -= 1;
            }
        }
    }

    fn next(&self) -> Option<oneshot::Sender<Place>> {
        let mut inner = self.lock();
        if inner.taken >= inner.limit.current() {
            return None;
        }
        let next = inner.dequeue()?;
        inner.taken += 1;
        Some(next)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn queue(&mut self, turn: Turn) -> oneshot::Receiver<Place> {
        let (give, given) = oneshot::channel();
        if let Some(queue) = self.waiting.get_mut(&turn) {
            // Those who wait longest leave first.
            while queue.front().is_some_and(oneshot::Sender::is_closed) {
                queue.pop_front();
            }
            queue.push_back(give);
        } else {
            self.turns.push_back(turn.clone());
            self.waiting.insert(turn, VecDeque::from([give]));
        }
        given
    }

    fn dequeue(&mut self) -> Option<oneshot::Sender<Place>> {
        let turn = self.turns.pop_front()?;
        let queue = self.waiting.get_mut(&turn)?;
        let oldest = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&turn);
        } else {
            self.turns.push_back(turn);
        }
        oldest
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = self.places.take() {
            places.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::{Instant, sleep, sleep_until};

    use super::*;

    /// Ten places of 100 ms: 100 calls a second.
    const PLACES: usize = 10;
    const CALL: Duration = Duration::from_millis(100);

    /// Calls of a tenant, evenly at `rate` a second for ten seconds; how long the slowest hundredth of them waited.
    async fn waited(places: &Arc<Places>, tenant: &'static str, rate: u32) -> Duration {
        let began = Instant::now();
        let mut calls = JoinSet::new();
        for n in 0..rate * 10 {
            let places = Arc::clone(places);
            calls.spawn(async move {
                sleep_until(began + Duration::from_secs(1) / rate * n).await;
                let came = Instant::now();
                let _place = places.take("interactive", tenant).await;
                let waited = came.elapsed();
                sleep(CALL).await;
                waited
            });
        }
        let mut waits = calls.join_all().await;
        waits.sort_unstable();
        waits[waits.len() * 99 / 100]
    }

    #[tokio::test(start_paused = true)]
    async fn ten_times_its_share_of_one_costs_another_a_turn() {
        let places = Places::new(PLACES);
        assert_eq!(waited(&places, "modest", 40).await, Duration::ZERO, "alone there is room");
        // Its share is 50 a second: 500 of them, of which 400 more than can be done.
        let (greedy, modest) = tokio::join!(waited(&places, "greedy", 500), waited(&places, "modest", 40));
        assert!(greedy > Duration::from_secs(10), "it waits for itself: {greedy:?}");
        // A place is free every 10 ms, and every other one is its own.
        assert!(modest <= CALL + CALL / 5, "{modest:?}");
        assert_eq!(places.free(), PLACES);
    }

    #[tokio::test]
    async fn turns_go_round_among_tenants_and_within_one_by_age() {
        let places = Places::new(1);
        let held = places.take("interactive", "a").await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut calls = JoinSet::new();
        for (tenant, n) in [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("c", 1)] {
            let (places, order) = (Arc::clone(&places), Arc::clone(&order));
            calls.spawn(async move {
                let _place = places.take("interactive", tenant).await;
                order.lock().expect("order").push(format!("{tenant}{n}"));
            });
        }
        tokio::task::yield_now().await;
        drop(held);
        calls.join_all().await;
        assert_eq!(*order.lock().expect("order"), ["a1", "b1", "c1", "a2", "b2", "a3"]);
    }

    #[tokio::test]
    async fn whoever_leaves_takes_no_place_with_it() {
        let places = Places::new(1);
        let held = places.take("interactive", "a").await;
        let mut left: Vec<_> = (0..100_000).map(|_| Box::pin(places.take("interactive", "b"))).collect();
        for waiting in &mut left {
            assert!(futures::poll!(waiting.as_mut()).is_pending());
        }
        let mut stays = Box::pin(places.take("interactive", "c"));
        assert!(futures::poll!(stays.as_mut()).is_pending());
        let given = left.remove(0);
        drop(left);
        // Its place is on its way when it leaves, too.
        drop(held);
        assert_eq!(places.free(), 0);
        drop(given);
        drop(stays.await);
        assert_eq!(places.free(), 1);
        let inner = places.lock();
        assert!(inner.waiting.is_empty() && inner.turns.is_empty());
    }
}
