//! What tests and operators ask of the simulation itself, outside OpenAI's API.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api_error::ApiError;
use crate::config::{Latency, problem_of_pace};
use crate::faults::{self, FaultRule};
use crate::keys::{self, KeyCount, KeyRule};
use crate::server::App;
use crate::stats::Count;

/// Lines of `/calls` that leave together.
const LINES_PER_FRAME: usize = 4_096;

pub(crate) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

pub(crate) async fn count(State(app): State<Arc<App>>) -> Json<Count> {
    Json(app.stats.count())
}

pub(crate) async fn reset(State(app): State<Arc<App>>) -> StatusCode {
    app.stats.reset();
    app.restart_script();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallsQuery {
    client_request_id: Option<String>,
}

/// Kept calls as JSON lines, oldest first; with `?client_request_id=…` only that client's.
pub(crate) async fn calls(State(app): State<Arc<App>>, Query(query): Query<CallsQuery>) -> Response {
    let lines = stream::unfold(0, move |from| {
        let (calls, next) = app.stats.calls(from, LINES_PER_FRAME);
        let wanted = query.client_request_id.clone();
        async move {
            let mut frame = Vec::new();
            for call in &calls {
                if wanted.is_none() || wanted.as_deref() == call.client_request_id.as_deref() {
                    serde_json::to_writer(&mut frame, call).ok()?;
                    frame.push(b'\n');
                }
            }
            (!calls.is_empty()).then(|| (Ok::<_, std::convert::Infallible>(Bytes::from(frame)), next))
        }
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

pub(crate) async fn faults(State(app): State<Arc<App>>) -> Json<Vec<FaultRule>> {
    Json(app.rules())
}

pub(crate) async fn put_faults(
    State(app): State<Arc<App>>,
    rules: Result<Json<Vec<FaultRule>>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(rules) = rules.map_err(unreadable)?;
    if let Some(problem) = faults::problem(&rules) {
        return Err(ApiError::invalid("", None, problem));
    }
    let installed = rules.len();
    app.install(rules);
    Ok(Json(json!({"rules": installed})))
}

pub(crate) async fn put_latency(
    State(app): State<Arc<App>>,
    latency: Result<Json<Latency>, JsonRejection>,
) -> Result<Json<Latency>, ApiError> {
    let Json(latency) = latency.map_err(unreadable)?;
    if let Some(problem) = latency.problem() {
        return Err(ApiError::invalid("", None, problem));
    }
    app.set_latency(latency);
    Ok(Json(latency))
}

pub(crate) async fn keys(State(app): State<Arc<App>>) -> Json<BTreeMap<String, KeyCount>> {
    Json(app.keys().counts())
}

pub(crate) async fn put_keys(
    State(app): State<Arc<App>>,
    rules: Result<Json<Option<Vec<KeyRule>>>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(rules) = rules.map_err(|_| ApiError::invalid("", None, "Send a JSON array of keys, or null."))?;
    if let Some(problem) = rules.as_deref().and_then(keys::problem) {
        return Err(ApiError::invalid("", None, problem));
    }
    let installed = rules.as_ref().map(Vec::len);
    app.keys().install(rules);
    Ok(Json(json!({"keys": installed})))
}

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pace {
    tokens_per_second: Option<f64>,
}

pub(crate) async fn put_pace(
    State(app): State<Arc<App>>,
    pace: Result<Json<Pace>, JsonRejection>,
) -> Result<Json<Pace>, ApiError> {
    let Json(pace) = pace.map_err(unreadable)?;
    if let Some(problem) = problem_of_pace(pace.tokens_per_second) {
        return Err(ApiError::invalid("", None, problem));
    }
    app.set_pace(pace.tokens_per_second);
    Ok(Json(pace))
}

fn unreadable(rejection: JsonRejection) -> ApiError {
    ApiError::invalid("", None, rejection.body_text())
}

pub(crate) async fn models(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    app.authenticate(&headers)?;
    let config = &app.config;
    let model = |id: &String| json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": "simulated"});
    let data: Vec<Value> = config.models.iter().chain(&config.embedding_models).map(model).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

pub(crate) async fn no_such_url(method: Method, uri: Uri) -> ApiError {
    ApiError::no_such_url(method.as_str(), uri.path())
}

pub(crate) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::wrong_method(method.as_str(), uri.path())
}
