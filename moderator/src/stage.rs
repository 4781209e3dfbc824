//! The steps, in order.

use millrace_admission::{Arrival, meta_of_unreadable, replies};
use millrace_rules::{Compiled, RuleSet, RulesError};
use millrace_schemas::{Codec, CodecError, Completion, Lane, Outcome, now_micros, topics};
use millrace_settings::Current;
use millrace_stage::{DriverSpec, Outgoing, Plan, Poison, Producer, Received, Stage, StageError, To};

use crate::decide::{NAME, decide, unreadable, without_rules};

/// The moderator of one lane.
pub struct ModeratorStage {
    codec: Codec,
    producer: Producer,
    settings: Current,
    no_rules: Compiled,
    lane: Lane,
}

/// What it consumes.
#[must_use]
pub fn spec(lane: Lane) -> DriverSpec {
    DriverSpec {
        stage: NAME,
        lane: lane.to_string(),
        group: format!("{NAME}.{lane}"),
        topics: vec![topics::of(topics::COMPLETIONS, lane)],
        foreign_topics: Vec::new(),
        drop_duplicates: true,
        own_output: None,
    }
}

impl ModeratorStage {
    /// A moderator with the rule sets of `settings`.
    ///
    /// # Errors
    /// Never in practice: that no rules can be used.
    pub fn new(settings: Current, codec: Codec, producer: Producer, lane: Lane) -> Result<Self, RulesError> {
        let no_rules = RuleSet::default().compile()?;
        Ok(Self { codec, producer, settings, no_rules, lane })
    }

    async fn plan(&self, outcome: &Outcome) -> Result<Plan, StageError> {
        let value = self.codec.encode(outcome).map_err(|e| StageError::Fatal(e.to_string()))?;
        let meta = &outcome.meta;
        let reply = match &meta.reply_replica {
            None => None,
            Some(replica) => {
                let count = self.producer.partitions(topics::REPLIES).await;
                let count = count.map_err(|e| StageError::retry(format!("`replies` is not known: {e}")))?;
                let to = To::Partition(replies::partition(replica, count));
                Some(Outgoing::of_request(topics::REPLIES, meta, value.clone()).to(to).header("replica", replica))
            }
        };
        let primary = Outgoing::of_request(topics::of(topics::OUTCOMES, self.lane), meta, value);
        Ok(Plan { primary: Some(primary), then: reply.into_iter().collect() })
    }
}

impl Stage for ModeratorStage {
    async fn process(&self, record: &Received) -> Result<Plan, StageError> {
        let started_at = now_micros();
        let completion = match self.codec.decode::<Completion>(&record.value).await {
            Ok(completion) => completion,
            Err(error @ CodecError::Registry(_)) => return Err(StageError::retry(error.to_string())),
            Err(error @ (CodecError::Undecodable(_) | CodecError::Refused { .. })) => {
                return Err(self.poison(record, &error.to_string()).await?);
            }
        };
        let outcome = match self.settings.now().rules.get(&completion.rule_set) {
            Some(rules) => decide(completion, rules, started_at, now_micros()),
            // Rules are rolled out before the tenants that name them; until then this waits.
            None if started_at / 1000 < completion.meta.deadline => {
                return Err(StageError::retry(format!("rule set `{}` is not configured here", completion.rule_set)));
            }
            None => decide(without_rules(completion), &self.no_rules, started_at, now_micros()),
        };
        self.plan(&outcome).await
    }
}

impl ModeratorStage {
    async fn poison(&self, record: &Received, message: &str) -> Result<StageError, StageError> {
        let (at, timestamp, now) = (Some(&record.at), Some(record.timestamp), now_micros());
        let arrival = Arrival { lane: self.lane, at, timestamp, now, run: record.run() };
        let meta = meta_of_unreadable(record.header("tenant"), record.header("request_id"), &arrival);
        let outcome = unreadable(meta, message, now);
        Ok(StageError::Poison(Box::new(Poison {
            code: "undecodable".to_owned(),
            message: message.to_owned(),
            tenant: Some(outcome.meta.tenant.clone()),
            request_id: Some(outcome.meta.request_id.clone()),
            plan: self.plan(&outcome).await?,
        })))
    }
}
