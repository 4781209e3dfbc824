//! Chat completions that come in chunks, and responses that come in events.
//!
//! The transport below async-openai takes the events apart itself and hands each on as a JSON text,
//! `{"Ok": data}` or `{"Err": why}`: async-openai would log the data of an event that it can not read, and
//! hide both how a stream ended and why it broke.

use std::time::{Duration, Instant};

use async_openai::traits::RequestOptionsBuilder as _;
use bytes::Bytes;
use eventsource_stream::Eventsource as _;
use futures::{StreamExt as _, TryStreamExt as _, future, stream};
use millrace_chat_stream::{Chunk, Whole};
use millrace_fail_point::{self as fail_point, Side};
use millrace_response_stream::Event;
use reqwest::Response;
use serde_json::value::RawValue;

use crate::attempt::{ANSWER_LIMIT, call_error, chain};
use crate::call::CLIENT_REQUEST_ID;
use crate::targets::Slot;
use crate::{Answer, CallError, Usage};

/// What an event is handed on as.
type Handed = Result<String, String>;

/// The event after the last.
const DONE: &str = "[DONE]";

impl Slot {
    /// Sends `body`, byte for byte, as a chat completion; it names the model and asks for a stream with its
    /// usage. Each chunk is shown to `see` as it comes, with its own JSON; the answer is all of them put
    /// together. Everything else is as with [`Slot::chat`].
    ///
    /// # Errors
    /// [`CallError`]. A stream that ends before every choice has its end is lost.
    pub async fn chat_streamed(
        self,
        body: &RawValue,
        call_id: &str,
        timeout: Duration,
        see: impl FnMut(&str, &Chunk) + Send,
    ) -> Result<Answer, CallError> {
        let began = Instant::now();
        let result = streamed(&self, body, call_id, timeout, see).await;
        let had_time = timeout >= self.target.timeout || began.elapsed() < timeout;
        self.ended(result, had_time)
    }

    /// Sends `body`, byte for byte, as a request for a response, and asks for a stream; it names the model. Each event
    /// is shown to `see` as it comes, with its own JSON; the answer is the response that the last one brings.
    ///
    /// # Errors
    /// [`CallError`]. A stream that ends without the whole response is lost.
    pub async fn response_streamed(
        self,
        body: &RawValue,
        call_id: &str,
        timeout: Duration,
        see: impl FnMut(&str, &Event) + Send,
    ) -> Result<Answer, CallError> {
        let began = Instant::now();
        let result = response(&self, body, call_id, timeout, see).await;
        let had_time = timeout >= self.target.timeout || began.elapsed() < timeout;
        self.ended(result, had_time)
    }
}

async fn response(
    slot: &Slot,
    body: &RawValue,
    call_id: &str,
    timeout: Duration,
    mut see: impl FnMut(&str, &Event) + Send,
) -> Result<Answer, CallError> {
    let client = slot.streaming_client(timeout);
    let responses = client.responses().header(CLIENT_REQUEST_ID, call_id).map_err(call_error)?;
    fail_point::reach(Side::Before, || "call".to_owned());
    let mut events = responses.create_stream_byot::<_, Handed>(body).await.map_err(call_error)?;
    let result = loop {
        let data = match events.next().await {
            Some(Ok(Ok(data))) if data == DONE => continue,
            Some(Ok(Ok(data))) => data,
            Some(Ok(Err(why))) => break Err(CallError::Lost(why)),
            Some(Err(error)) => break Err(call_error(error)),
            None => break Err(CallError::Lost("the stream ended before the answer did".to_owned())),
        };
        match Event::parse(&data) {
            Ok(event) => match event.whole() {
                Some(whole) => break Ok(whole.to_string().into_bytes()),
                None => see(&data, &event),
            },
            Err(error) => break Err(CallError::Lost(error.to_string())),
        }
    };
    fail_point::reach(Side::After, || "call".to_owned());
    let body = result?;
    let usage = Usage::read(&body);
    Ok(Answer { body, usage })
}

async fn streamed(
    slot: &Slot,
    body: &RawValue,
    call_id: &str,
    timeout: Duration,
    mut see: impl FnMut(&str, &Chunk) + Send,
) -> Result<Answer, CallError> {
    let client = slot.streaming_client(timeout);
    let chat = client.chat().header(CLIENT_REQUEST_ID, call_id).map_err(call_error)?;
    fail_point::reach(Side::Before, || "call".to_owned());
    let mut events = chat.create_stream_byot::<_, Handed>(body).await.map_err(call_error)?;
    let mut whole = Whole::default();
    let broken = loop {
        let data = match events.next().await {
            Some(Ok(Ok(data))) if data == DONE => break None,
            Some(Ok(Ok(data))) => data,
            Some(Ok(Err(why))) => break Some(CallError::Lost(why)),
            Some(Err(error)) => break Some(call_error(error)),
            None => break None,
        };
        match Chunk::parse(&data) {
            Ok(chunk) => {
                see(&data, &chunk);
                whole.add(chunk);
            }
            Err(error) => break Some(CallError::Lost(error.to_string())),
        }
    };
    fail_point::reach(Side::After, || "call".to_owned());
    // An answer that is whole counts, whatever became of its connection then.
    if !whole.is_complete() {
        let early = || CallError::Lost("the stream ended before the answer did".to_owned());
        return Err(broken.unwrap_or_else(early));
    }
    let body = whole.to_completion();
    let usage = Usage::read(&body);
    Ok(Answer { body, usage })
}

/// The events of an answer, each [handed on](Handed) as one.
pub(crate) fn events(response: Response) -> Response {
    let mut read = 0;
    let mut beginning = Some(Vec::new());
    let bytes = response
        .bytes_stream()
        .map_err(|error| chain(&error.without_url()))
        .and_then(move |bytes| {
            read += bytes.len();
            let is_too_long = || format!("the answer is longer than {} MiB", ANSWER_LIMIT >> 20);
            future::ready(if read > ANSWER_LIMIT {
                Err(is_too_long())
            } else {
                Ok(without_mark(&mut beginning, bytes))
            })
        })
        .map_err(std::io::Error::other);
    // With a comment in front no mark is ever what the library sees first, however many there are.
    let begun = stream::iter([Ok(Bytes::from_static(b":\n"))]).chain(bytes);
    let events = begun.eventsource().map(|event| match event {
        Ok(event) => Ok(event.data),
        Err(error) => Err(error.to_string()),
    });
    http::Response::new(reqwest::Body::wrap_stream(events.map(|handed| Ok::<_, std::io::Error>(framed(&handed)))))
        .into()
}

/// A stream may begin with a byte order mark, and the library that takes events apart panics at one. Takes
/// it away, in how many pieces it may come; `beginning` is what there is until that is decided.
fn without_mark(beginning: &mut Option<Vec<u8>>, bytes: Bytes) -> Bytes {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    let Some(held) = beginning else { return bytes };
    held.extend_from_slice(&bytes);
    if held.len() < MARK.len() && MARK.starts_with(held) {
        return Bytes::new();
    }
    let held = beginning.take().unwrap_or_default();
    Bytes::copy_from_slice(held.strip_prefix(MARK).unwrap_or(&held))
}

/// An answer that came in one piece, though a stream was asked for.
pub(crate) fn one_event(body: Vec<u8>) -> Response {
    let event = framed(&String::from_utf8(body).map_err(|_| "the answer is not UTF-8".to_owned()));
    http::Response::new(reqwest::Body::wrap_stream(stream::iter([Ok::<_, std::io::Error>(event)]))).into()
}

fn framed(handed: &Handed) -> Bytes {
    let data = serde_json::to_string(handed).expect("strings are JSON");
    Bytes::from(format!("data: {data}\n\n"))
}
