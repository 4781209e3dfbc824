//! What is held for clients at once: requests, and the bytes of their bodies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much may be held.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub requests: usize,
    pub bytes: usize,
}

/// Which bound a request met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Requests,
    Bytes,
}

/// The count of what is held.
#[derive(Clone)]
pub struct Held(Arc<Counts>);

struct Counts {
    bounds: Bounds,
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// A request's place. Dropping it gives the place back.
pub struct Hold {
    counts: Arc<Counts>,
    bytes: usize,
}

impl Held {
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Counts { bounds, requests: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }))
    }

    /// Takes a place for a request whose body has at most so many bytes; called before it is read.
    pub fn take(&self, bytes: usize) -> Result<Hold, Full> {
        let counts = &self.0;
        if !add(&counts.requests, 1, counts.bounds.requests) {
            return Err(Full::Requests);
        }
        let mut place = Hold { counts: Arc::clone(counts), bytes: 0 };
        if !add(&counts.bytes, bytes, counts.bounds.bytes) {
            return Err(Full::Bytes);
        }
        place.bytes = bytes;
        Ok(place)
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

impl Hold {
    /// The body turned out to have only so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.counts.bytes.fetch_sub(less, Ordering::AcqRel);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.counts.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.counts.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

fn add(count: &AtomicUsize, more: usize, most: usize) -> bool {
    let sum = |now: usize| now.checked_add(more).filter(|sum| *sum <= most);
    count.fetch_update(Ordering::AcqRel, Ordering::Acquire, sum).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_bound_is_ever_passed_and_every_place_comes_back() {
        let held = Held::new(Bounds { requests: 3, bytes: 100 });
        let (first, mut second) = (held.take(60).ok(), held.take(40).expect("room"));
        assert_eq!(held.take(1).err(), Some(Full::Bytes));
        second.shrink(10);
        assert_eq!(held.bytes(), 70);
        let third = held.take(30).ok();
        assert_eq!(held.take(0).err(), Some(Full::Requests));
        assert_eq!(held.bytes(), 100);
        drop((first, second, third));
        assert_eq!(held.bytes(), 0);
        assert!(held.take(100).is_ok(), "a refused request leaves nothing behind");
    }
}
