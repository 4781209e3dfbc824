//! Which records the ledger refuses to fold. What passes here can be stored and added up, so that no
//! single record can stop the ledger.

use millrace_schemas::{Call, CallKind};

/// The longest text of a record, bytes: all of them together fit a key of any store.
const LONGEST_TEXT: usize = 4096;
/// The largest amount of one record: ten million units of its currency.
const LARGEST_AMOUNT: i64 = 10_000_000 * 1_000_000_000;
/// The largest count of tokens of one record.
const MOST_TOKENS: i64 = 1_000_000_000_000;

/// Checks one record.
///
/// # Errors
/// One sentence that names the field.
pub fn check(call: &Call) -> Result<(), String> {
    let texts = [
        ("call_id", &call.call_id),
        ("request_id", &call.request_id),
        ("tenant", &call.tenant),
        ("user", &call.user),
        ("lane", &call.lane),
        ("operation", &call.operation),
        ("provider", &call.provider),
        ("model", &call.model),
        ("price_version", &call.price_version),
        ("currency", &call.currency),
    ];
    if let Some((name, text)) = texts.iter().find(|(_, text)| text.len() > LONGEST_TEXT) {
        return Err(format!("`{name}` has {} bytes, {LONGEST_TEXT} are the most", text.len()));
    }
    if let Some((name, _)) = texts.iter().find(|(name, text)| matches!(*name, "call_id" | "tenant") && text.is_empty())
    {
        return Err(format!("`{name}` is empty"));
    }
    // A difference may be negative, an amount may not.
    let lowest = |most: i64| if call.kind == CallKind::Adjusted { -most } else { 0 };
    let numbers = [
        ("input_tokens", call.input_tokens, MOST_TOKENS),
        ("output_tokens", call.output_tokens, MOST_TOKENS),
        ("cost_nanos", call.cost_nanos, LARGEST_AMOUNT),
        ("charge_nanos", call.charge_nanos, LARGEST_AMOUNT),
        ("reserved_nanos", call.reserved_nanos, LARGEST_AMOUNT),
    ];
    match numbers.iter().find(|(_, number, most)| !(lowest(*most)..=*most).contains(number)) {
        Some((name, number, most)) => {
            Err(format!("`{name}` of a {} record is {number}, outside {} to {most}", call.kind, lowest(*most)))
        }
        None => Ok(()),
    }
}
