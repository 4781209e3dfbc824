//! The loop on Kafka.

mod committer;
mod consumer;
mod context;
mod customers;
mod follow;
mod handler;
mod kafka;
mod lost;
mod nagle;
mod polled;
mod position;
mod producer;
mod readiness;
mod rebalance;
mod restore;
mod run;

pub use follow::{Decoder, Followed, Follower, Report, Since, follow, partitions_of};
pub use handler::{Assignment, Delivery, Handler, Settled, dead_letter};
pub use kafka::{Unreachable, admin_client, client_config, consumer_config, fetch_metadata};
pub use producer::{ProduceError, Producer};
pub use run::{DriverError, DriverSpec, Ready, StageEnv, run_handler, run_stage};
