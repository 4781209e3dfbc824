//! The book of one partition: the fold, what it booked since the last flush, and the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_schemas::{Budget, Call};
use millrace_storage::{Entry, LedgerFlush, LedgerStore, LogPlace, StorageError};

use crate::cells::Cells;
use crate::checkpoint;
use crate::entry;
use crate::fold::{self, Booking, Decision, Ignored, PartitionFold};
use crate::spending::{Counting, Spending};

/// A partition's book.
pub struct Book {
    store: Arc<dyn LedgerStore>,
    generation: u32,
    partition: i32,
    fold: PartitionFold,
    unflushed: Vec<Booking>,
    cells: Cells,
    spending: Spending,
    counting: Counting,
    flushed_upto: i64,
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Folded {
    /// The fold has it.
    Taken,
    /// It changes nothing.
    Ignored(Ignored),
    /// It can never be folded, and the fold does not have it; one sentence why.
    Refused(String),
}

impl Book {
    /// The book as of the last flush; `None` when there was none.
    ///
    /// # Errors
    /// As [`LedgerStore::checkpoint`]; [`StorageError::Refused`] when the checkpoint can not be read.
    pub async fn load(
        store: Arc<dyn LedgerStore>,
        generation: u32,
        partition: i32,
        counting: Counting,
    ) -> Result<Option<Self>, StorageError> {
        let Some((upto, state)) = store.checkpoint(generation, partition).await? else { return Ok(None) };
        let state = checkpoint::decode(upto, &state).map_err(StorageError::Refused)?;
        Ok(Some(Self::with(store, generation, partition, state, counting)))
    }

    /// A book with nothing in it.
    #[must_use]
    pub fn empty(store: Arc<dyn LedgerStore>, generation: u32, partition: i32, counting: Counting) -> Self {
        Self::with(store, generation, partition, (PartitionFold::empty(), Spending::default()), counting)
    }

    fn with(
        store: Arc<dyn LedgerStore>,
        generation: u32,
        partition: i32,
        (fold, spending): (PartitionFold, Spending),
        counting: Counting,
    ) -> Self {
        let flushed_upto = fold.upto();
        let (unflushed, cells) = (Vec::new(), Cells::default());
        Self { store, generation, partition, fold, unflushed, cells, spending, counting, flushed_upto }
    }

    /// Whether anybody wants to know what was spent.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        (self.counting.in_use)()
    }

    /// Spending that changed since it was asked for, or `all` of it, and the mark that ends it.
    pub fn budgets(&mut self, all: bool) -> Vec<Budget> {
        let generation = i32::try_from(self.generation).unwrap_or(i32::MAX);
        let mark = Budget::mark(generation, self.partition, self.fold.upto());
        let mut budgets = self.spending.take(all, &mark);
        budgets.push(mark);
        budgets
    }

    /// The fold as it stands.
    #[must_use]
    pub fn fold(&self) -> &PartitionFold {
        &self.fold
    }

    /// Folds the record at `offset`, which lies beyond everything folded.
    ///
    /// # Errors
    /// When the call's lines had to be read and were not; nothing has changed, so try again.
    pub async fn take(&mut self, offset: i64, call: &Call) -> Result<Folded, StorageError> {
        let at = fold::line(self.generation, self.partition, offset);
        let mut decision = self.fold.decide(at, call, None);
        if decision == Decision::Ask {
            let lines = self.lines_before(at.place, call).await?;
            decision = self.fold.decide(at, call, Some(&lines));
        }
        if let Decision::Refuse(error) = decision {
            return Ok(Folded::Refused(error));
        }
        self.spending.follow(&self.fold, call, &decision, &self.counting.listed);
        self.fold.apply(offset, call, &decision);
        Ok(match decision {
            Decision::Ignore(why) => Folded::Ignored(why),
            Decision::Book(booking) => {
                self.unflushed.push(*booking);
                Folded::Taken
            }
            Decision::Ask | Decision::Open(_) | Decision::Close | Decision::Refuse(_) => Folded::Taken,
        })
    }

    /// Goes past a record that is not folded.
    pub fn pass(&mut self, offset: i64) {
        self.fold.pass(offset);
    }

    /// Makes everything folded durable and gives back the lines that were booked.
    ///
    /// # Errors
    /// As [`LedgerStore`]; call it again after an outage.
    pub async fn flush(&mut self) -> Result<Vec<Entry>, StorageError> {
        if self.fold.upto() == self.flushed_upto {
            return Ok(Vec::new());
        }
        let missing = self.cells.missing(&self.unflushed);
        if !missing.is_empty() {
            let stored = self.store.rollups(&missing).await?;
            missing.into_iter().zip(stored).for_each(|(key, rollup)| self.cells.loaded(key, rollup));
        }
        for booking in &self.unflushed {
            self.cells.add(booking).map_err(StorageError::Refused)?;
        }
        let flush = LedgerFlush {
            generation: self.generation,
            partition: self.partition,
            upto: self.fold.upto(),
            checkpoint: checkpoint::encode(&self.fold, &self.spending).map_err(StorageError::Refused)?,
            entries: self.unflushed.iter().map(|booking| booking.entry.clone()).collect(),
            rollups: self.cells.changed(),
        };
        self.store.flush(&flush).await?;
        self.cells.flushed();
        self.unflushed.clear();
        self.flushed_upto = flush.upto;
        Ok(flush.entries)
    }

    /// The call's lines before `place`, stored or not. What lies at or beyond `place` was booked by
    /// an owner that had read further, and must not decide: the log before the record does.
    async fn lines_before(&self, place: LogPlace, call: &Call) -> Result<Vec<Entry>, StorageError> {
        let hour = entry::hour(entry::started_at(call));
        let stored = self.store.entries_of(&call.tenant, hour, self.partition, &call.call_id).await?;
        let unflushed = self.unflushed.iter().map(|booking| &booking.entry);
        let ours =
            unflushed.filter(|e| e.call_id == call.call_id && e.tenant == call.tenant && e.hour == hour).cloned();
        let lines: BTreeMap<_, _> = stored.into_iter().chain(ours).map(|entry| (entry.place, entry)).collect();
        Ok(lines.into_values().filter(|entry| entry.place < place).collect())
    }
}
