//! Prompts of verdicts: pure functions.

use std::collections::BTreeMap;

use millrace_admission::{Admitted, Rejected};
use millrace_provider::{FINISHED, Who, finished_from_line};
use millrace_rules::{Action, PromptVerdict};
use millrace_schemas::{Call, CallLine, Ended, EndedStatus, Prompt, PromptModeration, StageTime};

use crate::STAGE;
use crate::passages::{self, Fitted};
use crate::ports::Passage;

/// When the stage took the record and when it had decided, microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub taken: i64,
    pub decided: i64,
}

impl Times {
    fn stages(self) -> Vec<StageTime> {
        vec![StageTime { stage: STAGE.to_owned(), started_at: self.taken, finished_at: self.decided }]
    }
}

/// The prompt of an admitted request, with as many of `found` as it has room for.
pub(crate) fn prompt_of(mut admitted: Admitted, found: &[Passage], bill: Vec<CallLine>, times: Times) -> Prompt {
    let room = admitted.prompt_limit.saturating_sub(admitted.prompt_tokens);
    let fitted = passages::fit(found, room)
        .filter(|fitted| admitted.body.insert_message_before_last_user("system", &fitted.text));
    let (passages, tokens) = fitted.map_or((0, 0), |Fitted { passages, tokens, .. }| (passages, tokens));
    Prompt {
        body: Some(admitted.body.to_bytes()),
        model: admitted.model,
        rule_set: admitted.rule_set,
        prompt_tokens: i64::from(admitted.prompt_tokens) + i64::from(tokens),
        max_output_tokens: i64::from(admitted.max_output_tokens),
        choices: i32::try_from(admitted.choices).unwrap_or(i32::MAX),
        passages: i32::try_from(passages).unwrap_or(i32::MAX),
        meta: admitted.meta,
        ended: None,
        bill,
        stages: times.stages(),
        prompt_moderation: None,
        placeholders: BTreeMap::new(),
        body_file: None,
    }
}

/// The prompt of an admitted request that ended on the way, with what it cost until then.
pub(crate) fn ended_of(admitted: Admitted, ended: Ended, bill: Vec<CallLine>, times: Times) -> Prompt {
    let Admitted { meta, model, rule_set, .. } = admitted;
    Prompt { bill, ..rejection_of(Rejected { meta, ended, model, rule_set, dead_letter: false }, times) }
}

/// The prompt of a request that was not admitted.
pub(crate) fn rejection_of(rejected: Rejected, times: Times) -> Prompt {
    Prompt {
        meta: rejected.meta,
        body: None,
        model: rejected.model,
        rule_set: rejected.rule_set,
        prompt_tokens: 0,
        max_output_tokens: 0,
        choices: 1,
        passages: 0,
        ended: Some(rejected.ended),
        bill: Vec::new(),
        stages: times.stages(),
        prompt_moderation: None,
        placeholders: BTreeMap::new(),
        body_file: None,
    }
}

/// The ends of the calls that a prompt bills: a function of the prompt alone, so that recovery
/// writes the same again. Calls that failed were ended when they failed.
pub(crate) fn finished_calls(prompt: &Prompt) -> Vec<Call> {
    let who = Who::of(&prompt.meta);
    let at = prompt.stages.last().map_or(prompt.meta.received_at, |stage| stage.finished_at);
    let finished = prompt.bill.iter().filter(|line| line.status == FINISHED);
    finished.map(|line| finished_from_line(&who, line, at)).collect()
}

/// What an outcome says of what was found in its prompt.
pub(crate) fn moderation_of(verdict: &PromptVerdict) -> PromptModeration {
    PromptModeration {
        action: verdict.action.as_str().to_owned(),
        rules_version: verdict.rules_version.clone(),
        hits: verdict.rules(Action::Allow),
    }
}

/// How a request ends whose prompt its rules block: as one whose answer they block. `None` of one that passes.
pub(crate) fn blocked(verdict: &PromptVerdict) -> Option<Ended> {
    if verdict.action < Action::Block {
        return None;
    }
    let message = format!(
        "the prompt broke the moderation rules of your organisation ({}) and was sent to no model",
        verdict.rules(Action::Block).join(", ")
    );
    Some(Ended { status: EndedStatus::Blocked, http_status: 403, ..Ended::invalid("content_blocked", None, message) })
}

/// How a request ends whose rule set nobody made known here until its deadline: as at the moderator.
pub(crate) fn rule_set_missing(rule_set: &str) -> Ended {
    Ended {
        kind: "server_error".to_owned(),
        http_status: 500,
        ..Ended::invalid(
            "rule_set_missing",
            None,
            format!(
                "the rule set `{rule_set}` that this prompt is to be held to is not known here; tell the operator of \
                 this service"
            ),
        )
    }
}

/// How a request ends whose question may not be embedded, as at the router.
pub(crate) fn budget_used_up(error: &str) -> Ended {
    Ended {
        status: EndedStatus::Failed,
        code: "insufficient_quota".to_owned(),
        kind: "insufficient_quota".to_owned(),
        message: format!("{error}. Have the budget raised."),
        param: None,
        http_status: 429,
    }
}

/// How a request ends whose passages can not be had.
pub(crate) fn retrieval_failed(reason: &str) -> Ended {
    Ended {
        status: EndedStatus::Failed,
        code: "retrieval_failed".to_owned(),
        kind: "server_error".to_owned(),
        message: format!(
            "The passages of the collection can not be had: {reason}. Send the request again, or without a collection."
        ),
        param: Some("millrace.collection".to_owned()),
        http_status: 502,
    }
}
