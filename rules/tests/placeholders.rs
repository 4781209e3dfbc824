//! Values replaced by placeholders, and put back.

use millrace_rules::{Compiled, Placeholders, RuleSet};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn rules(text: &str) -> Compiled {
    text.parse::<RuleSet>().expect("rules").compile().expect("rules")
}

fn check(rules_text: &str, text: &str, expected: Option<&str>) {
    let mut placeholders = Placeholders::avoiding([text]);
    let redacted = rules(rules_text).redact_into(text, &mut placeholders);
    assert_eq!(redacted.as_deref(), expected, "{text}");
    if let Some(redacted) = redacted {
        assert_eq!(placeholders.restore(&redacted), text);
    }
}

#[test]
fn one_value_has_one_placeholder() {
    let both = r#"pii = { email = "redact", ipv4 = "redact" }"#;
    check(both, "a@x.org, b@x.org, a@x.org at 10.0.0.1", Some("[EMAIL_1], [EMAIL_2], [EMAIL_1] at [IPV4_1]"));
    check(both, "nothing", Some("nothing"));
    check(both, "[EMAIL_1] is not a@x.org", Some("[EMAIL_1] is not [EMAIL_2]"));
    check(r#"pii = { email = "allow" }"#, "a@x.org", Some("a@x.org"));
    check(r#"pii = { email = "block", ipv4 = "redact" }"#, "a@x.org at 10.0.0.1", None);
    check(r#"max_chars = { limit = 3, action = "redact" }"#, "four", None);
    // What stood apart stands together afterwards.
    check(
        r#"pii = { email = "redact" }
           patterns = [{ name = "p", regex = "AIL_1", action = "block" }]"#,
        "a@x.org",
        None,
    );
}

#[test]
fn a_request_has_one_numbering() {
    let (rules, texts) = (rules(r#"pii = { email = "redact" }"#), ["to a@x.org", "b@x.org and a@x.org [EMAIL_2]"]);
    let mut placeholders = Placeholders::avoiding(texts);
    let redacted = texts.map(|text| rules.redact_into(text, &mut placeholders).expect("redacted"));
    assert_eq!(redacted, ["to [EMAIL_1]", "[EMAIL_3] and [EMAIL_1] [EMAIL_2]"]);
    assert_eq!(placeholders.restore("[EMAIL_2] [EMAIL_3] [EMAIL_4] [EMAIL_1"), "[EMAIL_2] b@x.org [EMAIL_4] [EMAIL_1");
    assert!(!format!("{placeholders:?}").contains("x.org"));
}

#[test]
fn a_value_that_looks_like_a_placeholder_is_not_restored_again() {
    let rules = rules(
        r#"terms = [{ name = "t", words = ["x [EMAIL_1] y"], action = "redact" }]
                         pii = { email = "redact" }"#,
    );
    let text = "a@x.org, x [EMAIL_1] y";
    let mut placeholders = Placeholders::avoiding([text]);
    let redacted = rules.redact_into(text, &mut placeholders).expect("redacted");
    assert_eq!(redacted, "[EMAIL_2], [T_1]");
    assert_eq!(placeholders.restore(&redacted), text);
}

/// Pieces of which random texts are made.
const PIECES: [&str; 20] = [
    "bob@example.com",
    "a@x.org",
    "a@x.org",
    "bob@",
    "[",
    "]",
    "EMAIL_1",
    "_1]",
    "[EMAIL_",
    "[EMAIL_1]",
    "[PHONE_2]",
    "[T_1]",
    " ",
    " ",
    "+49 30 1234567",
    "10.0.0.1",
    "hidden",
    "[hidden]",
    "ä",
    "[[",
];

#[test]
fn what_is_restored_is_what_was_written_and_nothing_leaks() {
    let rules = rules(
        r#"pii = { email = "redact", phone = "redact", ipv4 = "redact" }
           terms = [{ name = "t", words = ["hidden"], action = "redact" }]"#,
    );
    let mut random = StdRng::seed_from_u64(7);
    let mut replaced = 0;
    for _ in 0..20_000 {
        let length = random.random_range(0..12);
        let texts: Vec<String> =
            (0..2).map(|_| (0..length).map(|_| PIECES[random.random_range(0..PIECES.len())]).collect()).collect();
        let mut placeholders = Placeholders::avoiding(texts.iter().map(String::as_str));
        for text in &texts {
            let Some(redacted) = rules.redact_into(text, &mut placeholders) else { continue };
            assert_eq!(&placeholders.restore(&redacted), text, "{redacted}");
            assert_eq!(rules.check(&redacted).total_hits, 0, "{redacted}");
            replaced += usize::from(redacted != *text);
        }
    }
    assert!(replaced > 10_000, "{replaced}");
}
