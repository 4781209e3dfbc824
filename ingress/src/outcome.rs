//! Outcomes as clients see them.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_schemas::Outcome;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::ApiError;

/// Status of a request that is worked on.
pub const IN_PROGRESS: &str = "in_progress";

/// What a synchronous caller gets who asked at `since`: the answer's own bytes, or the error.
pub fn to_response(outcome: Outcome, since: i64) -> Response {
    let id = outcome.meta.request_id.clone();
    let headers = headers(&outcome, since);
    let mut response = match (outcome.response, outcome.error) {
        (Some(answer), None) => ([(header::CONTENT_TYPE, "application/json")], Body::from(answer)).into_response(),
        (_, Some(error)) => ApiError::from(error).of_request(&id).into_response(),
        (None, None) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    add(&mut response, headers);
    response
}

/// What is told of a request that has no outcome yet.
pub fn without(request_id: &str, status: &str) -> axum::Json<Value> {
    axum::Json(json!({ "id": request_id, "object": "request", "status": status }))
}

/// What a client gets who comes back for the outcome.
pub fn later(request_id: &str) -> Response {
    let events = format!("/v1/requests/{request_id}/events");
    let body = json!({ "id": request_id, "object": "request", "status": IN_PROGRESS, "events": events });
    let mut response = (StatusCode::ACCEPTED, axum::Json(body)).into_response();
    let headers = [
        ("link", format!("<{events}>; rel=\"monitor\"")),
        ("location", format!("/v1/requests/{request_id}")),
        ("preference-applied", "respond-async".to_owned()),
        ("x-request-id", request_id.to_owned()),
    ];
    add(&mut response, headers);
    response
}

/// What the headers of an answer tell of it to a client who asked at `since`.
pub fn headers(outcome: &Outcome, since: i64) -> Vec<(&'static str, String)> {
    let model = outcome.bill.last().map_or(&outcome.model, |line| &line.model);
    let replayed = (outcome.meta.received_at != since && outcome.finished_at < since).then(|| "true".to_owned());
    let provider = outcome.provider.iter().map(|provider| ("x-millrace-provider", provider.clone()));
    let always = [
        ("x-request-id", outcome.meta.request_id.clone()),
        ("x-millrace-cost", format_nanos(outcome.charge_nanos, &outcome.currency)),
        ("x-millrace-attempts", outcome.bill.len().to_string()),
        ("x-millrace-model", model.clone()),
    ];
    always.into_iter().chain(provider).chain(replayed.map(|replayed| ("idempotent-replayed", replayed))).collect()
}

/// Adds headers; a value that none may hold is left out.
pub fn add(response: &mut Response, headers: impl IntoIterator<Item = (&'static str, String)>) {
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
}

/// `GET /v1/requests/{id}` of a stored outcome.
pub fn to_json(outcome: &Outcome) -> Value {
    let response = outcome.response.as_deref().and_then(|bytes| {
        let raw = serde_json::from_slice::<Box<RawValue>>(bytes).ok()?;
        serde_json::to_value(raw).ok()
    });
    json!({
        "id": outcome.meta.request_id,
        "object": "request",
        "status": outcome.status.as_str(),
        "run": outcome.meta.run,
        "user": outcome.meta.user,
        "lane": outcome.meta.lane.as_str(),
        "labels": outcome.meta.labels,
        "model": outcome.model,
        "provider": outcome.provider,
        "received_at": outcome.meta.received_at,
        "finished_at": outcome.finished_at,
        "response": response,
        "error": outcome.error.as_ref().map(|e| json!({
            "message": e.message, "type": e.kind, "param": e.param, "code": e.code, "status": e.http_status,
        })),
        "moderation": { "action": outcome.moderation.action, "hits": outcome.moderation.hits },
        "prompt_moderation": outcome.prompt_moderation.as_ref().map(|found| json!({
            "action": found.action, "hits": found.hits, "rules_version": found.rules_version,
        })),
        "usage": { "input_tokens": outcome.input_tokens, "output_tokens": outcome.output_tokens },
        "charge_nanos": outcome.charge_nanos,
        "currency": outcome.currency,
        "calls": outcome.bill.iter().map(|line| json!({
            "id": line.call_id, "operation": line.operation, "provider": line.provider, "model": line.model,
            "status": line.status, "input_tokens": line.input_tokens, "output_tokens": line.output_tokens,
            "charge_nanos": line.charge_nanos,
        })).collect::<Vec<_>>(),
        "stages": outcome.stages.iter().map(|stage| json!({
            "stage": stage.stage, "started_at": stage.started_at, "finished_at": stage.finished_at,
        })).collect::<Vec<_>>(),
    })
}

/// Nano-units as a decimal number with its currency, e.g. `0.000012300 USD`.
pub fn format_nanos(nanos: i64, currency: &str) -> String {
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    format!("{sign}{}.{:09} {currency}", nanos / 1_000_000_000, nanos % 1_000_000_000).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::format_nanos;

    #[test]
    fn nanos_are_shown_exactly() {
        for (nanos, text) in [(0, "0.000000000 USD"), (12_300, "0.000012300 USD"), (-1_500_000_000, "-1.500000000 USD")]
        {
            assert_eq!(format_nanos(nanos, "USD"), text);
        }
    }
}
