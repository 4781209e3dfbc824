//! The records that every paid call leaves in the topic `calls`, and its line on the bill.
//!
//! `started` is acknowledged by the broker before the call is sent. What ends it depends on what
//! became of it:
//!
//! | the call | its end in `calls` | its line on the bill |
//! |---|---|---|
//! | answered | `finished`, a pure function of the bill's line, written after the primary output | `finished`, with tokens and costs |
//! | refused ([`CallError::Answered`]) | `finished` with the status and no costs, at once | `failed` |
//! | not sent ([`CallError::NotSent`]) | `not_sent`, at once | none |
//! | lost ([`CallError::Lost`]) | none: the ledger books it `unconfirmed` after its deadline | `unconfirmed`, charged with nothing |
//! | broken off by us | `unconfirmed`, at once: nobody will see its end | `unconfirmed`, charged with nothing |

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use millrace_fail_point as fail_point;
use millrace_pricing::{Amount, PriceTable, PricingError};
use millrace_schemas::{
    Call, CallKind, CallLine, Codec, CodecError, Meta, Operation, SOURCE_HEADER, call_id, call_started_at, now_micros,
    topics,
};
use millrace_stage::{Outgoing, ProduceError, Producer, Received, StageError};
use millrace_telemetry::{TRACEPARENT, TraceContext};

use crate::{CallError, CallMetrics, Slot, Target, Usage};

/// Status of a bill's line: the provider answered, and charges.
pub const FINISHED: &str = "finished";
/// Status of a bill's line: the provider refused, and does not charge.
pub const FAILED: &str = "failed";
/// Status of a bill's line: whether the provider charges is not known.
pub const UNCONFIRMED: &str = "unconfirmed";

/// Between the end of a call's time and its deadline in `calls`: for writing its end.
const MARGIN: Duration = Duration::from_secs(5);

/// On whose account a call is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Tenant.
    pub tenant: String,
    /// User of the tenant.
    pub user: String,
    /// API key that asked.
    pub key_id: Option<String>,
    /// The request or document.
    pub request_id: String,
    /// Its run.
    pub run: i32,
    /// `interactive`, `batch` or `documents`.
    pub lane: String,
}

impl Who {
    /// Whoever made a request.
    #[must_use]
    pub fn of(meta: &Meta) -> Self {
        Self {
            tenant: meta.tenant.clone(),
            user: meta.user.clone(),
            key_id: meta.key_id.clone(),
            request_id: meta.request_id.clone(),
            run: meta.run,
            lane: meta.lane.to_string(),
        }
    }
}

/// What a call may use at most; priced, it is what is reserved for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Prompt tokens.
    pub input_tokens: i64,
    /// Output tokens of all choices together.
    pub output_tokens: i64,
    /// How long the call may take.
    pub timeout: Duration,
}

/// A call that was announced. It must be made, or ended with [`Ledgered::not_sent`]; one that is broken
/// off on its way ends with [`Ledgered::broken_off`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a call that was announced and not ended is booked as unconfirmed"]
pub struct StartedCall {
    call: Call,
    /// The model's name in the configuration.
    alias: String,
}

impl StartedCall {
    /// Identity of the call.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.call.call_id
    }

    /// The entry that announced it.
    #[must_use]
    pub fn entry(&self) -> &Call {
        &self.call
    }
}

/// Why an entry of `calls` was not written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The model has no price: it is never called.
    #[error(transparent)]
    NoPrice(#[from] PricingError),
    /// The broker can not be asked now.
    #[error("the topic `calls` can not be reached: {0}")]
    Unreachable(String),
    /// The broker did not acknowledge.
    #[error(transparent)]
    NotAcknowledged(#[from] ProduceError),
    /// The entry does not fit its schema.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl From<LedgerError> for StageError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Unreachable(_) => Self::retry(error.to_string()),
            // The producer never times out: a refusal is for good, and recovery decides.
            LedgerError::NoPrice(_) | LedgerError::NotAcknowledged(_) | LedgerError::Codec(_) => {
                Self::Fatal(error.to_string())
            }
        }
    }
}

/// Where entries of `calls` go.
pub trait CallLog: Send + Sync + 'static {
    /// Appends an entry to the partition of `record`, the record that the call is made for, and
    /// waits for the acknowledgement.
    fn append(&self, record: &Received, call: &Call) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

/// The topic `calls`.
#[derive(Clone)]
pub struct CallsTopic {
    producer: Producer,
    codec: Codec,
}

impl CallLog for CallsTopic {
    async fn append(&self, record: &Received, call: &Call) -> Result<(), LedgerError> {
        let out = call_record(&self.codec, call)?;
        let count = self.producer.partitions(&out.topic).await.map_err(|e| LedgerError::Unreachable(e.to_string()))?;
        let source = record.as_source.to_string();
        let trace = TraceContext::parse_or_random(record.header(TRACEPARENT)).child().to_string();
        let headers = [(SOURCE_HEADER, source.as_str()), (TRACEPARENT, trace.as_str())];
        let sending = self.producer.send(&out, record.at.partition % count, &headers);
        if call.kind == CallKind::Started && fail_point::is_off("write-ahead") {
            begin(pin!(sending)).await;
            return Ok(());
        }
        Ok(sending.await?)
    }
}

/// Hands a record to the client and does not wait for it.
async fn begin(mut sending: Pin<&mut impl Future<Output = Result<(), ProduceError>>>) {
    std::future::poll_fn(|context| {
        let _not_waited_for = sending.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}

/// Announces calls, ends them, prices them, and counts them. Cheap to clone.
#[derive(Clone)]
pub struct Ledgered<L = CallsTopic> {
    log: L,
    prices: Arc<PriceTable>,
    metrics: CallMetrics,
}

impl Ledgered {
    /// On the topic `calls`.
    #[must_use]
    pub fn new(producer: Producer, codec: Codec, prices: Arc<PriceTable>, metrics: CallMetrics) -> Self {
        Self::on(CallsTopic { producer, codec }, prices, metrics)
    }
}

impl<L: CallLog> Ledgered<L> {
    /// On any log.
    #[must_use]
    pub fn on(log: L, prices: Arc<PriceTable>, metrics: CallMetrics) -> Self {
        Self { log, prices, metrics }
    }

    /// On the same log with these prices: for all calls of one request, so that the table that announces a call
    /// bills it.
    #[must_use]
    pub fn with_prices(&self, prices: Arc<PriceTable>) -> Self
    where
        L: Clone,
    {
        Self { prices, log: self.log.clone(), metrics: self.metrics.clone() }
    }

    /// What calls cost.
    #[must_use]
    pub fn prices(&self) -> &PriceTable {
        &self.prices
    }

    /// The most that a customer may be charged for a call to any of `targets` that begins at `now`, microseconds.
    /// Those without a price are never called.
    #[must_use]
    pub fn most_charged<'a>(&self, targets: impl IntoIterator<Item = (&'a Target, Bounds)>, now: i64) -> i64 {
        let charge = |(target, bounds): (&Target, Bounds)| {
            let price = self.prices.lookup(&target.provider, &target.model, now / 1000)?;
            Some(price.upper_bound(tokens(bounds.input_tokens), tokens(bounds.output_tokens)).charge_nanos)
        };
        targets.into_iter().filter_map(charge).max().unwrap_or(0)
    }

    /// Announces a call and waits until the broker has it. Only then may the call be sent, and only
    /// if `record.assignment` is not cancelled.
    ///
    /// # Errors
    /// [`LedgerError`]: then no call may be made.
    pub async fn start(
        &self,
        record: &Received,
        who: &Who,
        slot: &Slot,
        operation: Operation,
        bounds: Bounds,
    ) -> Result<StartedCall, LedgerError> {
        let target = slot.target();
        // Before, so that a process that was frozen announces nothing; and after, when it was frozen meanwhile.
        record.may_pay().await;
        let mut call = started_call(call_id(), who, target, operation, bounds, &self.prices)?;
        call.provider_key = slot.key_name().map(str::to_owned);
        self.log.append(record, &call).await?;
        record.may_pay().await;
        Ok(StartedCall { call, alias: target.alias.clone() })
    }

    /// Ends a call that was announced and then not made.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn not_sent(&self, record: &Received, call: StartedCall, reason: &str) -> Result<(), LedgerError> {
        let reason = Some(reason.to_owned());
        self.log.append(record, &Call { kind: CallKind::NotSent, at: now_micros(), reason, ..call.call }).await
    }

    /// Ends a call that brought no answer, as its error demands, and gives its line on the bill.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn failed(
        &self,
        record: &Received,
        call: StartedCall,
        error: &CallError,
    ) -> Result<Option<CallLine>, LedgerError> {
        self.metrics.failed(&call.call.provider, error);
        match error {
            CallError::NotSent(reason) => {
                self.not_sent(record, call, reason).await?;
                Ok(None)
            }
            CallError::Answered(refusal) => {
                let line = free_line(&call.call, FAILED);
                let http_status = Some(i32::from(refusal.status));
                self.log
                    .append(record, &Call { kind: CallKind::Finished, at: now_micros(), http_status, ..call.call })
                    .await?;
                Ok(Some(line))
            }
            CallError::Lost(_) => Ok(Some(free_line(&call.call, UNCONFIRMED))),
        }
    }

    /// Ends a call that was broken off while it was on its way, and gives its line on the bill. What
    /// the provider charges for it is not known: it is booked at its upper bound.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn broken_off(
        &self,
        record: &Received,
        call: StartedCall,
        reason: &str,
    ) -> Result<CallLine, LedgerError> {
        self.metrics.called(&call.call.provider, "cancelled");
        let line = free_line(&call.call, UNCONFIRMED);
        let unconfirmed = Call {
            kind: CallKind::Unconfirmed,
            at: now_micros(),
            estimated: true,
            cost_nanos: call.call.reserved_nanos,
            reason: Some(reason.to_owned()),
            ..call.call
        };
        self.log.append(record, &unconfirmed).await?;
        Ok(line)
    }

    /// The bill's line of a call that was answered; it is counted here, so ask once a call.
    #[must_use]
    pub fn line(&self, call: &StartedCall, usage: Usage) -> CallLine {
        let line = line_from_usage(&call.call, usage, &self.prices);
        self.metrics.answered(&call.alias, &line);
        line
    }

    /// Ends a call that was answered, at once: for those whose primary output holds no bill.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn finished(&self, record: &Received, who: &Who, line: &CallLine) -> Result<(), LedgerError> {
        self.log.append(record, &finished_from_line(who, line, now_micros())).await
    }
}

/// The entry that announces a call.
///
/// # Errors
/// When the model has no price.
pub fn started_call(
    call_id: String,
    who: &Who,
    target: &Target,
    operation: Operation,
    bounds: Bounds,
    prices: &PriceTable,
) -> Result<Call, PricingError> {
    let started_at = call_started_at(&call_id).unwrap_or_else(now_micros);
    let price = prices.price(&target.provider, &target.model, started_at / 1000)?;
    let reserved = price.upper_bound(tokens(bounds.input_tokens), tokens(bounds.output_tokens));
    let time = i64::try_from((bounds.timeout + MARGIN).as_millis()).unwrap_or(i64::MAX);
    Ok(Call {
        call_id,
        kind: CallKind::Started,
        request_id: who.request_id.clone(),
        run: who.run,
        tenant: who.tenant.clone(),
        user: who.user.clone(),
        key_id: who.key_id.clone(),
        lane: who.lane.clone(),
        operation: operation.to_string(),
        provider: target.provider.clone(),
        model: target.model.clone(),
        at: started_at,
        started_at,
        deadline: (started_at / 1000).saturating_add(time),
        price_version: prices.version().to_owned(),
        currency: prices.currency().to_owned(),
        reserved_nanos: reserved.cost_nanos,
        input_tokens: 0,
        cached_input_tokens: 0,
        output_tokens: 0,
        estimated: false,
        cost_nanos: 0,
        charge_nanos: 0,
        http_status: None,
        reason: None,
        reserved_charge_nanos: Some(reserved.charge_nanos),
        provider_key: None,
    })
}

/// The bill's line of an answered call, priced by the row that held when the call started.
#[must_use]
pub fn line_from_usage(started: &Call, usage: Usage, prices: &PriceTable) -> CallLine {
    let priced = millrace_pricing::Usage {
        input_tokens: tokens(usage.input_tokens),
        cached_input_tokens: tokens(usage.cached_input_tokens),
        output_tokens: tokens(usage.output_tokens),
    };
    // The row was there when the call started: it is the same table.
    let amount = prices
        .lookup(&started.provider, &started.model, started.started_at / 1000)
        .map_or_else(Amount::default, |price| Amount::total(&price.lines(priced)));
    CallLine {
        input_tokens: usage.input_tokens,
        cached_input_tokens: usage.cached_input_tokens,
        output_tokens: usage.output_tokens,
        estimated: usage.estimated,
        cost_nanos: amount.cost_nanos,
        charge_nanos: amount.charge_nanos,
        ..free_line(started, FINISHED)
    }
}

/// The `finished` entry of a bill's line: a function of nothing but its arguments, so that recovery
/// writes the same again. `at` is in microseconds, read from the record that carries the bill.
/// Deadline, reservation and key stand in the call's `started`.
#[must_use]
pub fn finished_from_line(who: &Who, line: &CallLine, at: i64) -> Call {
    Call {
        call_id: line.call_id.clone(),
        kind: CallKind::Finished,
        request_id: who.request_id.clone(),
        run: who.run,
        tenant: who.tenant.clone(),
        user: who.user.clone(),
        key_id: who.key_id.clone(),
        lane: who.lane.clone(),
        operation: line.operation.clone(),
        provider: line.provider.clone(),
        model: line.model.clone(),
        at,
        started_at: call_started_at(&line.call_id).unwrap_or(at),
        deadline: 0,
        price_version: line.price_version.clone(),
        currency: line.currency.clone(),
        reserved_nanos: 0,
        input_tokens: line.input_tokens,
        cached_input_tokens: line.cached_input_tokens,
        output_tokens: line.output_tokens,
        estimated: line.estimated,
        cost_nanos: line.cost_nanos,
        charge_nanos: line.charge_nanos,
        // An answer is a 200; everything else is a refusal or lost.
        http_status: Some(200),
        reason: None,
        reserved_charge_nanos: None,
        provider_key: None,
    }
}

/// An entry of `calls` as a record: in the partition of its source, keyed by the call.
///
/// # Errors
/// When the entry does not fit its schema, which is a bug.
pub fn call_record(codec: &Codec, call: &Call) -> Result<Outgoing, CodecError> {
    let value = codec.encode(call)?;
    Ok(Outgoing::new(topics::CALLS, call.call_id.as_bytes(), value)
        .header("request_id", &call.request_id)
        .header("tenant", &call.tenant))
}

/// A line of a call that costs nothing, or nothing yet.
fn free_line(started: &Call, status: &str) -> CallLine {
    CallLine {
        call_id: started.call_id.clone(),
        operation: started.operation.clone(),
        provider: started.provider.clone(),
        model: started.model.clone(),
        status: status.to_owned(),
        input_tokens: 0,
        cached_input_tokens: 0,
        output_tokens: 0,
        estimated: false,
        cost_nanos: 0,
        charge_nanos: 0,
        currency: started.currency.clone(),
        price_version: started.price_version.clone(),
    }
}

/// Counts beyond any model's are taken for the largest that can be priced.
fn tokens(count: i64) -> u32 {
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}
