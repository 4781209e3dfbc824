//! What the builder needs of others, in its words.

use std::time::Duration;

use async_trait::async_trait;
use millrace_provider::Who;
use millrace_schemas::CallLine;
use millrace_stage::{Producer, Received, StageError};

/// Turns a question into a vector, and pays for it.
#[async_trait]
pub trait Embedder: Send + Sync {
    /// One paid call for `record`, announced in `calls` before.
    async fn embed(&self, record: &Received, who: &Who, question: &str) -> Result<Embedded, EmbedError>;
    /// How many calls may be lost for one record before it ends.
    fn max_attempts(&self) -> u32;
}

/// A question's vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// The vector.
    pub vector: Vec<f32>,
    /// What it cost.
    pub line: CallLine,
}

/// Why there is no vector.
#[derive(Debug)]
pub enum EmbedError {
    /// Nothing was charged, and the same call may succeed later.
    Later {
        /// What does not work now.
        error: String,
        /// What the provider asked to wait.
        after: Option<Duration>,
    },
    /// A budget has nothing left for it, which this says.
    UsedUp(String),
    /// The provider refuses this call for good.
    Refused {
        /// Its HTTP status.
        status: u16,
        /// Its line on the bill.
        line: Option<CallLine>,
    },
    /// The answer never came; it may have been charged.
    Lost {
        /// What happened.
        error: String,
        /// Its line on the bill.
        line: Option<CallLine>,
    },
    /// The call could not be recorded.
    Unrecorded(StageError),
}

/// A passage of a tenant's document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Title of its document.
    pub title: Option<String>,
    /// The text.
    pub text: String,
}

/// Why passages can not be searched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// The same search may succeed later.
    #[error("the vector store does not answer: {0}")]
    Outage(String),
    /// It never will.
    #[error("the vector store refuses: {0}")]
    Refused(String),
}

/// The passages of all tenants, each search within one of them.
#[async_trait]
pub trait Passages: Send + Sync {
    /// Whether the tenant's collection has any passage.
    async fn any(&self, tenant: &str, collection: &str) -> Result<bool, SearchError>;
    /// The passages nearest to `vector`, best first.
    async fn search(
        &self,
        tenant: &str,
        collection: &str,
        vector: Vec<f32>,
        top_k: u32,
    ) -> Result<Vec<Passage>, SearchError>;
}

/// How many partitions a topic of ours has.
#[async_trait]
pub trait Partitions: Send + Sync {
    /// The number, or why it is not known now.
    async fn count(&self, topic: &str) -> Result<i32, String>;
}

#[async_trait]
impl Partitions for Producer {
    async fn count(&self, topic: &str) -> Result<i32, String> {
        self.partitions(topic).await.map_err(|e| e.to_string())
    }
}
