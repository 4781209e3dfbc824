//! The requests that were cancelled, and those that are being worked on.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// So many cancelled requests are remembered, about 15 MB; the oldest is forgotten first. A request
/// that is forgotten before anybody meets it is worked on as if it had not been cancelled.
pub(crate) const KEPT: usize = 100_000;

/// What a process knows of cancelled requests. Cheap to clone.
#[derive(Clone)]
pub struct Cancellations {
    shared: Arc<Mutex<Known>>,
    caught_up: Arc<watch::Sender<bool>>,
}

struct Known {
    kept: usize,
    cancelled: HashSet<Arc<str>>,
    /// The same, the oldest first.
    order: VecDeque<Arc<str>>,
    watched: HashMap<Arc<str>, Watched>,
}

struct Watched {
    token: CancellationToken,
    watches: usize,
}

/// Work on one request. Dropping it ends the watch.
pub struct Watch {
    request: Arc<str>,
    token: CancellationToken,
    known: Arc<Mutex<Known>>,
}

impl Default for Cancellations {
    fn default() -> Self {
        Self::keeping(KEPT)
    }
}

impl Cancellations {
    fn keeping(kept: usize) -> Self {
        let known = Known { kept, cancelled: HashSet::new(), order: VecDeque::new(), watched: HashMap::new() };
        Self { shared: Arc::new(Mutex::new(known)), caught_up: Arc::new(watch::Sender::new(false)) }
    }

    /// A request is cancelled: whoever watches it is woken, and whoever comes later is told.
    pub fn cancel(&self, tenant: &str, request_id: &str) {
        let request = name(tenant, request_id);
        let mut known = lock(&self.shared);
        if let Some(watched) = known.watched.get(&request) {
            watched.token.cancel();
        }
        if known.cancelled.insert(Arc::clone(&request)) {
            known.order.push_back(request);
        }
        while known.order.len() > known.kept
            && let Some(oldest) = known.order.pop_front()
        {
            known.cancelled.remove(&oldest);
        }
    }

    /// Whether a request was cancelled.
    #[must_use]
    pub fn is_cancelled(&self, tenant: &str, request_id: &str) -> bool {
        lock(&self.shared).cancelled.contains(&name(tenant, request_id))
    }

    /// Watches a request while it is worked on.
    #[must_use]
    pub fn watch(&self, tenant: &str, request_id: &str) -> Watch {
        let request = name(tenant, request_id);
        let mut known = lock(&self.shared);
        let is_cancelled = known.cancelled.contains(&request);
        let watched = known
            .watched
            .entry(Arc::clone(&request))
            .or_insert_with(|| Watched { token: CancellationToken::new(), watches: 0 });
        watched.watches += 1;
        if is_cancelled {
            watched.token.cancel();
        }
        let token = watched.token.clone();
        Watch { request, token, known: Arc::clone(&self.shared) }
    }

    /// Waits until everything that was cancelled before the process began is known.
    pub async fn until_caught_up(&self) {
        let mut receiver = self.caught_up.subscribe();
        // The sender is in `self`, so it is not gone.
        let _caught_up = receiver.wait_for(|caught_up| *caught_up).await;
    }

    /// Everything that was cancelled before the process began is known.
    pub fn caught_up(&self) {
        self.caught_up.send_replace(true);
    }
}

impl Watch {
    /// Whether the request was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the request is cancelled.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut known = lock(&self.known);
        if let Some(watched) = known.watched.get_mut(&self.request) {
            watched.watches -= 1;
            if watched.watches == 0 {
                known.watched.remove(&self.request);
            }
        }
    }
}

/// Tenants have no slash in their ids.
fn name(tenant: &str, request_id: &str) -> Arc<str> {
    format!("{tenant}/{request_id}").into()
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_told_whether_it_came_before_or_after_and_nobody_elses() {
        let cancellations = Cancellations::default();
        let (before, other) = (cancellations.watch("acme", "r"), cancellations.watch("rival", "r"));
        assert!(!before.is_cancelled());
        cancellations.cancel("acme", "r");
        cancellations.cancel("acme", "r");
        before.cancelled().await;
        let after = cancellations.watch("acme", "r");
        assert!(after.is_cancelled() && !other.is_cancelled());
        assert!(cancellations.is_cancelled("acme", "r") && !cancellations.is_cancelled("rival", "r"));
        drop((before, other));
        assert_eq!(lock(&cancellations.shared).watched.len(), 1);
        drop(after);
        assert!(lock(&cancellations.shared).watched.is_empty());
    }

    #[test]
    fn the_oldest_is_forgotten_first_and_repetitions_count_once() {
        let cancellations = Cancellations::keeping(2);
        for request in ["1", "2", "2", "2", "3"] {
            cancellations.cancel("t", request);
        }
        let known = ["1", "2", "3"].map(|request| cancellations.is_cancelled("t", request));
        assert_eq!(known, [false, true, true]);
        assert_eq!(lock(&cancellations.shared).order.len(), 2);
    }

    #[tokio::test]
    async fn who_waits_for_the_past_is_let_go_when_it_is_known() {
        let cancellations = Cancellations::default();
        let waiting = tokio::spawn({
            let cancellations = cancellations.clone();
            async move { cancellations.until_caught_up().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        cancellations.caught_up();
        waiting.await.expect("no panic");
        cancellations.until_caught_up().await;
    }
}
