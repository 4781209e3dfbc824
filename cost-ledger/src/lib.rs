//! The cost ledger: `calls` -> entries and rollups.
//!
//! ```text
//! fold.rs        what each record means: pure, the same for whoever folds the same log
//! entry.rs       the lines that are booked, and what a late end corrects
//! cells.rs       rollups, folded only beyond the last record in them
//! spending.rs    what tenants and users have spent and reserved, for the topic `budgets`
//! book.rs        a partition's fold over its store; checkpoint.rs: its state as bytes
//! sweep.rs       when a call without an end is declared unconfirmed
//! start.rs       whether a checkpoint and a log belong together
//! worker.rs      folds, flushes, settles, sweeps: one per partition; handler.rs starts them
//! calls_log.rs   the topic `calls`, on Kafka
//! usage.rs       rollups -> usage per user and day
//! ```
//!
//! Invariant: every call that was announced is booked once, by its end or, when none was seen in
//! time, at its upper bound; an end that comes later books the difference, so that a call's lines
//! add up to what its end says.
//!
//! Invariant: a record is settled only after everything folded up to it is durable, in the order
//! entries, rollups, checkpoint. So a commit never passes the checkpoint, and a crash between the
//! two makes the next owner skip what the checkpoint has.
//!
//! Invariant: entries and rollups are a pure function of the log. A replay, or a former owner that
//! still writes, writes the same again.

mod book;
mod calls_log;
mod cells;
mod checkpoint;
mod entry;
mod failure;
mod fold;
mod handler;
mod metrics;
mod open;
mod spending;
mod start;
mod sweep;
#[cfg(test)]
mod tests;
pub mod usage;
mod valid;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use millrace_config::Config;
use millrace_schemas::topics;
use millrace_stage::{DriverError, DriverSpec, Handler, Producer, StageEnv, run_handler};
use millrace_storage::LedgerStore;

pub use crate::calls_log::{CallsLog, KafkaCalls, Trouble};
pub use crate::entry::{ADJUSTED, FINISHED, UNCONFIRMED};
pub use crate::failure::Failure;
pub use crate::metrics::LedgerMetrics;
pub use crate::spending::{Counting, Listed};
pub use crate::worker::Settings;

/// Name of the service and of its consumer group.
pub const STAGE: &str = "cost-ledger";
/// Calls of all lanes are in one topic.
const LANE: &str = "all";

/// What the ledger consumes and how.
#[must_use]
pub fn spec() -> DriverSpec {
    DriverSpec {
        stage: STAGE,
        lane: LANE.to_owned(),
        group: STAGE.to_owned(),
        topics: vec![topics::CALLS.to_owned()],
        foreign_topics: Vec::new(),
        // One source record has several records in `calls`; the fold knows its duplicates itself.
        drop_duplicates: false,
        own_output: None,
    }
}

/// The ledger's bounds and times.
#[must_use]
pub fn settings(config: &Config) -> Settings {
    // A flush must come before the driver's window is used up, or both wait for the interval.
    let window = usize::try_from(config.stage.window / 2).unwrap_or(usize::MAX).max(1);
    Settings {
        flush_calls: usize::try_from(config.ledger.flush_calls).unwrap_or(usize::MAX).min(window),
        flush_interval: Duration::from_millis(config.ledger.flush_interval_ms),
        grace: Duration::from_millis(config.ledger.grace_ms),
    }
}

/// The consumer of `calls` in `generation`. `failure` is told when the ledger can not go on and no
/// record is at hand to say so.
pub fn handler<L: CallsLog>(
    log: L,
    store: Arc<dyn LedgerStore>,
    generation: u32,
    settings: Settings,
    metrics: LedgerMetrics,
    counting: Counting,
    failure: Arc<Failure>,
) -> impl Handler {
    handler::LedgerHandler {
        log: Arc::new(log),
        store,
        generation,
        settings,
        metrics,
        counting,
        failure,
        workers: handler::Workers::default(),
    }
}

/// How many calls are open in a stored checkpoint.
///
/// # Errors
/// One sentence: it can not be read.
pub fn open_calls(upto: i64, checkpoint: &[u8]) -> Result<usize, String> {
    checkpoint::decode(upto, checkpoint).map(|(fold, _)| fold.open().len())
}

/// Runs the ledger until shutdown or failure.
///
/// # Errors
/// [`DriverError`]; the caller may start it again.
pub async fn run(
    config: &Config,
    env: &StageEnv,
    producer: Producer,
    store: Arc<dyn LedgerStore>,
    metrics: LedgerMetrics,
    counting: Counting,
) -> Result<(), DriverError> {
    let stop = env.shutdown.child_token();
    let failure = Arc::new(Failure::new(stop.clone()));
    let env = StageEnv { shutdown: stop, ..env.clone() };
    let log = KafkaCalls::new(&env.kafka, env.codec.clone(), producer.clone())
        .map_err(|error| DriverError::Kafka(error.to_string()))?;
    let handler = handler(log, store, env.kafka.generation, settings(config), metrics, counting, Arc::clone(&failure));
    let result = run_handler(spec(), &env, handler).await;
    if let Err(error) = producer.flush(Duration::from_secs(5)).await {
        tracing::warn!(%error, "not everything sent was acknowledged");
    }
    failure.happened().map_or(result, |error| Err(DriverError::Stage(error)))
}
