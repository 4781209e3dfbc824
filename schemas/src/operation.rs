//! What can be asked for.

use serde::{Deserialize, Serialize};

use crate::words::words;

words! {
    /// An operation of OpenAI's API, by the word that it has in requests, calls and on the bill.
    Operation {
        /// `POST /v1/chat/completions`.
        Chat = "chat.completions",
        /// `POST /v1/embeddings`.
        Embeddings = "embeddings",
        /// `POST /v1/responses`.
        Responses = "responses",
    }
}

/// The largest answer that travels, bytes: a record stays under a megabyte.
pub const ANSWER_LIMIT: usize = 700 * 1024;
