//! What an author of a stage writes: from one record to a plan of records.

use std::future::Future;
use std::time::Duration;

use millrace_schemas::{Codec, CodecError, Coordinates, Meta, Source};
use millrace_telemetry::{TRACEPARENT, TraceContext};
use tokio_util::sync::CancellationToken;

use crate::core::{Lease, Moment};

/// Between two looks at a lease that does not hold.
const LOOK: Duration = Duration::from_millis(5);
/// The header that says the run of a request, unless it is the first.
const RUN: &str = "run";

/// A record as it was read.
#[derive(Debug, Clone)]
pub struct Received {
    /// Where it lies (logical topic name).
    pub at: Coordinates,
    /// Its timestamp, milliseconds since the epoch.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; empty for a tombstone.
    pub value: Vec<u8>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// What it was derived from, when one of our stages wrote it.
    pub source: Option<Source>,
    /// What everything derived from this record says of its own source.
    pub as_source: Source,
    /// Cancelled when the partition was taken away: paid work must not begin any more.
    pub assignment: CancellationToken,
    /// Whether this process may still begin paid work, as far as it knows.
    pub lease: Lease,
}

impl Received {
    /// Bytes of its key, value and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len));
        self.value.len() + self.key.as_ref().map_or(0, Vec::len) + headers.sum::<usize>()
    }

    /// Waits until paid work may begin on this record. After a gap in the life of this process that takes
    /// an acknowledged commit; when its partition has moved, its work is called off meanwhile.
    pub async fn may_pay(&self) {
        while !self.lease.holds(Moment::now()) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The last header of this name, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.header_bytes(name)?).ok()
    }

    /// The run of the request that its writer said it belongs to.
    #[must_use]
    pub fn run(&self) -> i32 {
        self.header(RUN).and_then(|run| run.parse().ok()).unwrap_or_default()
    }

    /// The last header of this name.
    #[must_use]
    pub fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        let (_, value) = self.headers.iter().rev().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        value.as_deref()
    }

    /// The trace that it belongs to, in its own header or in that of a CloudEvent.
    pub(crate) fn trace(&self) -> Option<TraceContext> {
        let parse = |name| self.header(name).and_then(TraceContext::parse);
        parse(TRACEPARENT).or_else(|| parse("ce_traceparent"))
    }
}

/// Which partition of its topic a record goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// The number of the source record's partition: what keeps duplicates exact.
    SamePartition,
    /// This partition.
    Partition(i32),
    /// The producer's partitioner decides by key.
    ByKey,
}

/// A record to write.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Logical topic name, or for [`Outgoing::foreign`] the name on the broker.
    pub topic: String,
    /// Partition.
    pub to: To,
    /// Key.
    pub key: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
    /// Headers beside `source` and `traceparent`, which the driver adds.
    pub headers: Vec<(&'static str, String)>,
    /// True for a customer's topic: no prefix is added.
    pub foreign: bool,
}

impl Outgoing {
    /// A record for one of our topics, in the partition of its source.
    #[must_use]
    pub fn new(topic: impl Into<String>, key: impl Into<Vec<u8>>, value: Vec<u8>) -> Self {
        Self { topic: topic.into(), to: To::SamePartition, key: key.into(), value, headers: Vec::new(), foreign: false }
    }

    /// A record about one run of a request. Its headers say which: whoever can not read the value knows it yet.
    #[must_use]
    pub fn of_request(topic: impl Into<String>, meta: &Meta, value: Vec<u8>) -> Self {
        let out = Self::new(topic, meta.request_id.as_bytes(), value)
            .header("request_id", &meta.request_id)
            .header("tenant", &meta.tenant);
        if meta.run == 0 { out } else { out.header(RUN, meta.run.to_string()) }
    }

    /// Sets the partition.
    #[must_use]
    pub fn to(mut self, to: To) -> Self {
        self.to = to;
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same record on a topic of a customer's, who knows it again by the key of the request.
    #[must_use]
    pub fn of_customer(self, idempotency_key: Option<&str>) -> Self {
        let out = Self { foreign: true, ..self };
        match idempotency_key {
            Some(key) => out.header("idempotency-key", key),
            None => out,
        }
    }

    /// The same record in JSON, with the members of its Avro; bytes that hold JSON are that JSON.
    ///
    /// # Errors
    /// Retry while the registry does not answer; Fatal when the value is not Avro, for it is our own.
    pub async fn into_json(mut self, codec: &Codec) -> Result<Self, StageError> {
        let view = codec.view(&self.value).await.map_err(|error| match error {
            CodecError::Registry(_) => StageError::retry(error.to_string()),
            CodecError::Refused { .. } | CodecError::Undecodable(_) => StageError::Fatal(error.to_string()),
        })?;
        self.value = view.value.to_string().into_bytes();
        Ok(self.header("content-type", "application/json"))
    }
}

/// What follows from one record: the primary output first, then, once the broker has acknowledged
/// it, everything that is a pure function of it.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// At most one.
    pub primary: Option<Outgoing>,
    /// Written after the primary, and written again by recovery.
    pub then: Vec<Outgoing>,
}

impl Plan {
    /// Only a primary output.
    #[must_use]
    pub fn primary(record: Outgoing) -> Self {
        Self { primary: Some(record), then: Vec::new() }
    }
}

/// A record that can never succeed.
#[derive(Debug, Clone)]
pub struct Poison {
    /// Stable code.
    pub code: String,
    /// One sentence that says what was wrong.
    pub message: String,
    /// Tenant, where one was proven.
    pub tenant: Option<String>,
    /// The id given to its failed outcome.
    pub request_id: Option<String>,
    /// What travels on after the dead letter is acknowledged: the `ended` record.
    pub plan: Plan,
}

/// Why a record did not become a plan. Decided by whoever saw the failure.
#[derive(Debug, Clone)]
pub enum StageError {
    /// An outage: the same record is tried again, for as long as it takes.
    Retry {
        /// What does not work now.
        error: String,
        /// What the other side asked to wait.
        after: Option<Duration>,
    },
    /// This record will never succeed: it is dead-lettered, and the stage goes on.
    Poison(Box<Poison>),
    /// The stage can not go on: a person is needed, or a restart.
    Fatal(String),
}

impl StageError {
    /// An outage without a hint how long to wait.
    #[must_use]
    pub fn retry(error: impl Into<String>) -> Self {
        Self::Retry { error: error.into(), after: None }
    }
}

impl<S: Stage> Stage for std::sync::Arc<S> {
    fn process(&self, record: &Received) -> impl Future<Output = Result<Plan, StageError>> + Send {
        S::process(self, record)
    }

    fn recover(&self, output: &Received) -> impl Future<Output = Result<Vec<Outgoing>, StageError>> + Send {
        S::recover(self, output)
    }
}

/// A stage: named steps from a record to a plan.
pub trait Stage: Send + Sync + 'static {
    /// From one record to a plan. May be called again for the same record after [`StageError::Retry`].
    fn process(&self, record: &Received) -> impl Future<Output = Result<Plan, StageError>> + Send;

    /// For a stage that pays: what follows from a primary output that an earlier owner wrote. The
    /// same function of it as in [`Plan::then`].
    fn recover(&self, output: &Received) -> impl Future<Output = Result<Vec<Outgoing>, StageError>> + Send {
        let _ = output;
        std::future::ready(Ok(Vec::new()))
    }
}
