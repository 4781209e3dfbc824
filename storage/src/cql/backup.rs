//! Whole stores over CQL.

use async_trait::async_trait;
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::mpsc::Sender;

use crate::backup::{Backup, Row};
use crate::cql::error::Doing;
use crate::cql::ledger::{split, stored_generation};
use crate::cql::{Cql, IN_FLIGHT, place};
use crate::json;
use crate::kept::KeptRequests;
use crate::objects::{FileParts, PartId};
use crate::port::{Claim, Entry, IdempotencyKeys, LedgerStore, Results, RollupKey, StorageError};
use crate::webhooks::{INBOX, WebhookDeliveries, WebhookDelivery, WebhookSchedule};

const WHAT: &str = "read the whole store";

#[async_trait]
impl Backup for Cql {
    async fn export(&self, rows: Sender<Row>) -> Result<(), StorageError> {
        // In this order: see the port.
        self.export_checkpoints(&rows).await?;
        self.export_rollups(&rows).await?;
        self.export_entries(&rows).await?;
        self.export_keys(&rows).await?;
        self.export_waiters(&rows).await?;
        self.export_results(&rows).await?;
        self.export_objects(&rows).await?;
        self.export_parts(&rows).await?;
        self.export_kept(&rows).await?;
        self.export_webhooks(&rows).await
    }

    async fn import(&self, rows: Vec<Row>) -> Result<(), StorageError> {
        let mut entries = Vec::new();
        let mut others = Vec::new();
        for row in rows {
            match row {
                Row::Entry(entry) => entries.push(*entry),
                Row::Checkpoint { .. }
                | Row::Rollup { .. }
                | Row::Key { .. }
                | Row::Waiter { .. }
                | Row::Result { .. }
                | Row::Object { .. }
                | Row::FilePart { .. }
                | Row::Kept { .. }
                | Row::Webhook(_) => {
                    others.push(row);
                }
            }
        }
        self.put_all_entries(&entries).await?;
        let writes: Vec<_> = others.into_iter().map(|row| self.put_row(row)).collect();
        stream::iter(writes).buffer_unordered(IN_FLIGHT).try_collect().await
    }
}

/// False when nobody receives any more.
async fn send(rows: &Sender<Row>, row: Row) -> bool {
    rows.send(row).await.is_ok()
}

impl Cql {
    async fn put_row(&self, row: Row) -> Result<(), StorageError> {
        match row {
            Row::Checkpoint { generation, partition, upto, state } => {
                self.put_checkpoint(generation, partition, upto, &state).await
            }
            Row::Rollup { key, rollup } => self.put_rollup(&key, &rollup).await,
            Row::Entry(entry) => self.put_all_entries(std::slice::from_ref(&*entry)).await,
            Row::Key { tenant, key, claim } => self.claim(&tenant, &key, &claim).await.map(|_| ()),
            Row::Waiter { tenant, request_id, waiter } => self.add_waiter(&tenant, &request_id, &waiter).await,
            Row::Result { tenant, request_id, run, place, outcome } => {
                self.put(&tenant, &request_id, run, place, outcome).await
            }
            Row::Object { tenant, kind, id, version, value } => {
                self.insert_object(&tenant, &kind, &id, version, value).await.map(|_| ())
            }
            Row::FilePart { id, content } => self.put_part(&id, content, id.kept_when_imported()).await,
            Row::Webhook(delivery) => self.import_webhook(&delivery).await,
            Row::Kept { tenant, request_id, request } if request.is_empty() => self.forget(&tenant, &request_id).await,
            Row::Kept { tenant, request_id, request } => self.keep(&tenant, &request_id, request).await,
        }
    }

    async fn export_checkpoints(&self, rows: &Sender<Row>) -> Result<(), StorageError> {
        let pages = self.all("SELECT generation, log_partition, state FROM ledger_checkpoints").await?;
        let mut found = pages.rows_stream::<(i32, i32, Vec<u8>)>().doing(WHAT)?;
        while let Some((generation, partition, state)) = found.try_next().await.doing(WHAT)? {
            let (upto, state) = split(&state)?;
            let row = Row::Checkpoint { generation: stored_generation(generation)?, partition, upto, state };
            if !send(rows, row).await {
                break;
            }
        }
        Ok(())
    }

    async fn export_rollups(&self, rows: &Sender<Row>) -> Result<(), StorageError> {
        let statement = "SELECT tenant, hour, user_id, generation, log_partition, totals FROM ledger_rollups";
        let pages = self.all(statement).await?;
        let mut found = pages.rows_stream::<(String, i64, String, i32, i32, Vec<u8>)>().doing(WHAT)?;
        while let Some((tenant, hour, user, generation, partition, totals)) = found.try_next().await.doing(WHAT)? {
            let key = RollupKey { tenant, user, hour, generation: stored_generation(generation)?, partition };
            if !send(rows, Row::Rollup { key, rollup: json::decode("rollup", &totals)? }).await {
                break;
            }
        }
        Ok(())
    }

    async fn export_entries(&self, rows: &Sender<Row>) -> Result<(), StorageError> {
        let statement = "SELECT tenant, hour, log_partition, call_id FROM ledger_entries";
        let pages = self.all(statement).await?;
        let mut last = None;
        // The lines of a call come one after the other.
        let calls = pages.rows_stream::<(String, i64, i32, String)>().doing(WHAT)?.map(|row| row.doing(WHAT));
        let calls = calls.try_filter(|call| {
            let is_new = last.as_ref() != Some(call);
            last = Some(call.clone());
            std::future::ready(is_new)
        });
        let lines = calls.map_ok(|(tenant, hour, partition, call_id)| async move {
            self.entries_of(&tenant, hour, partition, &call_id).await
        });
        let mut lines = std::pin::pin!(lines.try_buffered(IN_FLIGHT));
        while let Some(entries) = lines.try_next().await? {
            for entry in entries {
                if !send(rows, Row::Entry(Box::<Entry>::new(entry))).await {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn export_keys(&self, rows: &Sender<Row>) -> Result<(), StorageError> {
        let statement = "SELECT tenant, idempotency_key, request_id, coordinates, body_hash FROM idempotency_keys";
        let pages = self.all(statement).await?;
        let mut found = pages.rows_stream::<(String, String, String, String, String)>().doing(WHAT)?;
        while let Some((tenant, key, request_id, coordinates, body_hash)) = found.try_next().await.doing(WHAT)? {
            let claim = Claim { request_id, coordinates, body_hash };
            if !send(rows, Row::Key { tenant, key, claim }).await {
                break;
            }
        }
        Ok(())
    }

    async fn export_waiters(&self, rows: &Sender<Row>) -> Result<(), StorageError> {
        let pages = self.all("SELECT tenant, request_id, waiter FROM waiters").await?;
        let mut found = pages.rows_stream::<(String, String, Vec<u8>)>().doing(WHAT)?;
        while let Some((tenant, request_id, waiter)) = found.try_next().await.doing(WHAT)? {
            let waiter = json::decode("waiter", &waiter)?;
            if !send(rows, Row::Waiter { tenant, request_id, waiter }).await {
                break;
            }
        }
        Ok(())
    }

    async fn export_results(&self, rows: &Sender<Row>) -> Result<(), StorageError> {
        let pages = self.all("SELECT tenant, request_id, run, outcome, WRITETIME(outcome) FROM results").await?;
        let mut found = pages.rows_stream::<(String, String, i32, Vec<u8>, i64)>().doing(WHAT)?;
        while let Some((tenant, request_id, run, outcome, timestamp)) = found.try_next().await.doing(WHAT)? {
            let place = place::fallen(timestamp)?;
            if !send(rows, Row::Result { tenant, request_id, run, place, outcome }).await {
                break;
            }
        }
        Ok(())
    }

    async fn export_webhooks(&self, rows: &Sender<Row>) -> Result<(), StorageError> {
        let pages = self.all("SELECT delivery FROM webhook_deliveries").await?;
        let mut found = pages.rows_stream::<(Vec<u8>,)>().doing(WHAT)?;
        while let Some((delivery,)) = found.try_next().await.doing(WHAT)? {
            if !send(rows, Row::Webhook(json::decode("webhook delivery", &delivery)?)).await {
                break;
            }
        }
        Ok(())
    }

    async fn import_webhook(&self, delivery: &WebhookDelivery) -> Result<(), StorageError> {
        let there = self.delivery(&delivery.tenant, &delivery.id).await?;
        let Some(due) = crate::backup::webhook_to_import(delivery, there.as_ref()) else { return Ok(()) };
        self.put_delivery(delivery).await?;
        match due {
            Some(due) => self.put_due(&delivery.lane, delivery.shard, INBOX, &due).await,
            None => Ok(()),
        }
    }

    async fn export_objects(&self, rows: &Sender<Row>) -> Result<(), StorageError> {
        let pages = self.all("SELECT tenant, kind, id, version, value FROM objects").await?;
        let mut found = pages.rows_stream::<(String, String, String, i64, Vec<u8>)>().doing(WHAT)?;
        while let Some((tenant, kind, id, version, value)) = found.try_next().await.doing(WHAT)? {
            if !send(rows, Row::Object { tenant, kind, id, version, value }).await {
                break;
            }
        }
        Ok(())
    }

    /// Part by part: a page of them would be hundreds of megabytes.
    async fn export_parts(&self, rows: &Sender<Row>) -> Result<(), StorageError> {
        let pages = self.all("SELECT tenant, file_id, epoch, part FROM file_parts").await?;
        let mut found = pages.rows_stream::<(String, String, i32, i32)>().doing(WHAT)?;
        while let Some((tenant, file_id, epoch, part)) = found.try_next().await.doing(WHAT)? {
            let id = PartId { tenant, file_id, epoch: epoch.cast_unsigned(), part: part.cast_unsigned() };
            let Some(content) = self.part(&id).await? else { continue };
            if !send(rows, Row::FilePart { id, content }).await {
                break;
            }
        }
        Ok(())
    }

    async fn all(&self, statement: &str) -> Result<scylla::client::pager::QueryPager, StorageError> {
        let mut prepared = self.session.prepare(statement).await.doing(WHAT)?;
        prepared.set_is_idempotent(true);
        self.pages(WHAT, &prepared, ()).await
    }
}
