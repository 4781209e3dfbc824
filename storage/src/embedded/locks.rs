//! Locks by key, a fixed number of them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 64;

/// Two calls with the same key exclude each other; with different keys they hardly ever do.
pub(super) struct Locks([Mutex<()>; SHARDS]);

impl Default for Locks {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl Locks {
    /// Held until the guard goes; held on blocking threads only.
    pub(super) fn lock(&self, key: &[u8]) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let shard = hasher.finish() % SHARDS as u64;
        // It guards no data of its own: a panic under it leaves nothing half done.
        self.0[shard as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
