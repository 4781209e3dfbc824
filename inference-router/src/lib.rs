//! Asks the models.
//!
//! ```text
//! prompts.L ── decode ── ended? late? ── route ── [ slot ── started ── call ── end ]* ──> completions.L, then `finished`
//!                                                         └──────── calls ─────────┘
//! ```
//!
//! - [`spec`] and [`stage()`] are all that the binary needs; the steps in order are in `stage.rs`.
//! - A cancelled request is not asked about, and a call that is on its way for it is broken off.
//! - `decide.rs` says what follows a failed call: retry, fail over, or end. It does no I/O.
//! - `entry.rs` waits for a target that lets a call through.
//! - `budget.rs` waits for room in the budgets of whoever asks, or ends the request for want of it.
//! - `along.rs` passes on to a client that reads along what it may see, which `view.rs` decides.
//! - `router.rs` makes the calls; `completion.rs` says what is written.
//!
//! Invariant: a call is sent only after its `started` was acknowledged, and nothing below sends it
//! twice. What follows a completion is a function of the completion, so recovery writes the same.

mod along;
mod budget;
#[cfg(test)]
mod cancel_tests;
mod completion;
mod decide;
mod entry;
#[cfg(test)]
mod outage_tests;
mod request;
mod response_view;
mod restore;
mod router;
mod stage;
#[cfg(test)]
mod tests;
mod view;

use millrace_schemas::{Lane, topics};
use millrace_stage::DriverSpec;

pub use stage::{Deps, InferenceRouter, stage};

/// Name of the service.
pub const STAGE: &str = "inference-router";

/// What the router of a lane consumes and how.
#[must_use]
pub fn spec(lane: Lane) -> DriverSpec {
    DriverSpec {
        stage: STAGE,
        lane: lane.to_string(),
        group: format!("{STAGE}.{lane}"),
        topics: vec![topics::of(topics::PROMPTS, lane)],
        foreign_topics: Vec::new(),
        drop_duplicates: true,
        own_output: Some(topics::of(topics::COMPLETIONS, lane)),
    }
}
