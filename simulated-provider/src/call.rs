//! What happens to a request from its first byte to its last, whichever endpoint it asks.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use crate::api_error::ApiError;
use crate::config::SimulatedProviderConfig;
use crate::dice::Digest;
use crate::faults::{Fault, Subject};
use crate::reply::{Ending, Reply};
use crate::server::App;
use crate::socket::ResetSwitch;
use crate::stats::{CallRecord, Endpoint};

/// A valid request to one endpoint.
pub(crate) trait Task: Sized + Send {
    const ENDPOINT: Endpoint;

    fn read(config: &SimulatedProviderConfig, body: Value) -> Result<Self, ApiError>;
    fn model(&self) -> &str;
    fn texts(&self) -> Vec<&str>;
    /// Of seed, model and prompt.
    fn digest(&self) -> &Digest;
    fn prompt_tokens(&self) -> u32;
    /// `created` in Unix seconds.
    fn answer(self, config: &SimulatedProviderConfig, attempt: u32, created: u64, spoil: &Spoil) -> Answer;
}

/// An answer and its true tokens.
pub(crate) struct Answer {
    pub reply: Reply,
    pub completion_tokens: u32,
}

/// What a fault changes in an answer's content.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spoil {
    pub filtered: bool,
    usage_missing: bool,
    usage_factor: Option<f64>,
}

impl Spoil {
    fn of(fault: Option<&Fault>) -> Self {
        match fault {
            Some(Fault::ContentFilter { .. }) => Self { filtered: true, ..Self::default() },
            Some(Fault::UsageMissing {}) => Self { usage_missing: true, ..Self::default() },
            Some(Fault::WrongUsage { factor }) => Self { usage_factor: Some(*factor), ..Self::default() },
            // Refusals have no content; the others spoil the sending.
            Some(
                Fault::RateLimited { .. }
                | Fault::InsufficientQuota {}
                | Fault::ServerError { .. }
                | Fault::Hang { .. }
                | Fault::Cut {}
                | Fault::MalformedJson {}
                | Fault::ConnectionReset {}
                | Fault::ContextLengthExceeded {},
            )
            | None => Self::default(),
        }
    }

    /// The prompt and completion tokens that the answer reports, if it reports any.
    pub(crate) fn usage(&self, prompt: u32, completion: u32) -> Option<(u64, u64)> {
        let reported = |tokens: u32| match self.usage_factor {
            Some(factor) => (f64::from(tokens) * factor).round() as u64,
            None => u64::from(tokens),
        };
        (!self.usage_missing).then(|| (reported(prompt), reported(completion)))
    }
}

/// Longest client request id kept, in bytes.
const LONGEST_CLIENT_ID: usize = 128;

/// Answers one request.
pub(crate) async fn answer<T: Task>(
    State(app): State<Arc<App>>,
    ConnectInfo(connection): ConnectInfo<ResetSwitch>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let arrival = Instant::now();
    let in_flight = app.stats.enter();
    let mut record = CallRecord {
        client_request_id: client_request_id(&headers),
        model: Arc::clone(&app.no_model),
        prompt_tokens: 0,
        completion_tokens: 0,
        status: None,
        billed: false,
        spoilt: false,
    };
    let limits = match app.enter(&headers) {
        Ok(limits) => limits,
        Err(error) => {
            record.status = Some(error.status.as_u16());
            app.stats.record(T::ENDPOINT, record);
            return signed(&app, arrival, &HeaderMap::new(), error.into_response());
        }
    };
    let task = match admit::<T>(&app, body) {
        Ok(task) => task,
        Err(error) => {
            record.status = Some(error.status.as_u16());
            app.stats.record(T::ENDPOINT, record);
            return signed(&app, arrival, &limits, error.into_response());
        }
    };
    record.model = app.shared_model_name(task.model());
    record.prompt_tokens = task.prompt_tokens();
    let attempt = app.stats.attempt(task.digest().short());
    let fault = app.decide(&Subject { model: task.model(), texts: &task.texts(), digest: task.digest(), attempt });
    let latency = app.latency().sample(&mut task.digest().with("latency", u64::from(attempt)).dice());

    if let Some(error) = fault.as_ref().and_then(|fault| ApiError::of_fault(fault, app.config.context_tokens)) {
        record.status = Some(error.status.as_u16());
        app.stats.record(T::ENDPOINT, record);
        if error.status.is_server_error() {
            tokio::time::sleep_until(arrival + latency).await;
        }
        return signed(&app, arrival, &limits, error.into_response());
    }
    if fault == Some(Fault::ConnectionReset {}) {
        app.stats.record(T::ENDPOINT, record);
        tokio::time::sleep_until(arrival + latency).await;
        return reset(&connection);
    }

    let created = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let Answer { mut reply, completion_tokens } =
        task.answer(&app.config, attempt, created, &Spoil::of(fault.as_ref()));
    // Recorded before the wait: who hangs up early is charged all the same.
    record.completion_tokens = completion_tokens;
    record.status = Some(StatusCode::OK.as_u16());
    record.billed = true;
    record.spoilt = matches!(fault, Some(Fault::Cut {} | Fault::MalformedJson {} | Fault::Hang { .. }));
    app.stats.record(T::ENDPOINT, record);

    tokio::time::sleep_until(arrival + latency).await;
    if let Some(Fault::Hang { ms }) = fault {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(ms)) => {}
            () = app.shutdown.cancelled() => return reset(&connection),
        }
    }
    let ending = if fault == Some(Fault::Cut {}) { Ending::Cut } else { Ending::Whole };
    if fault == Some(Fault::MalformedJson {}) {
        reply.malform();
    }
    signed(&app, arrival, &limits, reply.into_response(ending, app.pace(), in_flight))
}

fn admit<T: Task>(app: &App, body: Result<Bytes, BytesRejection>) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(app.config.max_body_bytes),
        _ => ApiError::not_json(),
    })?;
    let bytes = body.len();
    let body: Value = serde_json::from_slice(&body).map_err(|_| ApiError::not_json())?;
    app.stats.read(bytes);
    T::read(&app.config, body)
}

/// The connection closes with a reset when this response is written; none of it is sent.
fn reset(connection: &ResetSwitch) -> Response {
    connection.throw();
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

fn client_request_id(headers: &HeaderMap) -> Option<Box<str>> {
    let id = headers.get("x-client-request-id")?.to_str().ok()?;
    Some(id[..id.floor_char_boundary(LONGEST_CLIENT_ID)].into())
}

/// Adds the headers that OpenAI sends with every answer, with what is left of the key's limits; those already there stay.
fn signed(app: &App, arrival: Instant, limits: &HeaderMap, mut response: Response) -> Response {
    const ALWAYS: [(&str, &str); 8] = [
        ("openai-organization", "simulated"),
        ("openai-version", "2020-10-01"),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-remaining-requests", "9999"),
        ("x-ratelimit-reset-requests", "6ms"),
        ("x-ratelimit-limit-tokens", "2000000"),
        ("x-ratelimit-remaining-tokens", "1999900"),
        ("x-ratelimit-reset-tokens", "3ms"),
    ];
    let headers = response.headers_mut();
    for (name, value) in limits {
        headers.entry(name.clone()).or_insert(value.clone());
    }
    for (name, value) in ALWAYS {
        headers.entry(HeaderName::from_static(name)).or_insert(HeaderValue::from_static(value));
    }
    headers.insert("openai-processing-ms", HeaderValue::from(arrival.elapsed().as_millis() as u64));
    if let Ok(id) = HeaderValue::try_from(app.next_request_id()) {
        headers.insert("x-request-id", id);
    }
    response
}

/// The key in an `authorization: Bearer …` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}
