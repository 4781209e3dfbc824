//! Idempotency keys and waiters in the embedded store.

use async_trait::async_trait;

use crate::embedded::key::Key;
use crate::embedded::{Embedded, Tables, classify, value};
use crate::json;
use crate::port::{Claim, Claimed, IdempotencyKeys, StorageError, Waiter};

#[async_trait]
impl IdempotencyKeys for Embedded {
    async fn claim(&self, tenant: &str, key: &str, claim: &Claim) -> Result<Claimed, StorageError> {
        let key = Key::of(tenant).text(key).finish()?;
        let claim = claim.clone();
        self.write("claim an idempotency key", move |tables| try_claim(tables, key, &claim)).await
    }

    async fn holder(&self, tenant: &str, key: &str) -> Result<Option<Claim>, StorageError> {
        let key = Key::of(tenant).text(key).finish()?;
        self.run(move |tables| {
            tables.keys.get(&key).map_err(classify)?.map(|stored| json::decode("claim", &stored)).transpose()
        })
        .await
    }

    async fn add_waiter(&self, tenant: &str, request_id: &str, waiter: &Waiter) -> Result<(), StorageError> {
        let (tenant, request_id, waiter) = (tenant.to_owned(), request_id.to_owned(), waiter.clone());
        self.write("add a waiter", move |tables| put_waiter(tables, &tenant, &request_id, &waiter)).await
    }

    async fn waiters(&self, tenant: &str, request_id: &str) -> Result<Vec<Waiter>, StorageError> {
        let prefix = Key::of(tenant).text(request_id).finish()?;
        self.run(move |tables| {
            tables.waiters.prefix(&prefix).map(|item| json::decode("waiter", &value(item)?)).collect()
        })
        .await
    }
}

pub(super) fn put_waiter(tables: &Tables, tenant: &str, request_id: &str, waiter: &Waiter) -> Result<(), StorageError> {
    let key = Key::of(tenant).text(request_id).text(&waiter.coordinates).finish()?;
    tables.waiters.insert(key, json::encode("waiter", waiter)?).map_err(classify)
}

pub(super) fn try_claim(tables: &Tables, key: Vec<u8>, claim: &Claim) -> Result<Claimed, StorageError> {
    let _one_at_a_time = tables.locks.lock(&key);
    match tables.keys.get(&key).map_err(classify)? {
        None => {
            tables.keys.insert(key, json::encode("claim", claim)?).map_err(classify)?;
            Ok(Claimed::Ours)
        }
        Some(stored) => {
            let holder: Claim = json::decode("claim", &stored)?;
            if holder.coordinates == claim.coordinates { Ok(Claimed::Ours) } else { Ok(Claimed::Theirs(holder)) }
        }
    }
}
