//! What the indexer needs of others, in its words.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millrace_provider::Who;
use millrace_schemas::CallLine;
use millrace_stage::{Received, StageError};
use uuid::Uuid;

use crate::place::Place;

/// Turns texts into vectors, and pays for it.
#[async_trait]
pub(crate) trait Embedder: Send + Sync {
    /// One paid call for `record`, announced in `calls` before.
    async fn embed(&self, record: &Received, who: &Who, texts: &[String]) -> Result<Embedded, EmbedError>;
    /// Ends a call whose vectors are stored. Ending it twice does no harm.
    async fn finished(&self, record: &Received, who: &Who, line: &CallLine) -> Result<(), StageError>;
    /// How many calls may be lost for one batch before its document is given up.
    fn max_attempts(&self) -> u32;
}

/// Vectors of texts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Embedded {
    /// One for each text, in their order.
    pub vectors: Vec<Vec<f32>>,
    /// What they cost.
    pub line: CallLine,
}

/// Why there are no vectors.
#[derive(Debug)]
pub(crate) enum EmbedError {
    /// Nothing was charged, and the same call may succeed later.
    Later {
        error: String,
        /// What the provider asked to wait.
        after: Option<Duration>,
    },
    /// A budget has nothing left for it, which this says.
    UsedUp(String),
    /// The provider refuses this call for good.
    Refused { status: u16 },
    /// The answer never came; it may have been charged.
    Lost(String),
    /// The call could not be recorded.
    Unrecorded(StageError),
}

/// Where the passages of all tenants are kept.
#[async_trait]
pub(crate) trait Passages: Send + Sync {
    /// What is stored of a document, without its vectors.
    async fn stored(&self, document: &DocumentKey) -> Result<Vec<Stored>, StoreError>;
    /// The vectors of those of these points that are there.
    async fn vectors(&self, points: &[Uuid]) -> Result<BTreeMap<Uuid, Vec<f32>>, StoreError>;
    /// Stores points in place of those of the same ids, durably.
    async fn upsert(&self, points: &[Point]) -> Result<(), StoreError>;
    /// Removes points, durably.
    async fn delete(&self, points: &[Uuid]) -> Result<(), StoreError>;
}

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// The same may succeed later.
    #[error("the vector store does not answer: {0}")]
    Outage(String),
    /// It never will.
    #[error("the vector store refuses: {0}")]
    Refused(String),
    /// Its collection is made for other vectors: a person is needed.
    #[error("{0}")]
    Misfit(String),
}

/// Identity of a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DocumentKey {
    pub tenant: String,
    pub collection: String,
    pub document_id: String,
}

/// A point that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub id: Uuid,
    /// Of what its vector was made.
    pub hash: String,
    /// The version that it belongs to.
    pub place: Option<Place>,
    /// The bill of its call, for the first point of each batch.
    pub bill: Option<CallLine>,
}

/// A point to store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub id: Uuid,
    pub vector: Vec<f32>,
    pub document: Arc<About>,
    pub chunk: usize,
    pub text: String,
    pub hash: String,
    pub bill: Option<CallLine>,
}

/// What all points of a version have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    pub key: DocumentKey,
    pub title: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub place: Place,
}
