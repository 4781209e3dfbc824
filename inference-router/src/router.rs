//! From a prompt to an answer, by as many calls as it takes.

use std::time::Duration;

use millrace_admission::EditableBody;
use millrace_provider::{
    Answer, Bounds, CHAT, CallError, CallLog, Ledgered, Providers, Slot, Target, Usage, Who, tokens,
};
use millrace_schemas::{CallLine, Ended, Prompt, now_millis};
use millrace_stage::core::jitter;
use millrace_stage::{Received, StageError};
use serde_json::value::RawValue;

use crate::completion::Verdict;
use crate::decide::{Attempts, Step, failed};
use crate::request;

/// The largest answer that travels in a completion, bytes: a record stays under a megabyte.
const ANSWER_LIMIT: usize = 700 * 1024;
/// At most this many refused calls stand on one bill; `calls` has them all. An outage of a day must
/// not make a record too large to be written.
const REFUSED_ON_BILL: usize = 32;

/// Asks providers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Router<L> {
    pub providers: Providers,
    pub ledger: Ledgered<L>,
}

/// One prompt on its way through its targets.
struct Work<'a> {
    record: &'a Received,
    prompt: &'a Prompt,
    who: Who,
    bill: Vec<CallLine>,
    refused: usize,
}

/// What became of one attempt.
enum Attempt {
    Answered(Answer),
    Failed(CallError),
    /// The deadline passed before anything was sent.
    TooLate,
}

impl<L: CallLog> Router<L> {
    /// Gets an answer to `prompt`, whose body is `body`.
    ///
    /// # Errors
    /// [`StageError`] when a call can not be recorded, or the record is not ours any more.
    pub(crate) async fn answer(
        &self,
        record: &Received,
        prompt: &Prompt,
        body: &EditableBody,
    ) -> Result<Verdict, StageError> {
        let route = self.providers.route(&prompt.model);
        if route.is_empty() {
            let message = format!("The model `{}` is not served here any more.", prompt.model);
            return Ok(Verdict::ended(Ended {
                http_status: 404,
                ..Ended::invalid("model_not_found", Some("model"), message)
            }));
        }
        let mut work = Work { record, prompt, who: Who::of(&prompt.meta), bill: Vec::new(), refused: 0 };
        let mut attempts = Attempts::new(route.iter().map(|target| target.max_attempts));
        let deadline = prompt.meta.deadline;
        loop {
            let target = &route[attempts.target()];
            let request = request::for_provider(body, &target.model);
            let error = match self.attempt(&mut work, target, &request).await? {
                Attempt::Answered(answer) => return Ok(work.answered(answer, target)),
                Attempt::TooLate => return Ok(work.ended(Ended::expired(TOO_LATE))),
                Attempt::Failed(error) => error,
            };
            match attempts.next_step(&error, now_millis(), deadline, jitter()) {
                Step::Call { after } => {
                    tracing::debug!(provider = target.provider, model = target.model, %error, ?after, "call is tried again");
                    tokio::time::sleep(after).await;
                }
                Step::End(ended) => {
                    tracing::warn!(
                        provider = target.provider, model = target.model, %error, code = ended.code,
                        "request ends without an answer"
                    );
                    return Ok(work.ended(ended));
                }
            }
        }
    }

    /// One call, recorded before and after.
    async fn attempt(&self, work: &mut Work<'_>, target: &Target, request: &RawValue) -> Result<Attempt, StageError> {
        let Some(slot) = wait_for_slot(target, work.prompt.meta.deadline).await else {
            return Ok(Attempt::TooLate);
        };
        let bounds = work.bounds(target);
        let call = self.ledger.start(work.record, &work.who, target, CHAT, bounds).await?;
        if work.record.assignment.is_cancelled() {
            self.ledger.not_sent(work.record, call, "the partition was taken away").await?;
            return Err(StageError::retry("the partition was taken away"));
        }
        if remaining(work.prompt.meta.deadline).is_none() {
            self.ledger.not_sent(work.record, call, "the deadline passed").await?;
            return Ok(Attempt::TooLate);
        }
        let result = slot.chat(request, call.id(), bounds.timeout).await;
        match result {
            Ok(answer) => {
                let line = self.ledger.line(&call, usage(&answer, request));
                work.bill.push(line);
                Ok(Attempt::Answered(answer))
            }
            Err(error) => {
                let line = self.ledger.failed(work.record, call, &error).await?;
                work.add_failed(line, &error);
                Ok(Attempt::Failed(error))
            }
        }
    }
}

/// What a client is told whose request waited too long.
pub(crate) const TOO_LATE: &str =
    "The request's deadline passed before the model was asked. Send it again, with a later deadline.";

impl Work<'_> {
    fn bounds(&self, target: &Target) -> Bounds {
        Bounds {
            input_tokens: self.prompt.prompt_tokens,
            output_tokens: self.prompt.max_output_tokens.saturating_mul(i64::from(self.prompt.choices.max(1))),
            timeout: remaining(self.prompt.meta.deadline).unwrap_or_default().min(target.timeout),
        }
    }

    fn add_failed(&mut self, line: Option<CallLine>, error: &CallError) {
        // Answers that were lost are bounded by the attempts allowed, and each may have its price.
        let is_refused = match error {
            CallError::Answered(_) => true,
            CallError::NotSent(_) | CallError::Lost(_) => false,
        };
        self.refused += usize::from(is_refused);
        if !is_refused || self.refused <= REFUSED_ON_BILL {
            self.bill.extend(line);
        }
    }

    fn answered(self, answer: Answer, target: &Target) -> Verdict {
        if answer.body.len() > ANSWER_LIMIT {
            let message = format!(
                "The model's answer has {} bytes, more than the {ANSWER_LIMIT} that are passed on. Ask for a shorter one.",
                answer.body.len()
            );
            return self.ended(failed(502, "response_too_large", "api_error", message));
        }
        Verdict { result: Ok((answer.body, target.provider.clone())), bill: self.bill }
    }

    fn ended(self, ended: Ended) -> Verdict {
        Verdict { result: Err(ended), bill: self.bill }
    }
}

/// What the provider says the call used, else what is counted here.
fn usage(answer: &Answer, request: &RawValue) -> Usage {
    answer.usage.unwrap_or_else(|| Usage {
        input_tokens: tokens::asked(request.get().as_bytes()),
        cached_input_tokens: 0,
        output_tokens: tokens::written(&answer.body),
        estimated: true,
    })
}

/// Waits for the provider's concurrency limit, until the deadline at most.
async fn wait_for_slot(target: &Target, deadline: i64) -> Option<Slot> {
    tokio::time::timeout(remaining(deadline)?, target.slot()).await.ok()
}

/// Time until the deadline, milliseconds since the epoch; `None` when it has passed.
pub(crate) fn remaining(deadline: i64) -> Option<Duration> {
    let left = u64::try_from(deadline.saturating_sub(now_millis())).ok()?;
    (left > 0).then(|| Duration::from_millis(left))
}
