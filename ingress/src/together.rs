//! Which partition the requests of the interactive lane go to.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_schemas::derived_uuid;

/// Long enough for several under load, and so short that the partitions have equal shares of any second.
const LASTS: Duration = Duration::from_millis(20);
/// At most so many, so that a burst is shared out too.
const MOST: u32 = 32;

/// Requests that come close after each other, and go to one partition. Every stage keeps the number, so they share
/// requests to the brokers from end to end, where each would cost several of its own.
#[derive(Debug, Default)]
pub struct Together(Mutex<Option<Group>>);

#[derive(Debug)]
struct Group {
    partition: i32,
    began: Instant,
    size: u32,
}

impl Together {
    /// Partition of a request that came at `now` and may go to any of `count`.
    pub fn partition(&self, request_id: &str, count: i32, now: Instant) -> i32 {
        let mut group = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match group.as_mut() {
            Some(open) if open.size < MOST && now.duration_since(open.began) < LASTS && open.partition < count => {
                open.size += 1;
                open.partition
            }
            Some(_) | None => {
                let partition = partition_of(request_id, count);
                *group = Some(Group { partition, began: now, size: 1 });
                partition
            }
        }
    }
}

/// Partition of a request by its id: the same for every request with the same idempotency key.
pub fn partition_of(request_id: &str, count: i32) -> i32 {
    let number = derived_uuid(&["partition", request_id]).as_u128() % u128::from(count.unsigned_abs().max(1));
    i32::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// The partitions of requests that come evenly at `rate` a second, for a second.
    fn at(rate: u32) -> Vec<i32> {
        let (together, began) = (Together::default(), Instant::now());
        let came = |n| began + Duration::from_secs(1) / rate * n;
        (0..rate).map(|n| together.partition(&format!("req_{n}"), 12, came(n))).collect()
    }

    #[test]
    fn those_close_after_each_other_share_a_partition_and_no_partition_gets_many_more() {
        let alone = at(50);
        assert!((0..50).all(|n| alone[n] == partition_of(&format!("req_{n}"), 12)), "none follows close: {alone:?}");
        for rate in [1_000, 20_000] {
            let partitions = at(rate);
            let changes = partitions.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert!(changes * 8 < partitions.len(), "{changes} changes at {rate}");
            let mut counts = BTreeMap::new();
            for partition in &partitions {
                *counts.entry(partition).or_insert(0) += 1;
            }
            let most = counts.values().max().copied().unwrap_or(0);
            assert!(counts.len() == 12 && most < rate as usize / 12 * 3, "{counts:?}");
        }
    }

    #[test]
    fn a_burst_is_shared_out_and_fewer_partitions_are_seen_at_once() {
        let (together, now) = (Together::default(), Instant::now());
        let burst: BTreeSet<i32> = (0..1_000).map(|n| together.partition(&format!("req_{n}"), 12, now)).collect();
        assert!(burst.len() > 6, "{burst:?}");
        assert!((0..100).all(|n| together.partition(&format!("req_{n}"), 1, now) == 0));
    }
}
