//! An answer on its way out: whole, or spoilt as a fault says.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use tokio::time::Instant;

use crate::stats::InFlight;

/// The bytes of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Json(Vec<u8>),
    /// Server-sent events in order.
    Events(Vec<Event>),
}

/// One server-sent event with the blank line behind it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub bytes: Bytes,
    /// Tokens of text in it: they set the pace.
    pub tokens: u32,
}

/// How the sending ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Whole,
    /// After half of it the connection closes.
    Cut,
}

/// Time between the last byte of a cut answer and the close, so that the bytes leave first.
const LINGER: Duration = Duration::from_millis(20);

impl Reply {
    /// Breaks the JSON off: the body's, or that of the middle event.
    pub(crate) fn malform(&mut self) {
        match self {
            Self::Json(body) => body.truncate(body.len() * 2 / 3),
            Self::Events(events) => {
                let middle = events.len() / 2;
                if let Some(event) = events.get_mut(middle) {
                    let mut bytes = BytesMut::from(&event.bytes[..event.bytes.len() * 2 / 3]);
                    bytes.extend_from_slice(b"\n\n");
                    event.bytes = bytes.freeze();
                }
            }
        }
    }

    /// The response. `in_flight` is held until the last byte was handed over.
    pub(crate) fn into_response(self, ending: Ending, pace: Option<f64>, in_flight: InFlight) -> Response {
        let json = HeaderValue::from_static("application/json");
        match (self, ending) {
            (Self::Json(body), Ending::Whole) => response(json, Body::from(body)),
            (Self::Json(body), Ending::Cut) => {
                let promised = HeaderValue::from(body.len());
                let half = Bytes::from(body).slice(..promised_half(&promised));
                let sent = stream::once(async move { Ok(half) }).chain(broken_off());
                let guarded = sent.map(move |item| {
                    let _held = &in_flight;
                    item
                });
                let mut response = response(json, Body::from_stream(guarded));
                response.headers_mut().insert(CONTENT_LENGTH, promised);
                response
            }
            (Self::Events(mut events), ending) => {
                let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
                if ending == Ending::Cut {
                    events.truncate(events.len() / 2);
                }
                let paced = paced(events, pace, in_flight).map(Ok::<_, Infallible>);
                let body = match ending {
                    Ending::Whole => Body::from_stream(paced),
                    Ending::Cut => {
                        Body::from_stream(paced.map(|frame| frame.map_err(io::Error::other)).chain(broken_off()))
                    }
                };
                let mut response = response(kind, body);
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                response
            }
        }
    }
}

fn promised_half(promised: &HeaderValue) -> usize {
    promised.to_str().ok().and_then(|length| length.parse::<usize>().ok()).unwrap_or(0) / 2
}

fn response(kind: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The end of a body whose connection closes in the middle.
fn broken_off() -> impl futures::Stream<Item = io::Result<Bytes>> + Send {
    stream::once(async {
        tokio::time::sleep(LINGER).await;
        Err(io::ErrorKind::ConnectionAborted.into())
    })
}

/// Events as frames, each when its tokens are due; all that are due leave together.
fn paced(events: Vec<Event>, pace: Option<f64>, in_flight: InFlight) -> impl futures::Stream<Item = Bytes> + Send {
    let state = (events.into_iter().peekable(), Instant::now(), 0_u64, in_flight);
    stream::unfold(state, move |(mut events, began, mut tokens, in_flight)| async move {
        let due = |tokens: u64| pace.map(|pace| began + Duration::from_secs_f64(tokens as f64 / pace));
        let first = events.next()?;
        tokens += u64::from(first.tokens);
        if let Some(due) = due(tokens) {
            tokio::time::sleep_until(due).await;
        }
        let now = Instant::now();
        let mut frame = BytesMut::from(first.bytes);
        while let Some(next) = events.next_if(|next| due(tokens + u64::from(next.tokens)).is_none_or(|due| due <= now))
        {
            tokens += u64::from(next.tokens);
            frame.extend_from_slice(&next.bytes);
        }
        Some((frame.freeze(), (events, began, tokens, in_flight)))
    })
}
