//! Builds the exact provider request.
//!
//! ```text
//! requests.L, customers' topics of L, redrives.L ── prove the tenant ── read ── admit ── claim the key ── hold to the rules ── retrieve ──> prompts.L, then `finished`
//!                                                                     │                         └──── calls (embedding the question)
//!                                                                     └── a duplicate: no prompt; `replies` and the reply topic if its outcome is there
//! ```
//!
//! - [`spec`] and [`stage()`] are all that the binary needs; the steps in order are in `stage.rs`.
//! - `decide.rs` makes prompts of verdicts, `passages.rs` fits passages into a prompt; neither does I/O.
//! - `redact.rs` puts what rules let a model see in the place of what was asked; no I/O either.
//! - `beside.rs` reads bodies of requests, and writes those of prompts, that are too large for their records.
//! - `conversation.rs` puts what a response goes on from before its input.
//! - `redrive.rs` reads the original of a request that an operator runs again: it is judged like a new one.
//! - `retrieve.rs` finds passages, over the ports in `ports.rs`; `embed.rs` and [`vectors`] are their
//!   adapters.
//!
//! Whatever can not go on travels down the arrow as a prompt that has `ended`: only the moderator
//! writes outcomes.
//!
//! Invariant: of all records with one idempotency key exactly one becomes a prompt of the key's id.
//!
//! Invariant: of all redrives to the same run of a request exactly one becomes a prompt.

mod beside;
mod conversation;
mod decide;
mod embed;
mod metrics;
mod passages;
mod ports;
mod redact;
mod redrive;
mod retrieve;
mod stage;
pub mod vectors;

use millrace_admission::Directory;
use millrace_schemas::{Lane, topics};
use millrace_stage::DriverSpec;

pub use metrics::PromptMetrics;
pub use ports::Passage;
pub use stage::{Deps, PromptBuilder, StartError, stage};

/// Name of the service.
pub const STAGE: &str = "prompt-builder";

/// The consumer group of redrives, without its lane.
const REDRIVER: &str = "redriver";

/// What the same builder consumes of redrives. In a group of their own: in one with the requests, a process
/// could be given nothing but redrives, of which there are hardly any.
#[must_use]
pub fn redrive_spec(lane: Lane) -> DriverSpec {
    DriverSpec {
        stage: STAGE,
        lane: format!("{lane} redrives"),
        group: format!("{REDRIVER}.{lane}"),
        topics: vec![topics::of(topics::REDRIVES, lane)],
        foreign_topics: Vec::new(),
        // A run is claimed: that is what makes two redrives one.
        drop_duplicates: false,
        own_output: Some(topics::of(topics::PROMPTS, lane)),
    }
}

/// What the builder of a lane consumes and how.
#[must_use]
pub fn spec(directory: &Directory, lane: Lane) -> DriverSpec {
    DriverSpec {
        stage: STAGE,
        lane: lane.to_string(),
        group: format!("{STAGE}.{lane}"),
        topics: vec![topics::of(topics::REQUESTS, lane)],
        foreign_topics: directory.bound_topics(lane),
        // Anybody may write there; the idempotency key is what makes two records one request.
        drop_duplicates: false,
        own_output: Some(topics::of(topics::PROMPTS, lane)),
    }
}
