//! Responses that go on from others, and what is kept so that others can go on from them.

use std::sync::Arc;
use std::time::Duration;

use millrace_admission::{Admitted, responses, tokens};
use millrace_schemas::{ANSWER_LIMIT, Codec, Ended, Operation, Outcome, RequestId, now_millis};
use millrace_stage::StageError;
use millrace_stage::core::{Backoff, jitter};
use millrace_storage::{KeptRequests, Results};

use crate::stage::stage_error;

/// A client may go on from what it has read a moment ago: the sink is waited for so long.
const SINK_WITHIN: Duration = Duration::from_secs(5);
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What was asked and answered before.
pub(crate) struct Conversations {
    pub kept: Arc<dyn KeptRequests>,
    pub results: Arc<dyn Results>,
    pub codec: Codec,
}

impl Conversations {
    /// Puts what a response goes on from before its input, and keeps what it is asked with.
    ///
    /// # Errors
    /// [`StageError`] while the store does not answer. Inside, how the request ends that can not go on.
    pub async fn join(&self, admitted: &mut Admitted) -> Result<Result<(), Ended>, StageError> {
        if admitted.meta.operation != Operation::Responses.as_str() {
            return Ok(Ok(()));
        }
        if let Some(previous) = admitted.previous.clone() {
            let before = match self.items_until(&admitted.meta.tenant, &previous).await? {
                Ok(items) => items,
                Err(ended) => return Ok(Err(ended)),
            };
            if let Err(ended) = prepend(admitted, before) {
                return Ok(Err(ended));
            }
        }
        if responses::is_kept(&admitted.body) {
            let (meta, kept) = (&admitted.meta, responses::Kept::of(&admitted.body, admitted.meta.received_at));
            self.kept.keep(&meta.tenant, &meta.request_id, kept).await.map_err(stage_error)?;
        }
        Ok(Ok(()))
    }

    /// All that was said until the end of a response.
    async fn items_until(&self, tenant: &str, previous: &RequestId) -> Result<Result<Vec<String>, Ended>, StageError> {
        let missing = || Ok(Err(responses::no_previous(&responses::id_of(previous.as_str()))));
        let kept = self.kept.kept(tenant, previous.as_str()).await.map_err(stage_error)?;
        let Some(kept) = kept.and_then(|kept| responses::Kept::parse(&kept)) else { return missing() };
        let Some(outcome) = self.outcome(tenant, previous).await? else { return Ok(Err(unfinished(previous))) };
        let output = outcome.response.and_then(|response| String::from_utf8(response).ok());
        let Some(output) = output.as_deref().and_then(responses::output_items) else { return missing() };
        Ok(Ok([responses::items(&kept.request), output].concat()))
    }

    async fn outcome(&self, tenant: &str, request: &RequestId) -> Result<Option<Outcome>, StageError> {
        let until = now_millis() + i64::try_from(SINK_WITHIN.as_millis()).unwrap_or(i64::MAX);
        let mut backoff = Backoff::new(FIRST_LOOK, LONGEST_PAUSE);
        loop {
            if let Some(outcome) = self.results.get(tenant, request.as_str()).await.map_err(stage_error)? {
                return match self.codec.decode(&outcome).await {
                    Ok(outcome) => Ok(Some(outcome)),
                    Err(error) => Err(StageError::retry(error.to_string())),
                };
            }
            if now_millis() >= until {
                return Ok(None);
            }
            tokio::time::sleep(backoff.next(jitter(), None)).await;
        }
    }
}

fn unfinished(previous: &RequestId) -> Ended {
    let message = format!(
        "Previous response with id '{}' has no output yet: ask for it until it is completed, and go on from it then.",
        responses::id_of(previous.as_str())
    );
    Ended::invalid("previous_response_not_finished", Some("previous_response_id"), message)
}

/// The conversation so far in front of what is asked now, if both have room.
fn prepend(admitted: &mut Admitted, before: Vec<String>) -> Result<(), Ended> {
    let bytes = before.iter().map(String::len).fold(0, usize::saturating_add);
    let room = admitted.prompt_limit.saturating_sub(admitted.prompt_tokens);
    let more = match tokens::upper_bound(bytes) {
        bound if bound <= room && !before.iter().any(|item| item.contains("\"input_")) => bound,
        _ => responses::tokens_of(&format!("[{}]", before.join(","))),
    };
    let items = [before, responses::items(&admitted.body)].concat();
    responses::set_items(&mut admitted.body, &items);
    if more > room || admitted.body.to_bytes().len() > ANSWER_LIMIT {
        let message = format!(
            "The conversation has {} tokens and {bytes} bytes before this input; at most {} tokens and {ANSWER_LIMIT} bytes \
             are passed on together. Go on from an earlier response, or begin anew with a summary.",
            more, admitted.prompt_limit
        );
        return Err(Ended::invalid("context_length_exceeded", Some("previous_response_id"), message));
    }
    admitted.prompt_tokens = admitted.prompt_tokens.saturating_add(more);
    Ok(())
}
