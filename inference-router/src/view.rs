//! What a client that reads along may see of the chunks that a provider sends.
//!
//! Never what ends a choice, and never the usage: those come from the outcome. Where rules redact, or values are put back
//! (see `restore.rs`), only the contents are seen, and as much of them as nothing that follows can change; everything
//! else comes with the outcome, too.

use std::collections::BTreeMap;

use millrace_admission::EditableBody;
use millrace_chat_stream::Chunk;
use millrace_rules::{Compiled, Placeholders, Redactor};
use serde_json::{Map, Value, json};

use crate::restore::redactor;

/// The eyes of one client on one call.
#[derive(Clone)]
pub(crate) struct View {
    /// Whether the client asked for the usage: then each chunk says that it has none.
    with_usage: bool,
    redactor: Option<Redactor>,
    redactors: BTreeMap<u64, Redactor>,
    /// What was seen before something was said: it waits, so that an answer which is begun anew has not begun yet.
    opening: Option<Vec<String>>,
    closed: bool,
}

impl View {
    /// `None` when the rules let nothing be seen before it is whole.
    pub(crate) fn new(rules: &Compiled, placeholders: &Placeholders, with_usage: bool) -> Option<Self> {
        let redactor = redactor(rules, placeholders)?;
        Some(Self { with_usage, redactor, redactors: BTreeMap::new(), opening: Some(Vec::new()), closed: false })
    }

    /// The events that are seen of a chunk, `data` as JSON.
    pub(crate) fn see(&mut self, data: &str, chunk: &Chunk) -> Vec<String> {
        let seen = if self.closed { None } else { self.seen(data, chunk) };
        match (seen, &mut self.opening) {
            (None, _) => Vec::new(),
            (Some((event, false)), Some(opening)) => {
                opening.push(event);
                Vec::new()
            }
            (Some((event, _)), opening) => opening.take().into_iter().flatten().chain([event]).collect(),
        }
    }

    /// The event that is seen of a chunk, and whether it says something.
    fn seen(&mut self, data: &str, chunk: &Chunk) -> Option<(String, bool)> {
        if chunk.finishes() {
            // What it says beside would be missing from then on.
            self.closed = chunk.says_something();
            return None;
        }
        if chunk.choices().is_empty() {
            return None;
        }
        if let Some(redactor) = &self.redactor {
            let choices: Vec<Value> =
                chunk.choices().iter().filter_map(|choice| redacted(redactor, &mut self.redactors, choice)).collect();
            let passed = chunk.with_choices(choices);
            let says_something = passed.says_something();
            return (!passed.choices().is_empty()).then(|| (self.without_usage(&passed.to_json()), says_something));
        }
        Some((self.without_usage(data), chunk.says_something()))
    }

    /// The client did not ask for what we asked the provider for.
    fn without_usage(&self, data: &str) -> String {
        let edited = || {
            let mut body = EditableBody::parse(data.to_owned())?;
            body.remove("usage").then(|| String::from_utf8(body.to_bytes()).ok()).flatten()
        };
        let edited = if self.with_usage { None } else { edited() };
        edited.unwrap_or_else(|| data.to_owned())
    }
}

/// What passes of a choice's content.
fn redacted(new: &Redactor, redactors: &mut BTreeMap<u64, Redactor>, choice: &Value) -> Option<Value> {
    let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
    let piece = choice.pointer("/delta/content")?.as_str()?;
    let is_first = !redactors.contains_key(&index);
    let redactor = redactors.entry(index).or_insert_with(|| new.clone());
    let passes = redactor.push(piece);
    let mut delta = Map::new();
    if is_first {
        delta.insert("role".to_owned(), Value::from("assistant"));
    }
    if passes.is_some() || is_first {
        delta.insert("content".to_owned(), Value::from(passes.unwrap_or_default()));
        return Some(json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null }));
    }
    None
}

#[cfg(test)]
mod tests {
    use millrace_chat_stream::{Whole, rest};
    use millrace_rules::RuleSet;

    use super::*;

    fn view(rules: &str, with_usage: bool) -> Option<View> {
        View::new(
            &rules.parse::<RuleSet>().expect("rules").compile().expect("rules"),
            &Placeholders::default(),
            with_usage,
        )
    }

    fn see(view: &mut View, data: &str) -> Vec<String> {
        view.see(data, &Chunk::parse(data).expect("a chunk"))
    }

    #[test]
    fn without_rules_everything_but_the_end_is_seen_as_it_came() {
        let mut view = view("", true).expect("a view");
        let opening = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":null}"#;
        let hello = r#"{ "choices":[{"index":0,"delta":{"content":"Hello"},"new":1e2}],"usage":null}"#;
        assert!(see(&mut view, opening).is_empty(), "nothing is said yet");
        assert_eq!(see(&mut view, hello), [opening, hello]);
        assert!(see(&mut view, r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#).is_empty());
        assert_eq!(see(&mut view, hello), [hello], "another choice goes on");
        assert!(see(&mut view, r#"{"choices":[],"usage":{"total_tokens":1}}"#).is_empty());
        assert!(see(&mut view, r#"{"choices":[{"delta":{"content":"!"},"finish_reason":"stop"}]}"#).is_empty());
        assert!(see(&mut view, hello).is_empty(), "something was left out");
    }

    #[test]
    fn what_the_client_did_not_ask_for_is_taken_out() {
        let mut view = view("", false).expect("a view");
        let told = see(&mut view, r#"{"id" : "x","usage":null,"choices":[{"delta":{"content":"a"}}]}"#);
        assert_eq!(told, [r#"{"id":"x","choices":[{"delta":{"content":"a"}}]}"#]);
    }

    #[test]
    fn what_is_redacted_is_never_seen() {
        let mut view = view(r#"pii = { email = "redact" }"#, false).expect("a view");
        let (mut whole, mut sent) = (Whole::default(), Whole::default());
        let text = "Write to Bob at bob.o'neil@example.com, or to nobody at all. Never write to me again.";
        for piece in text.split_inclusive(' ').chain(["end"]) {
            let finish = if piece == "end" { Value::from("stop") } else { Value::Null };
            let content = if piece == "end" { "" } else { piece };
            let chunk = json!({ "id": "x", "choices": [{ "index": 0, "delta": { "content": content, "secret": piece },
                "logprobs": { "content": [{ "token": piece }] }, "finish_reason": finish }] });
            let seen = see(&mut view, &chunk.to_string());
            assert!(seen.iter().all(|event| !event.contains("bob.o") && !event.contains("secret")), "{seen:?}");
            seen.iter().for_each(|event| sent.add(Chunk::parse(event).expect("a chunk")));
            whole.add(Chunk::parse(&chunk.to_string()).expect("a chunk"));
        }
        let rules: RuleSet = r#"pii = { email = "redact" }"#.parse().expect("rules");
        let moderated =
            rules.compile().expect("rules").apply_to_chat_completion(&whole.to_completion()).expect("a completion");
        let left = rest(&moderated.body.expect("redacted"), &sent, false).expect("what was seen is its beginning");
        assert!(sent != Whole::default() && left.concat().contains("again."), "{left:?}");
    }

    #[test]
    fn where_a_rule_blocks_nothing_is_seen() {
        assert!(view(r#"terms = [{ name = "t", words = ["x"], action = "block" }]"#, false).is_none());
        assert!(view(r#"terms = [{ name = "t", words = ["x"], action = "allow" }]"#, false).is_some());
    }

    #[test]
    fn values_are_put_back_before_anybody_sees_their_placeholders() {
        let placeholders = || Placeholders::from_iter([("[EMAIL_1]".to_owned(), "a@x.org".to_owned())]);
        for (rules, name) in [("", "a@x.org"), (r#"pii = { email = "redact" }"#, "[EMAIL]")] {
            let rules = rules.parse::<RuleSet>().expect("rules").compile().expect("rules");
            let mut view = View::new(&rules, &placeholders(), false).expect("a view");
            let (mut whole, mut sent) = (Whole::default(), Whole::default());
            let mut seen = Vec::new();
            for piece in
                ["I wrote to [EM", "AIL_1", "], and [1", "] to [EMAIL_2] and [", "EMAIL_1] again, as you said.", "!"]
            {
                let finish = if piece == "!" { Value::from("stop") } else { Value::Null };
                let chunk = json!({ "id": "x", "choices": [{ "index": 0, "delta": { "content": piece }, "finish_reason": finish }] });
                seen.extend(see(&mut view, &chunk.to_string()));
                whole.add(Chunk::parse(&chunk.to_string()).expect("a chunk"));
            }
            assert!(!seen.concat().contains("EMAIL_1"), "{seen:?}");
            seen.iter().for_each(|event| sent.add(Chunk::parse(event).expect("a chunk")));
            let restored =
                crate::restore::restored(millrace_schemas::Operation::Chat, whole.to_completion(), &placeholders());
            let restored = restored.expect("not too large");
            let moderated = rules.apply_to_chat_completion(&restored).expect("a completion").body.unwrap_or(restored);
            let expected = format!("I wrote to {name}, and [1] to [EMAIL_2] and {name} again, as you said.!");
            assert!(String::from_utf8_lossy(&moderated).contains(&expected), "{}", String::from_utf8_lossy(&moderated));
            let left = rest(&moderated, &sent, false).expect("what was seen is its beginning");
            let told = String::from_utf8(sent.to_completion()).expect("UTF-8");
            assert!(told.contains(&format!("I wrote to {name}, and")) && !left.is_empty(), "{told}, then {left:?}");
        }
    }
}
