//! Errors in OpenAI's shape.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_admission::KeyRefusal;
use millrace_budgets::Standing;
use millrace_limits::{Exceeded, Kind};
use millrace_schemas::Ended;
use serde_json::{Value, json};

/// Code of a request of which nobody knows whether it was accepted.
const UNKNOWN: &str = "acceptance_unknown";

/// An error as an OpenAI client reads it.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    kind: String,
    code: String,
    message: String,
    param: Option<String>,
    retry_after: Option<Duration>,
    request_id: Option<String>,
    should_retry: bool,
}

impl ApiError {
    fn new(status: StatusCode, kind: &str, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: kind.to_owned(),
            code: code.to_owned(),
            message: message.into(),
            param: None,
            retry_after: None,
            request_id: None,
            should_retry: status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// 401.
    pub(crate) fn unauthorized() -> Self {
        let message = "Incorrect API key provided. Send one of your tenant's keys as `Authorization: Bearer <key>`.";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", "invalid_api_key", message)
    }

    /// 401: the key was good once.
    pub(crate) fn key_ended(refusal: &KeyRefusal) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", "invalid_api_key", format!("Refused: {refusal}."))
    }

    /// 401: a signed token that proves nothing.
    pub(crate) fn token_refused(refusal: &KeyRefusal) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", "invalid_token", format!("Refused: {refusal}."))
    }

    /// 403.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", "forbidden", message)
    }

    /// 409 or 412: what is there stands against it.
    pub(crate) fn conflict(status: StatusCode, message: impl Into<String>) -> Self {
        Self { should_retry: false, ..Self::new(status, "invalid_request_error", "conflict", message) }
    }

    /// 404.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message)
    }

    /// 405.
    pub(crate) fn wrong_method() -> Self {
        let message = "This route does not take this method; the header `Allow` names those that it takes.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", message)
    }

    /// 400.
    pub(crate) fn invalid(param: Option<&str>, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", "invalid_value", message);
        Self { param: param.map(str::to_owned), ..error }
    }

    /// 503: nothing was accepted.
    pub(crate) fn busy(message: impl Into<String>, retry_after_seconds: u64) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "overloaded", message);
        Self { retry_after: Some(Duration::from_secs(retry_after_seconds)), ..error }
    }

    /// 429: nothing was accepted, for the stages are too far behind.
    pub(crate) fn overloaded(retry_after_seconds: u64) -> Self {
        let message = "More requests are waiting than can be answered in time; nothing was accepted, try again later.";
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "overloaded", message);
        Self { retry_after: Some(Duration::from_secs(retry_after_seconds)), ..error }
    }

    /// 429: nothing was accepted, for a limit is reached.
    pub(crate) fn rate_limited(exceeded: &Exceeded) -> Self {
        let Exceeded { subject, kind, limit, used, need, retry_after, is_share: _ } = exceeded;
        let next = match retry_after {
            Some(millis) => format!("Please try again in {}s.", Duration::from_millis(*millis).as_secs_f64()),
            None => "It is more than the limit: send less at a time.".to_owned(),
        };
        let message = format!(
            "Rate limit reached for {subject} on {}: Limit {limit}, Used {used}, Requested {need}. {next}",
            kind.name()
        );
        let unit = match kind {
            Kind::Requests | Kind::Concurrent => "requests",
            Kind::Tokens | Kind::DayTokens => "tokens",
        };
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, unit, "rate_limit_exceeded", message);
        let retry_after = retry_after.map(Duration::from_millis);
        Self { should_retry: retry_after.is_some(), retry_after, ..error }
    }

    /// 429: nothing was accepted, and it is of no use to try again.
    pub(crate) fn budget_used_up(standing: &Standing) -> Self {
        let message = format!("{}. Nothing was accepted; have the budget raised.", standing.used_up());
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", "insufficient_quota", message);
        Self { should_retry: false, ..error }
    }

    /// 413.
    pub(crate) fn too_large(most: usize) -> Self {
        let message = format!("The body has more than {most} bytes: send less.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "request_too_large", message)
    }

    /// 408.
    pub(crate) fn too_slow(within: Duration) -> Self {
        let message = format!("The body did not arrive within {} seconds; send it again.", within.as_secs());
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "request_timeout", message)
    }

    /// 503: whether it was accepted is not known.
    pub(crate) fn unknown(request_id: &str, has_key: bool) -> Self {
        let next = if has_key {
            "send it again, with the same Idempotency-Key if it has one"
        } else {
            "ask GET /v1/requests/{id}; with an Idempotency-Key you could simply send it again"
        };
        let message = format!(
            "The broker did not acknowledge the request {request_id} in time, so whether it was accepted is unknown: {next}."
        );
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", UNKNOWN, message);
        Self {
            retry_after: Some(Duration::from_secs(1)),
            request_id: Some(request_id.to_owned()),
            should_retry: has_key,
            ..error
        }
    }

    /// 422: the idempotency key names another body.
    pub(crate) fn key_reused(request_id: &str) -> Self {
        let message = "This idempotency key was used with another body: use a new key for a new request.";
        let error =
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request_error", "idempotency_key_reused", message);
        Self { param: Some("idempotency_key".to_owned()), request_id: Some(request_id.to_owned()), ..error }
    }

    /// 504: accepted, and its answer is late.
    pub(crate) fn still_running(request_id: &str) -> Self {
        let message = format!(
            "The request {request_id} is accepted and still running: its outcome will be at GET /v1/requests/{request_id}."
        );
        let error = Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", "still_running", message);
        Self { request_id: Some(request_id.to_owned()), should_retry: false, ..error }
    }

    /// A stream that can not go on: its answer was begun anew, or its end is not known.
    pub(crate) fn interrupted(request_id: &str) -> Self {
        let message = format!(
            "The stream was interrupted, and what was sent is not all of the answer: the whole is, or will be, at \
             GET /v1/requests/{request_id}; the same request with the same Idempotency-Key gives it, too."
        );
        let error = Self::new(StatusCode::BAD_GATEWAY, "server_error", "stream_interrupted", message);
        Self { request_id: Some(request_id.to_owned()), ..error }
    }

    /// The store does not answer.
    pub(crate) fn store(error: &millrace_storage::StorageError) -> Self {
        tracing::warn!(%error, "the result store does not answer");
        Self::busy("The result store does not answer; try again.", 1)
    }
}

/// A query that can not be read.
impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(None, format!("{}.", rejection.body_text()))
    }
}

impl From<Ended> for ApiError {
    fn from(ended: Ended) -> Self {
        let status = u16::try_from(ended.http_status).ok().and_then(|s| StatusCode::from_u16(s).ok());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let error = Self::new(status, &ended.kind, &ended.code, ended.message);
        // The outcome is final: the same request again would be another one.
        Self { param: ended.param, should_retry: false, ..error }
    }
}

impl ApiError {
    /// Whether it is certain that what it is about was not written.
    pub(crate) fn is_certain(&self) -> bool {
        self.code != UNKNOWN
    }

    pub(crate) fn of_request(self, request_id: &str) -> Self {
        Self { request_id: Some(request_id.to_owned()), ..self }
    }
}

impl ApiError {
    /// The body, which is also the last event of a stream that fails.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.to_json())).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1_000)));
            headers.insert("retry-after-ms", HeaderValue::from(millis));
        }
        if let Some(id) = self.request_id.and_then(|id| HeaderValue::from_str(&id).ok()) {
            headers.insert("x-request-id", id);
        }
        headers.insert("x-should-retry", HeaderValue::from_static(if self.should_retry { "true" } else { "false" }));
        response
    }
}
