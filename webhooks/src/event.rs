//! What is told.

use millrace_schemas::{Outcome, OutcomeStatus, derived_uuid};
use serde_json::{Value, json};

/// The type of events that only try an endpoint out.
pub const TEST_EVENT: &str = "webhook.test";

/// An event, in the shape of OpenAI's.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `evt_` and 32 hexadecimal digits; the same for every endpoint and in every attempt.
    pub id: String,
    /// Such as `response.completed`.
    pub kind: String,
    /// Microseconds since the epoch.
    pub created_at: i64,
    /// `id` is that of what it is about.
    pub data: Value,
}

impl Event {
    /// An event of a tenant. `subject` names what happened so that it names nothing else: the same happening
    /// gives the same event, however often it is told.
    #[must_use]
    pub fn new(tenant: &str, kind: &str, subject: &[&str], created_at: i64, data: Value) -> Self {
        let parts = [&["webhook event", tenant], subject].concat();
        Self { id: format!("evt_{}", derived_uuid(&parts).simple()), kind: kind.to_owned(), created_at, data }
    }

    /// What became of a request. What was asked and answered is not in it: events stay small, and whoever
    /// reads them on the way learns nothing.
    #[must_use]
    pub fn of_outcome(outcome: &Outcome) -> Self {
        let meta = &outcome.meta;
        let data = json!({
            "id": meta.request_id,
            "object": "request",
            "url": format!("/v1/requests/{}", meta.request_id),
            "status": outcome.status.as_str(),
            "run": meta.run,
            "operation": meta.operation,
            "model": outcome.model,
            "user": meta.user,
            "labels": meta.labels,
            "usage": {
                "input_tokens": outcome.input_tokens,
                "output_tokens": outcome.output_tokens,
                "total_tokens": outcome.input_tokens.saturating_add(outcome.output_tokens),
            },
            "charge": { "nanos": outcome.charge_nanos, "currency": outcome.currency },
            // Its message may quote what was asked.
            "error": outcome.error.as_ref().map(|error| json!({ "type": error.kind, "code": error.code })),
        });
        let subject = ["request", &meta.request_id, &meta.run.to_string()];
        Self::new(&meta.tenant, kind(outcome.status), &subject, outcome.finished_at, data)
    }

    /// What is sent.
    #[must_use]
    pub fn payload(&self) -> String {
        let Self { id, kind, created_at, data } = self;
        json!({ "id": id, "object": "event", "created_at": created_at / 1_000_000, "type": kind, "data": data })
            .to_string()
    }
}

/// What OpenAI calls such an end.
fn kind(status: OutcomeStatus) -> &'static str {
    match status {
        OutcomeStatus::Succeeded => "response.completed",
        // Held back by the rules, as by OpenAI's content filter.
        OutcomeStatus::Blocked => "response.incomplete",
        OutcomeStatus::Failed | OutcomeStatus::Expired => "response.failed",
        OutcomeStatus::Cancelled => "response.cancelled",
    }
}

#[cfg(test)]
mod tests {
    use millrace_config::WEBHOOK_EVENTS;

    use super::*;

    #[test]
    fn an_event_has_openais_shape_and_its_id_follows_from_what_happened() {
        let at = 1_700_000_000_123_456;
        let event =
            |kind: &str, run: &str| Event::new("acme", kind, &["request", "req_1", run], at, json!({ "id": "req_1" }));
        let first = event("response.completed", "0");
        let payload: Value = serde_json::from_str(&first.payload()).unwrap();
        assert_eq!(payload["object"], "event");
        assert_eq!(payload["type"], "response.completed");
        assert_eq!(payload["created_at"], 1_700_000_000);
        assert_eq!(payload["data"]["id"], "req_1");
        assert_eq!(payload["id"], first.id.as_str());
        assert!(first.id.starts_with("evt_") && first.id.len() == 36);
        assert_eq!(first, event("response.completed", "0"));
        assert_ne!(first.id, event("response.completed", "1").id);
    }

    #[test]
    fn every_end_has_a_type_that_endpoints_may_ask_for() {
        for status in OutcomeStatus::ALL {
            assert!(WEBHOOK_EVENTS.contains(&kind(*status)), "{status}");
        }
    }
}
