//! Webhooks over CQL.

use async_trait::async_trait;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::cql::Cql;
use crate::cql::error::Doing;
use crate::json;
use crate::port::StorageError;
use crate::webhooks::{
    Due, HOUR_MICROS, WEBHOOK_DAYS, WebhookDeliveries, WebhookDelivery, WebhookSchedule, delivery_created_at,
};

const KEPT_SECONDS: i32 = WEBHOOK_DAYS.cast_signed() * 86_400;
/// Hours looked through at a time: a tenant that has few deliveries has them far apart.
const HOURS_AT_ONCE: usize = 24;

#[async_trait]
impl WebhookDeliveries for Cql {
    async fn delivery(&self, tenant: &str, id: &str) -> Result<Option<WebhookDelivery>, StorageError> {
        let what = "read a webhook delivery";
        let Some(created_at) = delivery_created_at(id) else { return Ok(None) };
        let values = (tenant, created_at / HOUR_MICROS, id);
        let answer = self.execute(what, &self.statements.webhooks.delivery, values).await?;
        let row = answer.into_rows_result().doing(what)?.maybe_first_row::<(Vec<u8>,)>().doing(what)?;
        row.map(|(delivery,)| json::decode("webhook delivery", &delivery)).transpose()
    }

    async fn put_delivery(&self, delivery: &WebhookDelivery) -> Result<(), StorageError> {
        let value = json::encode("webhook delivery", delivery)?;
        let values = (&delivery.tenant, delivery.hour(), &delivery.id, value, KEPT_SECONDS);
        self.execute("store a webhook delivery", &self.statements.webhooks.put_delivery, values).await.map(|_| ())
    }

    async fn deliveries(
        &self,
        tenant: &str,
        before: &str,
        since: i64,
        limit: usize,
    ) -> Result<Vec<WebhookDelivery>, StorageError> {
        let what = "list webhook deliveries";
        let Some(newest) = delivery_created_at(before) else { return Ok(Vec::new()) };
        let most = i32::try_from(limit).unwrap_or(i32::MAX);
        let hours = (since.max(0) / HOUR_MICROS..=newest / HOUR_MICROS).rev();
        let mut pages = stream::iter(hours)
            .map(|hour| async move {
                let values = (tenant, hour, before, most);
                let answer = self.execute(what, &self.statements.webhooks.deliveries, values).await?;
                let rows = answer.into_rows_result().doing(what)?;
                let rows = rows.rows::<(Vec<u8>,)>().doing(what)?;
                rows.map(|row| json::decode("webhook delivery", &row.doing(what)?.0)).collect::<Result<Vec<_>, _>>()
            })
            .buffered(HOURS_AT_ONCE);
        let mut found: Vec<WebhookDelivery> = Vec::new();
        while let Some(page) = pages.try_next().await? {
            found.extend(page.into_iter().filter(|delivery: &WebhookDelivery| delivery.created_at() >= since));
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Rows end by themselves.
    async fn forget_deliveries(&self, _: i64) -> Result<(), StorageError> {
        Ok(())
    }
}

#[async_trait]
impl WebhookSchedule for Cql {
    async fn put_due(&self, lane: &str, shard: i32, minute: i64, due: &Due) -> Result<(), StorageError> {
        let values = (lane, shard, minute, &due.id, json::encode("webhook's turn", due)?, KEPT_SECONDS);
        self.execute("schedule a webhook", &self.statements.webhooks.put_due, values).await.map(|_| ())
    }

    async fn remove_due(&self, lane: &str, shard: i32, minute: i64, id: &str) -> Result<(), StorageError> {
        let values = (lane, shard, minute, id);
        self.execute("strike a webhook off", &self.statements.webhooks.remove_due, values).await.map(|_| ())
    }

    async fn due(
        &self,
        lane: &str,
        shard: i32,
        minute: i64,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Due>, StorageError> {
        let what = "read which webhooks are due";
        let values = (lane, shard, minute, after, i32::try_from(limit).unwrap_or(i32::MAX));
        let answer = self.execute(what, &self.statements.webhooks.due, values).await?;
        let rows = answer.into_rows_result().doing(what)?;
        let rows = rows.rows::<(Vec<u8>,)>().doing(what)?;
        rows.map(|row| json::decode("webhook's turn", &row.doing(what)?.0)).collect()
    }

    async fn marks(&self, lane: &str) -> Result<Vec<(i32, i64)>, StorageError> {
        let what = "read up to when webhooks are done";
        let answer = self.execute(what, &self.statements.webhooks.marks, (lane,)).await?;
        let rows = answer.into_rows_result().doing(what)?;
        rows.rows::<(i32, i64)>().doing(what)?.map(|row| row.doing(what)).collect()
    }

    async fn put_mark(&self, lane: &str, shard: i32, minute: i64) -> Result<(), StorageError> {
        let values = (lane, shard, minute);
        self.execute("note up to when webhooks are done", &self.statements.webhooks.put_mark, values).await.map(|_| ())
    }
}
