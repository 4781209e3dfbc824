//! Calls to OpenAI-compatible providers, and the records that every paid call leaves.
//!
//! ```text
//! Providers ── route(alias) ──> [Target] ── slot() ──> Slot ── chat() / chat_streamed() / embed() ──> one HTTP request
//! Ledgered  ── start() ──> StartedCall ── not_sent() / failed() ──> the topic `calls`
//! ```
//!
//! - A [`Target`] is a model at a provider; a [`Slot`] is the right to make **one** call there. No
//!   layer below it retries, so the calls that providers count are the calls that were recorded.
//! - Before a slot stands the provider's circuit breaker, which lets one call through in a while when the
//!   provider is away, and a limit on its calls in flight, which follows the provider's 429s. Where calls wait for
//!   it, the tenants of each lane take turns. A provider with a pool of keys has a call made with one that has room;
//!   what a key is refused is the key's matter, not the provider's.
//! - JSON goes out and comes back byte for byte; fields that nobody here knows survive.
//! - [`CallError`] says which of three things happened: nothing was sent, the provider refused, or
//!   nobody knows. The adapter that saw it decides.
//! - [`Ledgered`] writes `started` before a call and its end afterwards, and counts every call in
//!   [`CallMetrics`], whichever stage pays.
//!
//! Who pays does, in this order:
//!
//! ```text
//! let slot = target.slot(&who.lane, &who.tenant).await;      // waits for the breaker and the limit
//! let call = ledger.start(record, &who, &slot, Operation::Chat, bounds).await?;  // acknowledged by the broker
//! if record.assignment.is_cancelled() { ledger.not_sent(record, call, "…").await? }
//! match slot.ask(Operation::Chat, body, call.id(), bounds.timeout).await {
//!     Ok(answer) => bill.push(ledger.line(&call, usage)),      // then the primary output, then `finished`
//!     Err(error) => bill.extend(ledger.failed(record, call, &error).await?),
//! }
//! ```

mod attempt;
mod breaker;
mod call;
mod counted;
mod failure;
#[cfg(test)]
mod fuzz;
mod gate;
mod keys;
mod limit;
mod metrics;
mod paid;
mod places;
mod retry_after;
mod streamed;
mod targets;
pub mod tokens;
mod usage;

pub use call::{Answer, Embeddings};
pub use counted::CallMetrics;
pub use failure::{CallError, Refusal};
pub use gate::Refused;
pub use keys::configured_keys;
pub use paid::{
    Bounds, CallLog, CallsTopic, FAILED, FINISHED, LedgerError, Ledgered, StartedCall, UNCONFIRMED, Who, call_record,
    finished_from_line, line_from_usage, started_call,
};
pub use targets::{Providers, ProvidersError, Slot, Target};
pub use usage::Usage;
