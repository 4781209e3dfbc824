//! Taking a request back, by its own route or because its client left and had asked for that; and what else is
//! to be done when a client leaves.

use std::sync::Arc;

use axum::http::HeaderMap;
use millrace_admission::Principal;
use millrace_schemas::{Cancellation, now_micros, topics};
use millrace_stage::{Outgoing, To};

use crate::error::ApiError;
use crate::held::Hold;
use crate::retry::Retries;
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

/// What lasts as long as a client is there: its place, and what is to be done when it leaves. Dropped before it
/// was [answered](Present::answered), the client has left.
pub(crate) struct Present {
    _hold: Hold,
    left: Option<Left>,
}

/// A request whose client has left.
pub(crate) struct Left {
    pub ingress: Arc<Ingress>,
    pub request_id: String,
    pub then: Then,
}

/// What its client wants.
pub(crate) enum Then {
    /// It asked for the request to be taken back.
    TakeBack { principal: Principal, trace: String },
    /// It will ask again.
    Note(Retries),
}

impl Present {
    /// A client that leaves its request running.
    pub(crate) fn new(hold: Hold) -> Self {
        Self { _hold: hold, left: None }
    }

    /// From now on this is done when the client leaves.
    pub(crate) fn when_it_leaves(&mut self, left: Left) {
        self.left = Some(left);
    }

    /// The client has all that it gets.
    pub(crate) fn answered(&mut self) {
        self.left = None;
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let Some(Left { ingress, request_id, then }) = self.left.take() else { return };
        match then {
            Then::Note(retries) => ingress.note_that_it_left(retries, request_id),
            Then::TakeBack { principal, trace } => {
                tokio::spawn(async move {
                    if ingress.take_back(&principal, &request_id, &trace).await.is_err() {
                        tracing::warn!(request_id, "a request whose client left could not be taken back and goes on");
                    }
                });
            }
        }
    }
}
