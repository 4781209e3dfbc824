//! The loop that all consumers share.
//!
//! - [`core`] holds its decisions without any I/O.
//! - [`Stage`] is what an author writes: one record in, a [`Plan`] out.
//! - [`run_stage`] drives a stage on Kafka: many records in flight, settled in any order, committed
//!   to the contiguous head; duplicates dropped; dead letters; deferred revocation.
//! - [`run_handler`] drives a consumer that needs its records in order (the ledger).
//! - [`follow`] reads a topic that every process has to know.
//!
//! Invariant: an offset is committed only after everything its record became is acknowledged.

pub mod core;
mod driver;
mod metrics;
mod stage;

pub use driver::{
    Assignment, Decoder, Delivery, DriverError, DriverSpec, Followed, Follower, Handler, ProduceError, Producer, Ready,
    Report, Settled, Since, StageEnv, Unreachable, admin_client, client_config, consumer_config, dead_letter,
    fetch_metadata, follow, partitions_of, run_handler, run_stage,
};
pub use metrics::StageMetrics;
pub use stage::{Outgoing, Plan, Poison, Received, Stage, StageError, To};
