//! Idempotency keys and waiters over CQL.

use async_trait::async_trait;
use futures::TryStreamExt;
use scylla::response::query_result::QueryRowsResult;
use scylla::value::{CqlValue, Row};

use crate::cql::Cql;
use crate::cql::error::Doing;
use crate::json;
use crate::port::{Claim, Claimed, IdempotencyKeys, StorageError, Waiter};

#[async_trait]
impl IdempotencyKeys for Cql {
    async fn claim(&self, tenant: &str, key: &str, claim: &Claim) -> Result<Claimed, StorageError> {
        let what = "claim an idempotency key";
        let values = (tenant, key, &claim.request_id, &claim.coordinates, &claim.body_hash);
        let answer = self.execute(what, &self.statements.claim_key, values).await?;
        match holder(&answer.into_rows_result().doing(what)?)? {
            None => Ok(Claimed::Ours),
            Some(holder) if holder.coordinates == claim.coordinates => Ok(Claimed::Ours),
            Some(holder) => Ok(Claimed::Theirs(holder)),
        }
    }

    async fn holder(&self, tenant: &str, key: &str) -> Result<Option<Claim>, StorageError> {
        let what = "read an idempotency key";
        let answer = self.execute(what, &self.statements.holder_of_key, (tenant, key)).await?;
        let row = answer.into_rows_result().doing(what)?.maybe_first_row::<(String, String, String)>().doing(what)?;
        Ok(row.map(|(request_id, coordinates, body_hash)| Claim { request_id, coordinates, body_hash }))
    }

    async fn add_waiter(&self, tenant: &str, request_id: &str, waiter: &Waiter) -> Result<(), StorageError> {
        let values = (tenant, request_id, &waiter.coordinates, json::encode("waiter", waiter)?);
        self.execute("add a waiter", &self.statements.add_waiter, values).await.map(|_| ())
    }

    async fn waiters(&self, tenant: &str, request_id: &str) -> Result<Vec<Waiter>, StorageError> {
        let what = "read waiters";
        let pages = self.pages(what, &self.statements.waiters, (tenant, request_id)).await?;
        let mut rows = pages.rows_stream::<(Vec<u8>,)>().doing(what)?;
        let mut waiters = Vec::new();
        while let Some((waiter,)) = rows.try_next().await.doing(what)? {
            waiters.push(json::decode("waiter", &waiter)?);
        }
        Ok(waiters)
    }
}

/// Who was there before a conditional insert, read from its answer; `None` when it was applied.
/// Columns go by name: the databases send different ones, in different orders.
fn holder(answer: &QueryRowsResult) -> Result<Option<Claim>, StorageError> {
    let what = "read who holds an idempotency key";
    let row: Row = answer.first_row().doing(what)?;
    let column = |name: &str| {
        let (index, _) = answer.column_specs().get_by_name(name)?;
        row.columns.get(index)?.as_ref()
    };
    if column("[applied]").and_then(CqlValue::as_boolean) == Some(true) {
        return Ok(None);
    }
    let text = |name: &str| {
        column(name).and_then(CqlValue::as_text).cloned().ok_or_else(|| {
            StorageError::Refused(format!("cannot {what}: the row has no {name}; restore it from a backup"))
        })
    };
    Ok(Some(Claim {
        request_id: text("request_id")?,
        coordinates: text("coordinates")?,
        body_hash: text("body_hash")?,
    }))
}
