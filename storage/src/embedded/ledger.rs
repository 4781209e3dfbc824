//! The ledger's tables in the embedded store. A flush is one atomic batch.

use async_trait::async_trait;

use crate::embedded::key::{self, Key};
use crate::embedded::{Embedded, Tables, classify, value};
use crate::port::{Entry, LedgerFlush, LedgerStore, Rollup, RollupKey, StorageError};
use crate::{checks, json};

#[async_trait]
impl LedgerStore for Embedded {
    async fn checkpoint(&self, generation: u32, partition: i32) -> Result<Option<(i64, Vec<u8>)>, StorageError> {
        self.run(move |tables| {
            let stored = tables.checkpoints.get(key::log(generation, partition)).map_err(classify)?;
            stored.map(|bytes| split(&bytes).map(|(upto, state)| (upto, state.to_vec()))).transpose()
        })
        .await
    }

    async fn rollups(&self, keys: &[RollupKey]) -> Result<Vec<Option<Rollup>>, StorageError> {
        let keys = keys.iter().map(rollup_key).collect::<Result<Vec<_>, _>>()?;
        self.run(move |tables| keys.iter().map(|key| stored_rollup(tables, key)).collect()).await
    }

    async fn entries_of(
        &self,
        tenant: &str,
        hour: i64,
        partition: i32,
        call_id: &str,
    ) -> Result<Vec<Entry>, StorageError> {
        let prefix = Key::of(tenant).i64(hour).i32(partition).text(call_id).finish()?;
        self.run(move |tables| {
            tables.entries.prefix(&prefix).map(|item| json::decode("entry", &value(item)?)).collect()
        })
        .await
    }

    async fn flush(&self, flush: &LedgerFlush) -> Result<(), StorageError> {
        checks::flush(flush)?;
        let flush = flush.clone();
        self.write("store a flush", move |tables| write(tables, &flush)).await
    }
}

pub(super) fn write(tables: &Tables, flush: &LedgerFlush) -> Result<(), StorageError> {
    let checkpoint_key = key::log(flush.generation, flush.partition);
    let _one_at_a_time = tables.locks.lock(&checkpoint_key);
    let mut batch = tables.db.batch();
    for entry in &flush.entries {
        batch.insert(&tables.entries, entry_key(entry)?, json::encode("entry", entry)?);
    }
    for (cell, rollup) in &flush.rollups {
        let key = rollup_key(cell)?;
        if stored_rollup(tables, &key)?.is_none_or(|stored| stored.upto < rollup.upto) {
            batch.insert(&tables.rollups, key, json::encode("rollup", &(cell, rollup))?);
        }
    }
    let stored = tables.checkpoints.get(&checkpoint_key).map_err(classify)?;
    if stored.map(|bytes| split(&bytes).map(|(upto, _)| upto)).transpose()?.is_none_or(|upto| upto < flush.upto) {
        batch.insert(&tables.checkpoints, checkpoint_key, [&flush.upto.to_be_bytes(), &flush.checkpoint[..]].concat());
    }
    batch.commit().map_err(classify)
}

pub(super) fn put_entry(tables: &Tables, entry: &Entry) -> Result<(), StorageError> {
    tables.entries.insert(entry_key(entry)?, json::encode("entry", entry)?).map_err(classify)
}

/// An older rollup never replaces a newer one.
pub(super) fn put_rollup(tables: &Tables, cell: &RollupKey, rollup: &Rollup) -> Result<(), StorageError> {
    let _one_at_a_time = tables.locks.lock(&key::log(cell.generation, cell.partition));
    let key = rollup_key(cell)?;
    if stored_rollup(tables, &key)?.is_none_or(|stored| stored.upto < rollup.upto) {
        tables.rollups.insert(key, json::encode("rollup", &(cell, rollup))?).map_err(classify)?;
    }
    Ok(())
}

fn entry_key(entry: &Entry) -> Result<Vec<u8>, StorageError> {
    Key::of(&entry.tenant)
        .i64(entry.hour)
        .i32(entry.partition)
        .text(&entry.call_id)
        .u32(entry.place.generation)
        .i64(entry.place.offset)
        .finish()
}

/// The hour comes before the user, so that a range of hours is one scan.
fn rollup_key(key: &RollupKey) -> Result<Vec<u8>, StorageError> {
    Key::of(&key.tenant).i64(key.hour).text(&key.user).u32(key.generation).i32(key.partition).finish()
}

fn stored_rollup(tables: &Tables, key: &[u8]) -> Result<Option<Rollup>, StorageError> {
    let Some(bytes) = tables.rollups.get(key).map_err(classify)? else { return Ok(None) };
    let (_, rollup): (RollupKey, Rollup) = json::decode("rollup", &bytes)?;
    Ok(Some(rollup))
}

pub(super) fn split(checkpoint: &[u8]) -> Result<(i64, &[u8]), StorageError> {
    let (upto, state) = checkpoint.split_first_chunk::<8>().ok_or_else(|| {
        StorageError::Refused("a stored checkpoint is too short: restore it from a backup or replay the log".to_owned())
    })?;
    Ok((i64::from_be_bytes(*upto), state))
}
