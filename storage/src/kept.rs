//! What was asked for, where that is kept beside the outcome.

use async_trait::async_trait;

use crate::port::StorageError;

/// Requests as they were asked, one blob each, for those that go on from their answers. A request's blob is always
/// the same, so writing it again changes nothing.
#[async_trait]
pub trait KeptRequests: Send + Sync {
    /// Keeps what was asked, unless it was forgotten. It is not empty.
    async fn keep(&self, tenant: &str, request_id: &str, request: Vec<u8>) -> Result<(), StorageError>;
    /// What was asked, nothing of a request that was forgotten; `None` when it was never kept.
    async fn kept(&self, tenant: &str, request_id: &str) -> Result<Option<Vec<u8>>, StorageError>;
    /// Forgets it for good.
    async fn forget(&self, tenant: &str, request_id: &str) -> Result<(), StorageError>;
}
