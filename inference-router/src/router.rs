//! From a prompt to an answer, by as many calls as it takes.

use std::sync::Arc;

use millrace_admission::{EditableBody, SPREADS_WITHIN, responses};
use millrace_budgets::{Budgets, Reservation};
use millrace_cancellation::{Cancellations, Watch};
use millrace_chat_stream::Chunk;
use millrace_provider::{Answer, Bounds, CallError, CallLog, Ledgered, Providers, Slot, Target, Usage, Who, tokens};
use millrace_response_stream::Event;
use millrace_rules::{Placeholders, RuleSets};
use millrace_schemas::{ANSWER_LIMIT, CallLine, Ended, Operation, Prompt, now_millis, time_until};
use millrace_settings::Current;
use millrace_stage::core::jitter;
use millrace_stage::{Received, StageError};
use serde_json::value::RawValue;

use crate::along::{Reader, Replies};
use crate::completion::Verdict;
use crate::decide::{Attempts, Step, failed};
use crate::entry::enter;
use crate::request;
use crate::restore::restored;

/// At most this many refused calls stand on one bill; `calls` has them all. An outage of a day must
/// not make a record too large to be written.
const REFUSED_ON_BILL: usize = 32;

/// Asks providers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Router<L> {
    /// Where other providers and prices come from, when those here are used no more.
    pub settings: Option<Current>,
    pub providers: Providers,
    pub ledger: Ledgered<L>,
    pub cancellations: Cancellations,
    pub budgets: Budgets,
    pub streams: Option<Streams>,
}

/// What it takes to show answers while they are written.
#[derive(Clone)]
pub(crate) struct Streams {
    pub replies: Replies,
    pub rules: Arc<RuleSets>,
}

/// One prompt on its way through its targets.
pub(crate) struct Work<'a> {
    pub record: &'a Received,
    pub prompt: &'a Prompt,
    operation: Operation,
    /// What is put back into the answer.
    placeholders: Placeholders,
    pub who: Who,
    pub watch: Watch,
    bill: Vec<CallLine>,
    refused: usize,
    /// What was tried along which route, provider and model of each target, before other providers took the place of these.
    tried: Option<(Vec<(String, String)>, Attempts)>,
}

/// What became of one attempt.
enum Attempt {
    Answered(Answer),
    Failed(CallError),
    /// There is no use in another one, and there was none in this.
    Ended(Ended),
}

impl<L: CallLog + Clone> Router<L> {
    /// Gets an answer to `prompt`, whose body is `body`. Between two calls, while it waits for a provider, other providers may
    /// take the place of these: then it goes on with them.
    ///
    /// # Errors
    /// [`StageError`] when a call can not be recorded, or the record is not ours any more.
    pub(crate) async fn answer(
        &self,
        record: &Received,
        prompt: &Prompt,
        operation: Operation,
        body: &EditableBody,
    ) -> Result<Verdict, StageError> {
        let watch = self.cancellations.watch(&prompt.meta.tenant, &prompt.meta.request_id);
        let mut work = Work {
            record,
            prompt,
            operation,
            placeholders: prompt.placeholders.clone().into_iter().collect(),
            who: Who::of(&prompt.meta),
            watch,
            bill: Vec::new(),
            refused: 0,
            tried: None,
        };
        let reader = self.reader(&work, body);
        let mut router = self.clone();
        loop {
            if let Some(verdict) = router.along_route(&mut work, body, reader.as_ref()).await? {
                return Ok(verdict);
            }
            router = self.as_of_now();
        }
    }

    /// With the providers and prices that are used now.
    fn as_of_now(&self) -> Self {
        let Some(settings) = self.settings.as_ref().map(Current::now) else { return self.clone() };
        let ledger = self.ledger.with_prices(Arc::clone(&settings.prices));
        Self { providers: settings.providers.clone(), ledger, ..self.clone() }
    }

    /// Asks the model, then its fallbacks. `None` when these providers are used no more and no call is on its way.
    async fn along_route(
        &self,
        work: &mut Work<'_>,
        body: &EditableBody,
        reader: Option<&Reader<'_>>,
    ) -> Result<Option<Verdict>, StageError> {
        let (model, deadline) = (&work.prompt.model, work.prompt.meta.deadline);
        let route = self.providers.route(model);
        if route.is_empty() {
            // Who has admitted it may have taken up a configuration that is still on its way here.
            if work.bill.is_empty() && now_millis().saturating_sub(work.record.timestamp) < SPREADS_WITHIN {
                return Err(StageError::retry(format!("the model `{model}` is not configured here")));
            }
            let message = format!("The model `{model}` is not served here any more.");
            let ended = Ended { http_status: 404, ..Ended::invalid("model_not_found", Some("model"), message) };
            return Ok(Some(work.ended(ended)));
        }
        let targets = || route.iter().map(|target| (target.provider.clone(), target.model.clone())).collect::<Vec<_>>();
        let mut attempts = match work.tried.take() {
            Some((same, attempts)) if same == targets() => attempts,
            Some(_) | None => Attempts::new(route.iter().map(|target| target.max_attempts)),
        };
        loop {
            // Before the slot: whoever waits for room in a budget must not hold back another's call.
            let reservation = match work.reserve(&self.budgets, &self.ledger, route).await {
                Ok(reservation) => reservation,
                Err(ended) => return Ok(Some(work.ended(ended))),
            };
            let slot = tokio::select! {
                biased;
                slot = work.wait(route, &mut attempts) => Some(slot),
                () = self.until_replaced() => None,
            };
            let slot = match slot {
                Some(Ok(slot)) => slot,
                Some(Err(ended)) => return Ok(Some(work.ended(ended))),
                None => {
                    work.tried = Some((targets(), attempts));
                    return Ok(None);
                }
            };
            let target = &route[attempts.target()];
            let request = request::for_provider(work.operation, body, &target.model, reader.is_some());
            let error = match self.attempt(work, (slot, reservation), &request, reader).await? {
                Attempt::Answered(answer) => return Ok(Some(work.answered(answer, body, target))),
                Attempt::Ended(ended) => return Ok(Some(work.ended(ended))),
                Attempt::Failed(error) => error,
            };
            match attempts.next_step(&error, now_millis(), deadline, jitter()) {
                Step::Call { after } => {
                    tracing::debug!(provider = target.provider, model = target.model, %error, ?after, "call is tried again");
                }
                Step::End(ended) => {
                    tracing::warn!(
                        provider = target.provider, model = target.model, %error, code = ended.code,
                        "request ends without an answer"
                    );
                    return Ok(Some(work.ended(ended)));
                }
            }
        }
    }

    async fn until_replaced(&self) {
        match &self.settings {
            Some(settings) => settings.until_not(&self.providers).await,
            None => std::future::pending().await,
        }
    }

    /// Whoever reads the answer along, as far as that is allowed.
    fn reader<'a>(&'a self, work: &Work<'a>, body: &EditableBody) -> Option<Reader<'a>> {
        let Streams { replies, rules } = self.streams.as_ref()?;
        let held_to = (rules.get(&work.prompt.rule_set), &work.placeholders);
        Reader::of(replies, work.record, work.prompt, work.operation, body, held_to)
    }

    /// One call, recorded before and after. Thousands of these wait at once: what is rare is in boxes, so that it takes no room
    /// in all of them.
    async fn attempt(
        &self,
        work: &mut Work<'_>,
        (slot, reservation): (Slot, Reservation),
        request: &RawValue,
        reader: Option<&Reader<'_>>,
    ) -> Result<Attempt, StageError> {
        let target = slot.target().clone();
        let bounds = work.bounds(&target);
        let call = self.ledger.start(work.record, &work.who, &slot, work.operation, bounds).await?;
        reservation.started();
        if work.record.assignment.is_cancelled() {
            Box::pin(self.ledger.not_sent(work.record, call, "the partition was taken away")).await?;
            return Err(StageError::retry("the partition was taken away"));
        }
        if time_until(work.prompt.meta.deadline).is_none() {
            Box::pin(self.ledger.not_sent(work.record, call, "the deadline passed")).await?;
            return Ok(Attempt::Ended(Ended::expired(TOO_LATE)));
        }
        if work.watch.is_cancelled() {
            Box::pin(self.ledger.not_sent(work.record, call, CANCELLED)).await?;
            return Ok(Attempt::Ended(Ended::cancelled()));
        }
        let asked = async {
            match reader {
                Some(reader) if work.operation == Operation::Responses => {
                    let mut along = reader.begin(call.id());
                    let see = |data: &str, event: &Event| along.see_event(data, event);
                    slot.response_streamed(request, call.id(), bounds.timeout, see).await
                }
                Some(reader) => {
                    let mut along = reader.begin(call.id());
                    let see = |data: &str, chunk: &Chunk| along.see_chunk(data, chunk);
                    slot.chat_streamed(request, call.id(), bounds.timeout, see).await
                }
                None => slot.ask(work.operation, request, call.id(), bounds.timeout).await,
            }
        };
        let result = tokio::select! {
            // An answer that is there counts.
            biased;
            result = asked => result,
            () = work.watch.cancelled() => {
                work.bill.push(Box::pin(self.ledger.broken_off(work.record, call, CANCELLED)).await?);
                return Ok(Attempt::Ended(Ended::cancelled()));
            }
        };
        match result {
            Ok(answer) => {
                let line = self.ledger.line(&call, usage(work.operation, &answer, request));
                work.bill.push(line);
                Ok(Attempt::Answered(answer))
            }
            Err(error) => {
                let line = Box::pin(self.ledger.failed(work.record, call, &error)).await?;
                work.add_failed(line, &error);
                Ok(Attempt::Failed(error))
            }
        }
    }
}

/// Why a call was not made or not heard to its end, in `calls`.
const CANCELLED: &str = "cancelled";

/// What a client is told whose request waited too long.
pub(crate) const TOO_LATE: &str =
    "The request's deadline passed before the model was asked. Send it again, with a later deadline.";

impl Work<'_> {
    /// Waits for the next target that lets a call through: until the deadline at most, or until the
    /// client takes the request back.
    async fn wait(&self, route: &[Target], attempts: &mut Attempts) -> Result<Slot, Ended> {
        if self.watch.is_cancelled() {
            return Err(Ended::cancelled());
        }
        let too_late = || Ended::expired(TOO_LATE);
        let left = time_until(self.prompt.meta.deadline).ok_or_else(too_late)?;
        tokio::select! {
            slot = tokio::time::timeout(left, enter(&self.prompt.meta, route, attempts)) => slot.map_err(|_| too_late()),
            () = self.watch.cancelled() => Err(Ended::cancelled()),
        }
    }

    pub(crate) fn bounds(&self, target: &Target) -> Bounds {
        Bounds {
            input_tokens: self.prompt.prompt_tokens,
            output_tokens: self.prompt.max_output_tokens.saturating_mul(i64::from(self.prompt.choices.max(1))),
            timeout: time_until(self.prompt.meta.deadline).unwrap_or_default().min(target.timeout),
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

    fn answered(&mut self, mut answer: Answer, asked: &EditableBody, target: &Target) -> Verdict {
        let Some(restored) = restored(self.operation, answer.body, &self.placeholders) else {
            let message = "The model's answer is too large with the values that were redacted. Ask for a shorter one.";
            return self.ended(failed(502, "response_too_large", "api_error", message.to_owned()));
        };
        answer.body = restored;
        if self.operation == Operation::Responses {
            // What is no response stays as it is: the moderator says so.
            let named = responses::answer(answer.body.clone(), &self.prompt.meta.request_id, asked);
            answer.body = named.unwrap_or(answer.body);
        }
        if answer.body.len() > ANSWER_LIMIT {
            let message = format!(
                "The model's answer has {} bytes, more than the {ANSWER_LIMIT} that are passed on. Ask for a shorter one.",
                answer.body.len()
            );
            return self.ended(failed(502, "response_too_large", "api_error", message));
        }
        Verdict { result: Ok((answer.body, target.provider.clone())), bill: std::mem::take(&mut self.bill) }
    }

    fn ended(&mut self, ended: Ended) -> Verdict {
        Verdict { result: Err(ended), bill: std::mem::take(&mut self.bill) }
    }
}

/// What the provider says the call used, else what is counted here.
fn usage(operation: Operation, answer: &Answer, request: &RawValue) -> Usage {
    answer.usage.unwrap_or_else(|| Usage {
        input_tokens: tokens::asked(operation, request.get().as_bytes()),
        cached_input_tokens: 0,
        output_tokens: tokens::written(&answer.body),
        estimated: true,
    })
}
