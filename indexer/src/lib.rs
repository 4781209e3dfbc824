//! Makes documents findable.
//!
//! ```text
//! documents ── prove the tenant ── read ── chunk ── what is stored? ── embed in batches ── upsert ── delete what is left over ──> Qdrant
//!                                                        │                  └──── calls
//!                                                        └── a later version: nothing to do
//! ```
//!
//! - [`spec`] and [`stage()`] are all that the binary needs; the steps in order are in `stage.rs`.
//! - `document.rs` checks documents, `chunk.rs` cuts texts, `plan.rs` compares with what is stored;
//!   none of them does I/O.
//! - `index.rs` carries a plan out over the ports in `ports.rs`; `embed.rs` and `qdrant.rs` are their
//!   adapters.
//!
//! The points in Qdrant are the output of this stage: each batch is upserted as soon as it is paid
//! for, with the bill of its call beside it, and only then the call is `finished`. A replay finds
//! its own points and pays for nothing.
//!
//! Invariant: a chunk whose vector is stored is never embedded again.
//!
//! Invariant: of two versions of a document the one that is later in the log stays. The log of one
//! document is one partition: key its records by the document's id.

mod chunk;
mod document;
mod embed;
mod index;
mod locks;
mod place;
mod plan;
mod ports;
mod qdrant;
mod stage;

use millrace_schemas::topics;
use millrace_stage::DriverSpec;

pub use stage::{Indexer, StartError, stage};

/// Name of the service, and of its consumer group.
pub const STAGE: &str = "indexer";

/// What the indexer consumes and how.
#[must_use]
pub fn spec() -> DriverSpec {
    DriverSpec {
        stage: STAGE,
        lane: "all".to_owned(),
        group: STAGE.to_owned(),
        topics: vec![topics::DOCUMENTS.to_owned()],
        foreign_topics: Vec::new(),
        // Anybody may write there; what is stored already is recognised by its place.
        drop_duplicates: false,
        // Its output is not a topic but Qdrant, which is asked for each document.
        own_output: None,
    }
}
