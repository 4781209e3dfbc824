//! The steps, in order.

use std::sync::Arc;

use millrace_admission::{Directory, replies};
use millrace_schemas::{Codec, CodecError, Lane, Outcome, topics};
use millrace_stage::{DriverSpec, Outgoing, Plan, Poison, Producer, Received, Stage, StageError, To};
use millrace_storage::{IdempotencyKeys, LogPlace, Results, Storage, StorageError};

use crate::fact_of;

const NAME: &str = "result-sink";

/// The sink of one lane.
pub struct ResultSinkStage {
    codec: Codec,
    producer: Producer,
    results: Arc<dyn Results>,
    keys: Arc<dyn IdempotencyKeys>,
    directory: Directory,
}

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

impl ResultSinkStage {
    /// A sink into this store.
    #[must_use]
    pub fn new(directory: Directory, codec: Codec, producer: Producer, storage: &Storage) -> Self {
        let (results, keys) = (Arc::clone(&storage.results), Arc::clone(&storage.keys));
        Self { codec, producer, results, keys, directory }
    }

    async fn store(&self, record: &Received, outcome: &Outcome) -> Result<(), StageError> {
        let place = LogPlace { generation: record.at.generation, offset: record.at.offset };
        let meta = &outcome.meta;
        self.results
            .put(&meta.tenant, &meta.request_id, meta.run, place, record.value.clone())
            .await
            .map_err(stage_error)
    }

    /// The customer's topic and whoever else waits on the same idempotency key.
    async fn deliveries(&self, record: &Received, outcome: &Outcome) -> Result<Vec<Outgoing>, StageError> {
        let meta = &outcome.meta;
        let mut out = Vec::new();
        if let Some(topic) = &meta.reply_topic {
            out.push(self.customer(topic, record, outcome).await?);
        }
        if meta.idempotency_key.is_none() {
            return Ok(out);
        }
        for waiter in self.keys.waiters(&meta.tenant, &meta.request_id).await.map_err(stage_error)? {
            if let Some(topic) = &waiter.reply_topic {
                out.push(self.customer(topic, record, outcome).await?);
            }
            if let Some(replica) = &waiter.replica {
                let count = self.producer.partitions(topics::REPLIES).await;
                let count = count.map_err(|e| StageError::retry(format!("`replies` is not known: {e}")))?;
                let reply = Outgoing::of_request(topics::REPLIES, meta, record.value.clone());
                out.push(reply.header("replica", replica).to(To::Partition(replies::partition(replica, count))));
            }
        }
        Ok(out)
    }

    async fn customer(&self, topic: &str, record: &Received, outcome: &Outcome) -> Result<Outgoing, StageError> {
        let meta = &outcome.meta;
        let out = Outgoing::of_request(topic, meta, record.value.clone()).to(To::ByKey);
        let out = out.of_customer(meta.idempotency_key.as_deref());
        match self.directory.reads_json(&meta.tenant, topic) {
            true => out.into_json(&self.codec).await,
            false => Ok(out),
        }
    }
}

impl Stage for ResultSinkStage {
    async fn process(&self, record: &Received) -> Result<Plan, StageError> {
        let outcome = match self.codec.decode::<Outcome>(&record.value).await {
            Ok(outcome) => outcome,
            Err(error @ CodecError::Registry(_)) => return Err(StageError::retry(error.to_string())),
            Err(error @ (CodecError::Undecodable(_) | CodecError::Refused { .. })) => {
                return Err(poison(record, &error.to_string()));
            }
        };
        self.store(record, &outcome).await?;
        let then = self.deliveries(record, &outcome).await?;
        let fact = self.codec.encode(&fact_of(&outcome)).map_err(|e| StageError::Fatal(e.to_string()))?;
        let fact = Outgoing::of_request(topics::FACTS, &outcome.meta, fact);
        Ok(Plan { primary: Some(fact), then })
    }
}

/// Only the moderator writes outcomes, so there is nothing to tell a client: the dead letter is for
/// the operator.
fn poison(record: &Received, message: &str) -> StageError {
    StageError::Poison(Box::new(Poison {
        code: "undecodable".to_owned(),
        message: message.to_owned(),
        tenant: record.header("tenant").map(str::to_owned),
        request_id: record.header("request_id").map(str::to_owned),
        plan: Plan::default(),
    }))
}

fn stage_error(error: StorageError) -> StageError {
    match error {
        StorageError::Outage(error) => StageError::retry(error),
        StorageError::Refused(error) => StageError::Fatal(error),
    }
}
