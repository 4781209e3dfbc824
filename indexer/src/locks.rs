//! One document at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use uuid::Uuid;

const SWEEP_AT_LEAST: usize = 64;

/// Locks by key. As many are kept as are in use, and at most that many again.
#[derive(Default)]
pub(crate) struct Locks(Mutex<Held>);

#[derive(Default)]
struct Held {
    by_key: HashMap<Uuid, Weak<tokio::sync::Mutex<()>>>,
    sweep_at: usize,
}

/// Held until it is dropped.
#[must_use = "the lock is held for as long as its guard"]
pub(crate) struct Guard(#[expect(dead_code, reason = "only its drop matters")] tokio::sync::OwnedMutexGuard<()>);

impl Locks {
    /// Waits for everybody who asked for this key before.
    pub async fn lock(&self, key: Uuid) -> Guard {
        Guard(self.entry(key).lock_owned().await)
    }

    fn entry(&self, key: Uuid) -> Arc<tokio::sync::Mutex<()>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = held.by_key.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        if held.by_key.len() >= held.sweep_at {
            held.by_key.retain(|_, lock| lock.strong_count() > 0);
            held.sweep_at = (held.by_key.len() * 2).max(SWEEP_AT_LEAST);
        }
        let lock = Arc::default();
        held.by_key.insert(key, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_held_by_one_and_forgotten_afterwards() {
        let locks = Arc::new(Locks::default());
        let first = locks.lock(Uuid::from_u128(1)).await;
        let second = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { locks.lock(Uuid::from_u128(1)).await }
        });
        for key in 2..10_000 {
            // Others are not held back.
            drop(locks.lock(Uuid::from_u128(key)).await);
        }
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        assert!(locks.0.lock().unwrap().by_key.len() <= SWEEP_AT_LEAST + 1);
        drop(first);
        drop(second.await.unwrap());
    }
}
