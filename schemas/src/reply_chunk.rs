//! Parts of answers that are still being written.

use serde::{Deserialize, Serialize};

/// Events of a streamed answer. See `avro/reply-chunk.avsc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyChunk {
    /// Identity of the request.
    pub request_id: String,
    /// Hash of the request's body where it has an idempotency key.
    pub body_hash: Option<String>,
    /// The call that the answer comes from.
    pub call_id: String,
    /// Number of the first of these events among those of the call.
    pub sequence: i64,
    /// The data of each event.
    pub events: Vec<String>,
}
