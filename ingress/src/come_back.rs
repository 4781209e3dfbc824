//! A client that left its stream and comes back for the rest: from any replica, however long after.
//!
//! The rest is a function of the outcome and of the number that the client saw last, so nothing is kept for it. While
//! the request is still running there is nothing to say yet: the connection is held open until the outcome is there.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use millrace_schemas::{Outcome, RequestId, now_micros};
use serde::Deserialize;

use crate::accept::Accepted;
use crate::error::ApiError;
use crate::limits::Granted;
use crate::outcome;
use crate::run::Ingress;
use crate::sent::{self, Told};
use crate::stream::{HEAD_WITHIN, KEEP_ALIVE};

/// How somebody asks who may have seen a part.
#[derive(Deserialize)]
pub struct Again {
    #[serde(default)]
    pub stream: bool,
    /// The number of the last event that was seen.
    pub starting_after: Option<u64>,
    /// Whether a chat's stream is to end with its usage.
    #[serde(default)]
    pub include_usage: bool,
}

impl Again {
    /// # Errors
    /// [`ApiError`]: it can not be read, or means nothing.
    pub(crate) fn read(query: Result<Query<Self>, QueryRejection>) -> Result<Self, ApiError> {
        let Query(again) = query?;
        if again.starting_after.is_some() && !again.stream {
            return Err(ApiError::invalid(
                Some("starting_after"),
                "'starting_after' is for streams: add 'stream=true'.",
            ));
        }
        Ok(again)
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<Outcome, ApiError>> + Send>>;

/// Waits for the outcome, on this replica's own partition and in the store.
pub(crate) fn outcome_of(ingress: &Arc<Ingress>, tenant: String, id: &RequestId) -> Waiting {
    let accepted = Accepted {
        waiter: ingress.waiters.wait(id.as_str(), false),
        stream: None,
        patience: ingress.wait,
        since: now_micros(),
        first_look: Duration::ZERO,
        granted: Granted::default(),
        budget: None,
    };
    let ingress = Arc::clone(ingress);
    Box::pin(async move { ingress.any_outcome(accepted, &tenant).await })
}

/// The rest of the stream, or an error as long as nothing was sent.
///
/// # Errors
/// [`ApiError`].
pub(crate) async fn respond(
    ingress: Arc<Ingress>,
    tenant: String,
    id: RequestId,
    again: Again,
) -> Result<Response, ApiError> {
    let hold = ingress.hold(0)?;
    let since = now_micros();
    let mut waiting = outcome_of(&ingress, tenant, &id);
    let (events, headers) = match tokio::time::timeout(HEAD_WITHIN, &mut waiting).await {
        Ok(Ok(outcome)) if outcome.response.is_none() => return Ok(outcome::to_response(outcome, since)),
        Ok(outcome) => {
            let outcome = outcome?;
            let told = rest(&outcome, &again)?;
            (futures::stream::iter(told).boxed(), outcome::headers(&outcome, since))
        }
        Err(_) => {
            let later = async move {
                let told = match waiting.await {
                    Ok(outcome) => rest(&outcome, &again),
                    Err(error) => Err(error),
                };
                futures::stream::iter(told.unwrap_or_else(|error| vec![broken(&error)]))
            };
            let headers = vec![("x-request-id", id.as_str().to_owned())];
            (futures::stream::once(later).flatten().boxed(), headers)
        }
    };
    Ok(respond_with(events, headers, hold))
}

/// An answer of events, which keeps its place until its end.
pub(crate) fn respond_with(
    events: futures::stream::BoxStream<'static, Told>,
    headers: Vec<(&'static str, String)>,
    hold: crate::held::Hold,
) -> Response {
    let events = events.map(move |told| {
        let _held = &hold;
        Ok::<_, Infallible>(told.into_sse())
    });
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive")).into_response();
    outcome::add(&mut response, headers.into_iter().chain([("x-accel-buffering", "no".to_owned())]));
    response
}

fn rest(outcome: &Outcome, again: &Again) -> Result<Vec<Told>, ApiError> {
    match (&outcome.response, &outcome.error) {
        (Some(answer), None) => sent::after(outcome, answer, again.starting_after, again.include_usage),
        (_, Some(error)) => Err(ApiError::from(error.clone())),
        (None, None) => Err(ApiError::interrupted(&outcome.meta.request_id)),
    }
}

/// The last event of a stream that fails, which libraries raise.
fn broken(error: &ApiError) -> Told {
    let mut event = error.to_json();
    event["type"] = "error".into();
    Told::data(event.to_string())
}
