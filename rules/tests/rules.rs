//! What rule sets say about texts, and which are refused.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use millrace_rules::{Action, Compiled, HitKind, MAX_HITS, RuleSet, compile_all};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn compile(toml: &str) -> Compiled {
    toml.parse::<RuleSet>().unwrap().compile().unwrap()
}

/// `expected` is the text that passes, or None when none does.
fn check(rules: &str, text: &str, action: Action, expected: Option<&str>) {
    let verdict = compile(rules).check(text);
    assert_eq!(verdict.action, action, "{text:?} under {rules}: {verdict:?}");
    let passes = match action {
        Action::Allow => {
            assert_eq!(verdict.text, None);
            Some(text)
        }
        Action::Redact | Action::Block => verdict.text.as_deref(),
    };
    assert_eq!(passes, expected, "{text:?} under {rules}");
}

const TERM: &str = "terms = [{ name = \"rival\", words = [\"initech\", \"foo bar\"], action = \"ACTION\" }]";

#[test]
fn every_action_does_what_it_says() {
    let with = |action: &str| TERM.replace("ACTION", action);
    check(&with("allow"), "Initech!", Action::Allow, Some("Initech!"));
    check(&with("redact"), "Initech, FOO Bar.", Action::Redact, Some("[RIVAL], [RIVAL]."));
    check(&with("block"), "Initech", Action::Block, None);
    check(&with("block"), "initechs", Action::Allow, Some("initechs"));
    check("", "anything", Action::Allow, Some("anything"));
    check(&with("redact"), "", Action::Allow, Some(""));

    let verdict = compile(&with("allow")).check("an Initech");
    let hit = &verdict.hits[0];
    assert_eq!((hit.rule.as_str(), hit.kind, hit.start, hit.end), ("rival", HitKind::Term, 3, 10));
}

#[test]
fn the_severest_action_holds() {
    let rules = "pii = { email = \"redact\", ipv4 = \"allow\" }\n\
                 patterns = [{ name = \"ticket\", regex = 'T-[0-9]+', action = \"block\" }]";
    check(rules, "a@b.io 10.0.0.1", Action::Redact, Some("[EMAIL] 10.0.0.1"));
    check(rules, "a@b.io T-1", Action::Block, None);
    check(rules, "10.0.0.1", Action::Allow, Some("10.0.0.1"));
}

#[test]
fn personal_data_gets_labels() {
    let all = "[pii]\nemail = \"redact\"\nphone = \"redact\"\niban = \"redact\"\ncredit_card = \"redact\"\n\
               ipv4 = \"redact\"\nus_ssn = \"redact\"";
    check(
        all,
        "a@b.io, +49 30 1234567, DE89 3704 0044 0532 0130 00, 4111 1111 1111 1111, 10.0.0.1, 123-45-6789 …",
        Action::Redact,
        Some("[EMAIL], [PHONE], [IBAN], [CREDIT_CARD], [IPV4], [US_SSN] …"),
    );
    check(all, "Ünïcödé 😀a@b.io😀", Action::Redact, Some("Ünïcödé 😀[EMAIL]😀"));
}

#[test]
fn overlapping_hits_get_one_label() {
    let rules = "pii = { email = \"redact\" }\n\
                 terms = [{ name = \"host\", words = [\"b.io x\"], action = \"redact\" }]\n\
                 patterns = [{ name = \"tail\", regex = 'x y+', action = \"redact\" }]";
    let verdict = compile(rules).check("to a@b.io x yy!");
    assert_eq!(verdict.text.as_deref(), Some("to [EMAIL]!"));
    assert_eq!(verdict.total_hits, 3, "each rule's hit is still reported: {:?}", verdict.hits);
}

#[test]
fn long_texts_are_cut_or_blocked() {
    let with = |action: &str| format!("max_chars = {{ limit = 5, action = \"{action}\" }}");
    check(&with("block"), "12345", Action::Allow, Some("12345"));
    check(&with("block"), "äöüßé", Action::Allow, Some("äöüßé"));
    check(&with("block"), "123456", Action::Block, None);
    check(&with("redact"), "äöüßéx", Action::Redact, Some("äöüßé"));
    let both = "max_chars = { limit = 12, action = \"redact\" }\npii = { email = \"redact\" }";
    check(both, "mail a@b.io now", Action::Redact, Some("mail [EMAIL]"));
    check(both, "0123456789 a@b.io", Action::Redact, Some("0123456789 ["));
}

#[test]
fn what_redaction_brings_about_is_redacted_too() {
    // Only the cut leaves `abc` as a word of its own.
    let cut = "max_chars = { limit = 5, action = \"redact\" }\n\
               terms = [{ name = \"x\", words = [\"abc\"], action = \"ACTION\" }]";
    check(&cut.replace("ACTION", "redact"), "x abcdef", Action::Redact, Some("x [X]"));
    check(&cut.replace("ACTION", "block"), "x abcdef", Action::Block, None);
    // Each label makes the next hit. So often is not endured: blocked rather than let through.
    let grows = "patterns = [{ name = \"a\", regex = 'b|\\]!', action = \"redact\" }]";
    check(grows, "b!", Action::Redact, Some("[A[A]"));
    check(grows, &format!("b{}", "!".repeat(20)), Action::Block, None);
}

#[test]
fn many_hits_are_counted_and_few_listed() {
    let rules = compile("pii = { ipv4 = \"redact\" }");
    let verdict = rules.check(&"10.0.0.1 ".repeat(1_000));
    assert_eq!((verdict.hits.len(), verdict.total_hits), (MAX_HITS, 1_000));
    assert_eq!(verdict.text.unwrap(), "[IPV4] ".repeat(1_000));
}

#[test]
fn a_version_is_that_of_the_definition() {
    let version = |toml: &str| compile(toml).version().to_owned();
    let rules = TERM.replace("ACTION", "block");
    assert_eq!(version(&rules), version(&format!("# the same\n{rules}")));
    assert_ne!(version(&rules), version(&TERM.replace("ACTION", "redact")));
    assert_ne!(version(&rules), version(""));
    // Versions are in records: this one must not change unless verdicts do.
    assert_eq!(version(""), "d90434b9de9805cfafced0e8aaaae41e");
}

#[test]
fn what_cannot_be_used_is_refused() {
    let check = |toml: &str, parts: &[&str]| {
        let error = toml.parse::<RuleSet>().and_then(|set| set.compile()).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    };
    let pattern = |name: &str, regex: &str| {
        format!("patterns = [{{ name = \"{name}\", regex = '{regex}', action = \"redact\" }}]")
    };
    check("term = []", &["not a rule set", "unknown field `term`"]);
    check("pii = { email = \"hide\" }", &["unknown variant `hide`"]);
    check(&pattern("p", "("), &["rule `p`", "unclosed group"]);
    check(&pattern("p", "(?=a)"), &["rule `p`", "look-around"]);
    check(&pattern("p", "a*"), &["rule `p`", "empty text"]);
    check(&pattern("p", "(?:\\p{L}{1000}){100}"), &["rule `p`", "bytes"]);
    check(&pattern("p", &"a".repeat(5_000)), &["rule `p`", "longer than 4096 bytes"]);
    check(&pattern("P", "a"), &["rule `P`", "lowercase"]);
    check(&pattern("email", "a"), &["rule `email`", "built-in"]);
    check(&pattern("p", "P"), &["rule `p`", "it hits [P]"]);
    check("terms = [{ name = \"t\", words = [\" \"], action = \"block\" }]", &["rule `t`", "blank"]);
    check("terms = [{ name = \"t\", words = [], action = \"block\" }]", &["rule `t`", "no words"]);
    check("max_chars = { limit = 0, action = \"block\" }", &["rule `max_chars`", "at least 1"]);
    check(
        "pii = { email = \"redact\" }\nterms = [{ name = \"t\", words = [\"email\"], action = \"block\" }]",
        &["rule `t`", "[EMAIL]", "rule `email`"],
    );
    let twice = format!("{}\nterms = [{{ name = \"p\", words = [\"a\"], action = \"block\" }}]", pattern("p", "x"));
    check(&twice, &["rule `p`", "two of this name"]);
}

#[test]
fn sets_come_from_file_and_configuration() {
    let inline =
        |toml: &str| -> BTreeMap<String, toml::Value> { toml.parse::<toml::Table>().unwrap().into_iter().collect() };
    let file = "[strict]\nmax_chars = { limit = 1, action = \"block\" }\n[mild]\n";
    let sets = compile_all(&inline("[strict]\nmax_chars = { limit = 2, action = \"block\" }"), Some(("r.toml", file)))
        .unwrap();
    assert_eq!((sets.count(), sets.has("mild"), sets.has("other")), (3, true, false));
    let set = |name: &str| sets.get(name).unwrap();
    assert_eq!(set("strict").check("12").action, Action::Allow, "the configuration wins");
    assert!(set("default").is_empty() && !set("strict").is_empty());

    let error = |inline_sets: &str, file: &str| {
        compile_all(&inline(inline_sets), Some(("r.toml", file))).unwrap_err().to_string()
    };
    assert!(error("", "[a]\nx = 1").starts_with("`a` in r.toml: not a rule set"));
    assert!(error("", "[").starts_with("r.toml: not a rule set"));
    assert!(error("[b]\nx = 1", "").starts_with("moderation.rule_sets.b: not a rule set"));
    assert!(
        error("[b]\nmax_chars = { limit = 0, action = \"block\" }", "").starts_with("rule set `b`: rule `max_chars`")
    );
}

/// Bits of text that rules look for, and that join to more.
const BITS: [&str; 40] = [
    "a",
    "Z",
    "7",
    "0",
    " ",
    "-",
    ".",
    "@",
    "+",
    "(",
    ")",
    "[",
    "]",
    "_",
    "/",
    "\n",
    "\u{a0}",
    "ä",
    "ß",
    "İ",
    "ſ",
    "ς",
    "😀",
    "\u{301}",
    "\0",
    "bob@example.com",
    "4111 1111 1111 1111",
    "4111",
    "DE89 3704 0044 0532 0130 00",
    "DE89",
    "10.0.0.1",
    "123-45-6789",
    "+49 30 1234567",
    "555-123-4567",
    "initech",
    "INITECH",
    "straße",
    "T-1",
    "[EMAIL]",
    "secret",
];

#[test]
fn no_text_panics_and_nothing_is_left_behind() {
    let rules = compile(
        "max_chars = { limit = 60, action = \"redact\" }\n\
         [pii]\nemail = \"redact\"\nphone = \"redact\"\niban = \"redact\"\ncredit_card = \"redact\"\n\
         ipv4 = \"redact\"\nus_ssn = \"redact\"\n\
         [[terms]]\nname = \"rival\"\nwords = [\"initech\", \"straße\", \"i\\u0307\"]\naction = \"redact\"\n\
         [[terms]]\nname = \"part\"\nwords = [\"secret\", \"ret7\"]\naction = \"redact\"\nwhole_words = false\n\
         [[patterns]]\nname = \"ticket\"\nregex = 'T-[0-9]+'\naction = \"redact\"",
    );
    let mut random = StdRng::seed_from_u64(3);
    let mut redacted = 0;
    for round in 0..60_000 {
        let length = random.random_range(0..30);
        let text: String = (0..length)
            .map(|_| match random.random_range(0..20) {
                0 => random.random::<char>().to_string(),
                _ => BITS[random.random_range(0..BITS.len())].to_owned(),
            })
            .collect();
        let verdict = rules.check(&text);
        assert_eq!(verdict, rules.check(&text), "not deterministic: {text:?}");
        for hit in &verdict.hits {
            assert!(hit.start < hit.end, "{text:?}: {hit:?}");
            assert!(text.get(hit.start..hit.end).is_some(), "{text:?}: {hit:?} splits a character");
        }
        match (&verdict.action, &verdict.text) {
            (Action::Allow, None) => assert!(verdict.hits.is_empty(), "{text:?}"),
            (Action::Redact, Some(passes)) => {
                redacted += 1;
                let again = rules.check(passes);
                assert_eq!(
                    (again.action, again.hits.len()),
                    (Action::Allow, 0),
                    "round {round}: {text:?} -> {passes:?}"
                );
            }
            (Action::Block, None) => {}
            _ => panic!("{text:?}: {verdict:?}"),
        }
    }
    assert!(redacted > 10_000, "the texts hardly hit a rule: {redacted}");
}
