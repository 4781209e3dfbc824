//! A client that reads its answer while it is written, as server-sent events.
//!
//! Chunks come over `replies` and are only hints: one that is late, lost, or more than a slow client takes
//! leaves a gap, and from there on the stream waits for the outcome and sends what is left of it. The end
//! of a choice, the usage and `[DONE]` are only ever sent once the outcome is there, so whoever has seen
//! them has what is stored.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use millrace_schemas::{Outcome, ReplyChunk};
use tokio::sync::mpsc;

use crate::accept::Accepted;
use crate::error::ApiError;
use crate::leave::Present;
use crate::outcome;
use crate::run::Ingress;
use crate::sent::{Sent, Told};

/// So long the status waits for the first word: what fails sooner fails with its own status.
pub(crate) const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// A comment is sent after so long without an event: proxies close what is silent.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Answers with a stream, or with an error as long as nothing was sent.
///
/// # Errors
/// [`ApiError`].
pub(crate) async fn respond(
    ingress: Arc<Ingress>,
    accepted: Accepted,
    tenant: String,
    body_hash: String,
    sent: Sent,
    present: Present,
) -> Result<Response, ApiError> {
    let began = Instant::now();
    let (id, since) = (accepted.waiter.request_id().to_owned(), accepted.since);
    let left = accepted.left();
    let mut feed = Feed::new(ingress, accepted, tenant, body_hash, (sent, present));
    let first = match tokio::time::timeout(HEAD_WITHIN, feed.next()).await {
        Ok(Next::Ended(Err(error))) => return Err(error),
        Ok(Next::Ended(Ok(outcome))) if outcome.response.is_none() => return Ok(outcome::to_response(*outcome, since)),
        Ok(next) => Some(next),
        Err(_) => None,
    };
    let mut stream = Stream { feed, began: Some(began), ready: VecDeque::new(), ended: false };
    let headers = match &first {
        Some(Next::Ended(Ok(outcome))) => outcome::headers(outcome, since),
        Some(Next::Events(_) | Next::Ended(Err(_))) | None => vec![("x-request-id", id)],
    };
    first.into_iter().for_each(|next| stream.take(next));
    let events = futures::stream::unfold(stream, |mut stream| async move {
        let event = stream.event().await?;
        Some((Ok::<_, Infallible>(event.into_sse()), stream))
    });
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive")).into_response();
    outcome::add(&mut response, headers.into_iter().chain(left).chain([("x-accel-buffering", "no".to_owned())]));
    Ok(response)
}

/// What comes next for a client.
enum Next {
    /// Events, to be sent as they are.
    Events(Vec<Told>),
    /// Nothing more will come of it.
    Ended(Result<Box<Outcome>, ApiError>),
}

type Ending = Pin<Box<dyn Future<Output = Result<Outcome, ApiError>> + Send>>;

/// Chunks and the outcome of one request, put in order.
struct Feed {
    ingress: Arc<Ingress>,
    request_id: String,
    body_hash: String,
    outcome: Ending,
    /// None from the first gap on.
    chunks: Option<mpsc::Receiver<Vec<u8>>>,
    order: Order,
    present: Present,
}

impl Feed {
    fn new(
        ingress: Arc<Ingress>,
        mut accepted: Accepted,
        tenant: String,
        body_hash: String,
        (sent, present): (Sent, Present),
    ) -> Self {
        let (request_id, chunks) = (accepted.waiter.request_id().to_owned(), accepted.waiter.chunks.take());
        let outcome: Ending = {
            let (ingress, hash) = (Arc::clone(&ingress), body_hash.clone());
            Box::pin(async move { ingress.outcome(accepted, &tenant, &hash).await })
        };
        Self { ingress, request_id, body_hash, outcome, chunks, order: Order::new(sent), present }
    }

    async fn next(&mut self) -> Next {
        loop {
            let chunk = async {
                match &mut self.chunks {
                    Some(chunks) => chunks.recv().await,
                    None => std::future::pending().await,
                }
            };
            let bytes = tokio::select! {
                biased;
                bytes = chunk => bytes,
                outcome = &mut self.outcome => return self.ended(outcome.map(Box::new)),
            };
            let taken = match bytes {
                Some(bytes) => self.take(&bytes).await,
                None => Taken::Gap,
            };
            match taken {
                Taken::Events(events) => return Next::Events(events),
                Taken::Gap => self.chunks = None,
                Taken::OtherCall => return self.ended(Err(ApiError::interrupted(&self.request_id))),
            }
        }
    }

    /// A record of chunks, unless the key was used with another body: then the outcome says so.
    async fn take(&mut self, bytes: &[u8]) -> Taken {
        match self.ingress.codec.decode::<ReplyChunk>(bytes).await {
            Ok(chunk) if chunk.body_hash.as_ref().is_none_or(|hash| *hash == self.body_hash) => self.order.take(chunk),
            Ok(_) => Taken::Gap,
            Err(error) => {
                tracing::warn!(%error, request_id = self.request_id, "a chunk can not be read");
                Taken::Gap
            }
        }
    }

    /// From now on its client may leave.
    fn ended(&mut self, ended: Result<Box<Outcome>, ApiError>) -> Next {
        self.present.answered();
        Next::Ended(ended)
    }
}

/// What was sent of which call.
struct Order {
    call_id: Option<String>,
    next: i64,
    sent: Sent,
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Events(Vec<Told>),
    /// Some are missing: the outcome has them.
    Gap,
    /// The answer was begun anew by another call.
    OtherCall,
}

impl Order {
    fn new(sent: Sent) -> Self {
        Self { call_id: None, next: 0, sent }
    }

    fn take(&mut self, chunk: ReplyChunk) -> Taken {
        match &self.call_id {
            Some(call_id) if *call_id != chunk.call_id => return Taken::OtherCall,
            _ if chunk.sequence != self.next => return Taken::Gap,
            Some(_) => {}
            None => {
                self.sent.begin(&chunk.call_id);
                self.call_id = Some(chunk.call_id);
            }
        }
        self.next += i64::try_from(chunk.events.len()).unwrap_or(i64::MAX);
        let count = chunk.events.len();
        let told: Vec<Told> = chunk.events.into_iter().map_while(|event| self.sent.add(event)).collect();
        if told.len() < count {
            // From the one that is out of turn on, the outcome has them.
            self.next = i64::MAX;
        }
        if told.is_empty() { Taken::Gap } else { Taken::Events(told) }
    }
}

/// The events that a client gets.
struct Stream {
    feed: Feed,
    /// Until the first event: when it was accepted.
    began: Option<Instant>,
    ready: VecDeque<Told>,
    ended: bool,
}

impl Stream {
    async fn event(&mut self) -> Option<Told> {
        while self.ready.is_empty() && !self.ended {
            let next = self.feed.next().await;
            self.take(next);
        }
        self.ready.pop_front()
    }

    fn take(&mut self, next: Next) {
        if let Some(began) = self.began.take() {
            self.feed.ingress.metrics.first_event_seconds.observe(began.elapsed().as_secs_f64());
        }
        match next {
            Next::Events(events) => self.ready.extend(events),
            Next::Ended(ended) => {
                self.ended = true;
                self.ready.extend(self.last(ended));
            }
        }
    }

    fn last(&self, ended: Result<Box<Outcome>, ApiError>) -> Vec<Told> {
        let (request_id, sent) = (&self.feed.request_id, &self.feed.order.sent);
        let interrupted = || vec![sent.broken(&ApiError::interrupted(request_id))];
        match ended {
            Ok(outcome) => match (&outcome.response, &outcome.error) {
                (Some(answer), None) => sent.rest(&outcome, answer).unwrap_or_else(interrupted),
                (_, Some(error)) => vec![sent.failed(&outcome, ApiError::from(error.clone()))],
                (None, None) => interrupted(),
            },
            Err(error) => vec![sent.broken(&error)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(call_id: &str, sequence: i64, texts: &[&str]) -> ReplyChunk {
        let event = |text: &&str| format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}"#);
        ReplyChunk {
            request_id: "r".to_owned(),
            body_hash: None,
            call_id: call_id.to_owned(),
            sequence,
            events: texts.iter().map(event).collect(),
        }
    }

    #[test]
    fn only_the_next_events_of_one_call_are_sent() {
        let new = || Order::new(Sent::chat(false));
        let mut order = new();
        assert_eq!(new().take(chunk("a", 1, &["x"])), Taken::Gap, "its beginning was missed");
        assert!(matches!(order.take(chunk("a", 0, &["x", "y"])), Taken::Events(events) if events.len() == 2));
        assert!(matches!(order.take(chunk("a", 2, &["z"])), Taken::Events(_)));
        assert_eq!(order.take(chunk("a", 2, &["z"])), Taken::Gap, "not twice");
        assert_eq!(order.take(chunk("a", 4, &["z"])), Taken::Gap);
        assert_eq!(order.take(chunk("b", 0, &["x"])), Taken::OtherCall);
    }
}
