//! A call that was announced and whose end was not seen yet.

use millrace_schemas::{Call, CallKind};
use serde::{Deserialize, Serialize};

use crate::entry;

/// What the ledger keeps of a `started` record until the call's end: enough to book it without one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
pub struct OpenCall {
    /// The request (or document) the call was made for.
    pub request_id: String,
    /// Run of that request.
    pub run: i32,
    /// Tenant accounted to.
    pub tenant: String,
    /// User accounted to.
    pub user: String,
    /// API key that asked.
    pub key_id: Option<String>,
    /// `interactive`, `batch` or `documents`.
    pub lane: String,
    /// `chat.completions` or `embeddings`.
    pub operation: String,
    /// Name of the provider.
    pub provider: String,
    /// Model name sent to the provider.
    pub model: String,
    /// When the call started, microseconds.
    pub started_at: i64,
    /// When its end is due, milliseconds.
    pub deadline: i64,
    /// Version of the price table.
    pub price_version: String,
    /// ISO 4217.
    pub currency: String,
    /// Upper bound of the provider's cost, nano-units.
    pub reserved_nanos: i64,
    /// Upper bound of the customer's charge, nano-units; None in records of earlier releases. Not in the
    /// row: earlier releases must be able to read it.
    pub reserved_charge_nanos: Option<i64>,
}

impl OpenCall {
    /// What a `started` record says.
    #[must_use]
    pub fn of(call: &Call) -> Self {
        Self {
            request_id: call.request_id.clone(),
            run: call.run,
            tenant: call.tenant.clone(),
            user: call.user.clone(),
            key_id: call.key_id.clone(),
            lane: call.lane.clone(),
            operation: call.operation.clone(),
            provider: call.provider.clone(),
            model: call.model.clone(),
            started_at: entry::started_at(call),
            deadline: call.deadline,
            price_version: call.price_version.clone(),
            currency: call.currency.clone(),
            reserved_nanos: call.reserved_nanos,
            reserved_charge_nanos: call.reserved_charge_nanos,
        }
    }

    /// What budgets hold for it until it ends.
    #[must_use]
    pub fn held_nanos(&self) -> i64 {
        self.reserved_charge_nanos.unwrap_or(self.reserved_nanos)
    }

    /// The record that the ledger appends when the end is overdue. `now` in microseconds.
    #[must_use]
    pub fn unconfirmed(&self, call_id: &str, now: i64) -> Call {
        Call {
            call_id: call_id.to_owned(),
            kind: CallKind::Unconfirmed,
            request_id: self.request_id.clone(),
            run: self.run,
            tenant: self.tenant.clone(),
            user: self.user.clone(),
            key_id: self.key_id.clone(),
            lane: self.lane.clone(),
            operation: self.operation.clone(),
            provider: self.provider.clone(),
            model: self.model.clone(),
            at: now,
            started_at: self.started_at,
            deadline: self.deadline,
            price_version: self.price_version.clone(),
            currency: self.currency.clone(),
            reserved_nanos: self.reserved_nanos,
            input_tokens: 0,
            cached_input_tokens: 0,
            output_tokens: 0,
            estimated: true,
            cost_nanos: self.reserved_nanos,
            charge_nanos: 0,
            http_status: None,
            reason: Some("no end was seen by the deadline and the ledger's grace".to_owned()),
            reserved_charge_nanos: self.reserved_charge_nanos,
            provider_key: None,
        }
    }
}

/// Without field names: checkpoints are written several times a second.
type Row = (String, i32, String, String, Option<String>, String, String, String, String, i64, i64, String, String, i64);

impl From<Row> for OpenCall {
    fn from(row: Row) -> Self {
        let (
            request_id,
            run,
            tenant,
            user,
            key_id,
            lane,
            operation,
            provider,
            model,
            started_at,
            deadline,
            price_version,
            currency,
            reserved_nanos,
        ) = row;
        Self {
            request_id,
            run,
            tenant,
            user,
            key_id,
            lane,
            operation,
            provider,
            model,
            started_at,
            deadline,
            price_version,
            currency,
            reserved_nanos,
            reserved_charge_nanos: None,
        }
    }
}

impl From<OpenCall> for Row {
    fn from(call: OpenCall) -> Self {
        (
            call.request_id,
            call.run,
            call.tenant,
            call.user,
            call.key_id,
            call.lane,
            call.operation,
            call.provider,
            call.model,
            call.started_at,
            call.deadline,
            call.price_version,
            call.currency,
            call.reserved_nanos,
        )
    }
}
