//! What a replica of the ingress let through.

use serde::{Deserialize, Serialize};

/// On behalf of one subject; the latest record of a replica and a subject counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitUse {
    /// The replica.
    pub replica: String,
    /// `tenant/<id>`, `user/<tenant>/<id>`, `key/<tenant>/<id>` or `model/<name>`; empty for a sign of life.
    pub subject: String,
    /// Microseconds since the epoch, by the replica's clock.
    pub at: i64,
    /// Minutes since the epoch.
    pub minute: i64,
    /// Requests in that minute.
    pub requests: i64,
    /// Requests in the minute before.
    pub previous_requests: i64,
    /// Tokens in that minute.
    pub tokens: i64,
    /// Tokens in the minute before.
    pub previous_tokens: i64,
    /// Days since the epoch.
    pub day: i64,
    /// Tokens in that day.
    pub day_tokens: i64,
    /// Requests whose answers are awaited at that moment.
    pub concurrent: i64,
}
