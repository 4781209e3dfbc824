//! The log of calls, as the ledger needs it, and Kafka as such.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use millrace_config::KafkaConfig;
use millrace_schemas::{Budget, Call, Codec, SOURCE_HEADER, topics};
use millrace_stage::{Outgoing, Poison, ProduceError, Producer, Received, To, admin_client, dead_letter};
use millrace_telemetry::{TRACEPARENT, TraceContext};
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;

use crate::STAGE;
use crate::valid;

/// How long the broker may take to say where a log begins and ends.
const ANSWER: Duration = Duration::from_secs(10);

/// Cells of one publication on their way at a time.
const TOGETHER: usize = 256;

/// What can go wrong, in three classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The same may work later.
    Outage(String),
    /// This record will never be folded.
    Poison(String),
    /// The ledger can not go on.
    Fatal(String),
}

/// The topic `calls`.
pub trait CallsLog: Send + Sync + 'static {
    /// The call in a record.
    fn decode(&self, record: &Received) -> impl Future<Output = Result<Call, Trouble>> + Send;

    /// Offsets of a partition's first record and of its next one.
    fn bounds(&self, partition: i32) -> impl Future<Output = Result<(i64, i64), Trouble>> + Send;

    /// Writes a record and waits for its acknowledgement.
    fn append(&self, partition: i32, call: &Call) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Writes spending to `budgets`, in this order, and waits for the acknowledgements.
    fn publish(&self, budgets: Vec<Budget>) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Writes the dead letter of a record and waits for its acknowledgement.
    fn bury(&self, record: &Received, error: &str) -> impl Future<Output = Result<(), Trouble>> + Send;
}

/// [`CallsLog`] on Kafka.
pub struct KafkaCalls {
    kafka: KafkaConfig,
    admin: Mutex<Arc<AdminClient<DefaultClientContext>>>,
    topic: String,
    producer: Producer,
    codec: Codec,
}

impl KafkaCalls {
    /// Makes the client that asks for the log's bounds.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub fn new(kafka: &KafkaConfig, codec: Codec, producer: Producer) -> Result<Self, KafkaError> {
        let admin = Mutex::new(Arc::new(admin_client(kafka)?));
        Ok(Self { kafka: kafka.clone(), admin, topic: kafka.topic(topics::CALLS), producer, codec })
    }

    /// A client that saw a partition without its leader goes on believing that there is none, for as
    /// long as its view of the cluster is kept: the next question is asked by a new one.
    fn renew(&self) {
        match admin_client(&self.kafka) {
            Ok(admin) => *self.admin.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(admin),
            Err(error) => tracing::warn!(%error, "no new client for the log's bounds"),
        }
    }
}

impl CallsLog for KafkaCalls {
    async fn decode(&self, record: &Received) -> Result<Call, Trouble> {
        let call = self.codec.decode::<Call>(&record.value).await.map_err(|error| {
            if error.is_outage() { Trouble::Outage(error.to_string()) } else { Trouble::Poison(error.to_string()) }
        })?;
        valid::check(&call).map_err(Trouble::Poison)?;
        Ok(call)
    }

    async fn bounds(&self, partition: i32) -> Result<(i64, i64), Trouble> {
        let admin = Arc::clone(&self.admin.lock().unwrap_or_else(PoisonError::into_inner));
        let topic = self.topic.clone();
        let asking = tokio::task::spawn_blocking(move || admin.inner().fetch_watermarks(&topic, partition, ANSWER));
        let bounds = asking.await.map_err(|error| Trouble::Outage(error.to_string()))?;
        bounds.map_err(|error| {
            self.renew();
            Trouble::Outage(error.to_string())
        })
    }

    async fn append(&self, partition: i32, call: &Call) -> Result<(), Trouble> {
        let value = self.codec.encode(call).map_err(|error| Trouble::Fatal(error.to_string()))?;
        let record = Outgoing::new(topics::CALLS, call.call_id.as_str(), value)
            .to(To::Partition(partition))
            .header("request_id", call.request_id.as_str())
            .header("tenant", call.tenant.as_str());
        let trace = TraceContext::random().to_string();
        self.producer.send(&record, partition, &[(TRACEPARENT, trace.as_str())]).await.map_err(unwritten)
    }

    async fn publish(&self, budgets: Vec<Budget>) -> Result<(), Trouble> {
        let count = self.producer.partitions(topics::BUDGETS).await.map_err(|e| Trouble::Outage(e.to_string()))?;
        let trace = TraceContext::random().to_string();
        let headers = [(TRACEPARENT, trace.as_str())];
        let send = async |budget: &Budget| {
            let value = self.codec.encode(budget).map_err(|error| Trouble::Fatal(error.to_string()))?;
            let partition = budget.partition.rem_euclid(count.max(1));
            let record = Outgoing::new(topics::BUDGETS, budget.key(), value).to(To::Partition(partition));
            self.producer.send(&record, partition, &headers).await.map_err(unwritten)
        };
        // A mark speaks for what was written before it: it waits until that is acknowledged.
        let (marks, cells): (Vec<_>, Vec<_>) = budgets.iter().partition(|budget| budget.tenant.is_none());
        for group in [cells, marks] {
            stream::iter(group.into_iter().map(send)).buffered(TOGETHER).try_collect::<()>().await?;
        }
        Ok(())
    }

    async fn bury(&self, record: &Received, error: &str) -> Result<(), Trouble> {
        let poison = Poison {
            code: "invalid_call".to_owned(),
            message: error.to_owned(),
            tenant: None,
            request_id: None,
            plan: millrace_stage::Plan::default(),
        };
        let letter = dead_letter(STAGE, record, &poison);
        let value = self.codec.encode(&letter).map_err(|error| Trouble::Fatal(error.to_string()))?;
        let out = Outgoing::new(topics::DEAD_LETTERS, record.at.to_string(), value).to(To::ByKey);
        let source = record.as_source.to_string();
        let trace = TraceContext::parse_or_random(record.header(TRACEPARENT)).child().to_string();
        let headers = [(SOURCE_HEADER, source.as_str()), (TRACEPARENT, trace.as_str())];
        self.producer.send(&out, record.at.partition, &headers).await.map_err(unwritten)
    }
}

fn unwritten(error: ProduceError) -> Trouble {
    match error {
        ProduceError::Fatal(_) | ProduceError::Refused { .. } => Trouble::Fatal(error.to_string()),
        ProduceError::Unknown => Trouble::Outage(error.to_string()),
    }
}
