//! The texts of a request's body: where they are, and who says them.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::completion::{is_json, tokens};

/// Members of a body that become part of what a model sees.
const SEEN: [&str; 9] =
    ["messages", "input", "instructions", "prompt", "tools", "functions", "prediction", "response_format", "text"];

/// Those of them in which whoever made the application speaks.
const OF_APPLICATION: [&str; 6] = ["instructions", "tools", "functions", "prediction", "response_format", "text"];

/// Members that are texts wherever they are. Everything else may be a name that somebody goes by.
const TEXTS: [&str; 13] = [
    "content",
    "text",
    "input",
    "output",
    "prompt",
    "instructions",
    "description",
    "summary",
    "refusal",
    "reasoning",
    "reasoning_content",
    "thinking",
    "transcript",
];

/// Bodies have texts at a depth of eight or so; deeper ones are no texts.
const DEEPEST: usize = 32;

/// A text of a body.
pub(crate) struct Text<'a> {
    /// A string; arguments may be any JSON.
    pub raw: &'a RawValue,
    /// Whether it is the arguments of a call: often JSON.
    pub is_arguments: bool,
    /// Whether it comes from a user or a tool, rather than from the application or a model.
    pub is_input: bool,
}

/// Each member of an object, also one that is given twice: which of them a provider reads is not known.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// What a model sees of a body.
pub(crate) struct Seen<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Seen<'a> {
    /// `None` of what is no JSON object.
    pub fn of(body: &'a str) -> Option<Self> {
        let Members(mut members) = serde_json::from_str(body).ok()?;
        members.retain(|(name, _)| SEEN.contains(&name.as_str()));
        Some(Self(members))
    }

    /// Every string, name and number, and those of the JSON in strings; `None` of a string that is no Unicode text.
    pub fn each_token(&self, visit: &mut dyn FnMut(Option<&str>)) {
        self.0.iter().for_each(|(_, value)| each_token(value.get(), visit));
    }

    /// The texts in their order.
    pub fn texts(&self) -> Vec<Text<'a>> {
        let mut texts = Vec::new();
        for (name, value) in &self.0 {
            let is_input = !OF_APPLICATION.contains(&name.as_str());
            collect(name, value, is_input, DEEPEST, &mut texts);
        }
        texts
    }
}

fn each_token(json: &str, visit: &mut dyn FnMut(Option<&str>)) {
    for token in tokens(json) {
        let raw = &json[token];
        if !raw.starts_with('"') {
            visit(Some(raw));
            continue;
        }
        let Ok(text) = serde_json::from_str::<String>(raw) else {
            visit(None);
            continue;
        };
        visit(Some(&text));
        // Each level of JSON in strings takes more escapes than the one around it, so there are few.
        if text.trim_start().starts_with(['{', '[']) && is_json(&text) {
            each_token(&text, visit);
        }
    }
}

fn collect<'a>(name: &str, value: &'a RawValue, is_input: bool, deep: usize, texts: &mut Vec<Text<'a>>) {
    let (json, Some(deep)) = (value.get(), deep.checked_sub(1)) else { return };
    match json.as_bytes().first() {
        Some(_) if name == "arguments" => texts.push(Text { raw: value, is_arguments: true, is_input }),
        Some(b'"') if TEXTS.contains(&name) => {
            texts.push(Text { raw: value, is_arguments: false, is_input });
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(json).unwrap_or_default();
            items.into_iter().for_each(|item| collect(name, item, is_input, deep, texts));
        }
        Some(b'{') => {
            let Ok(Members(members)) = serde_json::from_str::<Members<'_>>(json) else { return };
            let is_input = said_by_input(&members).unwrap_or(is_input);
            members.iter().for_each(|(name, value)| collect(name, value, is_input, deep, texts));
        }
        Some(_) | None => {}
    }
}

/// Whether a message or an item comes from a user or a tool; `None` of what does not say so.
fn said_by_input(members: &[(String, &RawValue)]) -> Option<bool> {
    let all = |wanted: &str| {
        let of_name = members.iter().filter(move |(name, _)| name == wanted);
        of_name.filter_map(|(_, value)| serde_json::from_str::<String>(value.get()).ok()).collect::<Vec<_>>()
    };
    let (roles, kinds) = (all("role"), all("type"));
    if !roles.is_empty() {
        return Some(!roles.iter().all(|role| matches!(role.as_str(), "system" | "developer" | "assistant")));
    }
    let of_model = |kind: &String| matches!(kind.as_str(), "function_call" | "custom_tool_call" | "reasoning");
    (!kinds.is_empty() && kinds.iter().all(of_model)).then_some(false)
}
