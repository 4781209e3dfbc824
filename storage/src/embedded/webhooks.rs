//! Webhooks in the embedded store.

use async_trait::async_trait;

use crate::embedded::key::Key;
use crate::embedded::{Embedded, Tables, classify, value};
use crate::json;
use crate::port::StorageError;
use crate::webhooks::{Due, WebhookDeliveries, WebhookDelivery, WebhookSchedule};

/// Removed at a time, so that others get their turn.
const FORGOTTEN_AT_ONCE: usize = 1_000;

#[async_trait]
impl WebhookDeliveries for Embedded {
    async fn delivery(&self, tenant: &str, id: &str) -> Result<Option<WebhookDelivery>, StorageError> {
        let key = Key::of(tenant).text(id).finish()?;
        self.run(move |tables| stored(tables, &key)).await
    }

    async fn put_delivery(&self, delivery: &WebhookDelivery) -> Result<(), StorageError> {
        let delivery = delivery.clone();
        self.write("store a webhook delivery", move |tables| put(tables, &delivery)).await
    }

    async fn deliveries(
        &self,
        tenant: &str,
        before: &str,
        since: i64,
        limit: usize,
    ) -> Result<Vec<WebhookDelivery>, StorageError> {
        // Ids have one length, so that they sort by their text.
        let first = Key::of(tenant).text(&crate::webhooks::delivery_id(since, uuid::Uuid::nil())).finish()?;
        let end = Key::of(tenant).text(before).finish()?;
        if first >= end {
            return Ok(Vec::new());
        }
        self.run(move |tables| {
            let newest_first = tables.webhooks.range(first..end).rev().take(limit);
            newest_first.map(|item| json::decode("webhook delivery", &value(item)?)).collect()
        })
        .await
    }

    async fn forget_deliveries(&self, before: i64) -> Result<(), StorageError> {
        while self.write("forget webhook deliveries", move |tables| forget(tables, before)).await? {}
        Ok(())
    }
}

#[async_trait]
impl WebhookSchedule for Embedded {
    async fn put_due(&self, lane: &str, shard: i32, minute: i64, due: &Due) -> Result<(), StorageError> {
        let (key, due) = (due_key(lane, shard, minute, &due.id)?, json::encode("webhook's turn", due)?);
        self.write("schedule a webhook", move |tables| tables.webhook_due.insert(key, due).map_err(classify)).await
    }

    async fn remove_due(&self, lane: &str, shard: i32, minute: i64, id: &str) -> Result<(), StorageError> {
        let key = due_key(lane, shard, minute, id)?;
        self.write("strike a webhook off", move |tables| tables.webhook_due.remove(key).map_err(classify)).await
    }

    async fn due(
        &self,
        lane: &str,
        shard: i32,
        minute: i64,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Due>, StorageError> {
        let prefix = Key::of(lane).i32(shard).i64(minute).finish()?;
        let after = after.to_owned();
        self.run(move |tables| {
            let mut found = Vec::new();
            for item in tables.webhook_due.prefix(&prefix) {
                let due: Due = json::decode("webhook's turn", &value(item)?)?;
                if due.id > after {
                    found.push(due);
                }
                if found.len() >= limit {
                    break;
                }
            }
            Ok(found)
        })
        .await
    }

    async fn marks(&self, lane: &str) -> Result<Vec<(i32, i64)>, StorageError> {
        let prefix = Key::of(lane).finish()?;
        self.run(move |tables| {
            tables.webhook_marks.prefix(&prefix).map(|item| json::decode("mark of webhooks", &value(item)?)).collect()
        })
        .await
    }

    async fn put_mark(&self, lane: &str, shard: i32, minute: i64) -> Result<(), StorageError> {
        let key = Key::of(lane).i32(shard).finish()?;
        let mark = json::encode("mark of webhooks", &(shard, minute))?;
        let what = "note up to when webhooks are done";
        self.write(what, move |tables| tables.webhook_marks.insert(key, mark).map_err(classify)).await
    }
}

pub(super) fn put(tables: &Tables, delivery: &WebhookDelivery) -> Result<(), StorageError> {
    let key = Key::of(&delivery.tenant).text(&delivery.id).finish()?;
    tables.webhooks.insert(key, json::encode("webhook delivery", delivery)?).map_err(classify)
}

pub(super) fn stored(tables: &Tables, key: &[u8]) -> Result<Option<WebhookDelivery>, StorageError> {
    let stored = tables.webhooks.get(key).map_err(classify)?;
    stored.map(|bytes| json::decode("webhook delivery", &bytes)).transpose()
}

pub(super) fn put_due(tables: &Tables, lane: &str, shard: i32, minute: i64, due: &Due) -> Result<(), StorageError> {
    tables
        .webhook_due
        .insert(due_key(lane, shard, minute, &due.id)?, json::encode("webhook's turn", due)?)
        .map_err(classify)
}

fn due_key(lane: &str, shard: i32, minute: i64, id: &str) -> Result<Vec<u8>, StorageError> {
    Key::of(lane).i32(shard).i64(minute).text(id).finish()
}

/// Whether there may be more to forget.
fn forget(tables: &Tables, before: i64) -> Result<bool, StorageError> {
    let mut old = Vec::new();
    for item in tables.webhooks.iter() {
        let (key, stored) = item.into_inner().map_err(classify)?;
        let delivery: WebhookDelivery = json::decode("webhook delivery", &stored)?;
        if delivery.created_at().max(delivery.round_began) < before {
            old.push(key);
        }
        if old.len() >= FORGOTTEN_AT_ONCE {
            break;
        }
    }
    for key in &old {
        tables.webhooks.remove(key.clone()).map_err(classify)?;
    }
    Ok(old.len() >= FORGOTTEN_AT_ONCE)
}
