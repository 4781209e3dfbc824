//! The ledger's lines: what each kind of record books, and what a late end corrects.

use millrace_schemas::{Call, CallKind, call_started_at};
use millrace_storage::{Entry, LogPlace};

use crate::open::OpenCall;

/// Kind of the line of a call whose end was seen.
pub const FINISHED: &str = "finished";
/// Kind of the line of a call whose end was not seen in time.
pub const UNCONFIRMED: &str = "unconfirmed";
/// Kind of a line of differences.
pub const ADJUSTED: &str = "adjusted";

const MICROS_PER_HOUR: i64 = 3_600_000_000;

/// When the call of this record began, microseconds. Its id knows best, so that all records of a
/// call agree; other people's ids fall back to the record.
#[must_use]
pub fn started_at(call: &Call) -> i64 {
    call_started_at(&call.call_id).unwrap_or(call.started_at)
}

/// The hour that something at `micros` is booked in, hours since the epoch.
#[must_use]
pub fn hour(micros: i64) -> i64 {
    micros.div_euclid(MICROS_PER_HOUR)
}

/// The line of a call whose end was seen while it was open. Whom it is accounted to was settled by
/// its `started` record.
#[must_use]
pub fn finished(at: Line, open: &OpenCall, call: &Call) -> Entry {
    Entry {
        tenant: open.tenant.clone(),
        user: open.user.clone(),
        hour: hour(open.started_at),
        currency: or(&call.currency, &open.currency),
        price_version: or(&call.price_version, &open.price_version),
        ..of_record(at, call, FINISHED)
    }
}

/// The line of a call whose end was not seen: the provider may have charged up to the reserved
/// amount; the customer is charged nothing until the end is known.
#[must_use]
pub fn unconfirmed(at: Line, open: &OpenCall, call: &Call) -> Entry {
    Entry {
        tenant: open.tenant.clone(),
        hour: hour(open.started_at),
        partition: at.partition,
        place: at.place,
        call_id: call.call_id.clone(),
        kind: UNCONFIRMED.to_owned(),
        user: open.user.clone(),
        request_id: open.request_id.clone(),
        operation: open.operation.clone(),
        provider: open.provider.clone(),
        model: open.model.clone(),
        input_tokens: 0,
        output_tokens: 0,
        cost_nanos: open.reserved_nanos,
        charge_nanos: 0,
        currency: open.currency.clone(),
        price_version: open.price_version.clone(),
        estimated: true,
        at: call.at,
    }
}

/// The line of an `adjusted` record, whose amounts are differences already.
#[must_use]
pub fn adjusted(at: Line, call: &Call) -> Entry {
    of_record(at, call, ADJUSTED)
}

/// What is known of a call that is not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Booked<'a> {
    /// Nothing, or only adjustments.
    Nothing,
    /// Its end: whatever else is said about its end changes nothing.
    Ended,
    /// Only that its end was not seen.
    Unconfirmed(&'a Entry),
}

/// Reads the lines of one call. Its end was seen when there is a `finished` line, or an adjustment
/// of its `unconfirmed` line under the same price version: that is what [`late`] writes, and what a
/// correction by hand writes, which decides the call just as well. An adjustment under another
/// price version is a repricing, after which the end is still awaited.
#[must_use]
pub fn booked(lines: &[Entry]) -> Booked<'_> {
    if lines.iter().any(|line| line.kind == FINISHED) {
        return Booked::Ended;
    }
    let Some(unconfirmed) = lines.iter().find(|line| line.kind == UNCONFIRMED) else { return Booked::Nothing };
    let ended = since(lines, unconfirmed).any(|l| l.kind == ADJUSTED && l.price_version == unconfirmed.price_version);
    if ended { Booked::Ended } else { Booked::Unconfirmed(unconfirmed) }
}

/// The line of an end that was seen only after the call was booked as unconfirmed: differences, so
/// that the call's lines since then add up to what the end says. A `not_sent` says nothing was spent.
///
/// # Errors
/// One sentence, when the amounts can not be set off against each other.
pub fn late(at: Line, call: &Call, unconfirmed: &Entry, lines: &[Entry]) -> Result<Entry, String> {
    let sent = call.kind != CallKind::NotSent;
    if sent && !call.currency.is_empty() && call.currency != unconfirmed.currency {
        return Err(format!(
            "the late end is in {} and the call is booked in {}: append an `adjusted` record with the difference",
            call.currency, unconfirmed.currency
        ));
    }
    let difference = |end: i64, of: fn(&Entry) -> i64| {
        let end = if sent { end } else { 0 };
        since(lines, unconfirmed)
            .filter(|line| line.currency == unconfirmed.currency)
            .try_fold(end, |rest, line| rest.checked_sub(of(line)))
            .ok_or_else(|| "the difference to what is booked exceeds 64 bits".to_owned())
    };
    Ok(Entry {
        partition: at.partition,
        place: at.place,
        kind: ADJUSTED.to_owned(),
        input_tokens: difference(call.input_tokens, |line| line.input_tokens)?,
        output_tokens: difference(call.output_tokens, |line| line.output_tokens)?,
        cost_nanos: difference(call.cost_nanos, |line| line.cost_nanos)?,
        charge_nanos: difference(call.charge_nanos, |line| line.charge_nanos)?,
        estimated: sent && call.estimated,
        at: call.at,
        ..unconfirmed.clone()
    })
}

/// Where a line is booked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Partition of `calls`.
    pub partition: i32,
    /// The record's place in it.
    pub place: LogPlace,
}

fn since<'a>(lines: &'a [Entry], first: &'a Entry) -> impl Iterator<Item = &'a Entry> {
    lines.iter().filter(|line| line.place >= first.place)
}

fn of_record(at: Line, call: &Call, kind: &str) -> Entry {
    Entry {
        tenant: call.tenant.clone(),
        hour: hour(started_at(call)),
        partition: at.partition,
        place: at.place,
        call_id: call.call_id.clone(),
        kind: kind.to_owned(),
        user: call.user.clone(),
        request_id: call.request_id.clone(),
        operation: call.operation.clone(),
        provider: call.provider.clone(),
        model: call.model.clone(),
        input_tokens: call.input_tokens,
        output_tokens: call.output_tokens,
        cost_nanos: call.cost_nanos,
        charge_nanos: call.charge_nanos,
        currency: call.currency.clone(),
        price_version: call.price_version.clone(),
        estimated: call.estimated,
        at: call.at,
    }
}

fn or(text: &str, otherwise: &str) -> String {
    if text.is_empty() { otherwise.to_owned() } else { text.to_owned() }
}
