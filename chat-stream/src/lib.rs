//! A chat completion in pieces.
//!
//! ```text
//! chunk, chunk, chunk ── Whole::add ──> Whole ── to_completion() ──> the completion
//! the completion ── rest(completion, what was sent) ──> the chunks that are still to be sent
//! ```
//!
//! The two are inverse: whatever part of a completion was sent, what was sent and its rest add up to
//! the completion again. So a stream may lose chunks on its way, or all of them, and still end right.
//! Members that nobody here knows are carried along; one that is null says nothing.

mod chunk;
mod merge;
mod rest;
mod whole;

pub use chunk::{Chunk, NotAChunk};
pub use rest::{RestError, rest};
pub use whole::Whole;
