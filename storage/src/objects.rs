//! The part of the port that files and batches stand on: small objects that are compared and replaced, and the
//! contents of files in parts.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::port::StorageError;

/// The largest part of a file's content.
pub const MAX_PART_BYTES: usize = 512 * 1024;

/// How the names of contents begin that are no files but bodies of requests, which go when their time is over.
pub const BODY_PREFIX: &str = "body-";
/// How long a body is there after it came from a backup, which does not say.
const IMPORTED_BODY_KEPT: Duration = Duration::from_secs(45 * 24 * 3_600);

/// An object as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name within (tenant, kind).
    pub id: String,
    /// Counts its changes, from 1.
    pub version: i64,
    /// What it is.
    pub value: Vec<u8>,
}

/// In which order objects are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By rising id: the oldest first.
    Rising,
    /// By falling id: the newest first.
    Falling,
}

/// Small objects, each replaced as a whole. Not for the path of a request: every change asks a majority several
/// times over.
#[async_trait]
pub trait Objects: Send + Sync {
    /// The object as it is now.
    async fn object(&self, tenant: &str, kind: &str, id: &str) -> Result<Option<Object>, StorageError>;

    /// Replaces version `expected` of an object, 0 for one that is not there, by `value`, none to delete it. False
    /// when another version is there, and nothing was changed. After an outage either may have happened: read.
    async fn replace(
        &self,
        tenant: &str,
        kind: &str,
        id: &str,
        expected: i64,
        value: Option<Vec<u8>>,
    ) -> Result<bool, StorageError>;

    /// At most `limit` objects behind the id `after`, or from the beginning.
    async fn list(
        &self,
        tenant: &str,
        kind: &str,
        after: Option<&str>,
        order: Order,
        limit: u32,
    ) -> Result<Vec<Object>, StorageError>;
}

/// Which part of which file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartId {
    /// The file's tenant.
    pub tenant: String,
    /// The file.
    pub file_id: String,
    /// Which of its writers wrote it, one after the other.
    pub epoch: u32,
    /// Counted from 0 within the epoch.
    pub part: u32,
}

impl PartId {
    /// How long a part of this file is there that comes from a backup.
    pub(crate) fn kept_when_imported(&self) -> Option<Duration> {
        self.file_id.starts_with(BODY_PREFIX).then_some(IMPORTED_BODY_KEPT)
    }
}

/// Contents of files, in parts of at most [`MAX_PART_BYTES`].
#[async_trait]
pub trait FileParts: Send + Sync {
    /// Stores a part, until it is deleted or for `kept`, to the second; writing it again replaces both. One whose time
    /// is over is gone at the latest when another one is stored for a time.
    async fn put_part(&self, id: &PartId, content: Vec<u8>, kept: Option<Duration>) -> Result<(), StorageError>;
    /// A part's bytes.
    async fn part(&self, id: &PartId) -> Result<Option<Vec<u8>>, StorageError>;
    /// Forgets a part, whether it is there or not.
    async fn delete_part(&self, id: &PartId) -> Result<(), StorageError>;
}
