//! The HTTP front door: an OpenAI-compatible API onto `requests.interactive`, `cancellations` and
//! `documents`.
//!
//! A request is judged by the same admission as a topic record, written to its topic, and only
//! after the broker's acknowledgement counts as accepted. The answer comes back over `replies`, of
//! which each replica reads its own partition from the end; that is a hint only: whoever waits also
//! asks the result store.
//!
//! Invariant: the client's socket closing changes neither the outcome nor the bill.

mod accept;
mod error;
mod metrics;
mod outcome;
mod ready;
mod replies;
mod routes;
mod run;

pub use error::ApiError;
pub use metrics::IngressMetrics;
pub use ready::Ready;
pub use run::{Ingress, IngressError, run};
