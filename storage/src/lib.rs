//! The services' database: results, idempotency keys, the cost ledger.
//!
//! ```text
//! port.rs       what the services ask for, in their words
//! embedded/     a key-value store inside the process (fjall), for `millrace up`
//! cql/          ScyllaDB or Cassandra (scylla), for everything larger
//! migrations/   the CQL schema, in versions
//! ```
//!
//! Both adapters are held to the same tests, in `tests/contract/`. Which of two writes wins is
//! decided by their places in the log, never by their order of arrival: every write may be
//! repeated, late, or out of turn.

mod backup;
mod checks;
mod cql;
mod embedded;
mod json;
mod kept;
mod objects;
mod port;
mod tally;
mod webhooks;

use std::sync::Arc;

use millrace_config::StorageConfig;

use crate::cql::Cql;
use crate::embedded::Embedded;
pub use backup::{Backup, Row};
pub use kept::KeptRequests;
pub use objects::*;
pub use port::*;
pub use webhooks::*;

/// An open database. Cloning it shares the connection.
#[derive(Clone)]
pub struct Storage {
    /// Outcomes.
    pub results: Arc<dyn Results>,
    /// Idempotency keys and waiters.
    pub keys: Arc<dyn IdempotencyKeys>,
    /// What was asked for.
    pub kept: Arc<dyn KeptRequests>,
    /// Entries, rollups and checkpoints.
    pub ledger: Arc<dyn LedgerStore>,
    /// Usage and audits.
    pub usage: Arc<dyn Usage>,
    /// Small objects that are compared and replaced.
    pub objects: Arc<dyn Objects>,
    /// Contents of files.
    pub parts: Arc<dyn FileParts>,
    /// Webhooks by tenant and id.
    pub webhooks: Arc<dyn WebhookDeliveries>,
    /// Which of them are due.
    pub webhook_schedule: Arc<dyn WebhookSchedule>,
    /// All of it, row by row.
    pub backup: Arc<dyn Backup>,
}

impl Storage {
    /// Opens the database that the configuration names.
    ///
    /// An embedded one is created when it is not there, and belongs to one process at a time. One
    /// over CQL must have been migrated before: see [`Storage::migrate`].
    ///
    /// # Errors
    /// [`StorageError::Outage`] when the database can not be reached, [`StorageError::Refused`] when
    /// it is in use by another process, is not migrated, or does not take the credentials.
    pub async fn open(config: &StorageConfig) -> Result<Self, StorageError> {
        match config {
            StorageConfig::Embedded { path } => Ok(Self::over(Arc::new(Embedded::open(path.clone()).await?))),
            StorageConfig::Cql { .. } => Ok(Self::over(Arc::new(Cql::open(config).await?))),
        }
    }

    /// Brings the schema to the version of this program and returns the names of the migrations
    /// applied, none when it was up to date. Safe to run again, and on two machines at once. An
    /// embedded database has nothing to migrate.
    ///
    /// # Errors
    /// As [`Storage::open`]; also [`StorageError::Refused`] when the replication factor is more than
    /// the cluster's nodes.
    pub async fn migrate(config: &StorageConfig) -> Result<Vec<String>, StorageError> {
        match config {
            StorageConfig::Embedded { .. } => Ok(Vec::new()),
            StorageConfig::Cql { .. } => cql::migrate(config).await,
        }
    }

    /// Whether the database answers, with as many replicas as serving needs: one read of an absent
    /// row.
    ///
    /// # Errors
    /// What any read would say now.
    pub async fn ping(&self) -> Result<(), StorageError> {
        self.results.get("millrace", "ping").await.map(|_| ())
    }

    fn over<A>(adapter: Arc<A>) -> Self
    where
        A: Results
            + IdempotencyKeys
            + LedgerStore
            + Usage
            + Objects
            + FileParts
            + KeptRequests
            + WebhookDeliveries
            + WebhookSchedule
            + Backup
            + 'static,
    {
        Self {
            results: adapter.clone(),
            keys: adapter.clone(),
            kept: adapter.clone(),
            ledger: adapter.clone(),
            usage: adapter.clone(),
            objects: adapter.clone(),
            parts: adapter.clone(),
            webhooks: adapter.clone(),
            webhook_schedule: adapter.clone(),
            backup: adapter,
        }
    }
}
