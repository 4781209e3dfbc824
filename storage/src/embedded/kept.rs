//! Kept requests in the embedded store. One that was forgotten is an empty value.

use async_trait::async_trait;

use crate::embedded::key::Key;
use crate::embedded::{Embedded, Tables, classify};
use crate::kept::KeptRequests;
use crate::port::StorageError;

#[async_trait]
impl KeptRequests for Embedded {
    async fn keep(&self, tenant: &str, request_id: &str, request: Vec<u8>) -> Result<(), StorageError> {
        let key = Key::of(tenant).text(request_id).finish()?;
        self.write("keep a request", move |tables| put(tables, key, &request)).await
    }

    async fn kept(&self, tenant: &str, request_id: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let key = Key::of(tenant).text(request_id).finish()?;
        self.run(move |tables| Ok(tables.kept.get(&key).map_err(classify)?.map(|request| request.to_vec()))).await
    }

    async fn forget(&self, tenant: &str, request_id: &str) -> Result<(), StorageError> {
        let key = Key::of(tenant).text(request_id).finish()?;
        self.write("forget a request", move |tables| tables.kept.insert(key, []).map_err(classify)).await
    }
}

/// Nothing comes in the place of what is there, but forgetting does.
pub(super) fn put(tables: &Tables, key: Vec<u8>, request: &[u8]) -> Result<(), StorageError> {
    let _one_at_a_time = tables.locks.lock(&key);
    if request.is_empty() || tables.kept.get(&key).map_err(classify)?.is_none() {
        tables.kept.insert(key, request).map_err(classify)?;
    }
    Ok(())
}
