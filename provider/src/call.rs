//! The calls whose answer comes in one piece.

use std::time::{Duration, Instant};

use async_openai::traits::RequestOptionsBuilder as _;
use millrace_fail_point::{self as fail_point, Side};
use millrace_schemas::Operation;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::attempt::call_error;
use crate::breaker::Heard;
use crate::gate::Load;
use crate::targets::Slot;
use crate::{CallError, Usage, tokens};

/// The header that carries the call id, so that a provider's log can be matched with ours.
pub(crate) const CLIENT_REQUEST_ID: &str = "x-client-request-id";

/// A provider's answer (HTTP 200, well-formed JSON).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The provider's JSON as it came, without white space around it.
    pub body: Vec<u8>,
    /// What the provider says it used; `None` when it does not say.
    pub usage: Option<Usage>,
}

/// Vectors for texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// One for each input, in the order of the inputs.
    pub vectors: Vec<Vec<f32>>,
    /// What the provider says it used, else what was counted here.
    pub usage: Usage,
}

impl Slot {
    /// Sends `body`, byte for byte, to where `operation` is. `body` names the model and does not ask
    /// for a stream. Exactly one HTTP request is made, which takes at most `timeout`; when the future
    /// is dropped, its connection is closed.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ask(
        self,
        operation: Operation,
        body: &RawValue,
        call_id: &str,
        timeout: Duration,
    ) -> Result<Answer, CallError> {
        let began = Instant::now();
        let result = ask(&self, operation, body, call_id, timeout).await;
        let had_time = timeout >= self.target.timeout || began.elapsed() < timeout;
        self.ended(result, had_time)
    }

    /// Asks for the vectors of `inputs`. Exactly one HTTP request is made, which takes at most the
    /// provider's timeout.
    ///
    /// # Errors
    /// [`CallError`]. An answer whose vectors do not fit the inputs is lost: it was charged.
    pub async fn embed(self, inputs: &[String], call_id: &str) -> Result<Embeddings, CallError> {
        let result = embed(&self, inputs, call_id).await;
        self.ended(result, true)
    }

    /// Tells what became of the call to everybody who keeps count of the provider.
    pub(crate) fn ended<T>(self, mut result: Result<T, CallError>, had_time: bool) -> Result<T, CallError> {
        let Slot { entry, held, .. } = self;
        let (heard, load) = (heard(&result, had_time), load(&result));
        let another = held.ended(&mut result);
        // One key that has made too many calls says nothing of the provider while another may make them.
        entry.ended(heard, if another && load == Load::TooMuch { Load::Unknown } else { load });
        result
    }
}

/// What a call tells of its provider. One that had less time than the provider is given says nothing
/// by having run out of it.
fn heard<T>(result: &Result<T, CallError>, had_time: bool) -> Heard {
    match result {
        Ok(_) => Heard::Answered,
        Err(CallError::Answered(refusal)) if refusal.status < 500 => Heard::Answered,
        Err(CallError::Answered(_)) => Heard::Silent,
        Err(CallError::NotSent(_) | CallError::Lost(_)) if had_time => Heard::Silent,
        Err(CallError::NotSent(_) | CallError::Lost(_)) => Heard::Nothing,
    }
}

fn load<T>(result: &Result<T, CallError>) -> Load {
    match result {
        Ok(_) => Load::Carried,
        // An account that is used up is refused with the same status, and for good.
        Err(CallError::Answered(refusal)) if refusal.status == 429 && refusal.retryable => Load::TooMuch,
        Err(CallError::Answered(_) | CallError::NotSent(_) | CallError::Lost(_)) => Load::Unknown,
    }
}

async fn ask(
    slot: &Slot,
    operation: Operation,
    body: &RawValue,
    call_id: &str,
    timeout: Duration,
) -> Result<Answer, CallError> {
    let client = slot.client(timeout);
    let answer: Box<RawValue> = match operation {
        Operation::Chat => {
            let chat = client.chat().header(CLIENT_REQUEST_ID, call_id).map_err(call_error)?;
            fail_point::reach(Side::Before, || "call".to_owned());
            let answer = chat.create_byot(body).await.map_err(call_error)?;
            fail_point::reach(Side::After, || "call".to_owned());
            answer
        }
        Operation::Embeddings => {
            let embeddings = client.embeddings().header(CLIENT_REQUEST_ID, call_id).map_err(call_error)?;
            fail_point::reach(Side::Before, || "call".to_owned());
            let answer = embeddings.create_byot(body).await.map_err(call_error)?;
            fail_point::reach(Side::After, || "call".to_owned());
            answer
        }
        Operation::Responses => {
            let responses = client.responses().header(CLIENT_REQUEST_ID, call_id).map_err(call_error)?;
            fail_point::reach(Side::Before, || "call".to_owned());
            let answer = responses.create_byot(body).await.map_err(call_error)?;
            fail_point::reach(Side::After, || "call".to_owned());
            answer
        }
    };
    let body = String::from(Box::<str>::from(answer)).into_bytes();
    let usage = Usage::read(&body);
    Ok(Answer { body, usage })
}

async fn embed(slot: &Slot, inputs: &[String], call_id: &str) -> Result<Embeddings, CallError> {
    let client = slot.client(slot.target.timeout);
    let embeddings = client.embeddings().header(CLIENT_REQUEST_ID, call_id).map_err(call_error)?;
    let request = EmbeddingRequest { model: &slot.target.model, input: inputs, encoding_format: "float" };
    fail_point::reach(Side::Before, || "call".to_owned());
    let answer: Box<RawValue> = embeddings.create_byot(request).await.map_err(call_error)?;
    fail_point::reach(Side::After, || "call".to_owned());
    let vectors = vectors(answer.get(), inputs.len())?;
    let usage = Usage::read(answer.get().as_bytes()).unwrap_or_else(|| Usage {
        input_tokens: inputs.iter().map(|input| i64::from(tokens::count(input))).sum(),
        estimated: true,
        ..Usage::default()
    });
    Ok(Embeddings { vectors, usage })
}

#[derive(Serialize)]
struct EmbeddingRequest<'a> {
    model: &'a str,
    input: &'a [String],
    encoding_format: &'static str,
}

pub(crate) fn vectors(answer: &str, inputs: usize) -> Result<Vec<Vec<f32>>, CallError> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        index: Option<usize>,
        embedding: Vec<f32>,
    }
    let List { data } = serde_json::from_str(answer)
        .map_err(|e| CallError::Lost(format!("the answer is not a list of embeddings (column {})", e.column())))?;
    let mut vectors = vec![Vec::new(); inputs];
    for (place, item) in data.into_iter().enumerate() {
        // Some servers leave the index out; then the order counts.
        match vectors.get_mut(item.index.unwrap_or(place)) {
            Some(vector) if vector.is_empty() => *vector = item.embedding,
            Some(_) | None => return Err(CallError::Lost("the embeddings are numbered wrongly".to_owned())),
        }
    }
    let missing = vectors.iter().filter(|vector| vector.is_empty()).count();
    if missing > 0 {
        return Err(CallError::Lost(format!("{missing} of {inputs} embeddings are missing")));
    }
    Ok(vectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_put_in_the_order_of_the_inputs() {
        let check = |answer: &str, expected: Option<&[&[f32]]>| {
            let got = vectors(answer, 2);
            let expected = expected.map(|rows| rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>());
            assert_eq!(got.clone().ok(), expected, "{answer} {got:?}");
        };
        let both: &[&[f32]] = &[&[1.0, 2.0], &[3.0]];
        check(r#"{"data":[{"index":1,"embedding":[3]},{"index":0,"embedding":[1,2.0]}],"new":1}"#, Some(both));
        check(r#"{"data":[{"embedding":[1,2]},{"embedding":[3]}]}"#, Some(both));
        check(r#"{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[3]}]}"#, None);
        check(r#"{"data":[{"index":0,"embedding":[1]},{"index":2,"embedding":[3]}]}"#, None);
        check(r#"{"data":[{"index":0,"embedding":[1]}]}"#, None);
        check(r#"{"data":[{"index":0,"embedding":"AAAA"}]}"#, None);
        check("[]", None);
    }
}
