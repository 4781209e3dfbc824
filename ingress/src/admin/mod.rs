//! The administrative API: plans, tenants, users, keys and webhook endpoints.
//!
//! The installation's administrator may change all of them; a key of a tenant that is `admin` its own users,
//! keys and endpoints. A change is written to `audit`, then to `tenants`, and answered when it is known here.

mod actor;
mod webhooks;
mod write;

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, MatchedPath, Query, RawPathParams, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use millrace_admission::EntryName;
use millrace_config::Timestamp;
use millrace_schemas::now_millis;
use millrace_tenants::Known;
use millrace_tenants::change::{self, Body};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::lists;
use crate::run::Ingress;
use crate::serve::Peer;
use actor::Actor;
use write::Change;

pub(crate) use webhooks::new_webhook;

/// How long a key, or a secret, that was replaced is good unless somebody says otherwise: a day.
const OVERLAP_SECONDS: u64 = 24 * 60 * 60;
/// The longest overlap: a year.
const MAX_OVERLAP_SECONDS: u64 = 366 * 24 * 60 * 60;
/// Entries of one answer.
const MAX_LISTED: u32 = 100;

/// The methods of an entry that is made under a name of one's own choice.
pub(crate) fn entry() -> MethodRouter<Arc<Ingress>> {
    get(show).put(put).patch(patch).delete(delete)
}

/// What a path names: an entry, or the one before the first of a list.
pub(crate) struct Target(EntryName);

impl FromRequestParts<Arc<Ingress>> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<Ingress>) -> Result<Self, ApiError> {
        let nothing = || ApiError::not_found("There is no such route.");
        let route = MatchedPath::from_request_parts(parts, state).await.map_err(|_| nothing())?;
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::not_found("The path is not UTF-8."))?;
        let param = |name: &str| params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
        let id = |name: &str| param(name).unwrap_or_default();
        let name = match (route.as_str(), param("tenant")) {
            (route, Some(tenant)) if route.contains("/users") => EntryName::User(tenant, id("user")),
            (route, Some(tenant)) if route.contains("/keys") => EntryName::Key(tenant, id("key_id")),
            (route, Some(tenant)) if route.contains("/webhooks") => EntryName::Webhook(tenant, id("webhook_id")),
            (_, Some(tenant)) => EntryName::Tenant(tenant),
            (route, None) if route.contains("/plans") => EntryName::Plan(id("plan")),
            (_, None) => EntryName::Tenant(String::new()),
        };
        Ok(Self(name))
    }
}

/// Somebody who may change what a path names.
pub(crate) struct Editor {
    actor: Actor,
    peer: Peer,
    name: EntryName,
}

impl FromRequestParts<Arc<Ingress>> for Editor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<Ingress>) -> Result<Self, ApiError> {
        let Target(name) = Target::from_request_parts(parts, state).await?;
        let actor = Actor::of(state, &parts.headers)?;
        actor.may_change(&name)?;
        let peer = parts.extensions.get::<Peer>().copied();
        let peer = peer.ok_or_else(|| ApiError::busy("The connection is not known; try again.", 1))?;
        Ok(Self { actor, peer, name })
    }
}

#[derive(Deserialize)]
pub(crate) struct Page {
    after: Option<String>,
    limit: Option<u32>,
}

/// `GET` of a list, in the order of ids.
pub(crate) async fn list(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    Target(first): Target,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let actor = Actor::of(&ingress, &headers)?;
    actor.may_list(&first)?;
    if let Some(tenant) = first.tenant().filter(|tenant| !tenant.is_empty()) {
        there(&ingress, &EntryName::Tenant(tenant.to_owned()))?;
    }
    let Query(Page { after, limit }) = page?;
    let limit = lists::limit(limit, MAX_LISTED, MAX_LISTED)?;
    // The id that follows directly on `after`.
    let first = after.map_or_else(|| first.clone(), |after| with_id(&first, format!("{after}\0")));
    let mut found = ingress.tenants.list(&first, limit + 1);
    let has_more = found.len() > limit;
    found.truncate(limit);
    let data: Vec<_> = found.iter().map(|(name, known)| shown(name, known)).collect();
    Ok(Json(json!({ "object": "list", "data": data, "has_more": has_more })).into_response())
}

/// `GET` of one.
pub(crate) async fn show(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    Target(name): Target,
) -> Result<Response, ApiError> {
    Actor::of(&ingress, &headers)?.may_see(&name)?;
    let known = there(&ingress, &name)?;
    Ok(Json(shown(&name, &known)).into_response())
}

/// `PUT`: makes it, or puts another in its place. With `If-None-Match: *` only the former.
pub(crate) async fn put(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    editor: Editor,
    body: Bytes,
) -> Result<Response, ApiError> {
    let name = editor.name.clone();
    let asked = object(&body)?;
    change::check_id(&name).map_err(invalid)?;
    let only_new = match headers.get("if-none-match").map(|value| value.as_bytes()) {
        None => false,
        Some(b"*") => true,
        Some(_) => return Err(ApiError::invalid(None, "The header `If-None-Match` must be `*`, or left out.")),
    };
    let change = ingress.change(editor).await?;
    let body = change::merged(&name, None, asked, &*ingress).map_err(invalid)?;
    if change.before().is_some() && only_new {
        let message = format!("{name} is there already: change it with PATCH, or leave out `If-None-Match`.");
        return Err(ApiError::conflict(StatusCode::PRECONDITION_FAILED, message));
    }
    let status = if change.before().is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let action = if change.before().is_some() { "change" } else { "create" };
    let known = change.write(action, Some(body)).await?;
    Ok((status, Json(known)).into_response())
}

/// `PATCH`: a merge patch (RFC 7396).
pub(crate) async fn patch(
    State(ingress): State<Arc<Ingress>>,
    editor: Editor,
    body: Bytes,
) -> Result<Response, ApiError> {
    let name = editor.name.clone();
    let asked = object(&body)?;
    let change = ingress.change(editor).await?;
    let before = change.expect_before()?;
    let body = change::merged(&name, Some(&before.body), asked, &*ingress).map_err(invalid)?;
    Ok(Json(change.write("change", Some(body)).await?).into_response())
}

/// `DELETE`: plans and users are there no more; keys are revoked and tenants closed, for what they did stays
/// in the books. An endpoint is there no more either, though it is remembered that it was.
pub(crate) async fn delete(State(ingress): State<Arc<Ingress>>, editor: Editor) -> Result<Response, ApiError> {
    let name = editor.name.clone();
    let change = ingress.change(editor).await?;
    let before = change.expect_before()?;
    ingress.is_unused(&name)?;
    let action = match &name {
        EntryName::Plan(_) | EntryName::User(..) | EntryName::Webhook(..) => "delete",
        EntryName::Tenant(_) => "close",
        EntryName::Key(..) => "revoke",
    };
    let ended = change::ended(&name, &before.body, Timestamp::from_millis(now_millis()));
    let known = change.write(action, ended).await?;
    Ok(Json(known).into_response())
}

/// `POST` to a tenant's keys: the only time that the key is shown.
pub(crate) async fn new_key(
    State(ingress): State<Arc<Ingress>>,
    editor: Editor,
    body: Bytes,
) -> Result<Response, ApiError> {
    let id_is = "Give the key an 'id', which names it in logs and usage.";
    let New { change, body, .. } = begin_new(&ingress, editor, &body, id_is, "rotate it").await?;
    let (body, key) = change::with_new_key(body);
    let mut known = change.write("create", Some(body)).await?;
    known["key"] = key.into();
    Ok((StatusCode::CREATED, Json(known)).into_response())
}

/// What a `POST` to a collection makes under a new id.
struct New<'a> {
    change: Change<'a>,
    name: EntryName,
    body: Body,
}

/// Begins to make it. `id_is` says what the id is for, `instead` what is done with one that is there.
async fn begin_new<'a>(
    ingress: &'a Arc<Ingress>,
    editor: Editor,
    body: &Bytes,
    id_is: &str,
    instead: &str,
) -> Result<New<'a>, ApiError> {
    let mut asked = object(body)?;
    let Some(Value::String(id)) = asked.remove("id") else { return Err(ApiError::invalid(Some("id"), id_is)) };
    let name = with_id(&editor.name, id);
    change::check_id(&name).map_err(invalid)?;
    let change = ingress.change(Editor { name: name.clone(), ..editor }).await?;
    if change.before().is_some() {
        let message = format!("{name} is there already: {instead}, or choose another id.");
        return Err(ApiError::conflict(StatusCode::CONFLICT, message));
    }
    let body = change::merged(&name, None, asked, &**ingress).map_err(invalid)?;
    Ok(New { change, name, body })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rotation {
    overlap_seconds: u64,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { overlap_seconds: OVERLAP_SECONDS }
    }
}

/// `POST` to a key's or an endpoint's `rotate`: a new key, or secret, under the same id; the old one is good for a
/// while longer.
pub(crate) async fn rotate(
    State(ingress): State<Arc<Ingress>>,
    editor: Editor,
    body: Bytes,
) -> Result<Response, ApiError> {
    let name = editor.name.clone();
    let asked = if body.is_empty() { Body::new() } else { object(&body)? };
    let asked: Rotation = serde_json::from_value(Value::Object(asked)).map_err(|error| {
        ApiError::invalid(Some("overlap_seconds"), format!("The body is not {{overlap_seconds?}}: {error}."))
    })?;
    if asked.overlap_seconds > MAX_OVERLAP_SECONDS {
        let message = format!("'overlap_seconds' must be 0 to {MAX_OVERLAP_SECONDS}.");
        return Err(ApiError::invalid(Some("overlap_seconds"), message));
    }
    let change = ingress.change(editor).await?;
    let before = change.expect_before()?;
    if before.body.contains_key("revoked_at") {
        let message = format!("{name} was revoked: make a new key.");
        return Err(ApiError::conflict(StatusCode::CONFLICT, message));
    }
    let overlap = i64::try_from(asked.overlap_seconds).unwrap_or(i64::MAX).saturating_mul(1_000);
    let until = Timestamp::from_millis(now_millis().saturating_add(overlap));
    let (body, member, shown_once) = if let EntryName::Webhook(tenant, id) = &name {
        let (from, secret) = ingress.new_secret(tenant, id)?;
        (change::derived_anew(&before.body, &from, until), "secret", secret)
    } else {
        let (body, key) = change::rotated(&before.body, until);
        (body, "key", key)
    };
    let mut known = change.write("rotate", Some(body)).await?;
    known[member] = shown_once.into();
    Ok(Json(known).into_response())
}

fn there(ingress: &Ingress, name: &EntryName) -> Result<Known, ApiError> {
    ingress.tenants.get(name).ok_or_else(|| ApiError::not_found(format!("There is no {name}.")))
}

fn with_id(name: &EntryName, id: String) -> EntryName {
    match name {
        EntryName::Plan(_) => EntryName::Plan(id),
        EntryName::Tenant(_) => EntryName::Tenant(id),
        EntryName::User(tenant, _) => EntryName::User(tenant.clone(), id),
        EntryName::Key(tenant, _) => EntryName::Key(tenant.clone(), id),
        EntryName::Webhook(tenant, _) => EntryName::Webhook(tenant.clone(), id),
    }
}

fn object(body: &Bytes) -> Result<Body, ApiError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(body)) => Ok(body),
        Ok(_) => Err(ApiError::invalid(None, "The body is not a JSON object.")),
        Err(error) => Err(ApiError::invalid(None, format!("The body is not JSON: {error}."))),
    }
}

fn invalid(invalid: change::Invalid) -> ApiError {
    ApiError::invalid(invalid.param.as_deref(), invalid.message)
}

/// An entry as it may be seen.
fn shown(name: &EntryName, known: &Known) -> Value {
    let mut shown = change::shown(&known.body);
    shown.insert("object".to_owned(), name.kind().into());
    shown.insert("id".to_owned(), name.id().into());
    if let (Some(tenant), EntryName::User(..) | EntryName::Key(..) | EntryName::Webhook(..)) = (name.tenant(), name) {
        shown.insert("tenant".to_owned(), tenant.into());
    }
    let source = if known.is_configured() { "configuration" } else { "api" };
    shown.insert("source".to_owned(), source.into());
    if let Some(at) = known.changed_at {
        shown.insert("changed_at".to_owned(), json!(Timestamp::from_millis(at / 1_000)));
    }
    Value::Object(shown)
}
