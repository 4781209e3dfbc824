//! Taking a request back: by its own route, or because its client left and had asked for that.

use std::sync::Arc;

use axum::http::HeaderMap;
use millrace_admission::Principal;
use millrace_schemas::{Cancellation, now_micros, topics};
use millrace_stage::{Outgoing, To};

use crate::error::ApiError;
use crate::held::Hold;
use crate::run::Ingress;

/// Asks that the request be taken back when its client leaves before the answer.
const CANCEL_ON_DISCONNECT: &str = "x-millrace-cancel-on-disconnect";

impl Ingress {
    /// Writes the wish that a request be stopped.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn take_back(&self, principal: &Principal, id: &str, trace: &str) -> Result<(), ApiError> {
        let (tenant, request_id) = (principal.tenant.clone(), id.to_owned());
        let value = self.encode(&Cancellation { tenant, request_id, cancelled_at: now_micros() })?;
        let record = Outgoing::new(topics::CANCELLATIONS, id.as_bytes(), value).to(To::ByKey);
        self.write(principal, record, id, &principal.tenant, true, trace).await
    }
}

/// Whether a client wants that.
///
/// # Errors
/// [`ApiError`] for any other value than `true` or `false`.
pub(crate) fn cancels_on_disconnect(headers: &HeaderMap) -> Result<bool, ApiError> {
    match headers.get(CANCEL_ON_DISCONNECT).map(|value| value.as_bytes()) {
        None | Some(b"false") => Ok(false),
        Some(b"true") => Ok(true),
        Some(_) => {
            Err(ApiError::invalid(None, format!("The header `{CANCEL_ON_DISCONNECT}` is neither `true` nor `false`.")))
        }
    }
}

/// What lasts as long as a client is there: its place, and its wish for when it leaves. Dropped before it
/// was [answered](Present::answered), the client has left.
pub(crate) struct Present {
    _hold: Hold,
    take_back: Option<TakeBack>,
}

struct TakeBack {
    ingress: Arc<Ingress>,
    principal: Principal,
    request_id: String,
    trace: String,
}

impl Present {
    /// A client that leaves its request running.
    pub(crate) fn new(hold: Hold) -> Self {
        Self { _hold: hold, take_back: None }
    }

    /// From now on the request is taken back when the client leaves.
    pub(crate) fn take_back(&mut self, ingress: Arc<Ingress>, principal: Principal, request_id: String, trace: String) {
        self.take_back = Some(TakeBack { ingress, principal, request_id, trace });
    }

    /// The client has all that it gets.
    pub(crate) fn answered(&mut self) {
        self.take_back = None;
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let Some(TakeBack { ingress, principal, request_id, trace }) = self.take_back.take() else { return };
        tokio::spawn(async move {
            if ingress.take_back(&principal, &request_id, &trace).await.is_err() {
                tracing::warn!(request_id, "a request whose client left could not be taken back and goes on");
            }
        });
    }
}
