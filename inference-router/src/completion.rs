//! What the router writes, as functions of what it read and decided.

use millrace_admission::{Arrival, meta_of_unreadable};
use millrace_provider::{FINISHED, Who, finished_from_line};
use millrace_schemas::{Call, CallLine, Completion, Ended, Lane, Prompt, StageTime};
use millrace_stage::Received;

use crate::STAGE;

/// What became of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The provider's JSON and the provider's name, or why there is none.
    pub result: Result<(Vec<u8>, String), Ended>,
    /// The calls that it took here.
    pub bill: Vec<CallLine>,
}

impl Verdict {
    /// An end without a call.
    pub(crate) fn ended(ended: Ended) -> Self {
        Self { result: Err(ended), bill: Vec::new() }
    }
}

/// The completion of a prompt; `taken` and `now` are microseconds since the epoch.
pub(crate) fn of_prompt(prompt: Prompt, verdict: Verdict, taken: i64, now: i64) -> Completion {
    let Prompt { meta, model, rule_set, mut bill, mut stages, prompt_moderation, .. } = prompt;
    bill.extend(verdict.bill);
    stages.push(StageTime { stage: STAGE.to_owned(), started_at: taken, finished_at: now });
    let (response, provider, ended) = match verdict.result {
        Ok((response, provider)) => (Some(response), Some(provider), None),
        Err(ended) => (None, None, Some(ended)),
    };
    Completion { meta, response, model, provider, rule_set, ended, bill, stages, prompt_moderation }
}

/// The failed completion of a record that can not be read: what its headers say is all there is.
pub(crate) fn of_unreadable(record: &Received, lane: Lane, ended: Ended, taken: i64, now: i64) -> Completion {
    let at = Some(&record.at);
    let arrival = Arrival { lane, at, timestamp: Some(record.timestamp), now, run: record.run() };
    let meta = meta_of_unreadable(record.header("tenant"), record.header("request_id"), &arrival);
    Completion {
        meta,
        response: None,
        model: String::new(),
        provider: None,
        rule_set: String::new(),
        ended: Some(ended),
        bill: Vec::new(),
        stages: vec![StageTime { stage: STAGE.to_owned(), started_at: taken, finished_at: now }],
        prompt_moderation: None,
    }
}

/// The ends of the calls that the router paid for this completion: a function of it alone, so that
/// recovery writes the same again. Calls that failed have their ends already.
pub(crate) fn finished_calls(completion: &Completion) -> Vec<Call> {
    let who = Who::of(&completion.meta);
    let own_time = completion.stages.iter().rev().find(|time| time.stage == STAGE);
    let at = own_time.map_or(completion.meta.received_at, |time| time.finished_at);
    // A question's embedding is the prompt-builder's, who ends it.
    let is_own = |line: &&CallLine| line.status == FINISHED && line.operation == completion.meta.operation;
    let own = completion.bill.iter().filter(is_own);
    own.map(|line| finished_from_line(&who, line, at)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use millrace_admission::SYSTEM_TENANT;
    use millrace_provider::{FAILED, UNCONFIRMED};
    use millrace_schemas::{CallKind, Coordinates, Meta, Operation, PromptModeration, RequestId, Source};

    use super::*;

    const CHAT: Operation = Operation::Chat;
    const EMBEDDINGS: Operation = Operation::Embeddings;

    pub(crate) fn line(call_id: &str, operation: Operation, status: &str) -> CallLine {
        CallLine {
            call_id: call_id.to_owned(),
            operation: operation.to_string(),
            provider: "sim".to_owned(),
            model: "sim-small".to_owned(),
            status: status.to_owned(),
            input_tokens: 7,
            cached_input_tokens: 2,
            output_tokens: 3,
            estimated: false,
            cost_nanos: 11,
            charge_nanos: 13,
            currency: "USD".to_owned(),
            price_version: "v".to_owned(),
        }
    }

    pub(crate) fn prompt(deadline: i64) -> Prompt {
        let record = record(Vec::new());
        let unreadable = of_unreadable(&record, Lane::Batch, Ended::expired("x"), 0, 0);
        Prompt {
            meta: Meta { deadline, ..unreadable.meta },
            body: Some(
                br#"{"model":"small","messages":[{"role":"user","content":"hello"}],"stream":false,"next_month":1.0}"#
                    .to_vec(),
            ),
            model: "small".to_owned(),
            rule_set: "strict".to_owned(),
            prompt_tokens: 100,
            max_output_tokens: 50,
            choices: 2,
            passages: 0,
            ended: None,
            bill: vec![line("call_embed", EMBEDDINGS, FINISHED)],
            stages: vec![StageTime { stage: "prompt-builder".to_owned(), started_at: 1, finished_at: 2 }],
            prompt_moderation: Some(PromptModeration {
                action: "allow".to_owned(),
                rules_version: "v".to_owned(),
                hits: vec!["coats".to_owned()],
            }),
            placeholders: BTreeMap::new(),
            body_file: None,
        }
    }

    pub(crate) fn record(headers: Vec<(String, Option<Vec<u8>>)>) -> Received {
        let at = Coordinates { topic: "prompts.batch".to_owned(), generation: 0, partition: 1, offset: 9 };
        Received {
            at: at.clone(),
            timestamp: 5,
            key: None,
            value: vec![1, 2, 3],
            headers,
            source: None,
            as_source: Source { from: at, window: 1_024, epoch: 3 },
            assignment: tokio_util::sync::CancellationToken::new(),
            lease: millrace_stage::core::Lease::unlimited(),
        }
    }

    #[test]
    fn everything_of_the_prompt_is_passed_on() {
        let prompt = prompt(77);
        let verdict = Verdict {
            result: Ok((b"{}".to_vec(), "sim".to_owned())),
            bill: vec![line("call_2", CHAT, FAILED), line("call_3", CHAT, FINISHED)],
        };
        let completion = of_prompt(prompt.clone(), verdict, 10, 20);
        assert_eq!((&completion.meta, &completion.prompt_moderation), (&prompt.meta, &prompt.prompt_moderation));
        assert_eq!((completion.model.as_str(), completion.rule_set.as_str()), ("small", "strict"));
        assert_eq!((completion.response.as_deref(), completion.provider.as_deref()), (Some(&b"{}"[..]), Some("sim")));
        let ids: Vec<&str> = completion.bill.iter().map(|line| line.call_id.as_str()).collect();
        assert_eq!(ids, ["call_embed", "call_2", "call_3"]);
        let stages: Vec<&str> = completion.stages.iter().map(|time| time.stage.as_str()).collect();
        assert_eq!(stages, ["prompt-builder", STAGE]);

        let ended = of_prompt(prompt, Verdict::ended(Ended::expired("late")), 10, 20);
        assert_eq!((ended.response, ended.provider, ended.ended), (None, None, Some(Ended::expired("late"))));
        assert_eq!(ended.bill.len(), 1);
    }

    #[test]
    fn only_own_answered_calls_are_finished_and_always_the_same_way() {
        let call_id = millrace_schemas::call_id();
        let bill =
            vec![line("call_2", CHAT, FAILED), line("call_3", CHAT, UNCONFIRMED), line(&call_id, CHAT, FINISHED)];
        let verdict = Verdict { result: Ok((b"{}".to_vec(), "sim".to_owned())), bill };
        let completion = of_prompt(prompt(77), verdict, 10, 20);
        let calls = finished_calls(&completion);
        assert_eq!(calls, finished_calls(&completion.clone()));
        assert_eq!(calls.len(), 1);
        assert_eq!((calls[0].call_id.as_str(), calls[0].kind, calls[0].at), (call_id.as_str(), CallKind::Finished, 20));
        assert_eq!((calls[0].cost_nanos, calls[0].charge_nanos, calls[0].lane.as_str()), (11, 13, "batch"));
    }

    #[test]
    fn an_unreadable_record_still_belongs_to_somebody() {
        let ended = Ended::expired("x");
        let nobody = of_unreadable(&record(Vec::new()), Lane::Batch, ended.clone(), 1, 2).meta;
        assert_eq!((nobody.tenant.as_str(), nobody.user.as_str()), (SYSTEM_TENANT, SYSTEM_TENANT));
        assert_eq!(
            nobody.request_id,
            of_unreadable(&record(Vec::new()), Lane::Batch, ended.clone(), 8, 9).meta.request_id
        );

        let id = RequestId::fresh("acme");
        let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
        let headers = vec![header("tenant", "acme"), header("request_id", id.as_str()), header("run", "2")];
        let known = of_unreadable(&record(headers), Lane::Interactive, ended.clone(), 1, 2);
        assert_eq!((known.meta.tenant.as_str(), known.meta.request_id.as_str()), ("acme", id.as_str()));
        assert_eq!((nobody.run, known.meta.run), (0, 2));
        assert_eq!(known.ended, Some(ended.clone()));
        let headers = vec![header("tenant", "other"), header("request_id", id.as_str())];
        assert_ne!(of_unreadable(&record(headers), Lane::Batch, ended, 1, 2).meta.request_id, id.as_str());
    }
}
