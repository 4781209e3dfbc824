//! `/v1/responses`: asking for a response is a request like any other; it may be asked for later, cancelled, deleted,
//! and read from wherever its client had come.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Json, extract::Request as HttpRequest};
use millrace_admission::{EditableBody, Principal, responses};
use millrace_schemas::{Operation, Outcome, RequestId};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::accept::decode;
use crate::come_back::{self, Again};
use crate::error::ApiError;
use crate::lists::limit;
use crate::outcome;
use crate::response_object::{self, Page};
use crate::routes::{answer, authenticate, trace};
use crate::run::Ingress;

/// A cancelled response is waited for so long.
const CANCELLED_WITHIN: Duration = Duration::from_secs(2);
/// A client may have its answer before the store has.
const STORED_WITHIN: Duration = Duration::from_secs(2);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
const MOST_ITEMS: u32 = 100;
const ITEMS: u32 = 20;

type Id = Result<Path<String>, PathRejection>;

/// `POST /v1/responses`.
pub async fn create(State(ingress): State<Arc<Ingress>>, request: HttpRequest) -> Result<Response, ApiError> {
    answer(ingress, Operation::Responses, request).await
}

/// A request for a response, as far as its answer depends on it.
pub(crate) fn asked(body: &[u8]) -> Option<EditableBody> {
    std::str::from_utf8(body).ok().and_then(|text| EditableBody::parse(text.to_owned()))
}

/// Whether its client comes back for it, and does not read along.
pub(crate) fn is_background(asked: &EditableBody) -> bool {
    responses::is_background(asked) && asked.get("stream") != Some("true")
}

/// What a client gets who comes back for a response.
pub(crate) fn queued(request_id: &str, received_at: i64, asked: &EditableBody) -> Response {
    let object = response_object::without_output(request_id, Some(received_at), Some(asked), "queued");
    let mut response = Json(object).into_response();
    outcome::add(&mut response, [("x-request-id", request_id.to_owned())]);
    response
}

/// `GET /v1/responses/{id}`.
pub async fn retrieve(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    id: Id,
    again: Result<Query<Again>, QueryRejection>,
) -> Result<Response, ApiError> {
    let asking = Asking::of(&ingress, &headers, id)?;
    let again = Again::read(again)?;
    if again.stream {
        let _there = asking.look().await?;
        let Asking { principal, id, .. } = asking;
        return come_back::respond(Arc::clone(&ingress), principal.tenant, id, again).await;
    }
    Ok(Json(asking.object().await?).into_response())
}

/// `DELETE /v1/responses/{id}`: the bill's record stays.
pub async fn delete(State(ingress): State<Arc<Ingress>>, headers: HeaderMap, id: Id) -> Result<Json<Value>, ApiError> {
    let asking = Asking::of(&ingress, &headers, id)?;
    let _there = asking.object().await?;
    let Asking { principal, id, .. } = &asking;
    if asking.outcome().await?.is_none() {
        return Err(ApiError::invalid(None, "The response is not finished: cancel it first, then delete it."));
    }
    ingress.storage.kept.forget(&principal.tenant, id.as_str()).await.map_err(|e| ApiError::store(&e))?;
    Ok(Json(json!({ "id": responses::id_of(id.as_str()), "object": "response", "deleted": true })))
}

/// `POST /v1/responses/{id}/cancel`: a wish, as `DELETE /v1/requests/{id}`.
pub async fn cancel(State(ingress): State<Arc<Ingress>>, headers: HeaderMap, id: Id) -> Result<Json<Value>, ApiError> {
    let asking = Asking::of(&ingress, &headers, id)?;
    let _there = asking.look().await?;
    if asking.outcome().await?.is_none() {
        ingress.take_back(&asking.principal, asking.id.as_str(), &trace(&headers)).await?;
        let ended = async {
            while !matches!(asking.outcome().await, Ok(Some(_))) {
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
        };
        let _ended_or_not = tokio::time::timeout(CANCELLED_WITHIN, ended).await;
    }
    Ok(Json(asking.look().await?))
}

#[derive(Deserialize)]
pub struct ItemsAsked {
    order: Option<String>,
    limit: Option<u32>,
    after: Option<String>,
}

/// `GET /v1/responses/{id}/input_items`.
pub async fn input_items(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    id: Id,
    page: Result<Query<ItemsAsked>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let asking = Asking::of(&ingress, &headers, id)?;
    let Query(page) = page?;
    let ascending = match page.order.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(_) => return Err(ApiError::invalid(Some("order"), "'order' must be 'asc' or 'desc'.")),
    };
    let limit = limit(page.limit, ITEMS, MOST_ITEMS)?;
    let Kept::There(kept) = asking.kept().await? else { return Err(asking.not_found()) };
    Ok(Json(response_object::input_items(&kept.request, &Page { ascending, limit, after: page.after })))
}

/// Somebody who asks for a response that was given out to their tenant.
struct Asking<'a> {
    ingress: &'a Ingress,
    principal: Principal,
    id: RequestId,
}

/// What is known of a request beside its outcome.
enum Kept {
    There(responses::Kept),
    Forgotten,
    /// Not yet, or not wanted.
    Nothing,
}

impl<'a> Asking<'a> {
    fn of(ingress: &'a Ingress, headers: &HeaderMap, id: Id) -> Result<Self, ApiError> {
        let principal = authenticate(ingress, headers)?;
        let id = id.ok().map(|Path(id)| id).unwrap_or_default();
        let id = responses::request_of(&principal.tenant, &id).ok_or_else(|| not_found(&id))?;
        Ok(Self { ingress, principal, id })
    }

    fn not_found(&self) -> ApiError {
        not_found(&responses::id_of(self.id.as_str()))
    }

    async fn kept(&self) -> Result<Kept, ApiError> {
        let kept = self.ingress.storage.kept.kept(&self.principal.tenant, self.id.as_str()).await;
        Ok(match kept.map_err(|e| ApiError::store(&e))? {
            None => Kept::Nothing,
            Some(bytes) => responses::Kept::parse(&bytes).map_or(Kept::Forgotten, Kept::There),
        })
    }

    async fn outcome(&self) -> Result<Option<Outcome>, ApiError> {
        let stored = self.ingress.storage.results.get(&self.principal.tenant, self.id.as_str()).await;
        match stored.map_err(|e| ApiError::store(&e))? {
            Some(bytes) => Ok(Some(decode(&self.ingress.codec, &bytes).await?)),
            None => Ok(None),
        }
    }

    /// The response, which whoever got it in answer finds whole: one that was not asked for in the background is
    /// looked for again for a moment.
    async fn object(&self) -> Result<Value, ApiError> {
        let until = Instant::now() + STORED_WITHIN;
        loop {
            let object = self.look().await?;
            let may_be_answered = object["status"] == "in_progress" && object["background"] == false;
            if !may_be_answered || Instant::now() > until {
                return Ok(object);
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// The response as the store has it now.
    async fn look(&self) -> Result<Value, ApiError> {
        // In this order: what is kept is there before its outcome.
        let outcome = self.outcome().await?;
        let kept = self.kept().await?;
        let id = self.id.as_str();
        match (kept, outcome) {
            (Kept::Forgotten, _) => Err(self.not_found()),
            (Kept::There(kept), Some(outcome)) => {
                response_object::of_outcome(&outcome, Some(&kept.request)).ok_or_else(|| self.not_found())
            }
            (Kept::There(kept), None) => {
                Ok(response_object::without_output(id, Some(kept.received_at), Some(&kept.request), "in_progress"))
            }
            // It ended before anything was kept of it.
            (Kept::Nothing, Some(outcome)) if outcome.error.is_some() && is_response(&outcome) => {
                response_object::of_outcome(&outcome, None).ok_or_else(|| self.not_found())
            }
            (Kept::Nothing, Some(_)) => Err(self.not_found()),
            (Kept::Nothing, None) => Ok(response_object::without_output(id, None, None, "queued")),
        }
    }
}

fn is_response(outcome: &Outcome) -> bool {
    outcome.meta.operation == Operation::Responses.as_str()
}

fn not_found(id: &str) -> ApiError {
    let id: String = id.chars().take(64).collect();
    ApiError::not_found(format!("Response with id '{id}' not found: it was never given out, not stored, or deleted."))
}
