//! One HTTP request under async-openai, and never a second.
//!
//! async-openai retries by itself, and its errors keep neither headers nor statuses of server
//! errors. This service takes the place of its transport: it sends once, reads the answer within bounds,
//! whole or event by event, and decides which [`CallError`] a failure is. A well-formed answer is all that
//! async-openai ever sees, so it never logs a body either.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_openai::error::OpenAIError;
use async_openai::middleware::HttpRequestFactory;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use reqwest::{Response, StatusCode};
use serde::de::IgnoredAny;

use crate::failure::{CallError, Refusal};
use crate::keys::Key;
use crate::retry_after::retry_after;
use crate::streamed;

/// The largest answer that is read, bytes. Memory is bounded whatever a provider sends.
pub(crate) const ANSWER_LIMIT: usize = 32 << 20;
/// As much of an error answer is read, bytes.
const ERROR_LIMIT: usize = 64 << 10;

/// A transport for one call.
#[derive(Clone)]
pub(crate) struct Attempt {
    pub http: reqwest::Client,
    /// None for providers without a key: async-openai would send an empty one.
    pub key: Option<Arc<Key>>,
    /// Shown the headers of the answer.
    pub learn: Arc<dyn Fn(&HeaderMap) + Send + Sync>,
    /// For everything from connecting to the last byte.
    pub timeout: Duration,
    /// Whether the answer is handed on in events, as they come.
    pub streams: bool,
}

impl Attempt {
    async fn send(self, factory: HttpRequestFactory) -> Result<Response, CallError> {
        let mut request = factory.build().await.map_err(|e| CallError::NotSent(e.to_string()))?;
        *request.timeout_mut() = Some(self.timeout);
        match &self.key {
            Some(key) => request.headers_mut().insert(AUTHORIZATION, key.header()),
            None => request.headers_mut().remove(AUTHORIZATION),
        };
        let response = self.http.execute(request).await.map_err(|error| unsent_or_lost(&error))?;
        (self.learn)(response.headers());
        let status = response.status();
        if !status.is_success() {
            Err(refusal(response, self.key.as_deref()).await)
        } else if !self.streams {
            Ok(http::Response::new(whole_answer(response).await?).into())
        } else if status == StatusCode::OK && is_event_stream(&response) {
            Ok(streamed::events(response))
        } else {
            Ok(streamed::one_event(whole_answer(response).await?))
        }
    }
}

impl tower::Service<HttpRequestFactory> for Attempt {
    type Response = Response;
    type Error = OpenAIError;
    type Future = Pin<Box<dyn Future<Output = Result<Response, OpenAIError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), OpenAIError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, factory: HttpRequestFactory) -> Self::Future {
        let attempt = self.clone();
        Box::pin(async move { attempt.send(factory).await.map_err(|error| OpenAIError::Boxed(Box::new(error))) })
    }
}

/// The failure behind an error of async-openai.
pub(crate) fn call_error(error: OpenAIError) -> CallError {
    match error {
        OpenAIError::Boxed(inner) => match inner.downcast::<CallError>() {
            Ok(error) => *error,
            Err(other) => CallError::Lost(other.to_string()),
        },
        // Made before the transport is asked.
        OpenAIError::InvalidArgument(error) => CallError::NotSent(error),
        // The transport above leaves none of these to async-openai; were one to appear, something was sent.
        OpenAIError::Reqwest(error) => CallError::Lost(chain(&error.without_url())),
        OpenAIError::ApiError(error) => CallError::Lost(format!("unexpected status {}", error.status_code)),
        OpenAIError::JSONDeserialize(error, _) => CallError::Lost(error.to_string()),
        OpenAIError::FileSaveError(error) | OpenAIError::FileReadError(error) => CallError::Lost(error),
        OpenAIError::StreamError(error) => CallError::Lost(error.to_string()),
    }
}

fn is_event_stream(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
}

async fn whole_answer(response: Response) -> Result<Vec<u8>, CallError> {
    let status = response.status();
    let body = read(response, ANSWER_LIMIT).await?;
    if body.len() > ANSWER_LIMIT {
        return Err(CallError::Lost(format!("the answer is longer than {} MiB", ANSWER_LIMIT >> 20)));
    }
    if status != StatusCode::OK {
        return Err(CallError::Lost(format!("status {status} instead of an answer")));
    }
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(&body) {
        // Its text may hold what the model said: only the place is told.
        return Err(CallError::Lost(format!(
            "the answer is not JSON (line {}, column {} of {} bytes)",
            error.line(),
            error.column(),
            body.len()
        )));
    }
    Ok(body)
}

async fn refusal(response: Response, key: Option<&Key>) -> CallError {
    let status = response.status().as_u16();
    let wait = retry_after(response.headers(), millrace_schemas::now_millis());
    // The status alone says that it was refused, even if the explanation is cut.
    let body = read(response, ERROR_LIMIT).await.unwrap_or_default();
    // Some servers quote what they refuse.
    let body = match key {
        Some(key) => key.hidden_in(body),
        None => body,
    };
    CallError::Answered(Refusal::read(status, &body, wait))
}

/// The body, or a little more than `limit` of it.
async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::new();
    while body.len() <= limit {
        match response.chunk().await {
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Ok(None) => break,
            Err(error) => return Err(CallError::Lost(chain(&error.without_url()))),
        }
    }
    Ok(body)
}

fn unsent_or_lost(error: &reqwest::Error) -> CallError {
    // Building a connection (DNS, TCP, TLS) comes before the first byte of the request.
    if error.is_connect() || error.is_builder() {
        CallError::NotSent(chain(error))
    } else if error.is_timeout() {
        CallError::Lost("no answer in time".to_owned())
    } else {
        CallError::Lost(chain(error))
    }
}

/// An error and its causes in one line. Reqwest's own text hides the cause.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
