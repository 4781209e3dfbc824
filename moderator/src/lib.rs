//! `completions.L` -> `outcomes.L`: holds answers to the rules and writes the one outcome.
//!
//! Nobody else writes outcomes: what ended early travels through here as a small record. The
//! moderator only computes. Whatever needs a call or a changing state was decided before and is in
//! the completion, so a zombie and its successor can never decide differently.

mod decide;
mod stage;

pub use decide::decide;
pub use stage::{ModeratorStage, spec};
