//! The HTTP front door: an OpenAI-compatible API onto `requests.interactive`, `cancellations` and
//! `documents`.
//!
//! A request is judged by the same admission as a topic record, written to its topic, and only
//! after the broker's acknowledgement counts as accepted. The answer comes back over `replies`, of
//! which each replica reads its own partition from the end; that is a hint only: whoever waits also
//! asks the result store.
//!
//! What can not be served in time is sent away before anything of it is written: by requests and bytes
//! held here (503), and by how far the lane's stages are behind (429).
//!
//! Invariant: the client's socket closing changes neither the outcome nor the bill, unless it asked for that.

mod accept;
mod admin;
mod batches;
mod come_back;
mod error;
mod files;
mod held;
mod job_events;
mod lag;
mod leave;
mod limits;
mod lines;
mod lists;
mod metrics;
mod moderations;
mod openapi;
mod outcome;
mod posted;
mod pressure;
mod ready;
mod replies;
mod response_object;
mod responses;
mod retry;
mod routes;
mod run;
mod sent;
mod serve;
mod shares;
mod stream;
mod tls;
mod together;
mod unsettled;
mod webhooks;

pub use error::ApiError;
pub use metrics::IngressMetrics;
pub use ready::Ready;
pub use run::{Deps, Ingress, IngressError, run};
pub use tls::TlsError;
