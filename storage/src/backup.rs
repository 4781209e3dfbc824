//! Everything in a store, row by row: for backups, and for moving from one adapter to another.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::objects::PartId;
use crate::port::{Claim, Entry, LogPlace, Rollup, RollupKey, StorageError, Waiter};
use crate::webhooks::{DeliveryStatus, Due, WebhookDelivery};

/// One row of the store, whichever adapter keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "row", rename_all = "snake_case")]
pub enum Row {
    /// State of the fold of one partition of `calls`.
    Checkpoint {
        /// Generation of `calls`.
        generation: u32,
        /// Partition of `calls`.
        partition: i32,
        /// Offset of the last record folded.
        upto: i64,
        /// The fold's own state; base64 in JSON.
        #[serde(with = "base64_bytes")]
        state: Vec<u8>,
    },
    /// A rollup cell.
    Rollup {
        /// Which.
        key: RollupKey,
        /// Its totals.
        rollup: Rollup,
    },
    /// A line of the ledger.
    Entry(Box<Entry>),
    /// Who holds an idempotency key.
    Key {
        /// Tenant.
        tenant: String,
        /// The key.
        key: String,
        /// Its holder.
        claim: Claim,
    },
    /// Someone who wants to hear of an outcome.
    Waiter {
        /// Tenant.
        tenant: String,
        /// The request waited for.
        request_id: String,
        /// Who waits.
        waiter: Waiter,
    },
    /// An outcome.
    Result {
        /// Tenant.
        tenant: String,
        /// The request.
        request_id: String,
        /// Its run.
        run: i32,
        /// Where in the log it lies.
        place: LogPlace,
        /// Its bytes; base64 in JSON.
        #[serde(with = "base64_bytes")]
        outcome: Vec<u8>,
    },
    /// A small object; one that is there already stays.
    Object {
        /// Tenant.
        tenant: String,
        /// What kind of object.
        kind: String,
        /// Its name.
        id: String,
        /// Its version.
        version: i64,
        /// Its bytes; base64 in JSON.
        #[serde(with = "base64_bytes")]
        value: Vec<u8>,
    },
    /// A part of a file's content.
    FilePart {
        /// Which.
        id: PartId,
        /// Its bytes; base64 in JSON.
        #[serde(with = "base64_bytes")]
        content: Vec<u8>,
    },
    /// What was asked for.
    Kept {
        /// Tenant.
        tenant: String,
        /// The request.
        request_id: String,
        /// Its bytes, none of one that was forgotten; base64 in JSON.
        #[serde(with = "base64_bytes")]
        request: Vec<u8>,
    },
    /// An event for an endpoint. When it is due follows from it.
    Webhook(Box<WebhookDelivery>),
}

/// What an import of a delivery writes beside it, where `there` is what the store has: nothing at all
/// when that has got as far; else, while it is pending, a note that its shard's owner looks at it.
pub(crate) fn webhook_to_import(delivery: &WebhookDelivery, there: Option<&WebhookDelivery>) -> Option<Option<Due>> {
    if there.is_some_and(|there| there.attempts >= delivery.attempts) {
        return None;
    }
    let due = || Due {
        id: delivery.id.clone(),
        tenant: delivery.tenant.clone(),
        endpoint: delivery.endpoint.clone(),
        again: false,
    };
    Some((delivery.status == DeliveryStatus::Pending).then(due))
}

/// Reading and writing whole stores.
#[async_trait]
pub trait Backup: Send + Sync {
    /// Sends every row, checkpoints first: what a checkpoint covers was durable before it, so rows
    /// that are read after it hold at least that. Written to meanwhile, the rest is newer; whoever
    /// goes on from the checkpoint writes it again, unchanged. Ends early when nobody receives.
    async fn export(&self, rows: mpsc::Sender<Row>) -> Result<(), StorageError>;

    /// Writes rows. By each table's own rule what is there already may win: the earlier outcome, the
    /// later rollup and checkpoint, the first holder of a key.
    async fn import(&self, rows: Vec<Row>) -> Result<(), StorageError>;
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
