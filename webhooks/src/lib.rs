//! `outcomes.L` -> the tenants' endpoints, by Standard Webhooks.
//!
//! ```text
//! event.rs       an outcome -> the event that is told: pure
//! signature.rs   what an event is signed with
//! pauses.rs      when an attempt is made again
//! attempt.rs     what an answer makes of a delivery: pure
//! address.rs     which addresses are nobody's private ones
//! http.rs        one attempt
//! endpoint.rs    where the events of one endpoint go, and how many at a time
//! endpoints.rs   all of them, those that are made while it runs included
//! shard.rs       the deliveries of one partition: from the store to their endpoints and back
//! turn.rs        one of them
//! handler.rs     the driver's side: outcomes become deliveries
//! enqueue.rs     events of other services
//! ```
//!
//! Invariant: a record is settled once each of its deliveries is in the store and scheduled there. Attempts
//! come after that and hold no record.
//!
//! Invariant: while a delivery is pending, the schedule has a note of it in a minute that the shard's owner
//! has not passed, or has it in memory: the mark of a shard is never later than the earliest note. So whoever
//! owns the shard next finds it. A note that is left over changes nothing: the delivery says what is due.
//!
//! A delivery may arrive twice (its answer was lost, or its sender was killed); it has the same `webhook-id`.

mod address;
mod attempt;
mod endpoint;
mod endpoints;
mod enqueue;
mod event;
mod handler;
mod http;
mod metrics;
mod pauses;
mod shard;
mod signature;
mod turn;

use std::sync::Arc;
use std::time::Duration;

use millrace_config::Config;
use millrace_schemas::{Lane, topics};
use millrace_stage::{DriverError, DriverSpec, Producer, StageEnv, run_handler};
use millrace_storage::Storage;
use millrace_tenants::Tenants;

pub use crate::attempt::Heard;
pub use crate::endpoint::Endpoint;
pub use crate::enqueue::enqueue;
pub use crate::event::{Event, TEST_EVENT};
pub use crate::http::Caller;
pub use crate::metrics::WebhookMetrics;
pub use crate::pauses::{PAUSES, ROUND};
use crate::shard::Sender;

const NAME: &str = "webhooks";
/// What a stop waits for beyond the longest attempt.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What it consumes.
#[must_use]
pub fn spec(lane: Lane) -> DriverSpec {
    DriverSpec {
        stage: NAME,
        lane: lane.to_string(),
        group: format!("{NAME}.{lane}"),
        topics: vec![topics::of(topics::OUTCOMES, lane)],
        foreign_topics: Vec::new(),
        drop_duplicates: true,
        own_output: None,
    }
}

/// Sends the events of one lane until shutdown or failure. `tenants` has caught up.
///
/// # Errors
/// [`DriverError`]; the caller may start it again.
pub async fn run(
    config: &Config,
    lane: Lane,
    env: &StageEnv,
    producer: Producer,
    (storage, tenants): (&Storage, &Tenants),
    metrics: WebhookMetrics,
) -> Result<(), DriverError> {
    let caller = Caller::new(&config.webhooks).map_err(DriverError::Stage)?;
    let sender = Arc::new(Sender::new(config, lane, storage, caller, metrics));
    // Before any outcome is read, or it would be told to nobody.
    sender.endpoints.take_up(&tenants.told_webhooks());
    let following = tokio::spawn(Arc::clone(&sender).follow(tenants.clone()));
    let housekeeping = tokio::spawn(Arc::clone(&sender).keep_house());
    let handler = handler::WebhooksHandler::new(Arc::clone(&sender), env.codec.clone(), producer, lane);
    let result = run_handler(spec(lane), env, handler).await;
    housekeeping.abort();
    following.abort();
    sender.stop(Duration::from_millis(config.webhooks.timeout_ms) + LAST_WORDS).await;
    result
}
