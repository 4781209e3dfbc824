//! Files of tenants: their descriptions.

use millrace_storage::{Storage, StorageError};
use serde::{Deserialize, Serialize};

use crate::content::Content;
use crate::stored::{self, At, Kind};

/// A file's description.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct File {
    /// `file-` and a UUID.
    pub id: String,
    /// As the client named it.
    pub filename: String,
    /// What it is for, in OpenAI's words.
    pub purpose: String,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Seconds since the epoch; `None` for one that stays until it is deleted.
    pub expires_at: Option<i64>,
    /// `None` while it is being uploaded.
    pub content: Option<Content>,
}

impl Kind for File {
    const KIND: &'static str = "file";
}

impl File {
    /// Whether it can be read: it has come whole, and its time is not over.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.content.is_some() && self.expires_at.is_none_or(|at| at > now_seconds())
    }
}

/// Whether this may be a file's id, and not something of any kind and length.
pub(crate) fn is_id(name: &str) -> bool {
    name.starts_with("file-") && name.len() <= 64
}

/// Seconds since the epoch.
#[must_use]
pub fn now_seconds() -> i64 {
    millrace_schemas::now_micros() / 1_000_000
}

/// A file that can be read.
///
/// # Errors
/// As [`stored::read`].
pub async fn find(storage: &Storage, tenant: &str, id: &str) -> Result<Option<File>, StorageError> {
    let found = stored::read::<File>(storage, At { tenant, id }).await?;
    Ok(found.map(|stored| stored.value).filter(File::is_there))
}
