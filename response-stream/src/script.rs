//! The events that a whole response is told in.

use serde_json::{Map, Value, json};

/// A step of a stream. Numbers are places: of an item among the output, of a part within its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `response.created`.
    Created,
    /// `response.in_progress`.
    InProgress,
    /// An item begins.
    Item(u64),
    /// A part of an item begins.
    Part(u64, Group, u64),
    /// A text goes on.
    Text(u64, Group, u64),
    /// A text is whole.
    TextDone(u64, Group, u64),
    /// A part is whole.
    PartDone(u64, Group, u64),
    /// An item is whole.
    ItemDone(u64),
    /// The response is.
    End,
}

/// Where in an item a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// `summary`, of reasoning.
    Summary,
    /// `content`.
    Content,
    /// What a call is made with.
    Call,
}

/// A step with its event, which has no number yet; of a text the delta is all of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub step: Step,
    pub event: Map<String, Value>,
}

impl Line {
    /// The text of a step that has one.
    pub fn text(&self) -> Option<&str> {
        match self.step {
            Step::Text(..) => self.event.get("delta").and_then(Value::as_str),
            Step::Created
            | Step::InProgress
            | Step::Item(_)
            | Step::Part(..)
            | Step::TextDone(..)
            | Step::PartDone(..)
            | Step::ItemDone(_)
            | Step::End => None,
        }
    }
}

/// What kind of call an item of this type is: the member with its text, and the name of the events.
pub(crate) fn call_text(item: &Value) -> Option<(&'static str, &'static str)> {
    match item.get("type")?.as_str()? {
        "function_call" => Some(("arguments", "function_call_arguments")),
        "custom_tool_call" => Some(("input", "custom_tool_call_input")),
        "mcp_call" => Some(("arguments", "mcp_call_arguments")),
        "code_interpreter_call" => Some(("code", "code_interpreter_call_code")),
        _ => None,
    }
}

/// The member with the text of a part, and the name of the events.
pub(crate) fn part_text(part: &Value) -> Option<(&'static str, &'static str)> {
    match part.get("type")?.as_str()? {
        "output_text" => Some(("text", "output_text")),
        "refusal" => Some(("refusal", "refusal")),
        "reasoning_text" => Some(("text", "reasoning_text")),
        "summary_text" => Some(("text", "reasoning_summary_text")),
        _ => None,
    }
}

/// All steps of a response; `None` when it is none.
pub(crate) fn script(response: &Value) -> Option<Vec<Line>> {
    let whole = response.as_object()?;
    let begun = begun(whole);
    let mut writer = Writer { lines: Vec::new() };
    writer.say(Step::Created, "created", json!({ "response": begun }));
    writer.say(Step::InProgress, "in_progress", json!({ "response": begun }));
    let items = whole.get("output").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (place, item) in (0_u64..).zip(items) {
        writer.item(place, item);
    }
    let end = match whole.get("status").and_then(Value::as_str) {
        Some("incomplete") => "incomplete",
        Some("failed" | "cancelled") => "failed",
        Some(_) | None => "completed",
    };
    writer.say(Step::End, end, json!({ "response": response }));
    Some(writer.lines)
}

/// The response as it was when nothing was said yet.
fn begun(whole: &Map<String, Value>) -> Value {
    let mut begun = whole.clone();
    begun.insert("status".to_owned(), "in_progress".into());
    begun.insert("output".to_owned(), json!([]));
    for name in ["usage", "error", "incomplete_details", "completed_at"] {
        begun.entry(name).and_modify(|value| *value = Value::Null);
    }
    // A convenience of some servers.
    begun.shift_remove("output_text");
    Value::Object(begun)
}

struct Writer {
    lines: Vec<Line>,
}

impl Writer {
    fn say(&mut self, step: Step, name: &str, members: Value) {
        let mut event = Map::new();
        event.insert("type".to_owned(), format!("response.{name}").into());
        if let Value::Object(members) = members {
            event.extend(members);
        }
        self.lines.push(Line { step, event });
    }

    fn item(&mut self, place: u64, item: &Value) {
        let mut begun = item.clone();
        let call = call_text(item);
        if let Some(begun) = begun.as_object_mut() {
            begun.entry("status").and_modify(|status| *status = "in_progress".into());
            for list in ["content", "summary"] {
                begun.entry(list).and_modify(|parts| *parts = json!([]));
            }
            call.iter().for_each(|(member, _)| drop(begun.insert((*member).to_owned(), "".into())));
        }
        self.say(Step::Item(place), "output_item.added", json!({ "output_index": place, "item": begun }));
        let id = item.get("id").cloned().unwrap_or_else(|| "".into());
        for (group, member) in [(Group::Summary, "summary"), (Group::Content, "content")] {
            let parts = item.get(member).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            for (index, part) in (0_u64..).zip(parts) {
                self.part((place, &id), group, index, part);
            }
        }
        if let Some((member, name)) = call {
            let text = item.get(member).and_then(Value::as_str).unwrap_or_default();
            let at = json!({ "item_id": id, "output_index": place });
            self.text(place, Group::Call, 0, (member, name, text), &at);
        }
        self.say(Step::ItemDone(place), "output_item.done", json!({ "output_index": place, "item": item }));
    }

    fn part(&mut self, (place, id): (u64, &Value), group: Group, index: u64, part: &Value) {
        let (names, index_name) = match group {
            Group::Summary => ("reasoning_summary_part", "summary_index"),
            Group::Content | Group::Call => ("content_part", "content_index"),
        };
        let mut begun = part.clone();
        let text = part_text(part);
        if let Some(begun) = begun.as_object_mut() {
            text.iter().for_each(|(member, _)| drop(begun.insert((*member).to_owned(), "".into())));
            for list in ["annotations", "logprobs"] {
                begun.entry(list).and_modify(|items| *items = json!([]));
            }
        }
        let at = json!({ "item_id": id, "output_index": place, index_name: index });
        self.say(Step::Part(place, group, index), &format!("{names}.added"), with(&at, "part", begun));
        if let Some((member, name)) = text {
            let text = part.get(member).and_then(Value::as_str).unwrap_or_default();
            self.text(place, group, index, (member, name, text), &at);
        }
        self.say(Step::PartDone(place, group, index), &format!("{names}.done"), with(&at, "part", part.clone()));
    }

    fn text(&mut self, place: u64, group: Group, index: u64, (member, name, text): (&str, &str, &str), at: &Value) {
        let at = if name == "output_text" { with(at, "logprobs", json!([])) } else { at.clone() };
        if !text.is_empty() {
            self.say(Step::Text(place, group, index), &format!("{name}.delta"), with(&at, "delta", text.into()));
        }
        self.say(Step::TextDone(place, group, index), &format!("{name}.done"), with(&at, member, text.into()));
    }
}

fn with(at: &Value, name: &str, value: Value) -> Value {
    let mut event = at.clone();
    event[name] = value;
    event
}
