//! What may be seen of a text before it is whole.

use millrace_rules::{Compiled, Redactor, RuleSet, Streaming};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn rules(text: &str) -> Compiled {
    text.parse::<RuleSet>().expect("rules").compile().expect("rules")
}

#[test]
fn which_rules_let_what_be_seen() {
    let check = |text: &str, expected: Streaming| assert_eq!(rules(text).streaming(), expected, "{text}");
    check("", Streaming::Free);
    check(r#"pii = { email = "allow" }"#, Streaming::Free);
    check(r#"max_chars = { limit = 5, action = "allow" }"#, Streaming::Free);
    check(r#"pii = { email = "redact", phone = "redact" }"#, Streaming::HeldBack);
    check(r#"terms = [{ name = "t", words = ["x y"], action = "redact" }]"#, Streaming::HeldBack);
    check(r#"patterns = [{ name = "p", regex = "\\bK-[0-9]{3,9}\\b", action = "redact" }]"#, Streaming::HeldBack);
    check(r#"patterns = [{ name = "p", regex = "K-[0-9]+", action = "redact" }]"#, Streaming::Whole);
    check(r#"patterns = [{ name = "p", regex = "over$", action = "redact" }]"#, Streaming::Whole);
    check(r#"max_chars = { limit = 5, action = "redact" }"#, Streaming::Whole);
    check(r#"pii = { email = "redact", iban = "block" }"#, Streaming::Whole);
    check(r#"patterns = [{ name = "p", regex = "K-[0-9]+", action = "allow" }]"#, Streaming::Free);
}

/// Pieces of which random texts are made: what is to be redacted, halves of it, and what is around it.
const PIECES: [&str; 26] = [
    "bob@example.com",
    "bob@",
    "@example",
    ".com",
    "a.b-c+d@mail.example.co.uk",
    " ",
    " ",
    " ",
    "\n",
    "+49 30 1234567",
    "+49 (0)30 ",
    "555-123-4567",
    "DE89 3704 0044 0532 0130 00",
    "DE89 3704 ",
    "4111 1111 1111 1111",
    "4111-1111-",
    "10.0.0.1",
    "10.0.",
    "123-45-6789",
    "Project X",
    "project ",
    "İSTANBUL",
    "wörld, ",
    "K-12345",
    "1",
    "the answer is ",
];

const RULES: &str = r#"
    pii = { email = "redact", phone = "redact", iban = "redact", credit_card = "redact", ipv4 = "redact", us_ssn = "redact" }
    terms = [{ name = "secret", words = ["project x", "istanbul"], action = "redact" }, { name = "x", words = ["the answer"], action = "allow" }]
    patterns = [{ name = "key", regex = "K-[0-9]{1,6}", action = "redact" }]
"#;

#[test]
fn what_is_seen_is_the_beginning_of_what_passes() {
    let all = rules(RULES);
    let email = rules(r#"pii = { email = "redact" }"#);
    let mut dice = StdRng::seed_from_u64(7);
    let mut early = 0;
    for round in 0..3_000 {
        let rules = if round % 4 == 0 { &email } else { &all };
        let text: String = (0..dice.random_range(1..60)).map(|_| PIECES[dice.random_range(0..PIECES.len())]).collect();
        let passes = rules.check(&text).text.unwrap_or_else(|| text.clone());
        let mut redactor = Redactor::new(rules);
        let (mut seen, mut rest) = (String::new(), text.as_str());
        while !rest.is_empty() {
            let most = rest.chars().count().min(12);
            let piece: String = rest.chars().take(dice.random_range(1..=most)).collect();
            rest = &rest[piece.len()..];
            seen.extend(redactor.push(&piece));
        }
        assert!(passes.starts_with(&seen), "{text:?}: {seen:?} is not the beginning of {passes:?}");
        early += seen.len();
    }
    assert!(early > 100_000, "nearly nothing was seen early: {early}");
}

#[test]
fn a_long_run_without_a_blank_is_held_back() {
    let mut redactor = Redactor::new(&rules(r#"pii = { email = "redact" }"#));
    let early: String = std::iter::repeat_n("abcdefgh", 500).filter_map(|piece| redactor.push(piece)).collect();
    assert_eq!(early, "");
    // A long text is looked at again only when it has grown by a part of it.
    let more = "again and again. ".repeat(10);
    let later: String = ["@example.com said hello. ", &more].iter().filter_map(|piece| redactor.push(piece)).collect();
    assert!(later.starts_with("[EMAIL] said hello."), "{later}");
}
