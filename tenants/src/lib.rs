//! Plans, tenants, users and keys that are made while Millrace runs.
//!
//! ```text
//! admin API ── change.rs ──> audit, tenants ── follow.rs ──> Directory ── ingress, builder, router, indexer
//! ```
//!
//! Every process that has to know who there is reads all of the compacted topic `tenants` and is ready when
//! it has; from then on a change is known everywhere as soon as the broker passes it on, with no database
//! on the way.
//!
//! - [`Tenants`] is what is known, each entry as it was written.
//! - [`change`] makes the next body of an entry from what somebody asks for; no I/O.
//! - [`follow`] reads the topic.
//!
//! Invariant: a change is in `audit` before it is in `tenants`.

mod catalogue;
pub mod change;
mod follow;

pub use catalogue::{Known, Tenants};
pub use follow::follow;
