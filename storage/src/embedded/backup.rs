//! Whole embedded stores.

use async_trait::async_trait;
use fjall::{Keyspace, Readable};
use tokio::sync::mpsc::Sender;

use crate::backup::{Backup, Row};
use crate::embedded::key::{Key, Parts};
use crate::embedded::{Embedded, Tables, classify, kept, keys, ledger, objects, results, webhooks};
use crate::json;
use crate::port::{Entry, LedgerFlush, Rollup, RollupKey, StorageError};
use crate::webhooks::INBOX;

#[async_trait]
impl Backup for Embedded {
    async fn export(&self, rows: Sender<Row>) -> Result<(), StorageError> {
        self.run(move |tables| export(tables, &rows)).await
    }

    async fn import(&self, rows: Vec<Row>) -> Result<(), StorageError> {
        self.run(move |tables| rows.into_iter().try_for_each(|row| put(tables, row))).await
    }
}

/// One snapshot: nothing is torn apart, whoever writes meanwhile.
fn export(tables: &Tables, rows: &Sender<Row>) -> Result<(), StorageError> {
    let snapshot = tables.db.snapshot();
    let each = |table: &Keyspace, row: fn(&[u8], &[u8]) -> Result<Row, StorageError>| {
        for item in snapshot.iter(table) {
            let (key, value) = item.into_inner().map_err(classify)?;
            if rows.blocking_send(row(&key, &value)?).is_err() {
                break;
            }
        }
        Ok::<(), StorageError>(())
    };
    each(&tables.checkpoints, |key, value| {
        let mut parts = Parts::of(key);
        let (upto, state) = ledger::split(value)?;
        Ok(Row::Checkpoint { generation: parts.u32()?, partition: parts.i32()?, upto, state: state.to_vec() })
    })?;
    each(&tables.rollups, |_, value| {
        let (key, rollup): (RollupKey, Rollup) = json::decode("rollup", value)?;
        Ok(Row::Rollup { key, rollup })
    })?;
    each(&tables.entries, |_, value| Ok(Row::Entry(Box::<Entry>::new(json::decode("entry", value)?))))?;
    each(&tables.keys, |key, value| {
        let mut parts = Parts::of(key);
        Ok(Row::Key { tenant: parts.text()?, key: parts.text()?, claim: json::decode("claim", value)? })
    })?;
    each(&tables.waiters, |key, value| {
        let mut parts = Parts::of(key);
        let (tenant, request_id) = (parts.text()?, parts.text()?);
        Ok(Row::Waiter { tenant, request_id, waiter: json::decode("waiter", value)? })
    })?;
    each(&tables.results, |key, value| {
        let mut parts = Parts::of(key);
        let (tenant, request_id, run) = (parts.text()?, parts.text()?, parts.i32()?);
        let (place, outcome) = results::split(value)?;
        Ok(Row::Result { tenant, request_id, run, place, outcome: outcome.to_vec() })
    })?;
    each(&tables.objects, |key, value| {
        let mut parts = Parts::of(key);
        let (tenant, kind, id) = (parts.text()?, parts.text()?, parts.last()?);
        let (version, value) = objects::split(value)?;
        Ok(Row::Object { tenant, kind, id, version, value })
    })?;
    each(&tables.parts, |key, value| Ok(Row::FilePart { id: objects::part_id(key)?, content: value.to_vec() }))?;
    each(&tables.kept, |key, value| {
        let mut parts = Parts::of(key);
        Ok(Row::Kept { tenant: parts.text()?, request_id: parts.text()?, request: value.to_vec() })
    })?;
    each(&tables.webhooks, |_, value| Ok(Row::Webhook(json::decode("webhook delivery", value)?)))
}

fn put(tables: &Tables, row: Row) -> Result<(), StorageError> {
    match row {
        Row::Checkpoint { generation, partition, upto, state } => {
            let flush = LedgerFlush { generation, partition, upto, checkpoint: state, ..LedgerFlush::default() };
            ledger::write(tables, &flush)
        }
        Row::Rollup { key, rollup } => ledger::put_rollup(tables, &key, &rollup),
        Row::Entry(entry) => ledger::put_entry(tables, &entry),
        Row::Key { tenant, key, claim } => {
            keys::try_claim(tables, Key::of(&tenant).text(&key).finish()?, &claim).map(|_| ())
        }
        Row::Waiter { tenant, request_id, waiter } => keys::put_waiter(tables, &tenant, &request_id, &waiter),
        Row::Result { tenant, request_id, run, place, outcome } => {
            crate::checks::place(place)?;
            results::put(tables, Key::of(&tenant).text(&request_id).i32(run).finish()?, place, &outcome)
        }
        Row::Webhook(delivery) => {
            let there = webhooks::stored(tables, &Key::of(&delivery.tenant).text(&delivery.id).finish()?)?;
            let Some(due) = crate::backup::webhook_to_import(&delivery, there.as_ref()) else { return Ok(()) };
            webhooks::put(tables, &delivery)?;
            due.map_or(Ok(()), |due| webhooks::put_due(tables, &delivery.lane, delivery.shard, INBOX, &due))
        }
        Row::Object { tenant, kind, id, version, value } => {
            let key = Key::of(&tenant).text(&kind).last(&id).finish()?;
            objects::replace(tables, &key, 0, version, Some(value)).map(|_| ())
        }
        Row::FilePart { id, content } => objects::put_part(tables, &id, &content, id.kept_when_imported()),
        Row::Kept { tenant, request_id, request } => {
            kept::put(tables, Key::of(&tenant).text(&request_id).finish()?, &request)
        }
    }
}
