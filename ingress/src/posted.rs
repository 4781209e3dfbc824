//! Receiving a body: who sends it is known, and there is room for it, before it is read.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use millrace_admission::Principal;

use crate::error::ApiError;
use crate::held::{Full, Hold};
use crate::routes::authenticate;
use crate::run::Ingress;

/// How long a client may take to send a body.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// A request that was received whole.
pub struct Posted {
    pub principal: Principal,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Its place; kept until the answer.
    pub hold: Hold,
}

impl Ingress {
    /// Receives a request for which the stages have time.
    ///
    /// # Errors
    /// [`ApiError`]; nothing is left behind.
    pub(crate) async fn receive_for_stages(&self, request: Request) -> Result<Posted, ApiError> {
        let principal = authenticate(self, request.headers())?;
        self.pressure.judge(&principal.tenant, self.wait).map_err(|overload| self.shed(overload))?;
        self.receive(principal, request).await
    }

    /// Receives a request that waits for no stage.
    ///
    /// # Errors
    /// [`ApiError`]; nothing is left behind.
    pub(crate) async fn receive_only(&self, request: Request) -> Result<Posted, ApiError> {
        let principal = authenticate(self, request.headers())?;
        self.receive(principal, request).await
    }

    async fn receive(&self, principal: Principal, request: Request) -> Result<Posted, ApiError> {
        let headers = request.headers().clone();
        let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > self.max_body_bytes) {
            return Err(ApiError::too_large(self.max_body_bytes));
        }
        // A body that does not say how long it is may become as long as is allowed.
        let mut hold = self.hold(length.unwrap_or(self.max_body_bytes))?;
        let body = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, &()))
            .await
            .map_err(|_| ApiError::too_slow(BODY_WITHIN))?
            .map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(self.max_body_bytes),
                _ => ApiError::invalid(None, "The body could not be read to its end; send it again."),
            })?;
        hold.shrink(body.len());
        Ok(Posted { principal, headers, body, hold })
    }

    /// A place for a client with a body of so many bytes.
    ///
    /// # Errors
    /// [`ApiError`] when there is none.
    pub(crate) fn hold(&self, bytes: usize) -> Result<Hold, ApiError> {
        self.held.take(bytes).map_err(|full| {
            let (reason, message) = match full {
                Full::Requests => ("requests", "Too many requests are being worked on; try again."),
                Full::Bytes => ("bytes", "Too many bytes are being worked on; try again."),
            };
            self.metrics.shed.with_label_values(&[reason]).inc();
            ApiError::busy(message, 1)
        })
    }
}
