//! Nagle's algorithm for records, with a pause between groups when there are many.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// The longest that a record waits for others.
const LONGEST: Duration = Duration::from_millis(10);
/// How far apart groups are once two more records would come meanwhile.
const APART: Duration = Duration::from_millis(5);
/// How far back the rate of records is looked at.
const LOOKED_BACK: Duration = Duration::from_millis(50);

/// A record leaves at once while nothing is on its way. What comes before that is acknowledged waits, and leaves
/// together: so the busier brokers and processes are, the fewer requests there are for as many records, and one record
/// alone loses no time. Where records come so fast that several would come meanwhile, groups also keep a distance, the
/// larger the faster they come.
#[derive(Clone, Default)]
pub(super) struct Nagle(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    on_their_way: usize,
    waiting: Vec<oneshot::Sender<Going>>,
    rate: Rate,
    /// When the last group left.
    left: Option<Instant>,
}

/// A record that is on its way until this is dropped.
pub(super) struct Going(Option<Arc<Mutex<State>>>);

/// How many records come, what is longer ago counting less.
#[derive(Default)]
struct Rate {
    /// Weighted so that it is the number within [`LOOKED_BACK`] when they come evenly.
    recent: f64,
    at: Option<Instant>,
}

impl Rate {
    fn count(&mut self, now: Instant) {
        let ago = self.at.replace(now).map_or(Duration::MAX, |at| now.duration_since(at));
        self.recent = self.recent * (-ago.as_secs_f64() / LOOKED_BACK.as_secs_f64()).exp() + 1.0;
    }

    /// How many more would come within [`APART`].
    fn meanwhile(&self) -> f64 {
        (self.recent - 1.0) * APART.as_secs_f64() / LOOKED_BACK.as_secs_f64()
    }
}

impl Nagle {
    /// Waits until a record may leave.
    pub async fn turn(&self) -> Going {
        let now = Instant::now();
        let (mut turn, next) = {
            let mut state = lock(&self.0);
            state.rate.count(now);
            let next = state.next(now);
            if state.on_their_way == 0 && state.waiting.is_empty() && next <= now {
                state.left = Some(now);
                state.on_their_way = 1;
                return Going(Some(Arc::clone(&self.0)));
            }
            let is_first = state.waiting.is_empty();
            let (let_go, turn) = oneshot::channel();
            state.waiting.push(let_go);
            (turn, is_first.then_some(next))
        };
        let last = now + LONGEST;
        if let Some(next) = next.filter(|next| *next < last) {
            if let Ok(Ok(going)) = timeout_at(next, &mut turn).await {
                return going;
            }
            let mut state = lock(&self.0);
            if state.on_their_way == 0 {
                return state.all_leave(&self.0);
            }
        }
        if let Ok(Ok(going)) = timeout_at(last, turn).await {
            return going;
        }
        // It is the oldest that waits.
        lock(&self.0).all_leave(&self.0)
    }
}

impl State {
    /// When the next group may leave.
    fn next(&self, now: Instant) -> Instant {
        // None for less than one more, and no more than a record may wait.
        let distance = APART.mul_f64((self.rate.meanwhile() - 1.0).max(0.0)).min(LONGEST);
        self.left.map_or(now, |left| left + distance)
    }

    /// Whoever says so and all that wait.
    fn all_leave(&mut self, shared: &Arc<Mutex<Self>>) -> Going {
        self.on_their_way += 1;
        self.let_all_go(shared);
        Going(Some(Arc::clone(shared)))
    }

    fn let_all_go(&mut self, shared: &Arc<Mutex<Self>>) {
        self.left = Some(Instant::now());
        for let_go in std::mem::take(&mut self.waiting) {
            match let_go.send(Going(Some(Arc::clone(shared)))) {
                Ok(()) => self.on_their_way += 1,
                // It was called off, or has waited for long enough.
                Err(mut not_taken) => not_taken.0 = None,
            }
        }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        let mut state = lock(&shared);
        state.on_their_way -= 1;
        // Otherwise the first of those that wait sees to it.
        if state.on_their_way == 0 && state.next(Instant::now()) <= Instant::now() {
            state.let_all_go(&shared);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use futures::poll;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_leaves_at_once_and_the_rest_together_when_it_has_come() {
        let nagle = Nagle::default();
        let first = nagle.turn().await;
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(nagle.turn())).collect();
        for turn in &mut waiting {
            assert!(poll!(turn).is_pending());
        }
        // One is called off.
        drop(waiting.pop());
        drop(first);
        let going = join_all(waiting).await;
        assert_eq!(lock(&nagle.0).on_their_way, 2);
        let mut next = Box::pin(nagle.turn());
        assert!(poll!(&mut next).is_pending());
        drop(going);
        drop(next.await);
        assert_eq!(lock(&nagle.0).on_their_way, 0);
        drop(nagle.turn().await);
    }

    #[tokio::test(start_paused = true)]
    async fn none_waits_for_long_while_nothing_is_acknowledged() {
        let nagle = Nagle::default();
        let stuck = nagle.turn().await;
        let began = tokio::time::Instant::now();
        let late = async {
            tokio::time::sleep(LONGEST / 2).await;
            nagle.turn().await
        };
        let (second, third) = tokio::join!(nagle.turn(), late);
        // The second leaves when it has waited for long enough, and takes the third along.
        assert!(began.elapsed() < LONGEST * 3 / 2);
        drop((stuck, second));
        assert_eq!(lock(&nagle.0).on_their_way, 1);
        drop(third);
        assert_eq!(lock(&nagle.0).on_their_way, 0);
        drop(nagle.turn().await);
        assert!(lock(&nagle.0).waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_let_go_and_then_called_off_holds_up_nobody() {
        let nagle = Nagle::default();
        let first = nagle.turn().await;
        let mut second = Box::pin(nagle.turn());
        assert!(poll!(&mut second).is_pending());
        drop(first);
        drop(second);
        drop(nagle.turn().await);
        assert_eq!(lock(&nagle.0).on_their_way, 0);
    }

    /// When each of 100 records left that come so often and are acknowledged at once, after it came.
    async fn waits(every: Duration) -> Vec<(Instant, Duration)> {
        let nagle = Nagle::default();
        let record = |n: u32| {
            let nagle = nagle.clone();
            async move {
                tokio::time::sleep(every * n).await;
                let came = Instant::now();
                drop(nagle.turn().await);
                (Instant::now(), came.elapsed())
            }
        };
        join_all((0..100).map(record)).await
    }

    #[tokio::test(start_paused = true)]
    async fn groups_keep_a_distance_only_where_many_would_come_while_one_waits() {
        let seldom = waits(Duration::from_millis(6)).await;
        assert!(seldom.iter().all(|(_, waited)| waited.is_zero()), "{seldom:?}");
        for (every, most_groups) in [(2, 25), (1, 6)] {
            let often = waits(Duration::from_millis(every)).await;
            let groups: std::collections::BTreeSet<_> = often.iter().skip(50).map(|(left, _)| *left).collect();
            assert!(groups.len() <= most_groups, "50 records left in {} groups", groups.len());
            assert!(often.iter().all(|(_, waited)| *waited <= LONGEST + Duration::from_millis(1)), "{often:?}");
        }
    }
}
