//! The builder's steps, in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_admission::{Admitted, Arrival, Principal, Rejected, SPREADS_WITHIN, SYSTEM_TENANT, record, replies};
use millrace_budgets::Budgets;
use millrace_cancellation::Cancellations;
use millrace_config::Config;
use millrace_files::{Bodies, Room};
use millrace_provider::{CallMetrics, Ledgered, call_record};
use millrace_rules::{Compiled, PromptVerdict};
use millrace_schemas::{
    ANSWER_LIMIT, Codec, CodecError, Ended, Lane, Meta, Prompt, Redrive, Request, VALUE_SCHEMA_ID_HEADER, now_micros,
    now_millis, topics,
};
use millrace_settings::{Current, Settings};
use millrace_stage::{Outgoing, Plan, Poison, Producer, Received, Stage, StageError, To};
use millrace_storage::{Claim, Claimed, IdempotencyKeys, Results, Storage, StorageError, Waiter};
use qdrant_client::QdrantError;

use crate::beside::Aside;
use crate::conversation::Conversations;
use crate::decide::{
    Times, blocked, ended_of, finished_calls, moderation_of, prompt_of, rejection_of, rule_set_missing,
};
use crate::embed::PaidEmbedder;
use crate::metrics::PromptMetrics;
use crate::ports::Partitions;
use crate::redact::{redact, redact_passages};
use crate::redrive::{is_redrive, original};
use crate::retrieve::{Retrieved, Retriever};
use crate::vectors::{self, QdrantPassages};

/// What the builder stands on.
pub struct Deps<'a> {
    /// What requests are judged by, the models and what they cost.
    pub settings: Current,
    /// For `calls`, and for the number of partitions of `replies`.
    pub producer: Producer,
    /// Events to bytes and back.
    pub codec: Codec,
    /// Idempotency keys and results.
    pub storage: &'a Storage,
    /// Which requests are not to be built.
    pub cancellations: Cancellations,
    /// What may be spent.
    pub budgets: Budgets,
    /// Where the calls are counted.
    pub calls: CallMetrics,
    /// Where is counted what rules find in prompts.
    pub metrics: PromptMetrics,
}

/// Why a builder can not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address of the vector store.
    #[error("`vectors.url`: {0}")]
    Vectors(#[from] Box<QdrantError>),
}

/// `requests.L`, `redrives.L` -> `calls` + `prompts.L`. Made by [`stage`].
pub struct PromptBuilder {
    settings: Current,
    codec: Codec,
    keys: Arc<dyn IdempotencyKeys>,
    results: Arc<dyn Results>,
    partitions: Arc<dyn Partitions>,
    retriever: Option<Retriever>,
    conversations: Conversations,
    cancellations: Cancellations,
    metrics: PromptMetrics,
    aside: Aside,
    /// The largest prompt, bytes.
    most_bytes: usize,
    lane: Lane,
}

/// The stage of one lane.
///
/// # Errors
/// [`StartError`].
pub fn stage(config: &Config, deps: Deps<'_>, lane: Lane) -> Result<PromptBuilder, StartError> {
    let retriever = retriever(config, &deps)?;
    let conversations = Conversations {
        kept: Arc::clone(&deps.storage.kept),
        results: Arc::clone(&deps.storage.results),
        codec: deps.codec.clone(),
    };
    Ok(PromptBuilder {
        settings: deps.settings,
        conversations,
        codec: deps.codec,
        keys: Arc::clone(&deps.storage.keys),
        results: Arc::clone(&deps.storage.results),
        partitions: Arc::new(deps.producer),
        retriever,
        cancellations: deps.cancellations,
        metrics: deps.metrics,
        aside: Aside {
            bodies: Bodies::new(deps.storage.clone(), config.stage.max_bytes),
            inline_bytes: config.limits.inline_bytes,
        },
        most_bytes: config.limits.body_bytes,
        lane,
    })
}

fn retriever(config: &Config, deps: &Deps<'_>) -> Result<Option<Retriever>, StartError> {
    let name = &config.knowledge.embedding_model;
    let client = vectors::client(&config.vectors).map_err(Box::new)?;
    let (Some(model), Some(client)) = (config.models.get(name), client) else { return Ok(None) };
    let prices = Arc::clone(&deps.settings.now().prices);
    let ledger = Ledgered::new(deps.producer.clone(), deps.codec.clone(), prices, deps.calls.clone());
    let (settings, paying) = (deps.settings.clone(), (ledger, deps.budgets.clone()));
    Ok(Some(Retriever {
        embedder: Arc::new(PaidEmbedder::new(settings, name.clone(), paying, model.context_tokens)),
        passages: Arc::new(QdrantPassages::new(client, config.vectors.collection.clone())),
    }))
}

/// A request that was judged, and what its idempotency key is held to.
struct Judged {
    verdict: Result<Admitted, Box<Rejected>>,
    /// The id that its door gave out.
    given: Option<String>,
    /// Where its body is that was not in its record.
    body_file: Option<String>,
    /// What that takes, until the prompt is written.
    _room: Option<Room>,
}

impl Judged {
    /// A record of which nothing is known.
    fn unread(rejected: Rejected) -> Self {
        Self { verdict: Err(Box::new(rejected)), given: None, body_file: None, _room: None }
    }
}

/// Whose turn a request with a key is.
enum Turn {
    /// This record's.
    Ours,
    /// Another record's with the same body: this one only waits.
    Duplicate,
    /// Another record's with another body.
    Reused,
}

/// A record with what it asks for, and which run of it this is.
struct Asked<'a> {
    /// As it was first read.
    first: &'a Received,
    run: i32,
}

impl Stage for PromptBuilder {
    async fn process(&self, record: &Received) -> Result<Plan, StageError> {
        let (taken, settings) = (now_micros(), self.settings.now());
        if !is_redrive(&record.at.topic, self.lane) {
            return self.work(record, &Asked { first: record, run: 0 }, &settings, taken).await;
        }
        match self.codec.decode::<Redrive>(&record.value).await {
            Ok(redrive) => {
                let run = redrive.run;
                self.work(record, &Asked { first: &original(record, redrive), run }, &settings, taken).await
            }
            Err(error) if error.is_outage() => Err(StageError::retry(error.to_string())),
            Err(error) => {
                let ended = Ended::invalid("undecodable", None, format!("The record is no redrive: {error}."));
                let asked = Asked { first: record, run: 0 };
                let nobody = Request::new(Vec::new());
                let arrival = self.arrival(&asked, taken);
                self.turn_away(settings.admission.reject(&Principal::system(), &nobody, &arrival, ended), taken)
            }
        }
    }

    async fn recover(&self, output: &Received) -> Result<Vec<Outgoing>, StageError> {
        match self.codec.decode::<Prompt>(&output.value).await {
            Ok(prompt) => self.finished(&prompt),
            Err(error) if error.is_outage() => Err(StageError::retry(error.to_string())),
            Err(error) => {
                // Its calls stay open, and the ledger books them as unconfirmed.
                tracing::error!(at = %output.at, %error, "own prompt can not be read; its calls are not confirmed");
                Ok(Vec::new())
            }
        }
    }
}

impl PromptBuilder {
    async fn work(
        &self,
        record: &Received,
        asked: &Asked<'_>,
        settings: &Settings,
        taken: i64,
    ) -> Result<Plan, StageError> {
        let arrival = self.arrival(asked, taken);
        let judged = self.judge(asked.first, settings, &arrival).await?;
        let verdict = match self.claim(asked.first, &judged).await? {
            Turn::Ours => judged.verdict,
            Turn::Duplicate => return self.answer_duplicate(asked.first, settings, meta_of(&judged.verdict)).await,
            Turn::Reused => Err(Box::new(reused(&judged, settings, &arrival))),
        };
        if !self.claim_run(record, meta_of(&verdict)).await? {
            // Another redrive has become this run.
            return Ok(Plan::default());
        }
        match verdict {
            // After the key is claimed: the cancelled outcome is the one that a replay gets.
            Ok(admitted) if self.is_cancelled(&admitted.meta) => {
                let times = Times { taken, decided: now_micros() };
                self.plan(&ended_of(admitted, Ended::cancelled(), Vec::new(), times))
            }
            Ok(admitted) => self.build(record, admitted, judged.body_file.as_deref(), settings, taken).await,
            Err(rejected) => self.turn_away(*rejected, taken),
        }
    }

    fn arrival<'a>(&self, asked: &Asked<'a>, now: i64) -> Arrival<'a> {
        let Asked { first, run } = *asked;
        Arrival { lane: self.lane, at: Some(&first.at), timestamp: Some(first.timestamp), now, run }
    }

    /// Proves the tenant, reads the request, and admits it or not.
    async fn judge(
        &self,
        record: &Received,
        Settings { admission, .. }: &Settings,
        arrival: &Arrival<'_>,
    ) -> Result<Judged, StageError> {
        let proof = record::proof(&record.headers);
        // An operator's word is as good as a key that is good no more.
        let at = if arrival.run == 0 { record.timestamp } else { 0 };
        let rejected =
            |principal: &Principal, request: &Request, ended| admission.reject(principal, request, arrival, ended);
        let nobody = Request::new(Vec::new());
        let principal = match admission.directory().verify_record(&record.at.topic, proof, &record.value, at) {
            Ok(principal) => principal,
            Err(refusal) if refusal.may_pass(at, now_millis()) => return Err(StageError::retry(refusal.to_string())),
            Err(refusal) => {
                return Ok(Judged::unread(rejected(&Principal::system(), &nobody, refusal.ended())));
            }
        };
        let (mut request, unreadable) = match self.read(record).await {
            Ok(read) => read,
            Err(error) if error.is_outage() => return Err(StageError::retry(error.to_string())),
            Err(error) => {
                let ended = Ended::invalid("undecodable", None, format!("The record can not be read: {error}."));
                return Ok(Judged::unread(rejected(&principal, &nobody, ended)));
            }
        };
        let fetched = match unreadable {
            Some(ended) => Err(ended),
            None => self.aside.fetch(admission, &principal.tenant, &mut request).await?,
        };
        let (given, body_file) = (request.request_id.clone(), request.body_file.clone());
        let (verdict, room) = match fetched {
            Ok(room) => (admission.admit(&principal, request, arrival), room),
            Err(ended) => (Err(Box::new(rejected(&principal, &request, ended))), None),
        };
        if given.is_some() && verdict.as_ref().is_err_and(|rejected| may_be_known_soon(rejected, record)) {
            return Err(StageError::retry("a model that its door knows is not configured here"));
        }
        Ok(Judged { verdict, given, body_file, _room: room })
    }

    async fn read(&self, record: &Received) -> Result<(Request, Option<Ended>), CodecError> {
        if let Some(asked) = record::read(&record.headers, &record.value) {
            return Ok(asked);
        }
        let schema = record.header_bytes(VALUE_SCHEMA_ID_HEADER);
        let mut request = self.codec.decode_record(schema, &record.value).await?;
        let unreadable = record::fill(&mut request, &record.headers);
        Ok((request, unreadable))
    }

    /// Exactly one of several redrives becomes a run; a first run needs no claim.
    async fn claim_run(&self, record: &Received, meta: &Meta) -> Result<bool, StageError> {
        let Some(run) = meta.redrive_claim() else { return Ok(true) };
        let claim =
            Claim { request_id: meta.request_id.clone(), coordinates: record.at.to_string(), body_hash: String::new() };
        // Nobody else can hold keys of the system tenant.
        let claimed = self.keys.claim(SYSTEM_TENANT, &run, &claim).await.map_err(stage_error)?;
        Ok(matches!(claimed, Claimed::Ours))
    }

    /// Exactly one of the records with a key goes on, whatever its verdict is: also a refusal is the
    /// one outcome of the key.
    async fn claim(&self, record: &Received, judged: &Judged) -> Result<Turn, StageError> {
        let meta = meta_of(&judged.verdict);
        let (Some(key), Some(hash)) = (&meta.idempotency_key, &meta.body_hash) else { return Ok(Turn::Ours) };
        let claim =
            Claim { request_id: meta.request_id.clone(), coordinates: record.at.to_string(), body_hash: hash.clone() };
        match self.keys.claim(&meta.tenant, key, &claim).await.map_err(stage_error)? {
            Claimed::Ours => Ok(Turn::Ours),
            Claimed::Theirs(theirs) if theirs.body_hash == *hash => Ok(Turn::Duplicate),
            Claimed::Theirs(_) => Ok(Turn::Reused),
        }
    }

    /// The waiter first, then the result: the sink does it the other way round, so that at least one
    /// of the two delivers.
    async fn answer_duplicate(
        &self,
        record: &Received,
        Settings { admission, .. }: &Settings,
        meta: &Meta,
    ) -> Result<Plan, StageError> {
        if meta.reply_replica.is_none() && meta.reply_topic.is_none() {
            return Ok(Plan::default());
        }
        let waiter = Waiter {
            coordinates: record.at.to_string(),
            replica: meta.reply_replica.clone(),
            reply_topic: meta.reply_topic.clone(),
        };
        self.keys.add_waiter(&meta.tenant, &meta.request_id, &waiter).await.map_err(stage_error)?;
        let Some(outcome) = self.results.get(&meta.tenant, &meta.request_id).await.map_err(stage_error)? else {
            return Ok(Plan::default());
        };
        let addressed = |topic: &str| Outgoing::of_request(topic, meta, outcome.clone());
        let mut plan = Plan::default();
        if let Some(replica) = &meta.reply_replica {
            let count = self.partitions.count(topics::REPLIES).await;
            let count = count.map_err(|e| StageError::retry(format!("`replies` is not known: {e}")))?;
            let to = To::Partition(replies::partition(replica, count));
            plan.then.push(addressed(topics::REPLIES).to(to).header("replica", replica));
        }
        if let Some(topic) = &meta.reply_topic {
            let out = addressed(topic).to(To::ByKey).of_customer(meta.idempotency_key.as_deref());
            plan.then.push(match admission.directory().reads_json(&meta.tenant, topic) {
                true => out.into_json(&self.codec).await?,
                false => out,
            });
        }
        Ok(plan)
    }

    fn is_cancelled(&self, meta: &Meta) -> bool {
        self.cancellations.is_cancelled(&meta.tenant, &meta.request_id)
    }

    /// Writes the prompt, with what its rules found in it. Its request's body was in `body_file`, if it was in none of
    /// the records.
    async fn build(
        &self,
        record: &Received,
        admitted: Admitted,
        body_file: Option<&str>,
        settings: &Settings,
        taken: i64,
    ) -> Result<Plan, StageError> {
        let Some(rules) = settings.rules.get(&admitted.rule_set) else {
            let ended = rule_set_missing(&admitted.rule_set);
            self.metrics.rules_are_missing();
            // Rules are rolled out before the tenants that name them; until then this waits.
            return match now_millis() < admitted.meta.deadline {
                true => Err(StageError::retry(format!("rule set `{}` is not configured here", admitted.rule_set))),
                false => self.plan(&ended_of(admitted, ended, Vec::new(), Times { taken, decided: now_micros() })),
            };
        };
        let mut found = None;
        let prompt = self.prompt(record, admitted, (rules, &mut found), taken).await?;
        if let Some(found) = &found {
            self.metrics.count(found);
        }
        let prompt_moderation = found.as_ref().map(moderation_of);
        let restored = found.filter(|found| found.restores && prompt.ended.is_none());
        let placeholders = restored.map(|found| found.placeholders.into_values()).unwrap_or_default();
        let prompt = within_a_record(Prompt { prompt_moderation, placeholders, ..prompt });
        self.plan(&self.aside.put(record, prompt, body_file).await?)
    }

    /// Holds the prompt to its rules, before anything is kept, fetched or paid; adds what it goes on from, and fetches
    /// passages where a collection is named.
    async fn prompt(
        &self,
        record: &Received,
        mut admitted: Admitted,
        (rules, found): (&Compiled, &mut Option<PromptVerdict>),
        taken: i64,
    ) -> Result<Prompt, StageError> {
        let times = || Times { taken, decided: now_micros() };
        *found = rules.check_prompt(&admitted.body.to_bytes());
        if let Some(ended) = found.as_ref().and_then(blocked) {
            return Ok(ended_of(admitted, ended, Vec::new(), times()));
        }
        if let Err(ended) = self.conversations.join(&mut admitted).await? {
            return Ok(ended_of(admitted, ended, Vec::new(), times()));
        }
        if admitted.previous.is_some() {
            // Answers are part of it now, which were held to other rules.
            *found = rules.check_prompt(&admitted.body.to_bytes());
            if let Some(ended) = found.as_ref().and_then(blocked) {
                return Ok(ended_of(admitted, ended, Vec::new(), times()));
            }
        }
        if let Some(ended) = found.as_mut().and_then(|found| redact(&mut admitted, rules, found, self.most_bytes).err())
        {
            return Ok(ended_of(admitted, ended, Vec::new(), times()));
        }
        let retrieved = match (&self.retriever, &admitted.collection) {
            (Some(retriever), Some(wanted)) => retriever.retrieve(record, &admitted.meta, wanted).await?,
            // Admission refuses a collection where there is nothing to retrieve from.
            (None, _) | (_, None) => Retrieved { passages: Ok(Vec::new()), bill: Vec::new() },
        };
        Ok(match retrieved.passages {
            Ok(passages) => {
                let passages = match found {
                    Some(found) => redact_passages(passages, rules, found),
                    None => passages,
                };
                prompt_of(admitted, &passages, retrieved.bill, times())
            }
            Err(ended) => ended_of(admitted, ended, retrieved.bill, times()),
        })
    }

    /// A request that only came too late is nobody's mistake; every other one is a dead letter too.
    fn turn_away(&self, rejected: Rejected, taken: i64) -> Result<Plan, StageError> {
        let dead_letter = rejected.dead_letter;
        let (code, message) = (rejected.ended.code.clone(), rejected.ended.message.clone());
        let prompt = rejection_of(rejected, Times { taken, decided: now_micros() });
        let plan = self.plan(&prompt)?;
        if !dead_letter {
            return Ok(plan);
        }
        Err(StageError::Poison(Box::new(Poison {
            code,
            message,
            tenant: Some(prompt.meta.tenant),
            request_id: Some(prompt.meta.request_id),
            plan,
        })))
    }

    /// The prompt first; once it is acknowledged, the ends of the calls it bills.
    fn plan(&self, prompt: &Prompt) -> Result<Plan, StageError> {
        let value = self.codec.encode(prompt).map_err(broken)?;
        let primary = Outgoing::of_request(topics::of(topics::PROMPTS, self.lane), &prompt.meta, value);
        Ok(Plan { primary: Some(primary), then: self.finished(prompt)? })
    }

    fn finished(&self, prompt: &Prompt) -> Result<Vec<Outgoing>, StageError> {
        finished_calls(prompt).iter().map(|call| call_record(&self.codec, call).map_err(broken)).collect()
    }
}

/// Whether a request that a door has let in is refused here for want of a model of which this builder may still be told.
fn may_be_known_soon(rejected: &Rejected, record: &Received) -> bool {
    rejected.ended.code == "model_not_found" && now_millis().saturating_sub(record.timestamp) < SPREADS_WITHIN
}

fn reused(judged: &Judged, Settings { admission, .. }: &Settings, arrival: &Arrival<'_>) -> Rejected {
    let (model, rule_set) = match &judged.verdict {
        Ok(admitted) => (&admitted.model, &admitted.rule_set),
        Err(rejected) => (&rejected.model, &rejected.rule_set),
    };
    admission.key_reused(meta_of(&judged.verdict), judged.given.as_deref(), model, rule_set, arrival)
}

fn meta_of(verdict: &Result<Admitted, Box<Rejected>>) -> &Meta {
    match verdict {
        Ok(admitted) => &admitted.meta,
        Err(rejected) => &rejected.meta,
    }
}

/// Ends a prompt whose placeholders are too many to travel.
fn within_a_record(prompt: Prompt) -> Prompt {
    let bytes: usize = prompt.placeholders.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes <= ANSWER_LIMIT {
        return prompt;
    }
    let message = "The prompt has too much in it that is to be redacted and restored. Send a shorter one.";
    let ended = Ended::invalid("context_length_exceeded", None, message);
    Prompt { ended: Some(ended), body: None, placeholders: BTreeMap::new(), ..prompt }
}

pub(crate) fn stage_error(error: StorageError) -> StageError {
    match error {
        StorageError::Outage(_) => StageError::retry(error.to_string()),
        StorageError::Refused(_) => StageError::Fatal(error.to_string()),
    }
}

fn broken(error: CodecError) -> StageError {
    StageError::Fatal(error.to_string())
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
