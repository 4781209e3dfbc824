//! Prompts redacted, and their answers restored.

use millrace_rules::{Action, Compiled, Placeholders, PromptVerdict, Redactor, RuleSet};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn rules(text: &str) -> Result<Compiled, String> {
    text.parse::<RuleSet>().and_then(|set| set.compile()).map_err(|error| error.to_string())
}

const RULES: &str = r#"
    [prompt]
    restore = true
    pii = { email = "redact", credit_card = "redact", iban = "block" }
"#;

fn verdict(body: &str) -> PromptVerdict {
    rules(RULES).expect("rules").check_prompt(body.as_bytes()).expect("rules for prompts")
}

#[test]
fn only_texts_change_and_every_other_byte_stays() {
    let check = |body: &str, expected: &str| {
        let verdict = verdict(body);
        assert_eq!(verdict.action, Action::Redact, "{body}: {verdict:?}");
        assert_eq!(String::from_utf8(verdict.body.expect("redacted")).expect("UTF-8"), expected);
    };
    check(
        r#"{ "model":"m","temperature" : 1e2, "messages": [ {"role":"user","content":"I am a\u0040x.org, \u00e9"} , {"content":"b@x.org a@x.org","seed":-0.0}],"new":"\u00e9" }"#,
        r#"{ "model":"m","temperature" : 1e2, "messages": [ {"role":"user","content":"I am [EMAIL_1], é"} , {"content":"[EMAIL_2] [EMAIL_1]","seed":-0.0}],"new":"\u00e9" }"#,
    );
    check(
        r#"{"messages":[{"content":[{"type":"text","text":"a@x.org [EMAIL_1]"},{"type":"text","text":"\u00e9"}]}]}"#,
        r#"{"messages":[{"content":[{"type":"text","text":"[EMAIL_2] [EMAIL_1]"},{"type":"text","text":"\u00e9"}]}]}"#,
    );
    check(
        r#"{"messages":[{"tool_calls":[{"function":{"name":"f","arguments":"{\"to\":\"a@x.org\",\"n\":1}"}}]}]}"#,
        r#"{"messages":[{"tool_calls":[{"function":{"name":"f","arguments":"{\"to\":\"[EMAIL_1]\",\"n\":1}"}}]}]}"#,
    );
    check(
        r#"{"messages":[{"tool_calls":[{"function":{"arguments":{"to":"a@x.org","n":4111111111111111}}}]}]}"#,
        r#"{"messages":[{"tool_calls":[{"function":{"arguments":{"to":"[EMAIL_1]","n":"[CREDIT_CARD_1]"}}}]}]}"#,
    );
    check(
        r#"{"instructions":"for a@x.org","input":[{"role":"user","content":"b@x.org"},{"type":"function_call_output","output":"a@x.org"}]}"#,
        r#"{"instructions":"for [EMAIL_1]","input":[{"role":"user","content":"[EMAIL_2]"},{"type":"function_call_output","output":"[EMAIL_1]"}]}"#,
    );
    check(r#"{"input":["a@x.org","b"],"user":"a@x.org"}"#, r#"{"input":["[EMAIL_1]","b"],"user":"a@x.org"}"#);
    check(
        r#"{"tools":[{"function":{"name":"f","description":"mails a@x.org"}}]}"#,
        r#"{"tools":[{"function":{"name":"f","description":"mails [EMAIL_1]"}}]}"#,
    );
}

#[test]
fn what_can_not_be_replaced_blocks_the_prompt() {
    for body in [
        r#"{"messages":[{"role":"user","name":"a@x.org","content":"hi"}]}"#,
        r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"https://a@x.org/"}}]}]}"#,
        r#"{"tools":[{"function":{"name":"f","parameters":{"a@x.org":{}}}}]}"#,
        r#"{"messages":[{"content":"{\"to\":\"a\\u0040x.org\"}"}]}"#,
    ] {
        let verdict = verdict(body);
        assert_eq!((verdict.action, verdict.body.as_ref()), (Action::Block, None), "{body}");
        assert_eq!(verdict.rules(Action::Block), ["email"], "{body}");
    }
    let both = verdict(r#"{"input":"a@x.org DE89370400440532013000"}"#);
    assert_eq!(
        (both.action, both.body.as_ref(), both.rules(Action::Block)),
        (Action::Block, None, vec!["iban".into()])
    );
    let unreadable = verdict(r#"{"input":"a@x.org \ud800"}"#);
    assert_eq!((unreadable.action, unreadable.body), (Action::Block, None));
}

#[test]
fn what_comes_later_has_the_same_placeholders() {
    let rules = rules(RULES).expect("rules");
    let mut verdict = verdict(r#"{"messages":[{"role":"user","content":"a@x.org [EMAIL_2]"}]}"#);
    let mut add = |text: &str| rules.redact_into_prompt(text, &mut verdict);
    assert_eq!(add("a@x.org and b@x.org").as_deref(), Some("[EMAIL_1] and [EMAIL_3]"));
    assert_eq!(add("DE89370400440532013000"), None);
    assert_eq!(add("This is [EMAIL_1]."), None, "what stands for a value already");
    assert_eq!((verdict.action, verdict.rules(Action::Allow)), (Action::Redact, vec!["email".to_owned()]));
    assert_eq!(verdict.placeholders.into_values().len(), 2);
}

fn placeholders() -> Placeholders {
    let values = [("[EMAIL_1]", "a@x.org"), ("[EMAIL_12]", "b@x.org"), ("[T_1]", "a \"quoted\" [EMAIL_1]\n")];
    Placeholders::from_iter(values.map(|(label, value)| (label.to_owned(), value.to_owned())))
}

#[test]
fn answers_have_their_values_again() {
    let check = |answer: &str, expected: &str| {
        let moderated = placeholders().restore_chat_completion(answer.as_bytes()).expect("an answer");
        assert_eq!(moderated.action, Action::Redact);
        assert_eq!(String::from_utf8(moderated.body.expect("restored")).expect("UTF-8"), expected);
    };
    check(
        r#"{"id" : "x","choices":[{"message":{"content":"[EMAIL_1] [T_1]"},"logprobs":{"content":[]}}],"usage":{"a":1e2}}"#,
        r#"{"id" : "x","choices":[{"message":{"content":"a@x.org a \"quoted\" [EMAIL_1]\n"},"logprobs":null}],"usage":{"a":1e2}}"#,
    );
    check(
        r#"{"choices":[{"message":{"tool_calls":[{"function":{"arguments":"{\"to\":\"[T_1]\"}"}}]}}]}"#,
        r#"{"choices":[{"message":{"tool_calls":[{"function":{"arguments":"{\"to\":\"a \\\"quoted\\\" [EMAIL_1]\\n\"}"}}]}}]}"#,
    );
    let fine = br#"{"choices":[{"message":{"content":"[EMAIL_3] [email_1]"}}]}"#;
    assert_eq!(placeholders().restore_chat_completion(fine).expect("an answer").body, None);
}

#[test]
fn rules_that_could_never_redact_a_prompt_are_refused() {
    let check = |text: &str, expected: &str| {
        let error = rules(text).expect_err("refused");
        assert!(error.contains(expected), "{error}");
    };
    check(r#"prompt = { restore = true, pii = { email = "block" } }"#, "nothing to put back");
    check(
        r#"prompt = { pii = { email = "redact" }, patterns = [{ name = "p", regex = "AIL_[0-9]", action = "block" }] }"#,
        "it hits [EMAIL_1]",
    );
}

const PIECES: [&str; 16] = [
    "[EMAIL_1]",
    "[EMAIL_12]",
    "[T_1]",
    "[EMAIL_1",
    "2]",
    "]",
    "[",
    "[[",
    "EMAIL",
    "[EMAIL_",
    "[T",
    "_1]",
    " ",
    "word ",
    "ä",
    "[EMAIL_13]",
];

/// Nothing of a placeholder is seen, whatever the pieces, and what is seen is the beginning of what is restored as a whole.
#[test]
fn a_stream_is_the_beginning_of_what_is_restored() {
    let mut dice = StdRng::seed_from_u64(11);
    let mut early = 0;
    for round in 0..6_000 {
        let rules = rules(if round % 2 == 0 { "" } else { r#"pii = { email = "redact" }"# }).expect("rules");
        let text: String = (0..dice.random_range(1..40)).map(|_| PIECES[dice.random_range(0..PIECES.len())]).collect();
        let restored = placeholders().restore(&text);
        let passes = rules.check(&restored).text.unwrap_or(restored);
        let mut redactor = Redactor::restoring(&rules, &placeholders());
        let (mut seen, mut left) = (String::new(), text.as_str());
        while !left.is_empty() {
            let piece: String = left.chars().take(dice.random_range(1..=left.chars().count().min(9))).collect();
            left = &left[piece.len()..];
            seen.extend(redactor.push(&piece));
        }
        assert!(passes.starts_with(&seen), "{text:?}: {seen:?} is not the beginning of {passes:?}");
        early += seen.len();
    }
    assert!(early > 100_000, "nearly nothing was seen early: {early}");
}

/// A prompt of any pieces: nothing that rules redact is left where a model sees it, and the way back is exact.
#[test]
fn a_redacted_prompt_has_nothing_left_and_is_restored_exactly() {
    const TEXTS: [&str; 10] =
        ["a@x.org", "bob@example.com", " ", "[EMAIL_1]", "[EMAIL_", "4111 1111 1111 1111", "ä\"", "\\", "_1]", "word "];
    let rules = rules(RULES).expect("rules");
    let mut dice = StdRng::seed_from_u64(5);
    let mut redacted = 0;
    for _ in 0..4_000 {
        let mut text =
            || -> String { (0..dice.random_range(0..9)).map(|_| TEXTS[dice.random_range(0..TEXTS.len())]).collect() };
        let (first, second) = (text(), text());
        let body = serde_json::json!({ "messages": [{ "role": "user", "content": first }, { "role": "user", "content": [{ "type": "text", "text": second }] }] });
        let verdict = rules.check_prompt(body.to_string().as_bytes()).expect("rules for prompts");
        let Some(sent) = verdict.body else { continue };
        let again = rules.check_prompt(&sent).expect("rules for prompts");
        assert!(again.action == Action::Allow, "{}", String::from_utf8_lossy(&sent));
        let sent: serde_json::Value = serde_json::from_slice(&sent).expect("JSON");
        let restored = |place: &str| {
            verdict.placeholders.restore(sent.pointer(place).and_then(|text| text.as_str()).expect("a text"))
        };
        assert_eq!((restored("/messages/0/content"), restored("/messages/1/content/0/text")), (first, second));
        redacted += 1;
    }
    assert!(redacted > 1_000, "{redacted}");
}
