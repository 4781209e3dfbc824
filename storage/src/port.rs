//! What the services need of a database, in their words. Two adapters hold to one contract suite.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// What can go wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The database does not answer, or not with enough replicas: the same call may work later.
    #[error("the store does not answer: {0}")]
    Outage(String),
    /// The call will never work: wrong schema, refused credentials, corrupt data.
    #[error("the store refuses: {0}")]
    Refused(String),
}

/// Place of a record in the log of its partition, across topic generations. Stores refuse generations
/// from 1024 on, and offsets below 0 or from 2^40 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPlace {
    /// Generation of the topic.
    pub generation: u32,
    /// Offset in the partition.
    pub offset: i64,
}

/// Outcomes as stored: one blob per (tenant, request, run); the first in log order wins, in
/// whichever order and however often they are written.
#[async_trait]
pub trait Results: Send + Sync {
    /// Stores the outcome found at `place`. A write from an earlier place replaces it, one from a
    /// later place changes nothing.
    async fn put(
        &self,
        tenant: &str,
        request_id: &str,
        run: i32,
        place: LogPlace,
        outcome: Vec<u8>,
    ) -> Result<(), StorageError>;

    /// The outcome of the latest run.
    async fn get(&self, tenant: &str, request_id: &str) -> Result<Option<Vec<u8>>, StorageError>;

    /// How many outcomes are stored, by counting them: for audits and tests, not for serving.
    async fn count(&self) -> Result<u64, StorageError>;
}

/// Who holds an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The request that the key names.
    pub request_id: String,
    /// Coordinates of the record that claimed it first (`topic/generation/partition/offset`).
    pub coordinates: String,
    /// Hash of that record's body.
    pub body_hash: String,
}

/// Answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The key was free, or held by these very coordinates (a replay): go on.
    Ours,
    /// Somebody else was first.
    Theirs(Claim),
}

/// Someone who wants to hear of an outcome that another record of the same key produces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Waiter {
    /// Coordinates of the duplicate record: the waiter's identity.
    pub coordinates: String,
    /// Ingress replica that holds a client.
    pub replica: Option<String>,
    /// Customer topic.
    pub reply_topic: Option<String>,
}

/// Idempotency keys and who waits on them.
#[async_trait]
pub trait IdempotencyKeys: Send + Sync {
    /// Claims (tenant, key), by a conditional insert: exactly one of any number of claimants wins.
    async fn claim(&self, tenant: &str, key: &str, claim: &Claim) -> Result<Claimed, StorageError>;
    /// Who holds (tenant, key); nobody is `None`.
    async fn holder(&self, tenant: &str, key: &str) -> Result<Option<Claim>, StorageError>;
    /// Adds a waiter. Written before the result is read, so that waiter and sink can not miss each other.
    async fn add_waiter(&self, tenant: &str, request_id: &str, waiter: &Waiter) -> Result<(), StorageError>;
    /// All waiters of a request.
    async fn waiters(&self, tenant: &str, request_id: &str) -> Result<Vec<Waiter>, StorageError>;
}

/// One immutable line of the ledger. Its identity is (call, place): a replay writes it again, unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Tenant accounted to.
    pub tenant: String,
    /// Hours since the epoch of the call's start: where it is booked.
    pub hour: i64,
    /// Partition of `calls`.
    pub partition: i32,
    /// Where in that partition the record lies that this line was booked from.
    pub place: LogPlace,
    /// The call.
    pub call_id: String,
    /// `finished`, `unconfirmed`, `adjusted`.
    pub kind: String,
    /// User accounted to.
    pub user: String,
    /// The request the call was made for.
    pub request_id: String,
    /// `chat.completions`, `responses` or `embeddings`.
    pub operation: String,
    /// Provider's name.
    pub provider: String,
    /// Model name sent to the provider.
    pub model: String,
    /// Prompt tokens.
    pub input_tokens: i64,
    /// Output tokens.
    pub output_tokens: i64,
    /// Provider's cost, nano-units.
    pub cost_nanos: i64,
    /// Customer's charge, nano-units.
    pub charge_nanos: i64,
    /// ISO 4217.
    pub currency: String,
    /// Version of the price table.
    pub price_version: String,
    /// Tokens were counted by us, or the amount is an upper bound.
    pub estimated: bool,
    /// Microseconds since the epoch.
    pub at: i64,
}

/// Identity of a rollup: sharded by source partition so that every cell has one writer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RollupKey {
    /// Tenant.
    pub tenant: String,
    /// User.
    pub user: String,
    /// Hours since the epoch.
    pub hour: i64,
    /// Generation of `calls`.
    pub generation: u32,
    /// Partition of `calls`.
    pub partition: i32,
}

/// Totals of one rollup cell and the last offset folded into them. Stored as one blob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollup {
    /// Offset of the last record folded; -1 for none.
    pub upto: i64,
    /// Calls booked (adjustments are not calls).
    pub calls: i64,
    /// Of those, calls whose end was never seen.
    pub unconfirmed: i64,
    /// Entries booked.
    pub entries: i64,
    /// Prompt tokens.
    pub input_tokens: i64,
    /// Output tokens.
    pub output_tokens: i64,
    /// Provider's cost, nano-units, by currency.
    pub cost_nanos: std::collections::BTreeMap<String, i64>,
    /// Customer's charge, nano-units, by currency.
    pub charge_nanos: std::collections::BTreeMap<String, i64>,
}

/// What the ledger makes durable at once. Written in this order: entries, rollups, checkpoint.
#[derive(Debug, Clone, Default)]
pub struct LedgerFlush {
    /// Generation of `calls`.
    pub generation: u32,
    /// Partition of `calls`.
    pub partition: i32,
    /// Offset of the last record folded.
    pub upto: i64,
    /// The fold's own state (open calls), opaque to the store.
    pub checkpoint: Vec<u8>,
    /// New lines.
    pub entries: Vec<Entry>,
    /// Changed cells, each with its `upto`; an older `upto` never replaces a newer one.
    pub rollups: Vec<(RollupKey, Rollup)>,
}

/// Sums by reading every row: for audits and tests, not for serving.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerTotals {
    /// Distinct calls that have an entry.
    pub calls: u64,
    /// Of those, calls with an `unconfirmed` entry.
    pub unconfirmed: u64,
    /// Lines.
    pub entries: u64,
    /// Sum of the lines' cost, nano-units.
    pub entries_sum: i64,
    /// Sum of the rollups' cost, nano-units.
    pub rollups_sum: i64,
    /// Sum of prompt and output tokens over the lines.
    pub tokens: i64,
}

/// The ledger's tables.
#[async_trait]
pub trait LedgerStore: Send + Sync {
    /// Checkpoint of a partition with its `upto`, or `None` when nothing was flushed yet.
    async fn checkpoint(&self, generation: u32, partition: i32) -> Result<Option<(i64, Vec<u8>)>, StorageError>;
    /// The stored rollups for these keys, in their order (`None` where there is none), at QUORUM.
    async fn rollups(&self, keys: &[RollupKey]) -> Result<Vec<Option<Rollup>>, StorageError>;
    /// Entries of one call.
    async fn entries_of(
        &self,
        tenant: &str,
        hour: i64,
        partition: i32,
        call_id: &str,
    ) -> Result<Vec<Entry>, StorageError>;
    /// Makes a flush durable. Writing the same flush again changes nothing. A rollup of another
    /// generation or partition than the flush's is refused.
    async fn flush(&self, flush: &LedgerFlush) -> Result<(), StorageError>;
}

/// Usage and audits.
#[async_trait]
pub trait Usage: Send + Sync {
    /// Rollups of a tenant for hours in `from..to`, in any order.
    async fn usage(&self, tenant: &str, from: i64, to: i64) -> Result<Vec<(RollupKey, Rollup)>, StorageError>;
    /// Sums over everything stored.
    async fn totals(&self) -> Result<LedgerTotals, StorageError>;
}
