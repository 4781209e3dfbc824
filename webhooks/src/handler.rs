//! The driver's side: outcomes become deliveries.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_schemas::{Codec, CodecError, Lane, Outcome, SOURCE_HEADER, topics};
use millrace_stage::core::{Backoff, jitter};
use millrace_stage::{
    Assignment, Delivery, Handler, Outgoing, Plan, Poison, Producer, Received, Settled, StageError, To, dead_letter,
};
use millrace_storage::StorageError;
use millrace_telemetry::{TRACEPARENT, TraceContext};
use tokio::runtime::Handle;

use crate::NAME;
use crate::event::Event;
use crate::shard::{Sender, Shard};

pub(crate) struct WebhooksHandler {
    inner: Arc<Inner>,
    runtime: Handle,
}

struct Inner {
    sender: Arc<Sender>,
    codec: Codec,
    producer: Producer,
    lane: Lane,
    shards: Mutex<HashMap<i32, Arc<Shard>>>,
}

impl WebhooksHandler {
    pub(crate) fn new(sender: Arc<Sender>, codec: Codec, producer: Producer, lane: Lane) -> Self {
        let inner = Inner { sender, codec, producer, lane, shards: Mutex::default() };
        Self { inner: Arc::new(inner), runtime: Handle::current() }
    }
}

impl Handler for WebhooksHandler {
    /// A partition brings its shard; and those that only an earlier generation of the topic had, to one
    /// owner each.
    async fn assigned(&self, assignment: &Assignment) -> Result<(), StageError> {
        let Inner { sender, producer, lane, .. } = &*self.inner;
        let own = assignment.partition.number;
        let count = producer.partitions(&topics::of(topics::OUTCOMES, *lane)).await;
        let count = count.map_err(|error| StageError::retry(format!("`outcomes.{lane}` is not known: {error}")))?;
        let marks = sender.schedule.marks(lane.as_str()).await.map_err(stage_error)?;
        let mark_of = |number: i32| marks.iter().find(|(shard, _)| *shard == number).map(|(_, mark)| *mark);
        let token = || assignment.token.clone();
        let shard = Shard::adopt(sender, own, mark_of(own), token()).await.map_err(stage_error)?;
        for (number, mark) in &marks {
            if *number >= count && number % count.max(1) == own {
                Shard::adopt(sender, *number, Some(*mark), token()).await.map_err(stage_error)?;
            }
        }
        self.inner.shards().insert(own, shard);
        Ok(())
    }

    fn deliver(&self, delivery: Delivery) {
        let inner = Arc::clone(&self.inner);
        self.runtime.spawn(async move {
            let assignment = delivery.record.assignment.clone();
            // Pinned here: given by value, this large future would be held twice.
            assignment.run_until_cancelled(pin!(inner.work(delivery))).await;
        });
    }
}

impl Inner {
    fn shards(&self) -> MutexGuard<'_, HashMap<i32, Arc<Shard>>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(&self, delivery: Delivery) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
        loop {
            let (error, after) = match self.take(&delivery.record).await {
                Ok(settled) => return delivery.settle(settled),
                Err(StageError::Retry { error, after }) => (error, after),
                Err(StageError::Fatal(error)) => return delivery.fatal(error),
                Err(StageError::Poison(poison)) => return delivery.fatal(poison.message),
            };
            let pause = backoff.next(jitter(), after);
            tracing::warn!(stage = NAME, at = %delivery.record.at, error, ?pause, "record is tried again");
            tokio::time::sleep(pause).await;
        }
    }

    /// Every endpoint of the outcome's tenant that asks for it has its delivery in the store.
    async fn take(&self, record: &Received) -> Result<Settled, StageError> {
        // Most outcomes are of tenants without endpoints, and need not be read.
        if record.header("tenant").is_some_and(|tenant| !self.sender.endpoints.has_any(tenant)) {
            return Ok(Settled::Done);
        }
        let outcome = match self.codec.decode::<Outcome>(&record.value).await {
            Ok(outcome) => outcome,
            Err(error @ CodecError::Registry(_)) => return Err(StageError::retry(error.to_string())),
            Err(error @ (CodecError::Undecodable(_) | CodecError::Refused { .. })) => {
                return self.give_up(record, error.to_string()).await;
            }
        };
        let event = Event::of_outcome(&outcome);
        let shard = self.shards().get(&record.at.partition).map(Arc::clone);
        let shard = shard.ok_or_else(|| StageError::Fatal(format!("{} came before its partition", record.at)))?;
        let tenant = &outcome.meta.tenant;
        for endpoint in self.sender.endpoints.of(tenant).iter().filter(|endpoint| endpoint.wants(&event.kind)) {
            shard.create(tenant, &event, endpoint).await.map_err(stage_error)?;
        }
        Ok(Settled::Done)
    }

    async fn give_up(&self, record: &Received, message: String) -> Result<Settled, StageError> {
        tracing::warn!(stage = NAME, at = %record.at, error = message, "record is dead-lettered");
        let poison = Poison {
            code: "undecodable".to_owned(),
            message,
            tenant: record.header("tenant").map(str::to_owned),
            request_id: record.header("request_id").map(str::to_owned),
            plan: Plan::default(),
        };
        let value = self.codec.encode(&dead_letter(NAME, record, &poison));
        let value = value.map_err(|error| StageError::Fatal(error.to_string()))?;
        let key = poison.request_id.unwrap_or_else(|| record.at.to_string());
        let letter = Outgoing::new(topics::DEAD_LETTERS, key, value).to(To::ByKey);
        let source = record.as_source.to_string();
        let trace = TraceContext::parse_or_random(record.header(TRACEPARENT)).child().to_string();
        let headers = [(SOURCE_HEADER, source.as_str()), (TRACEPARENT, trace.as_str())];
        self.producer
            .send(&letter, record.at.partition, &headers)
            .await
            .map_err(|error| StageError::Fatal(error.to_string()))?;
        Ok(Settled::DeadLettered)
    }
}

fn stage_error(error: StorageError) -> StageError {
    match error {
        StorageError::Outage(error) => StageError::retry(error),
        StorageError::Refused(error) => StageError::Fatal(error),
    }
}
