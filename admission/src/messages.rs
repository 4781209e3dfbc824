//! The conversation in a request: is it one, what is asked last, how many tokens has it.

use std::borrow::Cow;

use millrace_schemas::Ended;

use crate::checks::{missing, wrong_type};
use crate::json::{self, Object};
use crate::tokens::{self, Counter};

/// What the provider's template adds to each message, and once to the prompt.
const TOKENS_PER_MESSAGE: u32 = 3;

/// Counted for an image, a sound or a file: what OpenAI's tiles cost for a large image in high
/// detail. Their true cost is known to the provider only.
const TOKENS_PER_MEDIUM: u32 = 1_445;

/// Members of a message that are read, and so may be there only once.
const READ: [&str; 4] = ["role", "content", "name", "tool_calls"];

#[derive(Debug)]
pub(crate) struct Messages<'a> {
    raw: &'a str,
    messages: Vec<Message<'a>>,
}

#[derive(Debug)]
struct Message<'a> {
    role: Cow<'a, str>,
    texts: Vec<Cow<'a, str>>,
    /// Other members that become part of the prompt, as they were written.
    raws: Vec<&'a str>,
    media: u32,
}

impl<'a> Messages<'a> {
    /// Reads the member `messages`.
    pub fn read(raw: &'a str) -> Result<Self, Ended> {
        let items = json::items(raw).ok_or_else(|| wrong_type("messages", "an array of objects", json::kind(raw)))?;
        if items.is_empty() {
            let message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.";
            return Err(Ended::invalid("empty_array", Some("messages"), message));
        }
        let messages = items
            .into_iter()
            .enumerate()
            .map(|(index, item)| Message::read(&format!("messages[{index}]"), item))
            .collect::<Result<_, _>>()?;
        Ok(Self { raw, messages })
    }

    /// The text of the last message of a user.
    pub fn question(&self) -> Option<String> {
        let message = self.messages.iter().rev().find(|message| message.role == "user")?;
        Some(message.texts.join("\n")).filter(|text| !text.trim().is_empty())
    }

    /// What [`Messages::count`] never exceeds: a message's own JSON is longer than its template.
    pub fn most_tokens(&self) -> u32 {
        tokens::upper_bound(self.raw.len()).saturating_add(self.media_tokens())
    }

    /// Adds the tokens of the conversation.
    pub fn count(&self, counter: &mut Counter) {
        counter.add(TOKENS_PER_MESSAGE.saturating_add(self.media_tokens()));
        for message in &self.messages {
            counter.add(TOKENS_PER_MESSAGE);
            let texts = message.texts.iter().map(Cow::as_ref).chain(message.raws.iter().copied());
            texts.chain([message.role.as_ref()]).for_each(|text| counter.count(text));
        }
    }

    fn media_tokens(&self) -> u32 {
        let media = self.messages.iter().fold(0_u32, |sum, message| sum.saturating_add(message.media));
        media.saturating_mul(TOKENS_PER_MEDIUM)
    }
}

impl<'a> Message<'a> {
    fn read(path: &str, raw: &'a str) -> Result<Self, Ended> {
        let object = Object::parse(raw).map_err(|_| wrong_type(path, "an object", json::kind(raw)))?;
        if let Some(key) = object.twice(&READ) {
            let param = format!("{path}.{key}");
            let message = format!("'{param}' is given twice: give it once.");
            return Err(Ended::invalid("duplicate_parameter", Some(&param), message));
        }
        let param = format!("{path}.role");
        let role = object.get("role").ok_or_else(|| missing(&param, object.keys()))?;
        let role = json::string(role).ok_or_else(|| wrong_type(&param, "a string", json::kind(role)))?;
        if role.is_empty() || role.len() > 64 {
            let message = format!("Invalid '{param}': use one of system, developer, user, assistant, tool.");
            return Err(Ended::invalid("invalid_value", Some(&param), message));
        }
        let raws = ["name", "tool_calls", "function_call", "tool_call_id"];
        let mut message =
            Self { raws: raws.iter().filter_map(|key| object.get(key)).collect(), role, texts: Vec::new(), media: 0 };
        message.read_content(&format!("{path}.content"), &object)?;
        Ok(message)
    }

    fn read_content(&mut self, param: &str, object: &Object<'a>) -> Result<(), Ended> {
        let expected = "a string or an array of content parts";
        let Some(raw) = object.get("content").filter(|raw| *raw != "null") else {
            // An assistant that called a tool said nothing.
            return match (self.role == "assistant", object.get("content")) {
                (true, _) => Ok(()),
                (false, None) => Err(missing(param, object.keys())),
                (false, Some(_)) => Err(wrong_type(param, expected, "null")),
            };
        };
        if json::kind(raw) == "a string" {
            self.texts.push(unicode(param, raw)?);
            return Ok(());
        }
        let parts = json::items(raw).ok_or_else(|| wrong_type(param, expected, json::kind(raw)))?;
        if parts.is_empty() {
            let message = format!("Invalid '{param}': empty array. Expected an array with minimum length 1.");
            return Err(Ended::invalid("empty_array", Some(param), message));
        }
        for (index, part) in parts.into_iter().enumerate() {
            self.read_part(&format!("{param}[{index}]"), part)?;
        }
        Ok(())
    }

    fn read_part(&mut self, path: &str, raw: &'a str) -> Result<(), Ended> {
        let object = Object::parse(raw).map_err(|_| wrong_type(path, "an object", json::kind(raw)))?;
        if let Some(key) = object.twice(&["type", "text", "refusal"]) {
            let param = format!("{path}.{key}");
            let message = format!("'{param}' is given twice: give it once.");
            return Err(Ended::invalid("duplicate_parameter", Some(&param), message));
        }
        let param = format!("{path}.type");
        let kind = object.get("type").ok_or_else(|| missing(&param, object.keys()))?;
        let kind = json::string(kind).ok_or_else(|| wrong_type(&param, "a string", json::kind(kind)))?;
        match kind.as_ref() {
            field @ ("text" | "refusal") => {
                let param = format!("{path}.{field}");
                let text = object.get(field).ok_or_else(|| missing(&param, object.keys()))?;
                if json::kind(text) != "a string" {
                    return Err(wrong_type(&param, "a string", json::kind(text)));
                }
                self.texts.push(unicode(&param, text)?);
            }
            // Images, sounds, files, and what comes next month: the provider judges them.
            _ => self.media = self.media.saturating_add(1),
        }
        Ok(())
    }
}

/// A JSON string whose escapes are whole characters.
fn unicode<'a>(param: &str, raw: &'a str) -> Result<Cow<'a, str>, Ended> {
    json::string(raw).ok_or_else(|| {
        let message = format!("Invalid '{param}': the string has half of a surrogate pair; escape whole characters.");
        Ended::invalid("invalid_unicode", Some(param), message)
    })
}

/// Where in the raw `messages` the last message of a user begins, else the last message.
pub(crate) fn before_last_user(raw: &str) -> Option<usize> {
    let items = json::items(raw)?;
    let is_user = |item: &&&str| {
        let object = Object::parse(item).ok();
        object.and_then(|object| object.get("role").and_then(json::string)).is_some_and(|role| role == "user")
    };
    let item = items.iter().rev().find(is_user).or(items.last())?;
    Some(json::offset(raw, item))
}
