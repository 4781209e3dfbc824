//! Answers of any bytes, and rules as people write them.

use std::sync::LazyLock;

use millrace_mutate as mutate;
use millrace_rules::{Action, Compiled, RuleSet};
use proptest::prelude::*;

const RULES: &[&str] = &[r#"
pii = { email = "redact" }
terms = [{ name = "secret", words = ["project x"], action = "redact" }]
patterns = [{ name = "number", regex = "[0-9]{3}-[0-9]+", action = "redact" }]
"#];

const PROMPTS: &[&str] = &[
    r#"{"messages":[{"role":"user","content":"to bob@example.com, project x"},{"role":"tool","content":[{"type":"text","text":"a@x.org \u0041"}]}]}"#,
    r#"{"messages":[{"tool_calls":[{"function":{"arguments":"{\"to\":\"bob@example.com\",\"n\":1}"}}]}],"tools":[{"description":"a@x.org"}]}"#,
    r#"{"input":[{"role":"user","content":"[EMAIL_1] a@x.org"},{"arguments":{"a":["b@x.org"]}}],"instructions":"project x"}"#,
];

static OF_PROMPTS: LazyLock<Compiled> = LazyLock::new(|| {
    let rules = r#"prompt = { restore = true, pii = { email = "redact" }, injection = { action = "flag" },
        terms = [{ name = "secret", words = ["project x"], action = "redact" }] }"#;
    rules.parse::<RuleSet>().expect("rules").compile().expect("rules")
});

static COMPILED: LazyLock<Compiled> =
    LazyLock::new(|| RULES[0].parse::<RuleSet>().expect("rules").compile().expect("rules"));

const ANSWERS: &[&str] = &[
    r#"{"choices":[{"message":{"content":"to bob@example.com, project x"},"logprobs":{"content":[]}}]}"#,
    r#"{"choices":[{"message":{"content":[{"type":"text","text":"project \u0078"}],"refusal":null}}]}"#,
    r#"{"choices":[{"message":{"content":"","tool_calls":[{"function":{"arguments":"{\"to\":\"bob@example.com\"}"}}]}}]}"#,
    r#"{"choices":[{"text":"555-1234"}],"usage":{}}"#,
];

proptest! {
    #![proptest_config(mutate::cases(1_500))]

    #[test]
    fn an_answer_is_held_to_the_rules_or_not_let_through(answer in mutate::bytes(ANSWERS)) {
        if let Ok(moderated) = COMPILED.apply_to_chat_completion(&answer)
            && let Some(body) = moderated.body
        {
            // By the grammar: half a surrogate pair, which the answer may hold elsewhere, is JSON and no text.
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
            prop_assert!(is_json, "what is redacted stays JSON");
            let again = COMPILED.apply_to_chat_completion(&body).expect("an answer");
            prop_assert!(again.body.is_none(), "nothing is left to redact: {}", String::from_utf8_lossy(&body));
        }
    }

    #[test]
    fn a_prompt_has_nothing_left_to_redact_or_is_blocked(prompt in mutate::bytes(PROMPTS)) {
        let verdict = OF_PROMPTS.check_prompt(&prompt).expect("rules for prompts");
        prop_assert_eq!(verdict.body.is_some(), verdict.action == Action::Redact);
        let Some(body) = verdict.body else { return Ok(()) };
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
        prop_assert!(is_json, "what is redacted stays JSON");
        let again = OF_PROMPTS.check_prompt(&body).expect("rules for prompts");
        prop_assert!(again.action == Action::Allow, "something is left: {}", String::from_utf8_lossy(&body));
    }

    #[test]
    fn rules_are_read_or_refused(text in mutate::text(RULES)) {
        let compiled = text.parse::<RuleSet>().and_then(|rules| rules.compile());
        if let Err(error) = compiled {
            prop_assert!(error.to_string().len() < 2_000, "{error}");
        }
    }
}
