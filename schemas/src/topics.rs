//! Logical topic names (before the configured prefix) and the events they carry.

use crate::Lane;

/// Work asked for.
pub const REQUESTS: &str = "requests";
/// Exact provider requests.
pub const PROMPTS: &str = "prompts";
/// What the model said.
pub const COMPLETIONS: &str = "completions";
/// One per request and run.
pub const OUTCOMES: &str = "outcomes";
/// The log that the ledger folds.
pub const CALLS: &str = "calls";
/// Answers for waiting ingress replicas: hints only.
pub const REPLIES: &str = "replies";
/// Content-free facts for analytics.
pub const FACTS: &str = "facts";
/// Knowledge to index.
pub const DOCUMENTS: &str = "documents";
/// Requests that their clients took back.
pub const CANCELLATIONS: &str = "cancellations";
/// Records that can never succeed.
pub const DEAD_LETTERS: &str = "dead-letters";

/// The topic of `base` in `lane`, e.g. `requests.batch`.
#[must_use]
pub fn of(base: &str, lane: Lane) -> String {
    format!("{base}.{lane}")
}
