//! The real servers Millrace runs against, started on free loopback ports for as long as a test,
//! a benchmark or a fault run needs them: Apache Kafka (one broker or three), Apache Cassandra
//! (which speaks the CQL of ScyllaDB) and the Apicurio schema registry (which speaks Confluent's
//! API).
//!
//! `tests/stack/fetch.sh` brings the servers' jars into the cache first; Java 17 runs them.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let stack = millrace_stack::Stack::builder().start().await?;
//! println!("{} {}", stack.bootstrap_servers(), stack.registry_url());
//! stack.kill_broker(0).await?; // as if the power went
//! stack.start_broker(0).await?; // same port, same log
//! stack.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Nothing is left behind: every server is killed when the [`Stack`] is stopped or dropped, and
//! what a killed test run left is found by its pid file and ended when the next stack starts.

mod builder;
mod cassandra;
mod kafka;
mod leftovers;
mod parts;
mod ports;
mod registry;
mod server;
mod stack;
mod wire;

pub use builder::Builder;
pub use leftovers::{Swept, sweep};
pub use parts::{cache_dir, kafka_jars};
pub use ports::free_ports;
pub use stack::{Addresses, Part, Stack};
