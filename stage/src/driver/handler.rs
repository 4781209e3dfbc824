//! Deliveries, and how a stage works one off.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use millrace_schemas::{DeadLetter, RecordHeader, SOURCE_HEADER, topics};
use millrace_telemetry::{TRACEPARENT, TraceContext};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::consumer::Shared;
use super::customers::Customers;
use super::producer::Producer;
use crate::core::{Backoff, Partition, Ticket, jitter};
use crate::{Outgoing, Plan, Poison, Received, Stage, StageError, To};

/// Beyond this a dead letter carries coordinates instead of the value, bytes.
const DEAD_LETTER_VALUE_LIMIT: usize = 2 << 20;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Its plan was written.
    Done,
    /// It can never succeed; its dead letter and its ended record were written.
    DeadLettered,
    /// A copy of an earlier record.
    Duplicate,
    /// An earlier owner of the partition had written its output.
    Recovered,
}

impl Settled {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::DeadLettered => "dead_lettered",
            Self::Duplicate => "duplicate",
            Self::Recovered => "recovered",
        }
    }
}

/// A record to work off. Settling it lets its offset be committed; dropping it unsettled while the
/// partition is still ours ends the stage, so that nothing is skipped silently.
#[must_use = "a delivery that is dropped ends the stage"]
pub struct Delivery {
    /// The record.
    pub record: Received,
    pub(super) ticket: Option<Ticket>,
    pub(super) shared: Arc<Shared>,
    pub(super) taken: Instant,
}

impl Delivery {
    /// Everything that the record became is acknowledged.
    pub fn settle(mut self, outcome: Settled) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.settle(ticket, outcome, self.taken);
        }
    }

    /// Ends the whole stage: a person or a restart is needed.
    pub fn fatal(self, error: String) {
        self.shared.fail(error);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.abandon(ticket, &self.record);
        }
    }
}

/// A partition that has become ours.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Which one.
    pub partition: Partition,
    /// Offset of the first record that will be delivered, or of the gap before it.
    pub committed: i64,
    /// The end of the log when the partition was assigned.
    pub end: i64,
    /// Cancelled when it is taken away.
    pub token: CancellationToken,
}

/// A consumer of deliveries. [`run_stage`](super::run_stage) wraps a [`Stage`] into one; the
/// ledger, which folds in order, is one itself.
pub trait Handler: Send + Sync + 'static {
    /// Called before the first delivery of a partition; tried again on [`StageError::Retry`].
    fn assigned(&self, assignment: &Assignment) -> impl Future<Output = Result<(), StageError>> + Send;

    /// Takes over a delivery; called in the order of the log, must not block.
    fn deliver(&self, delivery: Delivery);

    /// For a stage that pays: writes again what follows from an output that an earlier owner wrote.
    fn recover(&self, output: &Received) -> impl Future<Output = Result<(), StageError>> + Send {
        let _ = output;
        std::future::ready(Ok(()))
    }
}

/// Runs a [`Stage`]: each delivery is a task of its own.
pub(super) struct StageHandler<S> {
    pub stage: Arc<S>,
    pub name: &'static str,
    pub producer: Producer,
    pub customers: Customers,
    pub codec: millrace_schemas::Codec,
    pub runtime: tokio::runtime::Handle,
}

impl<S: Stage> Handler for StageHandler<S> {
    async fn assigned(&self, _: &Assignment) -> Result<(), StageError> {
        Ok(())
    }

    fn deliver(&self, delivery: Delivery) {
        let worker = Worker {
            stage: Arc::clone(&self.stage),
            name: self.name,
            producer: self.producer.clone(),
            customers: self.customers.clone(),
            codec: self.codec.clone(),
        };
        let span = span_of(self.name, &delivery.record);
        self.runtime.spawn(
            async move {
                let assignment = delivery.record.assignment.clone();
                // Pinned here: given by value, this large future would be held twice.
                assignment.run_until_cancelled(pin!(worker.work(delivery))).await;
            }
            .instrument(span),
        );
    }

    async fn recover(&self, output: &Received) -> Result<(), StageError> {
        let records = self.stage.recover(output).await?;
        // What was written first was written for the source of the output, not for the output.
        let source = output.source.as_ref().map(ToString::to_string).unwrap_or_default();
        let trace = TraceContext::parse_or_random(output.header(TRACEPARENT)).to_string();
        let headers = [(SOURCE_HEADER, source.as_str()), (TRACEPARENT, trace.as_str())];
        try_join_all(records.iter().map(|r| self.producer.send(r, output.at.partition, &headers)))
            .await
            .map(|_| ())
            .map_err(|e| StageError::Fatal(e.to_string()))
    }
}

/// What log lines about a record say of it. Costs nothing where the filter leaves out `info`.
fn span_of(stage: &'static str, record: &Received) -> tracing::Span {
    let span = tracing::info_span!("record", stage, at = %record.at, request_id = tracing::field::Empty, trace_id = tracing::field::Empty);
    if !span.is_disabled() {
        if let Some(request_id) = record.header("request_id") {
            span.record("request_id", request_id);
        }
        if let Some(trace) = record.trace() {
            span.record("trace_id", format!("{:032x}", trace.trace_id));
        }
    }
    span
}

struct Worker<S> {
    stage: Arc<S>,
    name: &'static str,
    producer: Producer,
    customers: Customers,
    codec: millrace_schemas::Codec,
}

impl<S: Stage> Worker<S> {
    async fn work(self, delivery: Delivery) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
        loop {
            let result = match self.stage.process(&delivery.record).await {
                Ok(plan) => self.write(&delivery, plan).await.map(|()| Settled::Done),
                Err(StageError::Poison(poison)) => self.give_up(&delivery, *poison).await,
                Err(other) => Err(other),
            };
            match result {
                Ok(outcome) => return delivery.settle(outcome),
                Err(StageError::Retry { error, after }) => {
                    delivery.shared.count_error("retry");
                    let delay = backoff.next(jitter(), after);
                    tracing::warn!(stage = self.name, at = %delivery.record.at, error, ?delay, "record is tried again");
                    tokio::time::sleep(delay).await;
                }
                Err(StageError::Fatal(error)) => return delivery.fatal(error),
                Err(StageError::Poison(poison)) => return delivery.fatal(poison.message),
            }
        }
    }

    /// The dead letter, then what travels on.
    async fn give_up(&self, delivery: &Delivery, poison: Poison) -> Result<Settled, StageError> {
        let record = &delivery.record;
        tracing::warn!(stage = self.name, at = %record.at, code = poison.code, error = poison.message, "record is dead-lettered");
        let letter = dead_letter(self.name, record, &poison);
        let value = self.codec.encode(&letter).map_err(|e| StageError::Fatal(e.to_string()))?;
        let key = poison.request_id.clone().unwrap_or_else(|| record.at.to_string());
        let plan = Plan::primary(Outgoing::new(topics::DEAD_LETTERS, key, value).to(To::ByKey));
        self.write(delivery, plan).await?;
        self.write(delivery, poison.plan).await?;
        Ok(Settled::DeadLettered)
    }

    /// The primary output, its acknowledgement, then the rest.
    async fn write(&self, delivery: &Delivery, plan: Plan) -> Result<(), StageError> {
        let record = &delivery.record;
        let source = record.as_source.to_string();
        let trace = record.trace().unwrap_or_else(TraceContext::random).child().to_string();
        let headers = [(SOURCE_HEADER, source.as_str()), (TRACEPARENT, trace.as_str())];
        if let Some(primary) = &plan.primary {
            self.send(primary, delivery, &headers).await?;
        }
        try_join_all(plan.then.iter().map(|r| self.send(r, delivery, &headers))).await?;
        Ok(())
    }

    /// Asked for as long as it takes: what is about to be written may be paid for already.
    async fn partitions(&self, topic: &str) -> i32 {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            match self.producer.partitions(topic).await {
                Ok(count) => return count,
                Err(error) => {
                    tracing::warn!(stage = self.name, topic, %error, "topic is not known yet, trying again");
                    tokio::time::sleep(backoff.next(jitter(), None)).await;
                }
            }
        }
    }

    async fn send(&self, out: &Outgoing, delivery: &Delivery, headers: &[(&str, &str)]) -> Result<(), StageError> {
        let at = &delivery.record.at;
        if out.foreign {
            if let Err(error) = self.customers.send(out, at.partition, headers).await {
                // The outcome is in the store all the same.
                delivery.shared.count_error("customer_topic");
                tracing::error!(stage = self.name, %at, topic = out.topic, %error, "a customer's topic did not take a record");
            }
            return Ok(());
        }
        let partition = match out.to {
            // A customer's topic may have more partitions than ours.
            To::SamePartition => at.partition % self.partitions(&out.topic).await,
            To::Partition(_) | To::ByKey => at.partition,
        };
        self.producer.send(out, partition, headers).await.map_err(|error| StageError::Fatal(error.to_string()))
    }
}

/// The dead letter of a record: its original bytes and headers, or its coordinates alone when it is
/// beyond the limit.
#[must_use]
pub fn dead_letter(stage: &str, record: &Received, poison: &Poison) -> DeadLetter {
    let fits = record.size() <= DEAD_LETTER_VALUE_LIMIT - 64 * 1024;
    DeadLetter {
        stage: stage.to_owned(),
        topic: record.at.topic.clone(),
        generation: i32::try_from(record.at.generation).unwrap_or(i32::MAX),
        partition: record.at.partition,
        offset: record.at.offset,
        timestamp: record.timestamp,
        code: poison.code.clone(),
        error: poison.message.clone(),
        tenant: poison.tenant.clone(),
        request_id: poison.request_id.clone(),
        key: record.key.clone().filter(|_| fits),
        value: fits.then(|| record.value.clone()),
        headers: if fits {
            record
                .headers
                .iter()
                .map(|(name, value)| RecordHeader { name: name.clone(), value: value.clone() })
                .collect()
        } else {
            Vec::new()
        },
        at: millrace_schemas::now_micros(),
    }
}
