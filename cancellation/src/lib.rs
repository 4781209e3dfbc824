//! Which requests their clients took back.
//!
//! ```text
//! DELETE /v1/requests/{id} ── ingress ──> cancellations ── follow.rs ──> Cancellations ── builder, router
//! ```
//!
//! Every process that works on requests reads all of the topic `cancellations`, from far enough back
//! that no request it may still meet was cancelled earlier, and begins its work when it has.
//!
//! - [`Cancellations`] remembers who was cancelled and wakes who works on it; no I/O.
//! - [`record`] proves that a record of the topic is its tenant's own.
//! - [`follow`] reads the topic.
//!
//! A cancellation is a wish: a request whose answer is written keeps it. Of two records for one
//! request the second changes nothing.

mod follow;
pub mod record;
mod set;

pub use follow::follow;
pub use set::{Cancellations, Watch};
