//! Errors in OpenAI's shape.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::faults::Fault;

/// A refusal: its status and `{"error": {message, type, param, code}}`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), kind, param: None, code, headers: Vec::new() }
    }

    /// A request that cannot be carried out as it is.
    pub(crate) fn invalid(param: &str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message);
        error.param = (!param.is_empty()).then(|| param.to_owned());
        error
    }

    pub(crate) fn missing(param: &str) -> Self {
        Self::invalid(param, Some("missing_required_parameter"), format!("Missing required parameter: '{param}'."))
    }

    pub(crate) fn wrong_type(param: &str, expected: &str, found: &Value) -> Self {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        Self::invalid(
            param,
            Some("invalid_type"),
            format!("Invalid type for '{param}': expected {expected}, but got {found} instead."),
        )
    }

    pub(crate) fn not_json() -> Self {
        let message = "We could not parse the JSON body of your request. (HINT: This likely means you aren't using \
                       your HTTP library correctly. The API expects a JSON payload, but what was sent was not valid \
                       JSON.)";
        Self::invalid("", None, message)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("The request body is larger than the limit of {limit} bytes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", None, message)
    }

    pub(crate) fn unknown_model(model: &str) -> Self {
        let message = format!("The model `{model}` does not exist or you do not have access to it.");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), message)
    }

    pub(crate) fn wrong_endpoint(model: &str, right: &str) -> Self {
        let message = format!("The model `{model}` is not supported here. Did you mean to use {right}?");
        let mut error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", None, message);
        error.param = Some("model".to_owned());
        error
    }

    pub(crate) fn no_key() -> Self {
        let message = "You didn't provide an API key. You need to provide your API key in an Authorization header \
                       using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", None, message)
    }

    pub(crate) fn wrong_key() -> Self {
        let message = "Incorrect API key provided. Send one of the simulated provider's api_keys.";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", Some("invalid_api_key"), message)
    }

    pub(crate) fn refused_key(status: u16) -> Self {
        let message = "The key was revoked, or its account is not active.";
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::UNAUTHORIZED);
        Self::new(status, "invalid_request_error", Some("account_deactivated"), message)
    }

    /// The limit of a key, which is whole again after `left`.
    pub(crate) fn of_limit(left: Duration, headers: &HeaderMap) -> Self {
        let mut error = Self::rate_limited(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        for (name, value) in headers {
            error.headers.retain(|(known, _)| known != name);
            error.headers.push((name.clone(), value.clone()));
        }
        error
    }

    fn rate_limited(ms: u64) -> Self {
        let message = format!("Rate limit reached for requests. Please try again in {ms}ms.");
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "requests", Some("rate_limit_exceeded"), message);
        error.header("retry-after-ms", &ms.to_string());
        error.header("retry-after", &ms.div_ceil(1_000).to_string());
        error.header("x-ratelimit-remaining-requests", "0");
        error.header("x-ratelimit-reset-requests", &format!("{ms}ms"));
        error
    }

    pub(crate) fn no_such_url(method: &str, path: &str) -> Self {
        let message = format!("Invalid URL ({method} {path})");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", None, message)
    }

    pub(crate) fn wrong_method(method: &str, path: &str) -> Self {
        let message =
            format!("Not allowed to {method} on {path} (HINT: Perhaps you meant to use a different HTTP method?)");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", Some("method_not_supported"), message)
    }

    pub(crate) fn context_length(limit: u32, asked: u64) -> Self {
        let message = format!(
            "This model's maximum context length is {limit} tokens. However, your messages resulted in {asked} \
             tokens. Please reduce the length of the messages."
        );
        Self::invalid("messages", Some("context_length_exceeded"), message)
    }

    /// The refusal that a fault makes, or nothing if the fault spoils the answer some other way.
    pub(crate) fn of_fault(fault: &Fault, context_tokens: u32) -> Option<Self> {
        match fault {
            Fault::RateLimited { retry_after_ms, headers } => {
                let mut error = Self::rate_limited(*retry_after_ms);
                for (name, value) in headers {
                    error.header(name, value);
                }
                Some(error)
            }
            Fault::InsufficientQuota {} => Some(Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "insufficient_quota",
                Some("insufficient_quota"),
                "You exceeded your current quota, please check your plan and billing details.",
            )),
            Fault::ServerError { status } => Some(Self::new(
                StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                "server_error",
                None,
                "The server had an error while processing your request. Sorry about that!",
            )),
            Fault::ContextLengthExceeded {} => {
                Some(Self::context_length(context_tokens, u64::from(context_tokens) + 1))
            }
            Fault::ContentFilter { reject: true } => Some(Self::invalid(
                "prompt",
                Some("content_filter"),
                "The response was filtered due to the prompt triggering the content management policy. Please \
                 modify your prompt and retry.",
            )),
            Fault::ContentFilter { reject: false }
            | Fault::Hang { .. }
            | Fault::Cut {}
            | Fault::MalformedJson {}
            | Fault::UsageMissing {}
            | Fault::WrongUsage { .. }
            | Fault::ConnectionReset {} => None,
        }
    }

    fn header(&mut self, name: &str, value: &str) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.headers.retain(|(known, _)| *known != name);
            self.headers.push((name, value));
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({
            "error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        });
        let mut response = (self.status, Json(body)).into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}
