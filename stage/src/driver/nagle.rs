//! Nagle's algorithm for records.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// The longest that records wait for those before them.
const LONGEST: Duration = Duration::from_millis(5);

/// A record leaves at once while nothing is on its way. What comes before that is acknowledged waits, and leaves
/// together: so the busier brokers and processes are, the fewer requests there are for as many records, and one record
/// alone loses no time.
#[derive(Clone, Default)]
pub(super) struct Nagle(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    on_their_way: usize,
    waiting: Vec<oneshot::Sender<Going>>,
}

/// A record that is on its way until this is dropped.
pub(super) struct Going(Option<Arc<Mutex<State>>>);

impl Nagle {
    /// Waits until a record may leave.
    pub async fn turn(&self) -> Going {
        let turn = {
            let mut state = lock(&self.0);
            if state.on_their_way == 0 {
                state.on_their_way = 1;
                return Going(Some(Arc::clone(&self.0)));
            }
            let (let_go, turn) = oneshot::channel();
            state.waiting.push(let_go);
            turn
        };
        if let Ok(Ok(going)) = timeout(LONGEST, turn).await {
            return going;
        }
        // It is the oldest that waits.
        let mut state = lock(&self.0);
        state.on_their_way += 1;
        state.let_all_go(&self.0);
        Going(Some(Arc::clone(&self.0)))
    }
}

impl State {
    fn let_all_go(&mut self, shared: &Arc<Mutex<Self>>) {
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
        if state.on_their_way == 0 {
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
}
