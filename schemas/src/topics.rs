//! Logical topic names (before the configured prefix) and the events they carry.

use crate::Lane;

/// Work asked for.
pub const REQUESTS: &str = "requests";
/// Requests that run again at an operator's word.
pub const REDRIVES: &str = "redrives";
/// Exact provider requests.
pub const PROMPTS: &str = "prompts";
/// What the model said.
pub const COMPLETIONS: &str = "completions";
/// One per request and run.
pub const OUTCOMES: &str = "outcomes";
/// The log that the ledger folds.
pub const CALLS: &str = "calls";
/// Spending and reservations, by tenant and user.
pub const BUDGETS: &str = "budgets";
/// Answers for waiting ingress replicas: hints only.
pub const REPLIES: &str = "replies";
/// Content-free facts for analytics.
pub const FACTS: &str = "facts";
/// Knowledge to index.
pub const DOCUMENTS: &str = "documents";
/// Requests that their clients took back.
pub const CANCELLATIONS: &str = "cancellations";
/// Plans, tenants, users, keys and webhook endpoints that were made while Millrace runs.
pub const TENANTS: &str = "tenants";
/// Every administrative action.
pub const AUDIT: &str = "audit";
/// What replicas of the ingress let through, for each other.
pub const LIMITS: &str = "limits";
/// Records that can never succeed.
pub const DEAD_LETTERS: &str = "dead-letters";
/// What operators did with them.
pub const DEAD_LETTER_ACTIONS: &str = "dead-letter-actions";

/// The topic of `base` in `lane`, e.g. `requests.batch`.
#[must_use]
pub fn of(base: &str, lane: Lane) -> String {
    format!("{base}.{lane}")
}

/// The lane of `topic` when it is one of the two topics of `base`.
#[must_use]
pub fn lane_of(base: &str, topic: &str) -> Option<Lane> {
    topic.strip_prefix(base)?.strip_prefix('.')?.parse().ok()
}
