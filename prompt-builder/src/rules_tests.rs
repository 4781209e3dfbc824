//! Prompts and the rules that they are held to.

use millrace_rules::RuleSets;
use millrace_schemas::PromptModeration;

use super::*;

/// A builder whose rule set `default` is this one.
async fn bench_of(rules: &str) -> Bench {
    held_to(bench().await, rules, config())
}

pub(super) fn held_to(bench: Bench, rules: &str, mut config: Config) -> Bench {
    config.moderation.rule_sets.insert("default".to_owned(), format!("{{ {rules} }}").parse().unwrap());
    Bench { builder: PromptBuilder { settings: settings(&config), ..bench.builder }, ..bench }
}

fn without_rules() -> Current {
    Current::new(Settings::judging(Admission::from_config(&config()).unwrap(), RuleSets::default()))
}

fn found(prompt: &Prompt) -> (&str, Vec<&str>) {
    let PromptModeration { action, hits, rules_version } = prompt.prompt_moderation.as_ref().unwrap();
    assert_eq!(rules_version.len(), 32);
    (action, hits.iter().map(String::as_str).collect())
}

const HATS: &str = r#"prompt.terms = [{ name = "hats", words = ["hats"], action = "block" },
                                      { name = "coats", words = ["coats"], action = "allow" }]"#;

#[tokio::test]
async fn a_blocked_prompt_costs_nothing_and_keeps_its_key() {
    let bench = bench_of(HATS).await;
    let request = keyed(ASKING);
    let prompt = bench.built(&bench.signed(1, &request)).await;
    let ended = prompt.ended.as_ref().unwrap();
    assert_eq!((ended.status, ended.http_status, ended.code.as_str()), (EndedStatus::Blocked, 403, "content_blocked"));
    assert!(ended.message.contains("(hats)"), "{}", ended.message);
    assert_eq!((&prompt.body, prompt.bill.len(), bench.embedded()), (&None, 0, 0));
    assert_eq!(found(&prompt), ("block", vec!["hats"]));
    let again = bench.builder.process(&bench.signed(2, &request)).await.unwrap();
    assert!(again.primary.is_none());
}

#[tokio::test]
async fn what_passes_says_which_rules_it_hit() {
    let bench = bench_of(HATS).await;
    let ask = |text: &str| {
        Request::new(format!(r#"{{"model":"small","messages":[{{"role":"user","content":"{text}"}}]}}"#).into_bytes())
    };
    let passed = bench.built(&bench.signed(3, &ask("How many coats?"))).await;
    assert!(passed.ended.is_none() && passed.body.is_some());
    assert_eq!(found(&passed), ("allow", vec!["coats"]));
    assert_eq!(found(&bench.built(&bench.signed(4, &ask("Hello"))).await), ("allow", vec![]));
    let without = bench_of("").await;
    assert_eq!(without.built(&without.signed(5, &ask("hats"))).await.prompt_moderation, None);
}

/// HTTP's door writes to `requests.batch`, signed; customers write to topics of their own, in their own forms.
#[tokio::test]
async fn the_verdict_is_the_same_at_both_doors() {
    let bench = bench_of(HATS).await;
    for (offset, text) in [(10, "hats"), (11, "coats"), (12, "shoes")] {
        let body = format!(r#"{{"model":"small","messages":[{{"role":"user","content":"{text}"}}]}}"#);
        let http = bench.built(&bench.signed(offset, &Request::new(body.clone().into_bytes()))).await;
        let json = [("content-type", "application/json")];
        let topic = bench.built(&received("acme.requests", offset, body.into_bytes(), &json)).await;
        assert_eq!(http.prompt_moderation, topic.prompt_moderation, "{text}");
        assert_eq!((http.ended, http.body), (topic.ended, topic.body), "{text}");
    }
}

#[tokio::test]
async fn a_conversation_is_held_to_the_rules_as_a_whole() {
    let bench = bench_of(HATS).await;
    let asked = |body: String| Request { operation: "responses".to_owned(), ..Request::new(body.into_bytes()) };
    let first =
        bench.built(&bench.signed(1, &asked(r#"{"model":"small","input":"What do I wear?"}"#.to_owned()))).await;
    let outcome = Outcome {
        response: Some(br#"{"output":[{"type":"message","content":[{"type":"output_text","text":"hats"}]}]}"#.to_vec()),
        ..outcome_of(first.meta.clone())
    };
    let key = ("acme".to_owned(), first.meta.request_id.clone());
    bench.store.results.lock().unwrap().insert(key, bench.builder.codec.encode(&outcome).unwrap());
    let name = millrace_admission::responses::id_of(&first.meta.request_id);
    let next = asked(format!(r#"{{"model":"small","input":"And?","previous_response_id":"{name}"}}"#));
    let second = bench.built(&bench.signed(2, &next)).await;
    assert_eq!(
        (second.ended.as_ref().unwrap().status, found(&second)),
        (EndedStatus::Blocked, ("block", vec!["hats"]))
    );
}

#[tokio::test]
async fn a_prompt_whose_rules_are_not_known_yet_waits() {
    let bench = bench().await;
    let bench = Bench { builder: PromptBuilder { settings: without_rules(), ..bench.builder }, ..bench };
    let record = bench.signed(1, &Request::new(ASKING.as_bytes().to_vec()));
    assert!(matches!(bench.builder.process(&record).await, Err(StageError::Retry { .. })));
    assert_eq!(bench.embedded(), 0);
}

const PRIVATE: &str = r#"prompt.restore = true, prompt.pii = { email = "redact", iban = "block" }"#;

fn text_of(prompt: &Prompt) -> String {
    String::from_utf8(prompt.body.clone().unwrap()).unwrap()
}

#[tokio::test]
async fn a_redacted_prompt_has_placeholders_and_carries_the_way_back() {
    let bench = bench_of(PRIVATE).await;
    let body = r#"{ "model":"small","temperature" : 1e0,"messages":[{"role":"user","content":"I am a@x.org"}] }"#;
    let request = Request::new(body.as_bytes().to_vec());
    let prompt = bench.built(&bench.signed(1, &request)).await;
    assert_eq!(text_of(&prompt), body.replace("a@x.org", "[EMAIL_1]"), "every other byte as it came");
    assert_eq!(prompt.placeholders, BTreeMap::from([("[EMAIL_1]".to_owned(), "a@x.org".to_owned())]));
    assert_eq!(found(&prompt), ("redact", vec!["email"]));
    // Whoever builds it again, after a crash, builds the same.
    let again = bench.built(&bench.signed(1, &request)).await;
    assert_eq!((text_of(&again), again.placeholders), (text_of(&prompt), prompt.placeholders));

    let kept = bench_of(r#"prompt.pii = { email = "redact" }"#).await;
    let prompt = kept.built(&kept.signed(1, &request)).await;
    assert!(text_of(&prompt).contains("[EMAIL_1]") && prompt.placeholders.is_empty(), "nothing is to be put back");
}

#[tokio::test]
async fn nothing_that_is_redacted_is_embedded_or_comes_with_passages() {
    let bench = bench_with(&["Ann is a@x.org, Bob b@x.org.", "DE89370400440532013000", "It says [EMAIL_1]."]).await;
    let bench = held_to(bench, PRIVATE, config());
    let asking = ASKING.replace("hats", "hats a@x.org");
    let prompt = bench.built(&bench.signed(1, &Request::new(asking.into_bytes()))).await;
    let body = text_of(&prompt);
    assert!(body.contains("Ann is [EMAIL_1], Bob [EMAIL_2].") && !body.contains("x.org"), "{body}");
    assert!(!body.contains("DE89") && !body.contains("It says"), "{body}");
    assert_eq!((prompt.passages, prompt.placeholders.len()), (1, 2));
    let questions = bench.embedder.questions.lock().unwrap().clone();
    assert!(questions.iter().all(|question| question.contains("[EMAIL_1]")) && !questions.is_empty(), "{questions:?}");
}

#[tokio::test]
async fn what_is_kept_of_a_response_is_what_was_asked_and_goes_on_redacted() {
    let bench = bench_of(PRIVATE).await;
    let asked = |body: String| Request { operation: "responses".to_owned(), ..Request::new(body.into_bytes()) };
    let first = bench.built(&bench.signed(1, &asked(r#"{"model":"small","input":"I am a@x.org"}"#.to_owned()))).await;
    assert_eq!(text_of(&first), r#"{"model":"small","input":"I am [EMAIL_1]"}"#);
    let said = r#"{"output":[{"type":"message","content":[{"type":"output_text","text":"Hello a@x.org"}]}]}"#;
    let outcome = Outcome { response: Some(said.as_bytes().to_vec()), ..outcome_of(first.meta.clone()) };
    let key = ("acme".to_owned(), first.meta.request_id.clone());
    bench.store.results.lock().unwrap().insert(key, bench.builder.codec.encode(&outcome).unwrap());
    let name = millrace_admission::responses::id_of(&first.meta.request_id);
    let next = asked(format!(r#"{{"model":"small","input":"And b@x.org?","previous_response_id":"{name}"}}"#));
    let second = bench.built(&bench.signed(2, &next)).await;
    let body = text_of(&second);
    assert!(
        body.contains("I am [EMAIL_1]") && body.contains("Hello [EMAIL_1]") && body.contains("And [EMAIL_2]?"),
        "{body}"
    );
    assert!(!body.contains("x.org"), "{body}");
}

#[tokio::test]
async fn a_prompt_that_redaction_makes_too_large_ends() {
    let name = "n".repeat(60);
    let rules = format!(r#"prompt.terms = [{{ name = "{name}", words = ["q"], action = "redact" }}]"#);
    let mut config = config();
    config.models.insert("small".to_owned(), ModelConfig::chat("p", 128_000));
    let bench = held_to(bench().await, &rules, config);
    let bench = Bench { builder: PromptBuilder { most_bytes: 1 << 19, ..bench.builder }, ..bench };
    let body = format!(r#"{{"model":"small","messages":[{{"role":"user","content":"{}"}}]}}"#, "q ".repeat(12_000));
    let prompt = bench.built(&bench.signed(1, &Request::new(body.into_bytes()))).await;
    let ended = prompt.ended.unwrap();
    assert_eq!(ended.code, "context_length_exceeded");
    assert!(ended.message.contains("once it is redacted"), "{}", ended.message);
}
