//! The routes, each a few named steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, MatchedPath, Path, Query, Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use millrace_admission::{KeyRefusal, Principal, Stream, TokenRefusal};
use millrace_budgets::Standing;
use millrace_cost_ledger::usage::UsageReport;
use millrace_schemas::{Document, Operation, Request, RequestId, body_hash, now_micros, now_millis, topics};
use millrace_stage::{Outgoing, To};
use millrace_telemetry::{TRACEPARENT, TraceContext};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tracing::Instrument;

use crate::accept::decode;
use crate::come_back::{self, Again};
use crate::error::ApiError;
use crate::leave::{Left, Present, Then, cancels_on_disconnect};
use crate::outcome;
use crate::posted::Posted;
use crate::retry::Retries;
use crate::run::Ingress;
use crate::sent::Sent;
use crate::{admin, batches, files, job_events, moderations, openapi, responses, stream, webhooks};

/// Headers of answers that scripts of pages may read.
const EXPOSED: [&str; 16] = [
    "x-request-id",
    "x-should-retry",
    "retry-after",
    "retry-after-ms",
    "idempotent-replayed",
    "x-millrace-cost",
    "x-millrace-model",
    "x-millrace-provider",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-millrace-attempts",
    "x-millrace-budget-remaining",
];
/// For so long a browser needs not ask again.
const PREFLIGHT_KEPT: Duration = Duration::from_secs(3_600);

const HOUR_MICROS: i64 = 3_600_000_000;
/// The longest period that usage is summed over: a year.
const MAX_HOURS: i64 = 24 * 366;

/// A route of the API.
pub struct Route {
    pub path: &'static str,
    handler: fn() -> MethodRouter<Arc<Ingress>>,
}

impl Route {
    const fn of(path: &'static str, handler: fn() -> MethodRouter<Arc<Ingress>>) -> Self {
        Self { path, handler }
    }
}

/// The API, as `openapi.json` describes it.
pub const API: &[Route] = &[
    Route::of("/v1/chat/completions", || post(chat_completions)),
    Route::of("/v1/embeddings", || post(embeddings)),
    Route::of("/v1/moderations", || post(moderations::moderations)),
    Route::of("/v1/responses", || post(responses::create)),
    Route::of("/v1/responses/{id}", || get(responses::retrieve).delete(responses::delete)),
    Route::of("/v1/responses/{id}/cancel", || post(responses::cancel)),
    Route::of("/v1/responses/{id}/input_items", || get(responses::input_items)),
    Route::of("/v1/requests/{id}", || get(request).delete(cancel)),
    Route::of("/v1/requests/{id}/events", || get(job_events::events)),
    Route::of("/v1/documents", || post(documents)),
    // An upload is bounded as it is read: it is never in memory as a whole.
    Route::of("/v1/files", || get(files::list).post(files::upload).layer(DefaultBodyLimit::disable())),
    Route::of("/v1/files/{id}", || get(files::retrieve).delete(files::delete)),
    Route::of("/v1/files/{id}/content", || get(files::content)),
    Route::of("/v1/batches", || get(batches::list).post(batches::create)),
    Route::of("/v1/batches/{id}", || get(batches::retrieve)),
    Route::of("/v1/batches/{id}/cancel", || post(batches::cancel)),
    Route::of("/v1/models", || get(models)),
    Route::of("/v1/usage", || get(usage)),
    Route::of("/v1/webhooks/deliveries", || get(webhooks::list)),
    Route::of("/v1/webhooks/deliveries/{id}", || get(webhooks::show)),
    Route::of("/v1/webhooks/deliveries/{id}/resend", || post(webhooks::resend)),
    Route::of("/admin/v1/usage", || get(admin_usage)),
    Route::of("/admin/v1/plans", || get(admin::list)),
    Route::of("/admin/v1/plans/{plan}", admin::entry),
    Route::of("/admin/v1/tenants", || get(admin::list)),
    Route::of("/admin/v1/tenants/{tenant}", admin::entry),
    Route::of("/admin/v1/tenants/{tenant}/users", || get(admin::list)),
    Route::of("/admin/v1/tenants/{tenant}/users/{user}", admin::entry),
    Route::of("/admin/v1/tenants/{tenant}/keys", || get(admin::list).post(admin::new_key)),
    Route::of("/admin/v1/tenants/{tenant}/keys/{key_id}", || {
        get(admin::show).patch(admin::patch).delete(admin::delete)
    }),
    Route::of("/admin/v1/tenants/{tenant}/keys/{key_id}/rotate", || post(admin::rotate)),
    Route::of("/admin/v1/tenants/{tenant}/webhooks", || get(admin::list).post(admin::new_webhook)),
    Route::of("/admin/v1/tenants/{tenant}/webhooks/{webhook_id}", || {
        get(admin::show).patch(admin::patch).delete(admin::delete)
    }),
    Route::of("/admin/v1/tenants/{tenant}/webhooks/{webhook_id}/rotate", || post(admin::rotate)),
];

/// All routes of the front door; scripts of pages from `origins` may call them.
pub fn router(ingress: Arc<Ingress>, origins: &[String]) -> Router {
    let max_body_bytes = ingress.max_body_bytes;
    API.iter()
        .fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
        .merge(openapi::router())
        .fallback(|| async { ApiError::not_found("There is no such route; the API is under /v1.") })
        .method_not_allowed_fallback(|| async { ApiError::wrong_method() })
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .layer(cors(origins))
        .layer(from_fn_with_state(Arc::clone(&ingress), measure))
        .with_state(ingress)
}

/// What a browser asks before it lets a page's script call.
fn cors(origins: &[String]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse().ok()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .max_age(PREFLIGHT_KEPT)
}

async fn chat_completions(State(ingress): State<Arc<Ingress>>, request: HttpRequest) -> Result<Response, ApiError> {
    answer(ingress, Operation::Chat, request).await
}

async fn embeddings(State(ingress): State<Arc<Ingress>>, request: HttpRequest) -> Result<Response, ApiError> {
    answer(ingress, Operation::Embeddings, request).await
}

pub(crate) async fn answer(
    ingress: Arc<Ingress>,
    operation: Operation,
    request: HttpRequest,
) -> Result<Response, ApiError> {
    let Posted { principal, headers, body, hold } = ingress.receive_for_stages(request).await?;
    let hash = body_hash(&body);
    let is_async = prefers_async(&headers);
    let asked = if operation == Operation::Responses { responses::asked(&body) } else { None };
    let in_background = asked.as_ref().filter(|asked| responses::is_background(asked)).cloned();
    let request = Request {
        idempotency_key: text(&headers, "idempotency-key")?,
        user: text(&headers, "x-millrace-user")?,
        operation: operation.to_string(),
        // Whoever comes back later needs no word from the stages; their limits may.
        reply_replica: (!is_async && in_background.is_none()).then(|| ingress.replica.clone()),
        ..Request::new(body.into())
    };
    let cancels = cancels_on_disconnect(&headers)?;
    let retries = Retries::of(&headers, &principal, operation, &hash);
    let trace = trace(&headers);
    let mut present = Present::new(hold);
    // A task of its own: a client that leaves between the write and its acknowledgement must not
    // leave the request half accepted. It keeps its place for as long as that takes.
    let task = {
        let (ingress, principal) = (Arc::clone(&ingress), principal.clone());
        tokio::spawn(async move {
            let accepted = match &retries {
                Some(retries) => ingress.accept_or_join(&principal, request, retries, &trace).await,
                None => ingress.accept(&principal, request, &trace).await,
            };
            let takes_back = cancels.then_some(Then::TakeBack { principal, trace });
            if let (Ok(accepted), Some(then)) = (&accepted, takes_back.or(retries.map(Then::Note))) {
                let request_id = accepted.waiter.request_id().to_owned();
                present.when_it_leaves(Left { ingress: Arc::clone(&ingress), request_id, then });
            }
            (accepted, present)
        })
    };
    let (accepted, mut present) =
        task.await.map_err(|_| ApiError::busy("The request could not be accepted; try again.", 1))?;
    let accepted = accepted?;
    if is_async {
        present.answered();
        let mut response = outcome::later(accepted.waiter.request_id());
        outcome::add(&mut response, accepted.left());
        return Ok(response);
    }
    if let Some(asked) = in_background {
        present.answered();
        return Ok(responses::queued(accepted.waiter.request_id(), accepted.since, &asked));
    }
    if let Some(Stream { with_usage }) = accepted.stream {
        let sent = asked.map_or_else(|| Sent::chat(with_usage), Sent::response);
        return stream::respond(ingress, accepted, principal.tenant, hash, sent, present).await;
    }
    let (since, left) = (accepted.since, accepted.left());
    let outcome = ingress.outcome(accepted, &principal.tenant, &hash).await;
    present.answered();
    let mut response = outcome::to_response(outcome?, since);
    outcome::add(&mut response, left);
    Ok(response)
}

async fn request(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
    again: Result<Query<Again>, QueryRejection>,
) -> Result<Response, ApiError> {
    let principal = authenticate(&ingress, &headers)?;
    let id = own_id(&principal, id)?;
    let again = Again::read(again)?;
    if again.stream {
        return come_back::respond(ingress, principal.tenant, id, again).await;
    }
    let outcome = stored(&ingress, &principal, &id).await?;
    let body = outcome.map_or_else(|| outcome::without(id.as_str(), outcome::IN_PROGRESS), axum::Json);
    Ok(body.into_response())
}

/// A wish: whoever works on the request stops when it reads the record, unless it has answered before.
async fn cancel(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let principal = authenticate(&ingress, &headers)?;
    let id = own_id(&principal, id)?;
    if let Some(outcome) = stored(&ingress, &principal, &id).await? {
        return Ok(axum::Json(outcome).into_response());
    }
    ingress.take_back(&principal, id.as_str(), &trace(&headers)).await?;
    Ok((StatusCode::ACCEPTED, outcome::without(id.as_str(), "cancelling")).into_response())
}

pub(crate) fn own_id(principal: &Principal, id: Result<Path<String>, PathRejection>) -> Result<RequestId, ApiError> {
    id.ok()
        .and_then(|Path(id)| RequestId::parse(&principal.tenant, &id))
        .ok_or_else(|| ApiError::not_found("No request of this id was ever given out to this tenant."))
}

/// The outcome of a request that has ended.
async fn stored(ingress: &Ingress, principal: &Principal, id: &RequestId) -> Result<Option<Value>, ApiError> {
    let stored = ingress.storage.results.get(&principal.tenant, id.as_str()).await.map_err(|e| ApiError::store(&e))?;
    match stored {
        Some(bytes) => Ok(Some(outcome::to_json(&decode(&ingress.codec, &bytes).await?))),
        None => Ok(None),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewDocument {
    collection: String,
    text: String,
    id: Option<String>,
    title: Option<String>,
    #[serde(default)]
    metadata: std::collections::BTreeMap<String, String>,
}

async fn documents(State(ingress): State<Arc<Ingress>>, request: HttpRequest) -> Result<Response, ApiError> {
    let Posted { principal, headers, body, hold: _hold } = ingress.receive_only(request).await?;
    let new: NewDocument = serde_json::from_slice(&body).map_err(|e| {
        ApiError::invalid(None, format!("The body is not {{collection, text, id?, title?, metadata?}}: {e}."))
    })?;
    let id = new.id.unwrap_or_else(|| format!("doc_{}", uuid::Uuid::now_v7().simple()));
    let document = Document {
        document_id: Some(id.clone()),
        collection: new.collection,
        text: new.text,
        title: new.title,
        user: text(&headers, "x-millrace-user")?.or_else(|| principal.user.clone()),
        metadata: new.metadata,
    };
    let user = ingress.settings.now().admission.check_document(&principal, &document)?;
    if document.text.trim().is_empty() || document.text.len() > ingress.inline_bytes {
        let message = format!("`text` must have 1 to {} bytes: cut larger documents.", ingress.inline_bytes);
        return Err(ApiError::invalid(Some("text"), message));
    }
    ingress.has_budget_for(&principal, &user)?;
    let value = ingress.encode(&document)?;
    let record = Outgoing::new(topics::DOCUMENTS, format!("{}/{}/{id}", principal.tenant, document.collection), value)
        .to(To::ByKey);
    ingress.write(&principal, record, &id, &principal.tenant, true, &trace(&headers)).await?;
    let body = json!({ "id": id, "object": "document", "collection": document.collection, "status": "accepted" });
    Ok((StatusCode::ACCEPTED, axum::Json(body)).into_response())
}

async fn models(State(ingress): State<Arc<Ingress>>, headers: HeaderMap) -> Result<axum::Json<Value>, ApiError> {
    let principal = authenticate(&ingress, &headers)?;
    let settings = ingress.settings.now();
    let models = settings.admission.models().iter();
    let data: Vec<_> = models
        .filter(|(name, _)| ingress.directory().may_use(&principal, name))
        .map(|(name, model)| json!({ "id": name, "object": "model", "created": 0, "owned_by": model.provider }))
        .collect();
    Ok(axum::Json(json!({ "object": "list", "data": data })))
}

#[derive(Deserialize)]
struct Period {
    tenant: Option<String>,
    /// Hours back from now.
    hours: Option<i64>,
}

impl Period {
    fn read(query: Result<Query<Self>, QueryRejection>) -> Result<Self, ApiError> {
        let Query(period) = query?;
        if period.hours.is_some_and(|hours| !(1..=MAX_HOURS).contains(&hours)) {
            return Err(ApiError::invalid(Some("hours"), format!("'hours' must be 1 to {MAX_HOURS}.")));
        }
        Ok(period)
    }
}

/// What was used, and how the budgets stand.
#[derive(Serialize)]
struct Usage {
    #[serde(flatten)]
    report: UsageReport,
    budgets: Vec<Standing>,
}

async fn usage(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    period: Result<Query<Period>, QueryRejection>,
) -> Result<axum::Json<Usage>, ApiError> {
    let principal = authenticate(&ingress, &headers)?;
    let period = Period::read(period)?;
    if period.tenant.as_ref().is_some_and(|t| *t != principal.tenant) {
        return Err(ApiError::not_found("This key belongs to another tenant."));
    }
    usage_of(&ingress, &principal.tenant, period.hours, false).await
}

async fn admin_usage(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    period: Result<Query<Period>, QueryRejection>,
) -> Result<axum::Json<Usage>, ApiError> {
    let given = bearer(&headers).ok_or_else(ApiError::unauthorized)?;
    if !ingress.is_admin(given) {
        return Err(ApiError::unauthorized());
    }
    let period = Period::read(period)?;
    let tenant = period.tenant.ok_or_else(|| ApiError::invalid(Some("tenant"), "Name a tenant: `?tenant=<id>`."))?;
    if !ingress.directory().has_tenant(&tenant) {
        return Err(ApiError::not_found(format!("There is no tenant `{tenant}`.")));
    }
    usage_of(&ingress, &tenant, period.hours, true).await
}

async fn usage_of(
    ingress: &Ingress,
    tenant: &str,
    hours: Option<i64>,
    with_cost: bool,
) -> Result<axum::Json<Usage>, ApiError> {
    let hours = hours.unwrap_or(24 * 30);
    let to = now_micros() / HOUR_MICROS + 1;
    let rollups = ingress.storage.usage.usage(tenant, to - hours, to).await.map_err(|e| ApiError::store(&e))?;
    let report =
        UsageReport::of(tenant, &rollups).map_err(|error| ApiError::invalid(Some("hours"), format!("{error}.")))?;
    let budgets = ingress.budgets.standings_of(tenant, ingress.directory().budgets(tenant));
    Ok(axum::Json(Usage { report: if with_cost { report } else { report.without_cost() }, budgets }))
}

pub(crate) fn authenticate(ingress: &Ingress, headers: &HeaderMap) -> Result<Principal, ApiError> {
    let key = bearer(headers).ok_or_else(ApiError::unauthorized)?;
    ingress.directory().verify_key(key, now_millis()).map_err(|refusal| match refusal {
        KeyRefusal::Unknown => ApiError::unauthorized(),
        KeyRefusal::Expired(_) | KeyRefusal::Revoked(_) | KeyRefusal::Closed(_) => ApiError::key_ended(&refusal),
        KeyRefusal::Token(TokenRefusal::KeysNotKnown(_) | TokenRefusal::KeysAway(_)) => {
            ApiError::busy(format!("Nothing was accepted: {refusal}."), 1)
        }
        KeyRefusal::Token(_) => ApiError::token_refused(&refusal),
    })
}

pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(axum::http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Whether the client comes back for its answer (RFC 7240).
fn prefers_async(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut names = preferences.flat_map(|value| value.split([',', ';']));
    names.any(|name| name.trim().eq_ignore_ascii_case("respond-async"))
}

pub(crate) fn text(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, ApiError> {
    headers
        .get(name)
        .map(|value| value.to_str().map(str::to_owned))
        .transpose()
        .map_err(|_| ApiError::invalid(None, format!("The header `{name}` is not plain text.")))
}

pub(crate) fn trace(headers: &HeaderMap) -> String {
    let given = headers.get(TRACEPARENT).and_then(|v| v.to_str().ok());
    TraceContext::parse_or_random(given).child().to_string()
}

async fn measure(State(ingress): State<Arc<Ingress>>, request: HttpRequest, next: Next) -> Response {
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| "unknown".to_owned(), |p| p.as_str().to_owned());
    let began = Instant::now();
    let span = tracing::info_span!("http", route, trace_id = tracing::field::Empty);
    if !span.is_disabled()
        && let Some(trace) = request.headers().get(TRACEPARENT).and_then(|v| TraceContext::parse(v.to_str().ok()?))
    {
        span.record("trace_id", format!("{:032x}", trace.trace_id));
    }
    let response = next.run(request).instrument(span).await;
    ingress.metrics.requests.with_label_values(&[route.as_str(), response.status().as_str()]).inc();
    ingress.metrics.seconds.with_label_values(&[&route]).observe(began.elapsed().as_secs_f64());
    response
}

#[cfg(test)]
#[path = "routes_fuzz.rs"]
mod fuzz;
