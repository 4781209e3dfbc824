//! How far a client has come.

use serde_json::{Map, Value};

use crate::event::Event;
use crate::script::{Group, Line, Step, call_text, part_text, script};

/// Bits of a number that are a place; those above name the call that the answer comes from, so that a place in one
/// answer is never taken for one in another. All of it is a whole number of JavaScript's.
const PLACE_BITS: u32 = 21;
const CALL_BITS: u32 = 31;

/// Why there is no rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// The value is no response.
    #[error("the answer is no response")]
    NotAResponse,
    /// What was sent is no part of this response.
    #[error("what was sent is not the beginning of this answer")]
    AnotherAnswer,
}

/// What becomes of an event that a provider sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// It is the next step, or says how the work goes on: this is its number.
    Numbered(u64),
    /// Something is missing before it: it is not to be sent, nor any later one.
    Gap,
}

/// What was sent of a response while it was written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    call: u64,
    place: u64,
    sent: Vec<(Step, String)>,
    /// Whether the item that was begun last is told by a text of its own.
    is_call: bool,
    /// Whether the part that was begun last is.
    is_text: bool,
}

impl Progress {
    /// Nothing yet, of the answer of a call.
    #[must_use]
    pub fn of_call(call_id: &str) -> Self {
        Self { call: tag(call_id), ..Self::default() }
    }

    /// Whether an event is what comes next, and its number.
    pub fn admit(&mut self, event: &Event) -> Admitted {
        let Some(step) = event.step() else {
            // Only told while it happens: whoever comes back finds it in the response.
            return self.number().map_or(Admitted::Gap, Admitted::Numbered);
        };
        if event.whole().is_some() || !self.follows(step, event) {
            return Admitted::Gap;
        }
        match (step, self.sent.last_mut()) {
            (Step::Text(..), Some((last, text))) if *last == step => text.push_str(event.delta().unwrap_or_default()),
            (Step::Text(..), _) if event.delta().unwrap_or_default().is_empty() => {}
            _ => self.sent.push((step, event.delta().unwrap_or_default().to_owned())),
        }
        match step {
            Step::Item(_) => self.is_call = event.get("item").is_some_and(|item| call_text(item).is_some()),
            Step::Part(..) => self.is_text = event.get("part").is_some_and(|part| part_text(part).is_some()),
            Step::Created
            | Step::InProgress
            | Step::Text(..)
            | Step::TextDone(..)
            | Step::PartDone(..)
            | Step::ItemDone(_)
            | Step::End => {}
        }
        self.place += units(step, event.delta());
        self.number().map_or(Admitted::Gap, Admitted::Numbered)
    }

    /// The events that are still to be sent of `response`, each with its number in it.
    ///
    /// # Errors
    /// [`RestError`].
    pub fn rest(&self, response: &Value, call_id: &str) -> Result<Vec<String>, RestError> {
        let lines = script(response).ok_or(RestError::NotAResponse)?;
        let is_other_call = !self.sent.is_empty() && self.call != tag(call_id);
        if is_other_call || !self.begins(&lines) {
            return Err(RestError::AnotherAnswer);
        }
        Ok(after(&lines, self.place, tag(call_id)))
    }

    fn begins(&self, lines: &[Line]) -> bool {
        let last = self.sent.len().saturating_sub(1);
        self.sent.len() <= lines.len()
            && self.sent.iter().zip(lines).enumerate().all(|(at, ((step, text), line))| {
                let whole = line.text().unwrap_or_default();
                let is_same = if at == last { whole.starts_with(text.as_str()) } else { whole == text };
                *step == line.step && is_same
            })
    }

    /// The number of what was sent last.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        Some(number(self.call, self.place.checked_sub(1)?))
    }

    fn follows(&self, step: Step, event: &Event) -> bool {
        let Some((last, text)) = self.sent.last() else { return step == Step::Created };
        let is_whole = |text: &str| event.done().is_none_or(|done| done == text);
        match (*last, step) {
            (Step::Created, Step::InProgress) | (Step::InProgress, Step::Item(0)) => true,
            (Step::ItemDone(before), Step::Item(item)) => item == before + 1,
            (Step::Item(item), Step::Part(of, _, 0)) => of == item && !self.is_call,
            (Step::Item(item), Step::Text(of, Group::Call, 0)) => of == item && self.is_call,
            (Step::Item(item), Step::TextDone(of, Group::Call, 0)) => of == item && self.is_call && is_whole(""),
            (Step::Item(item), Step::ItemDone(of)) => of == item && !self.is_call,
            (Step::Part(item, group, part), Step::Text(i, g, p)) => (item, group, part) == (i, g, p) && self.is_text,
            (Step::Part(item, group, part), Step::TextDone(i, g, p)) => {
                (item, group, part) == (i, g, p) && self.is_text && is_whole("")
            }
            (Step::Part(item, group, part), Step::PartDone(i, g, p)) => {
                (item, group, part) == (i, g, p) && !self.is_text
            }
            (Step::Text(item, group, part), Step::Text(i, g, p)) => (item, group, part) == (i, g, p),
            (Step::Text(item, group, part), Step::TextDone(i, g, p)) => {
                (item, group, part) == (i, g, p) && is_whole(text)
            }
            (Step::TextDone(item, Group::Call, _), Step::ItemDone(of)) => item == of,
            (Step::TextDone(item, group, part), Step::PartDone(i, g, p)) => (item, group, part) == (i, g, p),
            (Step::PartDone(item, group, part), Step::Part(i, g, p)) => {
                i == item && if g == group { p == part + 1 } else { p == 0 && g == Group::Content }
            }
            (Step::PartDone(item, _, _), Step::ItemDone(of)) => of == item,
            _ => false,
        }
    }
}

/// The number of a place in the answer of `call_id`.
#[must_use]
pub fn number_of(call_id: &str, place: u64) -> u64 {
    number(tag(call_id), place)
}

/// The place that a number is, if it is one in the answer of `call_id`.
#[must_use]
pub fn place_of(number: u64, call_id: &str) -> Option<u64> {
    (number >> PLACE_BITS == tag(call_id)).then_some(number & ((1 << PLACE_BITS) - 1))
}

/// The events of `response` after the one of this number, or all of them.
///
/// # Errors
/// [`RestError`]; the number is of another call's answer.
pub fn rest_after(response: &Value, number: Option<u64>, call_id: &str) -> Result<Vec<String>, RestError> {
    let lines = script(response).ok_or(RestError::NotAResponse)?;
    let seen = match number {
        None => 0,
        Some(number) => place_of(number, call_id).ok_or(RestError::AnotherAnswer)? + 1,
    };
    Ok(after(&lines, seen, tag(call_id)))
}

/// What is left of a script after so many places.
fn after(lines: &[Line], seen: u64, call: u64) -> Vec<String> {
    let mut place = 0;
    let mut rest = Vec::new();
    for line in lines {
        let units = units(line.step, line.text());
        let skipped = seen.saturating_sub(place).min(units);
        place += units;
        if skipped == units {
            continue;
        }
        let mut event: Map<String, Value> = line.event.clone();
        if let Some(text) = line.text() {
            let left: String = text.chars().skip(usize::try_from(skipped).unwrap_or(usize::MAX)).collect();
            event.insert("delta".to_owned(), left.into());
        }
        event.insert("sequence_number".to_owned(), number(call, place - 1).into());
        rest.push(Value::Object(event).to_string());
    }
    rest
}

fn units(step: Step, text: Option<&str>) -> u64 {
    match step {
        Step::Text(..) => text.unwrap_or_default().chars().count() as u64,
        Step::Created
        | Step::InProgress
        | Step::Item(_)
        | Step::Part(..)
        | Step::TextDone(..)
        | Step::PartDone(..)
        | Step::ItemDone(_)
        | Step::End => 1,
    }
}

fn number(call: u64, place: u64) -> u64 {
    (call << PLACE_BITS) | (place & ((1 << PLACE_BITS) - 1))
}

/// A call's part of a number, by FNV-1a: the same in every version.
fn tag(call_id: &str) -> u64 {
    let hash = call_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ (hash >> 32)) & ((1 << CALL_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::json;

    use super::*;

    const CALL: &str = "call_1";

    fn response() -> Value {
        json!({ "id": "resp_1", "object": "response", "status": "completed", "usage": { "total_tokens": 3 }, "output": [
            { "type": "reasoning", "id": "rs_1", "summary": [{ "type": "summary_text", "text": "Why nöt" },
                { "type": "summary_text", "text": "" }], "encrypted_content": "x" },
            { "type": "web_search_call", "id": "ws_1", "status": "completed" },
            { "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
                { "type": "output_text", "text": "Hello wörld", "annotations": [{ "type": "url_citation" }] },
                { "type": "refusal", "refusal": "No." }, { "type": "next_month" }] },
            { "type": "message", "id": "msg_2", "content": [] },
            { "type": "function_call", "id": "fc_1", "name": "f", "arguments": "{\"a\":1}", "status": "completed" },
            { "type": "function_call", "id": "fc_2", "name": "g", "arguments": "", "status": "completed" }] })
    }

    fn parse(events: &[String]) -> Vec<Event> {
        events.iter().map(|event| Event::parse(event).expect("an event")).collect()
    }

    /// Cuts each text at a random place, with something in between that is told once.
    fn cut(events: Vec<Event>, dice: &mut StdRng) -> Vec<Event> {
        let mut cut = Vec::new();
        for event in events {
            match event.delta().map(|text| text.chars().collect::<Vec<char>>()) {
                Some(text) if dice.random_bool(0.7) => {
                    let at = dice.random_range(0..=text.len());
                    let half = |part: &[char]| event.with("delta", part.iter().collect::<String>().into());
                    cut.push(half(&text[..at]));
                    cut.push(Event::parse(r#"{"type":"response.next_month.progress"}"#).expect("an event"));
                    cut.push(half(&text[at..]));
                }
                Some(_) | None => cut.push(event),
            }
        }
        cut
    }

    /// What a client makes of the events: all texts in their places, and the last event.
    fn read(events: &[Event]) -> (Vec<(Step, String)>, Option<Value>) {
        let mut told: Vec<(Step, String)> = Vec::new();
        for event in events {
            match (event.step(), told.last_mut()) {
                (None, _) => {}
                (Some(step), Some((last, text))) if *last == step => text.push_str(event.delta().unwrap_or_default()),
                (Some(Step::Text(..)), _) if event.delta() == Some("") => {}
                (Some(step), _) => told.push((step, event.delta().unwrap_or_default().to_owned())),
            }
        }
        (told, events.iter().find_map(|event| event.whole().cloned()))
    }

    #[test]
    fn whatever_was_sent_its_rest_completes_it_and_its_number_says_the_same() {
        let response = response();
        let all = parse(&rest_after(&response, None, CALL).expect("a rest"));
        let expected = read(&all);
        assert_eq!(expected.1.as_ref(), Some(&response));
        let mut dice = StdRng::seed_from_u64(1);
        for _ in 0..2_000 {
            let pieces = (0..3).fold(all.clone(), |events, _| cut(events, &mut dice));
            let mut progress = Progress::of_call(CALL);
            let (mut sent, mut last) = (Vec::new(), None);
            for event in pieces.iter().take(dice.random_range(0..pieces.len())) {
                match progress.admit(event) {
                    Admitted::Numbered(number) => {
                        assert!(last.is_none_or(|last| last <= number), "numbers never fall");
                        (last, sent) = (Some(number), [sent, vec![event.clone()]].concat());
                    }
                    Admitted::Gap => panic!("{} is out of turn", event.to_json()),
                }
            }
            let rest = progress.rest(&response, CALL).expect("a rest");
            assert_eq!(read(&[sent, parse(&rest)].concat()), expected);
            assert_eq!(rest_after(&response, last, CALL).expect("a rest"), rest);
        }
    }

    #[test]
    fn numbers_are_whole_numbers_of_javascript_and_belong_to_their_call() {
        let events = parse(&rest_after(&response(), None, CALL).expect("a rest"));
        let numbers: Vec<u64> = events.iter().filter_map(|event| event.get("sequence_number")?.as_u64()).collect();
        assert_eq!(numbers.len(), events.len());
        assert!(numbers.is_sorted_by(|a, b| a < b) && numbers.iter().all(|number| *number < 1 << 53));
        assert_eq!(rest_after(&response(), Some(numbers[3]), "call_2"), Err(RestError::AnotherAnswer));
        assert_eq!(rest_after(&response(), Some(7), CALL), Err(RestError::AnotherAnswer));
        assert_eq!(rest_after(&response(), numbers.last().copied(), CALL), Ok(Vec::new()));
        assert_eq!(rest_after(&json!([]), None, CALL), Err(RestError::NotAResponse));
        // Fixed for ever: a client may come back to another version.
        assert_eq!(tag(CALL), 1_236_911_152);
    }

    #[test]
    fn another_answer_and_gaps_are_told_apart() {
        let all = parse(&rest_after(&response(), None, CALL).expect("a rest"));
        let mut progress = Progress::of_call(CALL);
        for event in &all[..6] {
            assert_ne!(progress.admit(event), Admitted::Gap);
        }
        let mut other = response();
        other["output"][0]["summary"][0]["text"] = "Because".into();
        assert_eq!(progress.rest(&other, CALL), Err(RestError::AnotherAnswer));
        assert_eq!(progress.rest(&response(), "call_2"), Err(RestError::AnotherAnswer));
        let mut skipping = progress.clone();
        assert_eq!(skipping.admit(&all[8]), Admitted::Gap);
        // A text that is whole, and not all of it was sent.
        let mut early = Progress::of_call(CALL);
        for event in &all[..4] {
            early.admit(event);
        }
        assert_eq!(early.admit(&all[5]), Admitted::Gap, "{}", all[5].to_json());
        assert_eq!(Progress::of_call(CALL).admit(&all[1]), Admitted::Gap, "its beginning was missed");
    }
}
