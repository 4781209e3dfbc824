//! A chat completion that comes in chunks.
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
use reqwest::Response;
use serde_json::value::RawValue;

use crate::attempt::{ANSWER_LIMIT, call_error, chain};
use crate::call::{CLIENT_REQUEST_ID, heard, load};
use crate::targets::{Slot, Target};
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
        let Slot { target, entry } = self;
        let began = Instant::now();
        let result = streamed(&target, body, call_id, timeout, see).await;
        entry.ended(heard(&result, timeout >= target.timeout || began.elapsed() < timeout), load(&result));
        result
    }
}

async fn streamed(
    target: &Target,
    body: &RawValue,
    call_id: &str,
    timeout: Duration,
    mut see: impl FnMut(&str, &Chunk) + Send,
) -> Result<Answer, CallError> {
    let client = target.streaming_client(timeout);
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
    let bytes = response
        .bytes_stream()
        .map_err(|error| chain(&error.without_url()))
        .and_then(move |bytes| {
            read += bytes.len();
            let is_too_long = || format!("the answer is longer than {} MiB", ANSWER_LIMIT >> 20);
            future::ready(if read > ANSWER_LIMIT { Err(is_too_long()) } else { Ok(bytes) })
        })
        .map_err(std::io::Error::other);
    let events = bytes.eventsource().map(|event| match event {
        Ok(event) => Ok(event.data),
        Err(error) => Err(error.to_string()),
    });
    http::Response::new(reqwest::Body::wrap_stream(events.map(|handed| Ok::<_, std::io::Error>(framed(&handed)))))
        .into()
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
