//! Plans, tenants, users, keys and webhook endpoints that are made while Millrace runs.
//!
//! ```text
//! admin API ── change.rs ──> audit, tenants ── follow.rs ──> Directory ── ingress, builder, router, indexer
//!                                                       └──> the service webhooks
//! ```
//!
//! Every process that has to know who there is reads all of the compacted topic `tenants` and is ready when
//! it has; from then on a change is known everywhere as soon as the broker passes it on, with no database
//! on the way.
//!
//! - [`Tenants`] is what is known, each entry as it was written.
//! - [`change`] makes the next body of an entry from what somebody asks for; no I/O.
//! - [`SecretKeys`] derives the secrets of endpoints, which are in no entry.
//! - [`follow`] reads the topic.
//!
//! Invariant: a change is in `audit` before it is in `tenants`.

mod catalogue;
pub mod change;
mod follow;
mod secrets;

pub use catalogue::{Known, Tenants, Webhook};
pub use follow::follow;
pub use secrets::{SecretKeys, as_written};
