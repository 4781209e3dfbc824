//! Webhook deliveries: looked at, and sent again.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use millrace_admission::Principal;
use millrace_schemas::now_micros;
use millrace_storage::{
    DeliveryStatus, Due, INBOX, WEBHOOK_DAYS, WebhookAttempt, WebhookDelivery, delivery_created_at, delivery_id,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::lists::limit;
use crate::routes::authenticate;
use crate::run::Ingress;

const LISTED: u32 = 20;
const MOST_LISTED: u32 = 100;
/// Looked through for one page, where few are wanted of many.
const LOOKED_THROUGH: usize = 2_000;
const PAGE: usize = 200;
const DAY_MICROS: i64 = 24 * 3_600 * 1_000_000;

#[derive(Deserialize)]
pub(crate) struct Wanted {
    endpoint: Option<String>,
    status: Option<DeliveryStatus>,
    after: Option<String>,
    limit: Option<u32>,
}

impl Wanted {
    fn read(query: Result<Query<Self>, QueryRejection>) -> Result<Self, ApiError> {
        let Query(wanted) = query?;
        if wanted.after.as_ref().is_some_and(|after| delivery_created_at(after).is_none()) {
            return Err(ApiError::invalid(Some("after"), "'after' must be the `last_id` of an earlier answer."));
        }
        Ok(wanted)
    }

    fn fits(&self, delivery: &WebhookDelivery) -> bool {
        self.endpoint.as_ref().is_none_or(|endpoint| *endpoint == delivery.endpoint)
            && self.status.is_none_or(|status| status == delivery.status)
    }
}

/// The newest first.
pub(crate) async fn list(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<axum::Json<Value>, ApiError> {
    let principal = authorize(&ingress, &headers)?;
    let wanted = Wanted::read(query)?;
    let limit = limit(wanted.limit, LISTED, MOST_LISTED)?;
    let since = now_micros() - i64::from(WEBHOOK_DAYS) * DAY_MICROS;
    // Nothing has happened later than a day from now, whatever the clocks say.
    let end = delivery_id(now_micros() + DAY_MICROS, uuid::Uuid::nil());
    let mut last = wanted.after.clone().unwrap_or_else(|| end.clone()).min(end);
    let (mut data, mut looked_through, mut has_more) = (Vec::new(), 0, true);
    while has_more && data.len() < limit && looked_through < LOOKED_THROUGH {
        let page = ingress.storage.webhooks.deliveries(&principal.tenant, &last, since, PAGE).await;
        let page = page.map_err(|error| ApiError::store(&error))?;
        has_more = page.len() == PAGE;
        looked_through += page.len();
        let count = page.len();
        for (index, delivery) in page.into_iter().enumerate() {
            last.clone_from(&delivery.id);
            if wanted.fits(&delivery) {
                data.push(summary(&delivery));
            }
            if data.len() == limit {
                has_more = has_more || index + 1 < count;
                break;
            }
        }
    }
    let last_id =
        if has_more { Some(last) } else { data.last().and_then(|item| item["id"].as_str().map(str::to_owned)) };
    let first_id = data.first().map(|item| item["id"].clone());
    Ok(axum::Json(json!({
        "object": "list", "data": data, "first_id": first_id, "last_id": last_id, "has_more": has_more,
    })))
}

pub(crate) async fn show(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<axum::Json<Value>, ApiError> {
    let principal = authorize(&ingress, &headers)?;
    Ok(axum::Json(whole(&found(&ingress, &principal, id).await?)))
}

/// A wish: the owner of its shard begins a new round within seconds.
pub(crate) async fn resend(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let principal = authorize(&ingress, &headers)?;
    let delivery = found(&ingress, &principal, id).await?;
    let due = Due {
        id: delivery.id.clone(),
        tenant: delivery.tenant.clone(),
        endpoint: delivery.endpoint.clone(),
        again: true,
    };
    let written = ingress.storage.webhook_schedule.put_due(&delivery.lane, delivery.shard, INBOX, &due).await;
    written.map_err(|error| ApiError::store(&error))?;
    Ok((StatusCode::ACCEPTED, axum::Json(whole(&delivery))).into_response())
}

/// Payloads name every request of a tenant, whoever made it.
fn authorize(ingress: &Ingress, headers: &HeaderMap) -> Result<Principal, ApiError> {
    let principal = authenticate(ingress, headers)?;
    if !principal.admin {
        return Err(ApiError::forbidden(
            "This key may not look at webhooks: use one of the tenant's with `admin = true`.",
        ));
    }
    Ok(principal)
}

async fn found(
    ingress: &Ingress,
    principal: &Principal,
    id: Result<Path<String>, PathRejection>,
) -> Result<WebhookDelivery, ApiError> {
    let none = || ApiError::not_found("This tenant has no webhook delivery of this id; they are kept for 30 days.");
    let Path(id) = id.map_err(|_| none())?;
    let delivery = ingress.storage.webhooks.delivery(&principal.tenant, &id).await;
    delivery.map_err(|error| ApiError::store(&error))?.ok_or_else(none)
}

fn seconds(micros: i64) -> i64 {
    micros / 1_000_000
}

fn summary(delivery: &WebhookDelivery) -> Value {
    let is_pending = delivery.status == DeliveryStatus::Pending;
    json!({
        "id": delivery.id,
        "object": "webhook.delivery",
        "endpoint": delivery.endpoint,
        "type": delivery.event,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "created_at": seconds(delivery.created_at()),
        "next_attempt_at": is_pending.then(|| seconds(delivery.next_at)),
        "finished_at": delivery.finished_at.map(seconds),
        "last_attempt": delivery.log.last().map(attempt),
    })
}

fn whole(delivery: &WebhookDelivery) -> Value {
    let mut whole = summary(delivery);
    whole["log"] = delivery.log.iter().map(attempt).collect();
    whole["payload"] = serde_json::from_str(&delivery.payload).unwrap_or(Value::Null);
    whole
}

fn attempt(attempt: &WebhookAttempt) -> Value {
    json!({
        "at": seconds(attempt.at),
        "took_ms": attempt.took_ms,
        "http_status": attempt.status,
        "error": attempt.error,
        "answer": attempt.excerpt,
    })
}
