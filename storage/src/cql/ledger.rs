//! The ledger's tables over CQL. The timestamps of rollups and checkpoints rise along the log, so
//! the last in the log wins.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::stream::{self, StreamExt, TryStreamExt};
use millrace_fail_point::{self as fail_point, Side};
use scylla::statement::batch::{Batch, BatchType};
use scylla::{DeserializeRow, SerializeRow};

use crate::cql::error::Doing;
use crate::cql::{Cql, IN_FLIGHT, place};
use crate::port::{Entry, LedgerFlush, LedgerStore, LogPlace, Rollup, RollupKey, StorageError};
use crate::{checks, json};

const HOURS_PER_DAY: i64 = 24;
/// Bounds of one batch, well under the servers' limits (ScyllaDB's default refuses 1 MiB).
const BATCH_ROWS: usize = 100;
const BATCH_BYTES: usize = 64 * 1024;
/// What an entry takes beside its texts.
const ENTRY_FIXED_BYTES: usize = 160;

/// The partition of `ledger_rollups` that an hour lies in.
pub(super) fn day_of(hour: i64) -> i64 {
    hour.div_euclid(HOURS_PER_DAY)
}

/// An entry as its columns.
#[derive(SerializeRow, DeserializeRow)]
struct EntryRow<'a> {
    tenant: &'a str,
    hour: i64,
    log_partition: i32,
    call_id: &'a str,
    generation: i32,
    log_offset: i64,
    kind: &'a str,
    user_id: &'a str,
    request_id: &'a str,
    operation: &'a str,
    provider: &'a str,
    model: &'a str,
    input_tokens: i64,
    output_tokens: i64,
    cost_nanos: i64,
    charge_nanos: i64,
    currency: &'a str,
    price_version: &'a str,
    estimated: bool,
    booked_at: i64,
}

#[async_trait]
impl LedgerStore for Cql {
    async fn checkpoint(&self, generation: u32, partition: i32) -> Result<Option<(i64, Vec<u8>)>, StorageError> {
        let what = "read a checkpoint";
        let values = (place::generation(generation)?, partition);
        let answer = self.execute(what, &self.statements.checkpoint, values).await?;
        let row = answer.into_rows_result().doing(what)?.maybe_first_row::<(Vec<u8>,)>().doing(what)?;
        row.map(|(state,)| split(&state)).transpose()
    }

    async fn rollups(&self, keys: &[RollupKey]) -> Result<Vec<Option<Rollup>>, StorageError> {
        let reads: Vec<_> = keys.iter().map(|key| self.rollup(key)).collect();
        stream::iter(reads).buffered(IN_FLIGHT).try_collect().await
    }

    async fn entries_of(
        &self,
        tenant: &str,
        hour: i64,
        partition: i32,
        call_id: &str,
    ) -> Result<Vec<Entry>, StorageError> {
        let what = "read a call's entries";
        // A call has one or two entries: no need for pages.
        let answer = self.execute(what, &self.statements.entries_of, (tenant, hour, partition, call_id)).await?;
        let rows = answer.into_rows_result().doing(what)?;
        let entries = rows.rows::<EntryRow<'_>>().doing(what)?.map(|row| {
            row.map_err(|error| StorageError::Refused(format!("cannot {what}: {error}"))).and_then(Entry::try_from)
        });
        entries.collect()
    }

    /// Entries first, then rollups, then the checkpoint: whatever a checkpoint covers is there.
    async fn flush(&self, flush: &LedgerFlush) -> Result<(), StorageError> {
        checks::flush(flush)?;

        self.put_all_entries(&flush.entries).await?;

        let writes: Vec<_> = flush.rollups.iter().map(|(key, rollup)| self.put_rollup(key, rollup)).collect();
        stream::iter(writes).buffer_unordered(IN_FLIGHT).try_collect::<()>().await?;

        self.put_checkpoint(flush.generation, flush.partition, flush.upto, &flush.checkpoint).await
    }
}

impl Cql {
    async fn rollup(&self, key: &RollupKey) -> Result<Option<Rollup>, StorageError> {
        let what = "read a rollup";
        let generation = place::generation(key.generation)?;
        let values = (&key.tenant, day_of(key.hour), key.hour, &key.user, generation, key.partition);
        let answer = self.execute(what, &self.statements.rollup, values).await?;
        let row = answer.into_rows_result().doing(what)?.maybe_first_row::<(Vec<u8>,)>().doing(what)?;
        row.map(|(totals,)| json::decode("rollup", &totals)).transpose()
    }

    pub(super) async fn put_checkpoint(
        &self,
        generation: u32,
        partition: i32,
        upto: i64,
        state: &[u8],
    ) -> Result<(), StorageError> {
        let timestamp = place::rising(generation, upto)?;
        let state = [&upto.to_be_bytes(), state].concat();
        let values = (place::generation(generation)?, partition, state, timestamp);
        self.execute("store a checkpoint", &self.statements.put_checkpoint, values).await.map(|_| ())
    }

    pub(super) async fn put_all_entries(&self, entries: &[Entry]) -> Result<(), StorageError> {
        let batches = batches(entries)?;
        let writes: Vec<_> = batches.iter().map(|batch| self.put_entries(batch)).collect();
        stream::iter(writes).buffer_unordered(IN_FLIGHT).try_collect().await
    }

    pub(super) async fn put_rollup(&self, key: &RollupKey, rollup: &Rollup) -> Result<(), StorageError> {
        let generation = place::generation(key.generation)?;
        let totals = json::encode("rollup", rollup)?;
        let timestamp = place::rising(key.generation, rollup.upto)?;
        let values = (&key.tenant, day_of(key.hour), key.hour, &key.user, generation, key.partition, totals, timestamp);
        self.execute("store a rollup", &self.statements.put_rollup, values).await.map(|_| ())
    }

    async fn put_entries(&self, rows: &[EntryRow<'_>]) -> Result<(), StorageError> {
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        for _ in rows {
            batch.append_statement(self.statements.put_entry.clone());
        }
        let what = "store ledger entries";
        fail_point::reach(Side::Before, || what.to_owned());
        self.session.batch(&batch, rows).await.doing(what)?;
        fail_point::reach(Side::After, || what.to_owned());
        Ok(())
    }
}

/// Entries in batches of bounded size, each within one CQL partition.
fn batches(entries: &[Entry]) -> Result<Vec<Vec<EntryRow<'_>>>, StorageError> {
    let mut by_partition: BTreeMap<(&str, i64, i32), Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        by_partition.entry((&entry.tenant, entry.hour, entry.partition)).or_default().push(entry);
    }
    let mut batches = Vec::new();
    for entries in by_partition.into_values() {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            let size = size_of(entry);
            if !batch.is_empty() && (batch.len() == BATCH_ROWS || bytes + size > BATCH_BYTES) {
                batches.push(std::mem::take(&mut batch));
                bytes = 0;
            }
            batch.push(EntryRow::try_from(entry)?);
            bytes += size;
        }
        batches.push(batch);
    }
    Ok(batches)
}

fn size_of(entry: &Entry) -> usize {
    let texts = [
        &entry.tenant,
        &entry.call_id,
        &entry.kind,
        &entry.user,
        &entry.request_id,
        &entry.operation,
        &entry.provider,
        &entry.model,
        &entry.currency,
        &entry.price_version,
    ];
    texts.iter().map(|text| text.len()).sum::<usize>() + ENTRY_FIXED_BYTES
}

impl<'a> TryFrom<&'a Entry> for EntryRow<'a> {
    type Error = StorageError;

    fn try_from(entry: &'a Entry) -> Result<Self, StorageError> {
        Ok(Self {
            tenant: &entry.tenant,
            hour: entry.hour,
            log_partition: entry.partition,
            call_id: &entry.call_id,
            generation: place::generation(entry.place.generation)?,
            log_offset: entry.place.offset,
            kind: &entry.kind,
            user_id: &entry.user,
            request_id: &entry.request_id,
            operation: &entry.operation,
            provider: &entry.provider,
            model: &entry.model,
            input_tokens: entry.input_tokens,
            output_tokens: entry.output_tokens,
            cost_nanos: entry.cost_nanos,
            charge_nanos: entry.charge_nanos,
            currency: &entry.currency,
            price_version: &entry.price_version,
            estimated: entry.estimated,
            booked_at: entry.at,
        })
    }
}

impl TryFrom<EntryRow<'_>> for Entry {
    type Error = StorageError;

    fn try_from(row: EntryRow<'_>) -> Result<Self, StorageError> {
        Ok(Self {
            tenant: row.tenant.to_owned(),
            hour: row.hour,
            partition: row.log_partition,
            place: LogPlace { generation: stored_generation(row.generation)?, offset: row.log_offset },
            call_id: row.call_id.to_owned(),
            kind: row.kind.to_owned(),
            user: row.user_id.to_owned(),
            request_id: row.request_id.to_owned(),
            operation: row.operation.to_owned(),
            provider: row.provider.to_owned(),
            model: row.model.to_owned(),
            input_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            cost_nanos: row.cost_nanos,
            charge_nanos: row.charge_nanos,
            currency: row.currency.to_owned(),
            price_version: row.price_version.to_owned(),
            estimated: row.estimated,
            at: row.booked_at,
        })
    }
}

/// A generation as it comes back.
pub(super) fn stored_generation(generation: i32) -> Result<u32, StorageError> {
    u32::try_from(generation)
        .map_err(|_| StorageError::Refused(format!("a stored generation is negative ({generation}): restore the row")))
}

/// A checkpoint as it is kept.
pub(super) fn split(checkpoint: &[u8]) -> Result<(i64, Vec<u8>), StorageError> {
    let (upto, state) = checkpoint.split_first_chunk::<8>().ok_or_else(|| {
        StorageError::Refused("a stored checkpoint is too short: restore it from a backup or replay the log".to_owned())
    })?;
    Ok((i64::from_be_bytes(*upto), state.to_vec()))
}
