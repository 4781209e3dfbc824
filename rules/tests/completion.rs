//! Answers of providers: what is checked, what is rewritten, and that nothing else changes.
#![expect(clippy::unwrap_used, reason = "tests")]

use millrace_rules::{Action, Compiled, CompletionError, RuleSet};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn rules() -> Compiled {
    let set: RuleSet = "pii = { email = \"redact\", credit_card = \"redact\" }\n\
                        terms = [{ name = \"bomb\", words = [\"bomb\"], action = \"block\" }]"
        .parse()
        .unwrap();
    set.compile().unwrap()
}

/// `place` is where the hit must be found; `expected` the body that passes, None when it must not.
fn check(body: &str, action: Action, place: &str, expected: Option<&str>) {
    let moderated = rules().apply_to_chat_completion(body.as_bytes()).unwrap();
    assert_eq!(moderated.action, action, "{body}: {moderated:?}");
    if place.is_empty() {
        assert!(moderated.hits.is_empty(), "{body}: {moderated:?}");
    } else {
        assert_eq!(moderated.hits[0].place, place, "{body}");
    }
    let passes = match action {
        Action::Allow => {
            assert_eq!(moderated.body, None);
            Some(body)
        }
        Action::Redact | Action::Block => moderated.body.as_deref().map(|body| std::str::from_utf8(body).unwrap()),
    };
    assert_eq!(passes, expected);
    if let Some(passes) = passes {
        serde_json::from_str::<serde_json::Value>(passes).unwrap();
        let again = rules().apply_to_chat_completion(passes.as_bytes()).unwrap();
        assert_eq!(again.action, Action::Allow, "not idempotent: {passes}");
    }
}

fn message(fields: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"message":{{"role":"assistant",{fields}}}}}]}}"#)
}

/// The same for one message, with other fields around it.
fn check_message(fields: &str, action: Action, place: &str, expected: Option<&str>) {
    let expected = expected.map(message);
    check(&message(fields), action, place, expected.as_deref());
}

#[test]
fn only_redacted_strings_change() {
    let body = r#"{ "id" : "x",  "next_month": [1.0, 1e2, 12345678901234567890123, "a@b.io"],
        "choices" : [ { "index":0, "message" : {"role":"assistant", "content" : "Hi \u0061@b.io \/ \u00e9\n", "z":1} } ,
        {"index":1,"message":{"content":"fine \u0026"},"finish_reason":"stop"}], "usage": {"total_tokens": 3}
    }"#;
    let expected = body.replace(r#""Hi \u0061@b.io \/ \u00e9\n""#, r#""Hi [EMAIL] / é\n""#);
    check(body, Action::Redact, "choices[0].message.content", Some(&expected));
}

#[test]
fn every_text_of_a_message_is_checked() {
    let at = |field: &str| format!("choices[0].message.{field}");
    for field in ["content", "refusal", "reasoning", "reasoning_content"] {
        let with = |text: &str| format!(r#""{field}":"{text}","other":"a@b.io""#);
        check_message(&with("to a@b.io"), Action::Redact, &at(field), Some(&with("to [EMAIL]")));
        check_message(&with("a bomb"), Action::Block, &at(field), None);
        check_message(&with("nothing"), Action::Allow, "", Some(&with("nothing")));
    }
    check_message(
        r#""content":[{"type":"text","text":"ok"},{"type":"text","text":"a@b.io"},{"type":"image_url","image_url":{}}]"#,
        Action::Redact,
        &at("content[1].text"),
        Some(
            r#""content":[{"type":"text","text":"ok"},{"type":"text","text":"[EMAIL]"},{"type":"image_url","image_url":{}}]"#,
        ),
    );
    check_message(r#""content":[{"type":"refusal","refusal":"bomb"}]"#, Action::Block, &at("content[0].refusal"), None);
    check_message(
        r#""content":null,"audio":{"id":"1","transcript":"a@b.io"}"#,
        Action::Redact,
        &at("audio.transcript"),
        Some(r#""content":null,"audio":{"id":"1","transcript":"[EMAIL]"}"#),
    );
    check_message(
        r#""tool_calls":[{"id":"1","type":"custom","custom":{"name":"n","input":"a bomb"}}]"#,
        Action::Block,
        &at("tool_calls[0].custom.input"),
        None,
    );
    check_message(
        r#""function_call":{"name":"f","arguments":"{\"to\":\"a@b.io\"}"}"#,
        Action::Redact,
        &at("function_call.arguments"),
        Some(r#""function_call":{"name":"f","arguments":"{\"to\":\"[EMAIL]\"}"}"#),
    );
    check(
        r#"{"choices":[{"text":"a@b.io","logprobs":null}]}"#,
        Action::Redact,
        "choices[0].text",
        Some(r#"{"choices":[{"text":"[EMAIL]","logprobs":null}]}"#),
    );
}

#[test]
fn arguments_of_tool_calls_stay_json() {
    let call = |arguments: &str| {
        let quoted = serde_json::to_string(arguments).unwrap();
        format!(
            r#""content":null,"tool_calls":[{{"id":"1","type":"function","function":{{"name":"f","arguments":{quoted}}}}}]"#
        )
    };
    let place = "choices[0].message.tool_calls[0].function.arguments";
    let check = |arguments: &str, expected: &str| {
        check_message(&call(arguments), Action::Redact, place, Some(&call(expected)));
    };
    check(r#"{"to": "a@b.io", "n": 1.50, "n": 2}"#, r#"{"to": "[EMAIL]", "n": 1.50, "n": 2}"#);
    // A number becomes a string, for a label is no number.
    check(
        r#"{"card": 4111111111111111, "big": 123456789012345678901}"#,
        r#"{"card": "[CREDIT_CARD]", "big": 123456789012345678901}"#,
    );
    check(r#"[["x", {"a@b.io": true}], -1e5]"#, r#"[["x", {"[EMAIL]": true}], -1e5]"#);
    check(r#"{"t":"\u0061@b.io \"q\" \\"}"#, r#"{"t":"[EMAIL] \"q\" \\"}"#);
    // Arguments that are no JSON are a text.
    check("{to: a@b.io", "{to: [EMAIL]");
    check_message(&call(r#"{"what":"\u0062omb"}"#), Action::Block, place, None);
    check_message(&call(r#"{"what":"nothing"}"#), Action::Allow, "", Some(&call(r#"{"what":"nothing"}"#)));

    // Some servers give an object in place of the string.
    let object = |value: &str| format!(r#""tool_calls":[{{"function":{{"arguments":{{"to": "{value}", "n":1.0}}}}}}]"#);
    check_message(&object("a@b.io"), Action::Redact, place, Some(&object("[EMAIL]")));
}

#[test]
fn what_cannot_be_redacted_as_json_is_blocked() {
    let set: RuleSet = "patterns = [{ name = \"p\", regex = '\"x\",\"y\"', action = \"redact\" }]".parse().unwrap();
    let body = message(r#""tool_calls":[{"function":{"arguments":"[\"x\",\"y\"]"}}]"#);
    let moderated = set.compile().unwrap().apply_to_chat_completion(body.as_bytes()).unwrap();
    assert_eq!((moderated.action, moderated.body, moderated.total_hits), (Action::Block, None, 1));
}

#[test]
fn log_probabilities_do_not_repeat_what_was_redacted() {
    check(
        r#"{"choices":[{"logprobs":{"content":[{"token":"a@b"}]},"message":{"content":"a@b.io"}},
            {"message":{"content":"ok"},"logprobs":{"content":[{"token":"ok"}]}}]}"#,
        Action::Redact,
        "choices[0].message.content",
        Some(
            r#"{"choices":[{"logprobs":null,"message":{"content":"[EMAIL]"}},
            {"message":{"content":"ok"},"logprobs":{"content":[{"token":"ok"}]}}]}"#,
        ),
    );
}

#[test]
fn the_severest_of_all_choices_holds() {
    check(
        r#"{"choices":[{"message":{"content":"a@b.io"}},{"message":{"content":"bomb"}}]}"#,
        Action::Block,
        "choices[0].message.content",
        None,
    );
}

#[test]
fn nothing_to_check_is_allowed() {
    for body in [
        r#"{}"#,
        r#"{"choices":null}"#,
        r#"{"choices":[]}"#,
        r#"{"choices":[{}]}"#,
        r#"{"choices":[{"message":null}]}"#,
    ] {
        check(body, Action::Allow, "", Some(body));
    }
    check_message(r#""content":"""#, Action::Allow, "", Some(r#""content":"""#));
}

#[test]
fn what_is_no_completion_is_an_error() {
    let malformed = |body: &[u8]| {
        let error = rules().apply_to_chat_completion(body).unwrap_err();
        assert!(matches!(error, CompletionError::Malformed(_)), "{error}");
    };
    malformed(b"");
    malformed(b"bomb");
    malformed(b"{\"choices\":[");
    malformed(b"{\"choices\":[{\"message\":{\"content\":\"\xff\"}}]}");
    malformed(b"{\"choices\":[{\"message\":{\"content\":{\"text\":\"bomb\"}}}]}");
    malformed(b"{\"choices\":[{\"message\":{\"content\":[\"bomb\"]}}]}");
    // Readers disagree on which of two counts.
    malformed(b"{\"choices\":[{\"message\":{\"content\":\"ok\",\"content\":\"bomb\"}}]}");
    let lone = rules().apply_to_chat_completion(message(r#""content":"\ud800""#).as_bytes()).unwrap_err();
    assert!(lone.to_string().contains("choices[0].message.content"), "{lone}");
}

#[test]
fn no_bytes_panic() {
    let good = message(
        r#""content":[{"text":"a@b.io \u00e9 \\"}],"tool_calls":[{"function":{"arguments":"{\"c\":[4111111111111111,\"bomb\"]}"}}]"#,
    );
    let rules = rules();
    let mut random = StdRng::seed_from_u64(4);
    for _ in 0..20_000 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..random.random_range(0..4) {
            let place = random.random_range(0..bytes.len());
            match random.random_range(0..3) {
                0 => bytes[place] = random.random(),
                1 => drop(bytes.remove(place)),
                _ => bytes.insert(place, b"\"\\{}[],:0"[random.random_range(0..9)]),
            }
        }
        if let Ok(moderated) = rules.apply_to_chat_completion(&bytes)
            && let Some(body) = moderated.body
        {
            serde_json::from_slice::<serde_json::Value>(&body).unwrap();
        }
    }
}
