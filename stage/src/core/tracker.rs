//! Which records are in flight, and up to where everything is settled.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A topic (logical name) and a partition number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// Logical topic name.
    pub topic: Arc<str>,
    /// Partition number.
    pub number: i32,
}

/// Bounds on what is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// S: offsets of one partition that may be taken beyond its committed offset.
    pub window: u32,
    /// Records, over all partitions.
    pub records: usize,
    /// Bytes, over all partitions.
    pub bytes: usize,
}

/// Proof that a record was taken. Settling consumes it; one that is dropped leaves its offset in
/// the window for ever, so nothing at or beyond it is committed.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a ticket that is not settled holds back every later commit of its partition"]
pub struct Ticket {
    partition: Partition,
    epoch: u64,
    offset: i64,
    bytes: usize,
}

/// Why a record can not be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The partition is not assigned, or is being given up.
    NotOurs,
    /// The record was settled before: an earlier offset than the next one.
    Before,
    /// A bound is reached: take it again later.
    Full,
}

/// Whether the next record may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It may.
    Yes,
    /// The partition's window is used up until its commit advances.
    WindowFull,
    /// The records or bytes of all partitions together are used up.
    AllFull,
}

#[derive(Debug)]
struct Assigned {
    epoch: u64,
    /// Offset that the broker has acknowledged as committed.
    committed: i64,
    /// Everything before it is settled.
    head: i64,
    /// Whether `head + i` is settled.
    window: VecDeque<bool>,
    in_flight: usize,
    giving_up: bool,
}

impl Assigned {
    fn next(&self) -> i64 {
        self.head + self.window.len() as i64
    }

    fn advance(&mut self) {
        while self.window.front() == Some(&true) {
            self.window.pop_front();
            self.head += 1;
        }
    }
}

/// Books the records in flight of one consumer.
#[derive(Debug)]
pub struct Tracker {
    limits: Limits,
    partitions: BTreeMap<Partition, Assigned>,
    records: usize,
    bytes: usize,
}

impl Tracker {
    /// An empty tracker.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, partitions: BTreeMap::new(), records: 0, bytes: 0 }
    }

    /// Starts an assignment at its committed offset. Tickets of an earlier epoch are void.
    pub fn assign(&mut self, partition: Partition, epoch: u64, committed: i64) {
        self.remove(&partition);
        self.partitions.insert(
            partition,
            Assigned { epoch, committed, head: committed, window: VecDeque::new(), in_flight: 0, giving_up: false },
        );
    }

    /// Takes the record at `offset`. Offsets between the last record taken and this one do not
    /// exist (compaction, transaction markers) and count as settled.
    ///
    /// # Errors
    /// [`Refused`]; nothing is changed.
    pub fn take(&mut self, partition: &Partition, offset: i64, bytes: usize) -> Result<Ticket, Refused> {
        let room = self.records == 0
            || (self.records < self.limits.records && self.bytes.saturating_add(bytes) <= self.limits.bytes);
        let Some(assigned) = self.partitions.get_mut(partition).filter(|a| !a.giving_up) else {
            return Err(Refused::NotOurs);
        };
        let next = assigned.next();
        if offset < next {
            return Err(Refused::Before);
        }
        if offset - assigned.committed >= i64::from(self.limits.window) {
            if assigned.in_flight == 0 {
                // A gap wider than the window: all before `offset` is settled, so the commit may
                // jump over it, and the record is taken once that commit is acknowledged.
                assigned.window.clear();
                assigned.head = offset;
            }
            return Err(Refused::Full);
        }
        if !room {
            return Err(Refused::Full);
        }
        let gap = usize::try_from(offset - next).unwrap_or(0);
        assigned.window.extend(std::iter::repeat_n(true, gap));
        assigned.advance();
        assigned.window.push_back(false);
        assigned.in_flight += 1;
        self.records += 1;
        self.bytes += bytes;
        Ok(Ticket { partition: partition.clone(), epoch: assigned.epoch, offset, bytes })
    }

    /// Whether the partition's next record may be taken.
    #[must_use]
    pub fn room(&self, partition: &Partition) -> Room {
        let full = |a: &Assigned| a.next() - a.committed >= i64::from(self.limits.window);
        if self.partitions.get(partition).is_some_and(full) {
            Room::WindowFull
        } else if self.records >= self.limits.records || self.bytes >= self.limits.bytes {
            Room::AllFull
        } else {
            Room::Yes
        }
    }

    /// True below three quarters of the bounds over all partitions: pausing has hysteresis,
    /// because every pause throws prefetched records away.
    #[must_use]
    pub fn roomy(&self) -> bool {
        self.records * 4 <= self.limits.records * 3 && self.bytes / 3 <= self.limits.bytes / 4
    }

    /// Settles a record. A ticket of an earlier epoch frees its bytes and changes nothing else.
    /// True when it belonged to the present assignment.
    pub fn settle(&mut self, ticket: Ticket) -> bool {
        self.records -= 1;
        self.bytes -= ticket.bytes;
        let Some(assigned) = self.partitions.get_mut(&ticket.partition).filter(|a| a.epoch == ticket.epoch) else {
            return false;
        };
        let index = usize::try_from(ticket.offset - assigned.head).unwrap_or(usize::MAX);
        if let Some(settled) = assigned.window.get_mut(index) {
            *settled = true;
            assigned.in_flight -= 1;
        }
        assigned.advance();
        true
    }

    /// Frees the bytes of a record whose work was called off with its assignment; its offset stays
    /// unsettled. True when the assignment still holds, which means that a record was lost.
    pub fn abandon(&mut self, ticket: Ticket) -> bool {
        self.records -= 1;
        self.bytes -= ticket.bytes;
        self.partitions.get(&ticket.partition).is_some_and(|a| a.epoch == ticket.epoch && !a.giving_up)
    }

    /// Contiguous heads that the broker does not know yet, with their epochs.
    #[must_use]
    pub fn uncommitted(&self) -> Vec<(Partition, u64, i64)> {
        self.partitions
            .iter()
            .filter(|(_, a)| a.head > a.committed)
            .map(|(p, a)| (p.clone(), a.epoch, a.head))
            .collect()
    }

    /// What the broker knows, once more, with its epochs.
    #[must_use]
    pub fn committed_heads(&self) -> Vec<(Partition, u64, i64)> {
        self.partitions.iter().map(|(p, a)| (p.clone(), a.epoch, a.committed)).collect()
    }

    /// True when a partition could commit half of its window: waiting longer would stop it from taking.
    #[must_use]
    pub fn commit_is_urgent(&self) -> bool {
        self.partitions.values().any(|a| (a.head - a.committed) * 2 >= i64::from(self.limits.window))
    }

    /// The broker acknowledged a commit.
    pub fn committed(&mut self, partition: &Partition, epoch: u64, offset: i64) {
        if let Some(assigned) = self.partitions.get_mut(partition).filter(|a| a.epoch == epoch) {
            assigned.committed = assigned.committed.max(offset);
        }
    }

    /// Stops taking from a partition that is to be given up; what is in flight may still settle.
    pub fn give_up(&mut self, partition: &Partition) {
        if let Some(assigned) = self.partitions.get_mut(partition) {
            assigned.giving_up = true;
        }
    }

    /// True when nothing of the partition is in flight.
    #[must_use]
    pub fn drained(&self, partition: &Partition) -> bool {
        self.partitions.get(partition).is_none_or(|a| a.in_flight == 0)
    }

    /// Forgets a partition. Tickets that are still out free their bytes when they come back.
    pub fn remove(&mut self, partition: &Partition) {
        self.partitions.remove(partition);
    }

    /// The next offset to take and the epoch of an assigned partition.
    #[must_use]
    pub fn next(&self, partition: &Partition) -> Option<(i64, u64)> {
        self.partitions.get(partition).map(|a| (a.next(), a.epoch))
    }

    /// The contiguous head of an assigned partition.
    #[must_use]
    pub fn head(&self, partition: &Partition) -> Option<i64> {
        self.partitions.get(partition).map(|a| a.head)
    }

    /// Records and bytes in flight.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        (self.records, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 4;

    fn tracker() -> (Tracker, Partition) {
        let partition = Partition { topic: "t".into(), number: 0 };
        let mut tracker = Tracker::new(Limits { window: S as u32, records: 100, bytes: 1000 });
        tracker.assign(partition.clone(), 1, 10);
        (tracker, partition)
    }

    #[test]
    fn only_the_contiguous_head_is_committed() {
        let (mut tracker, p) = tracker();
        let tickets: Vec<_> = (10..14).map(|o| tracker.take(&p, o, 1).expect("room")).collect();
        assert_eq!(tracker.take(&p, 14, 1), Err(Refused::Full), "the window is S");
        let mut tickets = tickets.into_iter();
        let first = tickets.next().expect("four");
        for later in tickets {
            assert!(tracker.settle(later));
        }
        assert_eq!(tracker.uncommitted(), vec![]);
        assert!(tracker.settle(first));
        assert_eq!(tracker.uncommitted(), vec![(p.clone(), 1, 14)]);
        assert!(tracker.commit_is_urgent());
        assert_eq!(tracker.take(&p, 14, 1), Err(Refused::Full), "settled is not yet committed");
        tracker.committed(&p, 1, 14);
        assert!(!tracker.commit_is_urgent());
        let ticket = tracker.take(&p, 14, 1).expect("room");
        assert!(tracker.settle(ticket));
        assert_eq!(tracker.take(&p, 13, 1), Err(Refused::Before));
    }

    #[test]
    fn a_gap_counts_as_settled_and_one_wider_than_the_window_waits_for_its_commit() {
        let (mut tracker, p) = tracker();
        let ticket = tracker.take(&p, 12, 1).expect("room");
        assert!(tracker.settle(ticket));
        assert_eq!(tracker.head(&p), Some(13));
        assert_eq!(tracker.take(&p, 1000, 1), Err(Refused::Full));
        assert_eq!(tracker.uncommitted(), vec![(p.clone(), 1, 1000)]);
        tracker.committed(&p, 1, 1000);
        let ticket = tracker.take(&p, 1000, 1).expect("room");
        assert!(tracker.settle(ticket));
        assert_eq!(tracker.head(&p), Some(1001));
    }

    #[test]
    fn settlements_of_an_earlier_epoch_change_nothing() {
        let (mut tracker, p) = tracker();
        let old = tracker.take(&p, 10, 7).expect("room");
        tracker.assign(p.clone(), 2, 10);
        let new = tracker.take(&p, 10, 7).expect("room");
        assert!(!tracker.settle(old));
        assert_eq!((tracker.head(&p), tracker.in_flight()), (Some(10), (1, 7)));
        tracker.committed(&p, 1, 99);
        assert!(tracker.settle(new));
        assert_eq!(tracker.head(&p), Some(11));
        assert_eq!(tracker.uncommitted(), vec![(p, 2, 11)]);
    }

    #[test]
    fn bytes_and_records_are_bounded_but_one_record_always_fits() {
        let (mut tracker, p) = tracker();
        let huge = tracker.take(&p, 10, 5000).expect("a record larger than the bound still gets through");
        assert_eq!(tracker.take(&p, 11, 1), Err(Refused::Full));
        assert_eq!(tracker.room(&p), Room::AllFull);
        assert!(tracker.settle(huge));
        assert!(tracker.roomy());
        let ticket = tracker.take(&p, 11, 1).expect("room");
        tracker.give_up(&p);
        assert_eq!(tracker.take(&p, 12, 1), Err(Refused::NotOurs));
        assert!(!tracker.drained(&p));
        assert!(!tracker.abandon(ticket), "abandoning while giving up loses nothing");
    }
}
