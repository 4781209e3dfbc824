//! Who there is, and who changed it.

use serde::{Deserialize, Serialize};

/// What one plan, tenant, user or API key is from now on.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    /// `plan/<id>`, `tenant/<id>`, `user/<tenant>/<id>` or `key/<tenant>/<id>`; also the record's key.
    pub name: String,
    /// What it is, a JSON object; `None` when it is there no more. Of keys it holds what signs records.
    pub body: Option<String>,
    /// Identity of the change.
    pub change_id: String,
    /// Microseconds since the epoch.
    pub changed_at: i64,
    /// Who changed it.
    pub changed_by: String,
}

/// Without the body, which may sign records.
impl std::fmt::Debug for DirectoryEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectoryEntry")
            .field("name", &self.name)
            .field("change_id", &self.change_id)
            .field("changed_at", &self.changed_at)
            .field("changed_by", &self.changed_by)
            .finish_non_exhaustive()
    }
}

/// An administrative action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Identity of the change.
    pub change_id: String,
    /// Microseconds since the epoch.
    pub at: i64,
    /// Who asked: `admin`, or `key/<tenant>/<id>`.
    pub actor: String,
    /// Network address that the request came from.
    pub address: Option<String>,
    /// `create`, `change`, `delete`, `revoke`, `rotate` or `close`.
    pub action: String,
    /// What was changed, as in [`DirectoryEntry`].
    pub name: String,
    /// What it was, a JSON object without secrets.
    pub before: Option<String>,
    /// What it is from now on, likewise.
    pub after: Option<String>,
}
