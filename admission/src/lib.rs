//! Whether a request may be worked on, decided the same way at both doors: by ingress for HTTP, by
//! prompt-builder for records on topics. Pure: no I/O, no clock.
//!
//! ```text
//! API key or signed token, or record's topic and signature ── Directory ──> Principal
//! Principal + Request ── Admission::admit ──> Admitted (what to ask the provider)
//!                                        └──> Rejected (the outcome it ends with)
//! ```
//!
//! - [`Directory`] proves who asks.
//! - [`record`] reads a record of a topic, in whichever form it is written, into a [`millrace_schemas::Request`].
//! - [`Admission`] holds the limits and the models and judges requests and documents.
//! - [`EditableBody`] is the client's JSON, of which only the paths that we own are ever rewritten.
//! - [`tokens`] counts, [`replies`] finds the partition of an ingress replica.
//!
//! Invariant: a rejected request still has a [`millrace_schemas::Meta`], so that it ends as an
//! outcome of its tenant like any other.

mod admit;
mod batch;
mod body;
mod checks;
mod cloud_event;
mod directory;
mod document;
mod embeddings;
mod extension;
mod json;
mod messages;
mod meta;
mod nearest;
pub mod record;
pub mod replies;
pub mod responses;
mod size;
mod stream;
pub mod tokens;

pub use admit::{Admission, Admitted, Retrieval};
pub use batch::{BatchLine, MAX_BATCH_BYTES, MAX_BATCH_LINES, batch_operation, count_prompt};
pub use body::EditableBody;
pub use directory::{
    DEFAULT_USER, Directory, DirectoryError, Entry, EntryName, KeyEntry, KeyRefusal, LINGERS, PlanEntry, PreviousKey,
    PreviousOrigin, Principal, Refusal, SPREADS_WITHIN, SYSTEM_TENANT, SecretOrigin, TenantEntry, UserEntry,
    WebhookEntry, configured,
};
pub use document::is_document_id;
pub use meta::{Arrival, Rejected, meta_of_unreadable};
pub use millrace_issuers::{Issuers, TokenRefusal};
pub use nearest::nearest;
pub use stream::Stream;
