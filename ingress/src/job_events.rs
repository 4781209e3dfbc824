//! `GET /v1/requests/{id}/events`: what becomes of a request, as server-sent events.
//!
//! `accepted`, then `in_progress` while there is no outcome; then how long each stage had it, as the outcome has it,
//! and at last an event of the name of its status with the outcome. Stages say nothing while they work: it would cost
//! a record each for every request.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use futures::StreamExt as _;
use millrace_schemas::Outcome;
use serde_json::{Value, json};

use crate::come_back::{outcome_of, respond_with};
use crate::error::ApiError;
use crate::outcome;
use crate::routes::{authenticate, own_id};
use crate::run::Ingress;
use crate::sent::Told;

pub async fn events(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let principal = authenticate(&ingress, &headers)?;
    let id = own_id(&principal, id)?;
    let hold = ingress.hold(0)?;
    let known = ingress.storage.results.get(&principal.tenant, id.as_str()).await.map_err(|e| ApiError::store(&e))?;
    let name = id.as_str().to_owned();
    let mut begun = vec![event("accepted", &json!({ "id": name, "object": "request", "status": "accepted" }))];
    if known.is_none() {
        begun.push(event("in_progress", &json!({ "id": name, "object": "request", "status": outcome::IN_PROGRESS })));
    }
    let waiting = outcome_of(&ingress, principal.tenant, &id);
    let ended = async move {
        futures::stream::iter(match waiting.await {
            Ok(outcome) => end(&outcome),
            Err(error) => vec![event("error", &error.to_json())],
        })
    };
    let events = futures::stream::iter(begun).chain(futures::stream::once(ended).flatten());
    Ok(respond_with(events.boxed(), vec![("x-request-id", name)], hold))
}

fn end(outcome: &Outcome) -> Vec<Told> {
    let id = &outcome.meta.request_id;
    let stages = outcome.stages.iter().map(|time| {
        let data = json!({ "id": id, "object": "request.stage", "stage": time.stage, "started_at": time.started_at,
            "finished_at": time.finished_at });
        event("stage", &data)
    });
    stages.chain([event(outcome.status.as_str(), &outcome::to_json(outcome))]).collect()
}

fn event(name: &str, data: &Value) -> Told {
    Told { name: Some(name.to_owned()), id: None, data: data.to_string() }
}
