//! The content-free fact of an outcome.

use millrace_schemas::{Fact, Outcome, derived_uuid};

/// What analytics may see: everything but what was said. A pure function, so that a replay gives
/// the same `event_id`.
#[must_use]
pub fn fact_of(outcome: &Outcome) -> Fact {
    let meta = &outcome.meta;
    Fact {
        event_id: derived_uuid(&["fact", &meta.tenant, &meta.request_id, &meta.run.to_string()]).to_string(),
        request_id: meta.request_id.clone(),
        run: meta.run,
        tenant: meta.tenant.clone(),
        user: meta.user.clone(),
        key_id: meta.key_id.clone(),
        labels: meta.labels.clone(),
        lane: meta.lane,
        operation: meta.operation.clone(),
        model: outcome.model.clone(),
        provider: outcome.provider.clone(),
        status: outcome.status,
        error_code: outcome.error.as_ref().map(|e| e.code.clone()),
        moderation_action: outcome.moderation.action.clone(),
        calls: i32::try_from(outcome.bill.len()).unwrap_or(i32::MAX),
        input_tokens: outcome.input_tokens,
        output_tokens: outcome.output_tokens,
        cost_nanos: outcome.cost_nanos,
        charge_nanos: outcome.charge_nanos,
        currency: outcome.currency.clone(),
        received_at: meta.received_at,
        finished_at: outcome.finished_at,
        latency_micros: outcome.finished_at.saturating_sub(meta.received_at),
        stage_micros: outcome
            .stages
            .iter()
            .map(|s| (s.stage.clone(), s.finished_at.saturating_sub(s.started_at)))
            .collect(),
    }
}
