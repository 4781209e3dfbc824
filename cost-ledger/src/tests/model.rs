//! The store's contract in memory. It can fail in the middle of a flush, and it refuses what no
//! correct ledger writes: a line or a cell that differs from what its identity had before.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use millrace_storage::{Entry, LedgerFlush, LedgerStore, LogPlace, Rollup, RollupKey, StorageError};

type EntryKey = (String, i64, i32, String, LogPlace);

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tables {
    pub entries: BTreeMap<EntryKey, Entry>,
    pub rollups: BTreeMap<RollupKey, Rollup>,
    pub checkpoints: BTreeMap<(u32, i32), (i64, Vec<u8>)>,
}

#[derive(Default)]
pub struct Model {
    tables: Mutex<Tables>,
    /// Writes until the store is gone; `None` for ever.
    writes_left: Mutex<Option<usize>>,
    pub lookups: Mutex<usize>,
    pub refuses: Mutex<bool>,
}

impl Model {
    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    pub fn fail_after(&self, writes: Option<usize>) {
        *self.writes_left.lock().unwrap() = writes;
    }

    fn write(&self, change: impl FnOnce(&mut Tables)) -> Result<(), StorageError> {
        if let Some(left) = &mut *self.writes_left.lock().unwrap() {
            *left = left.checked_sub(1).ok_or_else(|| StorageError::Outage("cut off".into()))?;
        }
        change(&mut self.tables());
        Ok(())
    }
}

#[async_trait]
impl LedgerStore for Model {
    async fn checkpoint(&self, generation: u32, partition: i32) -> Result<Option<(i64, Vec<u8>)>, StorageError> {
        Ok(self.tables().checkpoints.get(&(generation, partition)).cloned())
    }

    async fn rollups(&self, keys: &[RollupKey]) -> Result<Vec<Option<Rollup>>, StorageError> {
        let tables = self.tables();
        Ok(keys.iter().map(|key| tables.rollups.get(key).cloned()).collect())
    }

    async fn entries_of(
        &self,
        tenant: &str,
        hour: i64,
        partition: i32,
        call_id: &str,
    ) -> Result<Vec<Entry>, StorageError> {
        *self.lookups.lock().unwrap() += 1;
        let tables = self.tables();
        let ours = tables.entries.values();
        let ours = ours.filter(|e| e.tenant == tenant && e.hour == hour && e.partition == partition);
        Ok(ours.filter(|e| e.call_id == call_id).cloned().collect())
    }

    async fn flush(&self, flush: &LedgerFlush) -> Result<(), StorageError> {
        if *self.refuses.lock().unwrap() {
            return Err(StorageError::Refused("the credentials are not accepted".into()));
        }
        for entry in &flush.entries {
            let key = (entry.tenant.clone(), entry.hour, entry.partition, entry.call_id.clone(), entry.place);
            self.write(|tables| {
                let before = tables.entries.insert(key, entry.clone());
                assert!(before.is_none_or(|before| before == *entry), "a line was changed: {entry:?}");
            })?;
        }
        for (key, rollup) in &flush.rollups {
            self.write(|tables| {
                let stored = tables.rollups.entry(key.clone()).or_insert_with(|| rollup.clone());
                assert!(stored.upto != rollup.upto || stored == rollup, "two cells at {}: {key:?}", rollup.upto);
                if stored.upto < rollup.upto {
                    *stored = rollup.clone();
                }
            })?;
        }
        self.write(|tables| {
            let state = (flush.upto, flush.checkpoint.clone());
            let stored = tables.checkpoints.entry((flush.generation, flush.partition)).or_insert_with(|| state.clone());
            assert!(stored.0 != state.0 || *stored == state, "two checkpoints at {}", flush.upto);
            if stored.0 < state.0 {
                *stored = state;
            }
        })
    }
}
