//! Parts of an answer on their way to a client that reads along. They are hints: no call waits for them,
//! and when they can not be sent the client takes the rest from the outcome.

use millrace_admission::{EditableBody, replies};
use millrace_chat_stream::Chunk;
use millrace_response_stream::Event;
use millrace_rules::{Compiled, Placeholders};
use millrace_schemas::{Codec, Meta, Operation, Prompt, ReplyChunk, topics};
use millrace_stage::{Outgoing, Producer, Received, To};
use millrace_telemetry::{TRACEPARENT, TraceContext};
use tokio::sync::mpsc;

use crate::response_view::ResponseView;
use crate::view::View;

/// Events of one call that wait for the record before to be acknowledged.
const MOST_WAITING: usize = 128;
/// Events in one record, and bytes of one event: a record stays under a megabyte.
const MOST_TOGETHER: usize = 12;
const EVENT_LIMIT: usize = 64 * 1024;

/// Where parts of answers go. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Replies {
    pub producer: Producer,
    pub codec: Codec,
}

/// What one request's client wants to see, and may.
pub(crate) struct Reader<'a> {
    replies: &'a Replies,
    record: &'a Received,
    meta: &'a Meta,
    replica: &'a str,
    view: Eyes,
}

/// What is seen of which operation's answers.
#[derive(Clone)]
enum Eyes {
    Chat(Box<View>),
    Response(Box<ResponseView>),
}

impl<'a> Reader<'a> {
    /// `None` when nobody reads along, or the rules let nothing be seen.
    pub(crate) fn of(
        replies: &'a Replies,
        record: &'a Received,
        prompt: &'a Prompt,
        operation: Operation,
        body: &EditableBody,
        (rules, placeholders): (Option<&'a Compiled>, &Placeholders),
    ) -> Option<Self> {
        let (replica, rules) = (prompt.meta.reply_replica.as_deref()?, rules?);
        let view = match operation {
            Operation::Chat => {
                let with_usage = millrace_admission::Stream::read(body).ok()??.with_usage;
                Eyes::Chat(Box::new(View::new(rules, placeholders, with_usage)?))
            }
            Operation::Responses if body.get("stream") == Some("true") => {
                Eyes::Response(Box::new(ResponseView::new(rules, placeholders, &prompt.meta.request_id, body)?))
            }
            Operation::Responses | Operation::Embeddings => return None,
        };
        Some(Self { replies, record, meta: &prompt.meta, replica, view })
    }

    /// Begins to pass on what `call_id` brings.
    pub(crate) fn begin(&self, call_id: &str) -> Along {
        let (sender, events) = mpsc::channel(MOST_WAITING);
        let sending = Sending {
            replies: self.replies.clone(),
            replica: self.replica.to_owned(),
            tenant: self.meta.tenant.clone(),
            trace: TraceContext::parse_or_random(self.record.header(TRACEPARENT)).child().to_string(),
            chunk: ReplyChunk {
                request_id: self.meta.request_id.clone(),
                body_hash: self.meta.body_hash.clone(),
                call_id: call_id.to_owned(),
                sequence: 0,
                events: Vec::new(),
            },
        };
        tokio::spawn(sending.run(events));
        Along { view: self.view.clone(), events: Some(sender) }
    }
}

/// Passes on what one call brings.
pub(crate) struct Along {
    view: Eyes,
    /// None from the first event on that had no room.
    events: Option<mpsc::Sender<String>>,
}

impl Along {
    /// Shows a chunk of a chat, `data` as JSON. Never waits.
    pub(crate) fn see_chunk(&mut self, data: &str, chunk: &Chunk) {
        let seen = match &mut self.view {
            Eyes::Chat(view) => view.see(data, chunk),
            Eyes::Response(_) => Vec::new(),
        };
        self.pass_on(seen);
    }

    /// Shows an event of a response, `data` as JSON. Never waits.
    pub(crate) fn see_event(&mut self, data: &str, event: &Event) {
        let seen = match &mut self.view {
            Eyes::Response(view) => view.see(data, event),
            Eyes::Chat(_) => Vec::new(),
        };
        self.pass_on(seen);
    }

    fn pass_on(&mut self, seen: Vec<String>) {
        let Some(events) = &self.events else { return };
        let passed = |event: String| event.len() <= EVENT_LIMIT && events.try_send(event).is_ok();
        if !seen.into_iter().all(passed) {
            self.events = None;
        }
    }
}

/// A task of its own, which ends when the call does.
struct Sending {
    replies: Replies,
    replica: String,
    tenant: String,
    trace: String,
    chunk: ReplyChunk,
}

impl Sending {
    async fn run(mut self, mut events: mpsc::Receiver<String>) {
        while events.recv_many(&mut self.chunk.events, MOST_TOGETHER).await > 0 {
            if let Err(error) = self.send().await {
                tracing::debug!(error, request_id = self.chunk.request_id, "a part of an answer was not sent");
                return;
            }
            self.chunk.sequence += i64::try_from(self.chunk.events.len()).unwrap_or(i64::MAX);
            self.chunk.events.clear();
        }
    }

    async fn send(&self) -> Result<(), String> {
        let Replies { producer, codec } = &self.replies;
        let count = producer.partitions(topics::REPLIES).await.map_err(|e| e.to_string())?;
        let value = codec.encode(&self.chunk).map_err(|e| e.to_string())?;
        let record = Outgoing::new(topics::REPLIES, self.chunk.request_id.as_bytes(), value)
            .to(To::Partition(replies::partition(&self.replica, count)));
        let headers = [
            ("kind", "chunk"),
            ("replica", self.replica.as_str()),
            ("request_id", self.chunk.request_id.as_str()),
            ("tenant", self.tenant.as_str()),
            (TRACEPARENT, self.trace.as_str()),
        ];
        producer.send(&record, 0, &headers).await.map_err(|e| e.to_string())
    }
}
