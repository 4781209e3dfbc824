//! The router's steps, in order.

use millrace_admission::EditableBody;
use millrace_budgets::Budgets;
use millrace_cancellation::Cancellations;
use millrace_files::{Bodies, Room};
use millrace_provider::{CallMetrics, CallsTopic, Ledgered, call_record};
use millrace_schemas::{Codec, CodecError, Completion, Ended, Lane, Operation, Prompt, now_micros, time_until, topics};
use millrace_settings::Current;
use millrace_stage::{Outgoing, Plan, Poison, Producer, Received, Stage, StageError};
use millrace_storage::StorageError;

use crate::along::Replies;
use crate::completion::{Verdict, finished_calls, of_prompt, of_unreadable};
use crate::decide::failed;
use crate::router::{Router, Streams, TOO_LATE};

/// `prompts.L` -> `calls` + `completions.L`. Made by [`crate::stage`].
pub struct InferenceRouter {
    settings: Current,
    calls: Ledgered,
    cancellations: Cancellations,
    budgets: Budgets,
    replies: Replies,
    codec: Codec,
    bodies: Bodies,
    lane: Lane,
}

/// What a router works with.
pub struct Deps {
    /// The providers, what calls cost, and what the moderator will hold answers to.
    pub settings: Current,
    /// For everything that must not be lost.
    pub producer: Producer,
    /// For parts of answers, which may be.
    pub hints: Producer,
    /// Events to bytes and back.
    pub codec: Codec,
    /// Where paid calls are counted.
    pub metrics: CallMetrics,
    /// Which requests were taken back.
    pub cancellations: Cancellations,
    /// What may be spent.
    pub budgets: Budgets,
    /// Bodies that are too large for their prompts.
    pub bodies: Bodies,
}

/// The stage of one lane.
#[must_use]
pub fn stage(deps: Deps, lane: Lane) -> InferenceRouter {
    let Deps { settings, producer, hints, codec, metrics, cancellations, budgets, bodies } = deps;
    let prices = settings.now().prices.clone();
    let calls = Ledgered::new(producer, codec.clone(), prices, metrics);
    let replies = Replies { producer: hints, codec: codec.clone() };
    InferenceRouter { settings, calls, cancellations, budgets, replies, codec, bodies, lane }
}

impl Stage for InferenceRouter {
    async fn process(&self, record: &Received) -> Result<Plan, StageError> {
        let taken = now_micros();
        let mut prompt = match self.codec.decode::<Prompt>(&record.value).await {
            Ok(prompt) => prompt,
            Err(error) if error.is_outage() => return Err(StageError::retry(error.to_string())),
            Err(error) => return Err(self.unreadable(record, &error.to_string(), taken)),
        };
        // Held until the answer is there.
        let _room = fetch(&self.bodies, &mut prompt).await?;
        let verdict = match judge(&mut prompt) {
            Next::Ended(ended) => Verdict::ended(ended),
            Next::Ask(operation, body) => self.router().answer(record, &prompt, operation, &body).await?,
            Next::Unusable => return Err(self.unusable(prompt, taken)),
        };
        self.plan(&of_prompt(prompt, verdict, taken, now_micros()))
    }

    async fn recover(&self, output: &Received) -> Result<Vec<Outgoing>, StageError> {
        match self.codec.decode::<Completion>(&output.value).await {
            Ok(completion) => self.finished(&completion),
            Err(error) if error.is_outage() => Err(StageError::retry(error.to_string())),
            Err(error) => {
                // Its calls stay open, and the ledger books them as unconfirmed.
                tracing::error!(at = %output.at, %error, "own completion can not be read; its calls are not confirmed");
                Ok(Vec::new())
            }
        }
    }
}

/// What is to be done with a prompt.
enum Next {
    /// Nothing: it ended before, or its deadline has passed.
    Ended(Ended),
    /// Get an answer to this.
    Ask(Operation, EditableBody),
    /// Its body is not what a prompt holds.
    Unusable,
}

/// Reads the body of a prompt that lies beside it, once there is room for it; nothing where nobody will ask for it.
/// Where it is gone the prompt has none.
async fn fetch(bodies: &Bodies, prompt: &mut Prompt) -> Result<Option<Room>, StageError> {
    let (Some(name), None, Some(left)) = (&prompt.body_file, &prompt.ended, time_until(prompt.meta.deadline)) else {
        return Ok(None);
    };
    let tenant = &prompt.meta.tenant;
    let Some(beside) = bodies.find(tenant, name).await.map_err(stage_error)? else { return Ok(None) };
    // Too late: it is not asked about.
    let Ok(room) = tokio::time::timeout(left, bodies.room(beside.bytes())).await else { return Ok(None) };
    prompt.body = bodies.read(tenant, &beside).await.map_err(stage_error)?;
    Ok(room)
}

fn stage_error(error: StorageError) -> StageError {
    match error {
        StorageError::Outage(_) => StageError::retry(error.to_string()),
        StorageError::Refused(_) => StageError::Fatal(error.to_string()),
    }
}

fn judge(prompt: &mut Prompt) -> Next {
    if let Some(ended) = &prompt.ended {
        return Next::Ended(ended.clone());
    }
    if time_until(prompt.meta.deadline).is_none() {
        return Next::Ended(Ended::expired(TOO_LATE));
    }
    let Ok(operation) = prompt.meta.operation.parse() else {
        return Next::Ended(unknown_operation(&prompt.meta.operation));
    };
    let body = prompt.body.take().and_then(|bytes| String::from_utf8(bytes).ok());
    let body = body.and_then(EditableBody::parse);
    body.map_or(Next::Unusable, |body| Next::Ask(operation, body))
}

impl InferenceRouter {
    /// For one prompt, by the settings of this moment.
    fn router(&self) -> Router<CallsTopic> {
        let settings = self.settings.now();
        Router {
            settings: Some(self.settings.clone()),
            providers: settings.providers.clone(),
            ledger: self.calls.with_prices(settings.prices.clone()),
            cancellations: self.cancellations.clone(),
            budgets: self.budgets.clone(),
            streams: Some(Streams { replies: self.replies.clone(), rules: settings.rules.clone() }),
        }
    }

    /// The completion first; once it is acknowledged, the ends of the calls it bills.
    fn plan(&self, completion: &Completion) -> Result<Plan, StageError> {
        let value = self.codec.encode(completion).map_err(broken)?;
        let primary = Outgoing::of_request(topics::of(topics::COMPLETIONS, self.lane), &completion.meta, value);
        Ok(Plan { primary: Some(primary), then: self.finished(completion)? })
    }

    fn finished(&self, completion: &Completion) -> Result<Vec<Outgoing>, StageError> {
        finished_calls(completion).iter().map(|call| call_record(&self.codec, call).map_err(broken)).collect()
    }

    fn unreadable(&self, record: &Received, error: &str, taken: i64) -> StageError {
        let completion = of_unreadable(record, self.lane, lost_request(), taken, now_micros());
        self.poison("prompt_unreadable", format!("the record is no prompt: {error}"), &completion)
    }

    fn unusable(&self, prompt: Prompt, taken: i64) -> StageError {
        let completion = of_prompt(prompt, Verdict::ended(lost_request()), taken, now_micros());
        self.poison(
            "prompt_body",
            "the prompt's body is no JSON object, or not in the store any more".to_owned(),
            &completion,
        )
    }

    fn poison(&self, code: &str, message: String, completion: &Completion) -> StageError {
        match self.plan(completion) {
            Ok(plan) => StageError::Poison(Box::new(Poison {
                code: code.to_owned(),
                message,
                tenant: Some(completion.meta.tenant.clone()),
                request_id: Some(completion.meta.request_id.clone()),
                plan,
            })),
            Err(error) => error,
        }
    }
}

/// What the client is told of a record that went wrong inside.
fn lost_request() -> Ended {
    failed(500, "internal_error", "server_error", "The request was damaged on its way. Send it again with a new key.")
}

/// It was admitted by a later release than this one.
fn unknown_operation(operation: &str) -> Ended {
    let message = format!("The operation `{operation}` is not known to this router. Send the request again later.");
    failed(503, "unsupported_operation", "server_error", message)
}

fn broken(error: CodecError) -> StageError {
    StageError::Fatal(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_config::StorageConfig;
    use millrace_files::bodies;
    use millrace_schemas::now_millis;
    use millrace_storage::Storage;
    use uuid::Uuid;

    use super::*;
    use crate::completion::tests::prompt;

    #[test]
    fn only_a_live_prompt_is_asked_about() {
        let check = |prompt: &Prompt, expected: &str| {
            let next = match judge(&mut prompt.clone()) {
                Next::Ended(ended) => ended.code,
                Next::Ask(_, body) => String::from_utf8(body.to_bytes()).expect("UTF-8"),
                Next::Unusable => "unusable".to_owned(),
            };
            assert_eq!(next, expected);
        };
        let live = prompt(now_millis() + 60_000);
        let body = String::from_utf8(live.body.clone().expect("a body")).expect("UTF-8");
        check(&live, &body);
        check(&prompt(now_millis() - 1), "deadline_exceeded");
        let blocked = Ended::invalid("blocked_before", None, "x");
        let meta = millrace_schemas::Meta { operation: "next.year".to_owned(), ..live.meta.clone() };
        check(&Prompt { meta, ..live.clone() }, "unsupported_operation");
        check(&Prompt { ended: Some(blocked), body: None, ..prompt(now_millis() - 1) }, "blocked_before");
        for body in [None, Some(b"[]".to_vec()), Some(b"{\"a\"".to_vec()), Some(vec![0xff])] {
            check(&Prompt { body, ..live.clone() }, "unusable");
        }
    }

    #[tokio::test]
    async fn a_body_beside_its_prompt_is_read_when_it_is_asked_about() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = StorageConfig::Embedded { path: folder.path().join("store") };
        let store = Bodies::new(Storage::open(&storage).await.expect("a store"), 1 << 20);
        let live = prompt(now_millis() + 60_000);
        let (body, tenant) = (live.body.clone().expect("a body"), live.meta.tenant.clone());
        let name = bodies::name(Uuid::now_v7(), &body);
        let beside = Prompt { body: None, body_file: Some(name.clone()), ..live.clone() };
        let fetched = async |prompt: &Prompt| {
            let mut prompt = prompt.clone();
            let room = fetch(&store, &mut prompt).await.expect("the store answers");
            (room.is_some(), prompt.body)
        };
        assert_eq!(fetched(&beside).await.1, None, "gone");
        store.keep(&tenant, &name, &body, Duration::from_secs(3_600)).await.expect("kept");
        assert_eq!(fetched(&beside).await, (true, Some(body.clone())));
        let late = millrace_schemas::Meta { deadline: now_millis() - 1, ..live.meta.clone() };
        let ended = Some(Ended::invalid("blocked_before", None, "x"));
        for nobody in [Prompt { meta: late, ..beside.clone() }, Prompt { ended, ..beside.clone() }] {
            assert_eq!(fetched(&nobody).await, (false, None));
        }
        let other = millrace_schemas::Meta { tenant: "rival".to_owned(), ..live.meta.clone() };
        assert_eq!(fetched(&Prompt { meta: other, ..beside.clone() }).await.1, None, "another tenant's");
        assert_eq!(fetched(&live).await, (false, Some(body)), "it is in its prompt");
        let _all = store.room(1 << 40).await;
        let soon = millrace_schemas::Meta { deadline: now_millis() + 50, ..live.meta };
        assert_eq!(fetched(&Prompt { meta: soon, ..beside }).await, (false, None), "no room in time");
    }
}
