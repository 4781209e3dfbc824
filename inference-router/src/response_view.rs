//! What a client that reads along may see of the events of a response.
//!
//! Never its end, which comes from the outcome. Where rules redact, or values are put back (see `restore.rs`), only
//! messages are seen, and as much of their texts as nothing that follows can change; from the first text that is whole on,
//! everything comes with the outcome.

use std::sync::Arc;

use millrace_admission::{EditableBody, responses};
use millrace_response_stream::{Event, Group, Step};
use millrace_rules::{Compiled, Placeholders, Redactor};
use serde_json::Value;

use crate::restore::redactor;

/// The type of what brings a message's text.
const TEXT: &str = "response.output_text.delta";

/// The eyes of one client on one call.
#[derive(Clone)]
pub(crate) struct ResponseView {
    request_id: String,
    asked: Arc<EditableBody>,
    /// What each text passes through; `None` where they pass as they come.
    new: Option<Redactor>,
    redactor: Option<Redactor>,
    /// What was seen before something was said: it waits, so that an answer which is begun anew has not begun yet.
    opening: Option<Vec<String>>,
    closed: bool,
}

impl ResponseView {
    /// `None` when the rules let nothing be seen before it is whole.
    pub(crate) fn new(
        rules: &Compiled,
        placeholders: &Placeholders,
        request_id: &str,
        asked: &EditableBody,
    ) -> Option<Self> {
        let new = redactor(rules, placeholders)?;
        let (request_id, asked) = (request_id.to_owned(), Arc::new(asked.clone()));
        Some(Self { request_id, asked, new, redactor: None, opening: Some(Vec::new()), closed: false })
    }

    /// The events that are seen of one, `data` as JSON.
    pub(crate) fn see(&mut self, data: &str, event: &Event) -> Vec<String> {
        if self.closed {
            return Vec::new();
        }
        let seen = match &self.new {
            None => Some(event.clone()),
            Some(new) => redacted(new, &mut self.redactor, event),
        };
        let Some(seen) = seen else {
            // Nothing passes yet of the text that is written; what is no step of the response is not missed.
            let goes_on = self.redactor.is_some() && event.kind() == TEXT || event.step().is_none();
            self.closed = !goes_on;
            return Vec::new();
        };
        let named = seen.get("response").and_then(|response| self.named(response));
        let told = match named {
            Some(response) => seen.with("response", response).to_json(),
            None if seen == *event => data.to_owned(),
            None => seen.to_json(),
        };
        match (seen.delta().is_some_and(|text| !text.is_empty()), &mut self.opening) {
            (false, Some(opening)) => {
                opening.push(told);
                Vec::new()
            }
            (_, opening) => opening.take().into_iter().flatten().chain([told]).collect(),
        }
    }

    /// A response under our name.
    fn named(&self, response: &Value) -> Option<Value> {
        responses::named(response, &self.request_id, &self.asked)
    }
}

/// What passes of an event; `None` of one that has to wait.
fn redacted(new: &Redactor, redactor: &mut Option<Redactor>, event: &Event) -> Option<Event> {
    match event.step()? {
        Step::Created | Step::InProgress => Some(event.clone()),
        Step::Item(_) | Step::ItemDone(_) => event.get("item").is_some_and(says_nothing).then(|| event.clone()),
        Step::Part(_, Group::Content, _) => {
            let part = event.get("part")?;
            let is_new = redactor.is_none() && part.get("type").and_then(Value::as_str) == Some("output_text");
            let is_blank = part.get("text").and_then(Value::as_str) == Some("");
            (is_new && is_blank).then(|| event.clone())
        }
        Step::Text(_, Group::Content, _) if event.kind() == TEXT => {
            let redactor = redactor.get_or_insert_with(|| new.clone());
            let passes = redactor.push(event.delta()?)?;
            // Log probabilities repeat the text.
            Some(event.with("delta", passes.into()).with("logprobs", Value::Array(Vec::new())))
        }
        Step::Part(..) | Step::Text(..) | Step::TextDone(..) | Step::PartDone(..) | Step::End => None,
    }
}

/// A message that only begins, and reasoning that is not shown.
fn says_nothing(item: &Value) -> bool {
    let is_empty = |name: &str| item.get(name).is_none_or(|value| value.as_array().is_none_or(Vec::is_empty));
    let kind = item.get("type").and_then(Value::as_str);
    matches!(kind, Some("message" | "reasoning")) && is_empty("content") && is_empty("summary")
}

#[cfg(test)]
mod tests {
    use millrace_response_stream::{Admitted, Progress, rest_after};
    use millrace_rules::RuleSet;
    use serde_json::json;

    use super::*;

    const CALL: &str = "call_1";

    fn view(rules: &str) -> Option<ResponseView> {
        restoring_view(rules, &Placeholders::default())
    }

    fn restoring_view(rules: &str, placeholders: &Placeholders) -> Option<ResponseView> {
        let rules: RuleSet = rules.parse().expect("rules");
        let asked = EditableBody::parse(r#"{"previous_response_id":"resp_0"}"#.to_owned()).expect("an object");
        ResponseView::new(&rules.compile().expect("rules"), placeholders, "req_1", &asked)
    }

    fn response(text: &str) -> Value {
        json!({ "id": "resp_theirs", "object": "response", "status": "completed", "output": [
            { "type": "reasoning", "id": "rs_1", "summary": [] },
            { "type": "message", "id": "msg_1", "role": "assistant", "content": [
                { "type": "output_text", "text": text, "annotations": [] }] }] })
    }

    /// Events as a provider sends them, word by word.
    fn said(response: &Value) -> Vec<String> {
        let mut said = Vec::new();
        for data in rest_after(response, None, CALL).expect("events") {
            let event = Event::parse(&data).expect("an event");
            match event.delta() {
                Some(text) => {
                    said.extend(text.split_inclusive(' ').map(|word| event.with("delta", word.into()).to_json()))
                }
                None => said.push(data),
            }
        }
        said
    }

    fn seen(view: &mut ResponseView, said: &[String]) -> Vec<String> {
        let events = said.iter().map(|data| (data, Event::parse(data).expect("an event")));
        events.filter(|(_, event)| event.whole().is_none()).flat_map(|(data, event)| view.see(data, &event)).collect()
    }

    #[test]
    fn without_rules_everything_but_the_end_is_seen_under_our_name() {
        let mut view = view("").expect("a view");
        let said = said(&response("Hello there"));
        let shown = seen(&mut view, &said);
        assert!(shown[0].contains(r#""id":"resp_1""#) && shown[0].contains("resp_0"), "{}", shown[0]);
        assert_eq!(shown.len(), said.len() - 1);
        assert_eq!(shown[2..], said[2..said.len() - 1]);
    }

    #[test]
    fn nothing_is_seen_before_something_is_said() {
        let mut view = view("").expect("a view");
        let said = said(&response("Hello"));
        let first = said.iter().position(|data| data.contains("delta\"")).expect("a word");
        assert!(seen(&mut view, &said[..first]).is_empty());
        assert_eq!(seen(&mut view, &said[first..=first]).len(), first + 1);
    }

    #[test]
    fn what_is_redacted_is_never_seen_and_what_is_seen_begins_the_outcome() {
        const RULES: &str = r#"pii = { email = "redact" }"#;
        let text = "Write to Bob at bob.o'neil@example.com, or to nobody at all. Never write to me again.";
        let shown = seen(&mut view(RULES).expect("a view"), &said(&response(text)));
        assert!(shown.iter().all(|event| !event.contains("bob.o")), "{shown:?}");
        let mut progress = Progress::of_call(CALL);
        for event in &shown {
            assert_ne!(progress.admit(&Event::parse(event).expect("an event")), Admitted::Gap, "{event}");
        }
        let rules: RuleSet = RULES.parse().expect("rules");
        let moderated = rules.compile().expect("rules").apply_to_response(response(text).to_string().as_bytes());
        let body = moderated.expect("a response").body.expect("redacted");
        let outcome: Value = serde_json::from_slice(&body).expect("JSON");
        let rest = progress.rest(&outcome, CALL).expect("what was seen is its beginning").concat();
        let events = shown.iter().map(|event| Event::parse(event).expect("an event"));
        let told: String = events.filter_map(|event| event.delta().map(str::to_owned)).collect();
        assert!(told.contains("[EMAIL], or to nobody") && !told.contains("again."), "{told} {rest}");
    }

    #[test]
    fn values_are_put_back_before_anybody_sees_their_placeholders() {
        let placeholders = Placeholders::from_iter([("[EMAIL_1]".to_owned(), "a@x.org".to_owned())]);
        let text = "I wrote to [EMAIL_1] and to [EMAIL_2], as you had said. Never write to me again.";
        let shown = seen(&mut restoring_view("", &placeholders).expect("a view"), &said(&response(text)));
        let mut progress = Progress::of_call(CALL);
        for event in &shown {
            assert_ne!(progress.admit(&Event::parse(event).expect("an event")), Admitted::Gap, "{event}");
        }
        let restored = placeholders.restore_response(response(text).to_string().as_bytes()).expect("a response");
        let outcome: Value = serde_json::from_slice(&restored.body.expect("restored")).expect("JSON");
        progress.rest(&outcome, CALL).expect("what was seen is its beginning");
        let events = shown.iter().map(|event| Event::parse(event).expect("an event"));
        let told: String = events.filter_map(|event| event.delta().map(str::to_owned)).collect();
        assert!(told.starts_with("I wrote to a@x.org and to [EMAIL_2],") && !told.contains("EMAIL_1"), "{told}");
    }

    #[test]
    fn where_rules_redact_other_items_wait() {
        let mut view = view(r#"pii = { email = "redact" }"#).expect("a view");
        let response = json!({ "output": [
            { "type": "function_call", "id": "fc_1", "name": "f", "arguments": "{\"to\": \"a@b.com\"}" },
            { "type": "message", "id": "msg_1", "content": [{ "type": "output_text", "text": "Hello there" }] }] });
        assert!(seen(&mut view, &said(&response)).is_empty());
    }

    #[test]
    fn where_a_rule_blocks_nothing_is_seen() {
        assert!(view(r#"terms = [{ name = "t", words = ["x"], action = "block" }]"#).is_none());
    }
}
