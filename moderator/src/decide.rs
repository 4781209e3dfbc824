//! From a completion to its outcome, without I/O.

use millrace_rules::{Action, Compiled, CompletionError, Moderated};
use millrace_schemas::{
    Completion, Ended, EndedStatus, Meta, Moderation, Operation, Outcome, OutcomeStatus, StageTime,
};

/// Name of this service in `stages`, metrics and logs.
pub const NAME: &str = "moderator";
/// The largest answer after redaction, bytes: what takes the place of a word may be longer than the
/// word, and an outcome must stay under a megabyte. Routers pass on at most 700 KiB.
const REDACTED_LIMIT: usize = 900 * 1024;

/// The outcome of `completion` under `rules`. `started_at` and `now` in microseconds since the epoch.
#[must_use]
pub fn decide(completion: Completion, rules: &Compiled, started_at: i64, now: i64) -> Outcome {
    let Completion { meta, response, model, provider, rule_set, ended, bill, mut stages, prompt_moderation } =
        completion;
    let verdict = match (ended, response) {
        (Some(ended), _) => Verdict::ended(ended),
        (None, Some(answer)) => match meta.operation.parse() {
            // Vectors say nothing.
            Ok(Operation::Embeddings) => Verdict::passed(answer),
            Ok(Operation::Responses) => check(rules.apply_to_response(&answer), answer),
            Ok(Operation::Chat) | Err(_) => check(rules.apply_to_chat_completion(&answer), answer),
        },
        (None, None) => Verdict::ended(Ended::invalid(
            "empty_completion",
            None,
            "the provider gave neither an answer nor a reason; send the request again",
        )),
    };
    stages.push(StageTime { stage: NAME.to_owned(), started_at, finished_at: now });
    Outcome {
        status: verdict.status,
        response: verdict.response,
        error: verdict.error,
        model,
        provider,
        moderation: Moderation {
            action: verdict.action.to_owned(),
            rule_set,
            rules_version: rules.version().to_owned(),
            hits: verdict.hits,
        },
        input_tokens: bill.iter().map(|line| line.input_tokens).sum(),
        output_tokens: bill.iter().map(|line| line.output_tokens).sum(),
        cost_nanos: bill.iter().map(|line| line.cost_nanos).sum(),
        charge_nanos: bill.iter().map(|line| line.charge_nanos).sum(),
        currency: bill.first().map(|line| line.currency.clone()).unwrap_or_default(),
        bill,
        stages,
        finished_at: now,
        meta,
        prompt_moderation,
    }
}

/// The outcome of a completion that can not be read, for whoever its headers name.
#[must_use]
pub fn unreadable(meta: Meta, message: &str, now: i64) -> Outcome {
    let error = failed(500, "internal_error", "server_error", message.to_owned());
    Outcome {
        meta,
        status: OutcomeStatus::Failed,
        response: None,
        error: Some(error),
        model: String::new(),
        provider: None,
        moderation: Moderation {
            action: "none".to_owned(),
            rule_set: String::new(),
            rules_version: String::new(),
            hits: Vec::new(),
        },
        input_tokens: 0,
        output_tokens: 0,
        cost_nanos: 0,
        charge_nanos: 0,
        currency: String::new(),
        bill: Vec::new(),
        stages: Vec::new(),
        finished_at: now,
        prompt_moderation: None,
    }
}

/// The end of a completion whose rule set nobody made known here until its deadline.
#[must_use]
pub fn without_rules(completion: Completion) -> Completion {
    let message = format!(
        "the rule set `{}` that this answer is to be held to is not known here; tell the operator of this service",
        completion.rule_set
    );
    let ended = completion.ended.unwrap_or_else(|| failed(500, "rule_set_missing", "server_error", message));
    Completion { response: None, ended: Some(ended), ..completion }
}

fn failed(http_status: i32, code: &str, kind: &str, message: String) -> Ended {
    Ended {
        status: EndedStatus::Failed,
        code: code.to_owned(),
        kind: kind.to_owned(),
        message,
        param: None,
        http_status,
    }
}

struct Verdict {
    status: OutcomeStatus,
    response: Option<Vec<u8>>,
    error: Option<Ended>,
    action: &'static str,
    hits: Vec<String>,
}

impl Verdict {
    fn passed(answer: Vec<u8>) -> Self {
        let status = OutcomeStatus::Succeeded;
        Self { status, response: Some(answer), error: None, action: "none", hits: Vec::new() }
    }

    fn ended(ended: Ended) -> Self {
        Self { status: ended.status.into(), response: None, error: Some(ended), action: "none", hits: Vec::new() }
    }
}

fn check(moderated: Result<Moderated, CompletionError>, answer: Vec<u8>) -> Verdict {
    let moderated = match moderated {
        Ok(moderated) => moderated,
        // What can not be read can not be held to the rules, so it is not let through.
        Err(error) => {
            return Verdict::ended(failed(
                502,
                "invalid_provider_response",
                "server_error",
                format!("the provider's answer can not be read ({error}); send the request again"),
            ));
        }
    };
    if moderated.body.as_ref().is_some_and(|body| body.len() > REDACTED_LIMIT) {
        return Verdict::ended(failed(
            502,
            "response_too_large",
            "api_error",
            format!("the answer has more than {REDACTED_LIMIT} bytes once it is redacted; ask for a shorter one"),
        ));
    }
    let mut hits: Vec<String> = moderated.hits.iter().map(|located| located.hit.rule.clone()).collect();
    hits.sort();
    hits.dedup();
    let (status, response, error, action) = match moderated.action {
        Action::Allow => (OutcomeStatus::Succeeded, Some(answer), None, "allow"),
        Action::Redact => (OutcomeStatus::Succeeded, Some(moderated.body.unwrap_or(answer)), None, "redact"),
        Action::Block => {
            let blocked = Ended {
                status: EndedStatus::Blocked,
                code: "content_blocked".to_owned(),
                kind: "invalid_request_error".to_owned(),
                message: "the answer broke the moderation rules of your organisation and was withheld".to_owned(),
                param: None,
                http_status: 403,
            };
            (OutcomeStatus::Blocked, None, Some(blocked), "block")
        }
    };
    Verdict { status, response, error, action, hits }
}

#[cfg(test)]
mod tests {
    use millrace_rules::RuleSet;
    use millrace_schemas::{CallLine, Lane, PromptModeration};

    use super::*;

    fn completion(response: Option<&str>, ended: Option<Ended>) -> Completion {
        Completion {
            meta: Meta {
                request_id: "req_1".into(),
                run: 0,
                tenant: "acme".into(),
                user: "ada".into(),
                key_id: None,
                lane: Lane::Batch,
                operation: "chat.completions".into(),
                idempotency_key: None,
                body_hash: None,
                received_at: 1,
                deadline: 2,
                reply_replica: None,
                reply_topic: None,
                labels: std::collections::BTreeMap::new(),
            },
            response: response.map(|r| r.as_bytes().to_vec()),
            model: "m".into(),
            provider: Some("p".into()),
            rule_set: "default".into(),
            ended,
            bill: vec![
                CallLine {
                    call_id: "call_1".into(),
                    operation: "chat.completions".into(),
                    provider: "p".into(),
                    model: "m".into(),
                    status: "finished".into(),
                    input_tokens: 10,
                    cached_input_tokens: 0,
                    output_tokens: 5,
                    estimated: false,
                    cost_nanos: 70,
                    charge_nanos: 80,
                    currency: "USD".into(),
                    price_version: "v".into(),
                };
                2
            ],
            stages: vec![],
            prompt_moderation: None,
        }
    }

    fn answer(content: &str) -> String {
        format!(
            r#"{{"id":"x", "new":1e2, "choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}"}}}}]}}"#
        )
    }

    fn check(response: Option<&str>, ended: Option<Ended>, status: OutcomeStatus, action: &str, body: Option<&str>) {
        let rules: RuleSet = r#"
            pii = { email = "redact" }
            terms = [{ name = "secret", words = ["project x"], action = "block" }]
        "#
        .parse()
        .expect("rules");
        let rules = rules.compile().expect("rules");
        let outcome = decide(completion(response, ended), &rules, 3, 4);
        assert_eq!((outcome.status, outcome.moderation.action.as_str()), (status, action));
        assert_eq!(outcome.response.as_deref(), body.map(str::as_bytes));
        assert_eq!(outcome.error.is_some(), status != OutcomeStatus::Succeeded);
        assert_eq!(
            (outcome.cost_nanos, outcome.charge_nanos, outcome.input_tokens),
            (140, 160, 20),
            "always on the bill"
        );
        assert_eq!(outcome.stages.len(), 1);
    }

    #[test]
    fn an_answer_that_redaction_makes_too_large_fails() {
        let rules: RuleSet =
            r#"terms = [{ name = "hidden-term", words = ["q"], action = "redact" }]"#.parse().expect("rules");
        let rules = rules.compile().expect("rules");
        let outcome = decide(completion(Some(&answer(&"q ".repeat(300 * 1024))), None), &rules, 3, 4);
        assert_eq!(outcome.error.map(|error| error.code).as_deref(), Some("response_too_large"));
        assert_eq!((outcome.status, outcome.response, outcome.bill.len()), (OutcomeStatus::Failed, None, 2));
    }

    #[test]
    fn without_its_rules_an_answer_is_not_let_through() {
        let rules = RuleSet::default().compile().expect("rules");
        let fine = answer("hello");
        let outcome = decide(without_rules(completion(Some(&fine), None)), &rules, 3, 4);
        assert_eq!((outcome.status, outcome.response), (OutcomeStatus::Failed, None));
        let ended = decide(without_rules(completion(None, Some(Ended::expired("late")))), &rules, 3, 4);
        assert_eq!(ended.status, OutcomeStatus::Expired, "an end before stays");
    }

    #[test]
    fn an_outcome_says_what_was_found_in_the_prompt() {
        let rules = RuleSet::default().compile().expect("rules");
        let found = PromptModeration { action: "block".into(), rules_version: "v".into(), hits: vec!["secret".into()] };
        let ended = Ended { status: EndedStatus::Blocked, ..Ended::invalid("content_blocked", None, "m") };
        let blocked = Completion { prompt_moderation: Some(found.clone()), ..completion(None, Some(ended)) };
        let outcome = decide(blocked, &rules, 3, 4);
        assert_eq!((outcome.status, outcome.moderation.action.as_str()), (OutcomeStatus::Blocked, "none"));
        assert_eq!(outcome.prompt_moderation, Some(found));
    }

    #[test]
    fn vectors_pass_as_they_came() {
        let rules = RuleSet::default().compile().expect("rules");
        let vectors = r#"{"object":"list", "data":[{"embedding":[1e2]}]}"#;
        let mut completion = completion(Some(vectors), None);
        completion.meta.operation = Operation::Embeddings.to_string();
        let outcome = decide(completion, &rules, 3, 4);
        assert_eq!((outcome.status, outcome.moderation.action.as_str()), (OutcomeStatus::Succeeded, "none"));
        assert_eq!(outcome.response.as_deref(), Some(vectors.as_bytes()));
    }

    #[test]
    fn responses_are_held_to_the_rules() {
        let rules: RuleSet = r#"pii = { email = "redact" }"#.parse().expect("rules");
        let rules = rules.compile().expect("rules");
        let response = |text: &str| format!(r#"{{"output":[{{"type":"message","content":[{{"text":"{text}"}}]}}]}}"#);
        let mut completion = completion(Some(&response("to bob@example.com")), None);
        completion.meta.operation = Operation::Responses.to_string();
        let outcome = decide(completion.clone(), &rules, 3, 4);
        assert_eq!(outcome.response.as_deref(), Some(response("to [EMAIL]").as_bytes()));
        completion.response = Some(answer("a chat").into_bytes());
        assert_eq!(decide(completion, &rules, 3, 4).status, OutcomeStatus::Failed);
    }

    #[test]
    fn every_completion_has_one_outcome_and_its_bill() {
        use OutcomeStatus::{Blocked, Expired, Failed, Succeeded};
        let fine = answer("hello");
        check(Some(&fine), None, Succeeded, "allow", Some(&fine));
        check(Some(&answer("to bob@example.com")), None, Succeeded, "redact", Some(&answer("to [EMAIL]")));
        check(Some(&answer("Project X")), None, Blocked, "block", None);
        check(Some("<html>"), None, Failed, "none", None);
        check(None, None, Failed, "none", None);
        check(None, Some(Ended::expired("late")), Expired, "none", None);
        check(Some(&fine), Some(Ended::invalid("c", None, "m")), Failed, "none", None);
    }
}
