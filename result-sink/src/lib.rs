//! `outcomes.L` -> the result store, `facts`, and the customer's own topic.
//!
//! The result is written first, then the waiters of its idempotency key are read; a duplicate
//! request writes its waiter first and then reads the result. So at least one of the two delivers.

mod fact;
mod stage;

pub use fact::fact_of;
pub use stage::{ResultSinkStage, spec};
