//! The client's JSON with a few paths rewritten and every other byte as it came.

use std::ops::Range;

use crate::json::{self, NotAnObject, Object};
use crate::messages;

/// The top level of a request's body: an ordered map whose untouched values keep their exact bytes,
/// whatever their numbers, escapes and blanks look like. A body that was never edited is returned
/// byte for byte.
#[derive(Debug, Clone)]
pub struct EditableBody {
    original: String,
    members: Vec<(String, Member)>,
    edited: bool,
}

#[derive(Debug, Clone)]
enum Member {
    Kept(Range<usize>),
    New(String),
}

impl EditableBody {
    /// Reads a body. `None` when it is not a JSON object.
    #[must_use]
    pub fn parse(original: String) -> Option<Self> {
        Self::read(original).ok()
    }

    pub(crate) fn read(original: String) -> Result<Self, NotAnObject> {
        let members = Object::parse(&original)?
            .0
            .into_iter()
            .map(|(key, value)| {
                let start = json::offset(&original, value);
                (key.into_owned(), Member::Kept(start..start + value.len()))
            })
            .collect();
        Ok(Self { original, members, edited: false })
    }

    /// The raw JSON of a member, the first of its name.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.members.iter().find(|(k, _)| k == key).map(|(_, member)| self.raw(member))
    }

    /// Names of all members in their order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(key, _)| key.as_str())
    }

    /// Takes a member out. True when it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        let before = self.members.len();
        self.members.retain(|(k, _)| k != key);
        let removed = self.members.len() < before;
        self.edited |= removed;
        removed
    }

    /// Gives a member a new value, in its place or at the end.
    pub fn set(&mut self, key: &str, value: &serde_json::Value) {
        self.set_raw(key, value.to_string());
    }

    /// Puts a message of `role` in front of the last message of a user; in front of the last one
    /// when there is none of a user. False when there are no messages.
    pub fn insert_message_before_last_user(&mut self, role: &str, content: &str) -> bool {
        let Some(raw) = self.get("messages") else { return false };
        let Some(at) = messages::before_last_user(raw) else { return false };
        let (before, after) = raw.split_at(at);
        let (role, content) = (json::quoted(role), json::quoted(content));
        let raw = format!("{before}{{\"role\":{role},\"content\":{content}}},{after}");
        self.set_raw("messages", raw);
        true
    }

    /// The body's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        if !self.edited {
            return self.original.clone().into_bytes();
        }
        let mut bytes = Vec::with_capacity(self.original.len() + 256);
        bytes.push(b'{');
        for (index, (key, member)) in self.members.iter().enumerate() {
            if index > 0 {
                bytes.push(b',');
            }
            bytes.extend_from_slice(json::quoted(key).as_bytes());
            bytes.push(b':');
            bytes.extend_from_slice(self.raw(member).as_bytes());
        }
        bytes.push(b'}');
        bytes
    }

    pub(crate) fn set_raw(&mut self, key: &str, raw: String) {
        self.edited = true;
        match self.members.iter_mut().find(|(k, _)| k == key) {
            Some((_, member)) => *member = Member::New(raw),
            None => self.members.push((key.to_owned(), Member::New(raw))),
        }
    }

    fn raw<'a>(&'a self, member: &'a Member) -> &'a str {
        match member {
            Member::Kept(range) => &self.original[range.clone()],
            Member::New(raw) => raw,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &str = "{ \"mod\\u0065l\":\"a\",\n \"temperature\" : 1e2 , \"seed\":-0.0, \"logit_bias\":{ \"1\" :\t1.10 },\
        \"millrace\":{}, \"messages\": [ {\"role\":\"system\",\"content\":\"\\u00e9\\/\"} ,\n {\"content\" : \"q\", \"role\":\"user\"} , \
        {\"role\":\"assistant\",\"content\":null} ], \"next_month\":[1.0,1E5,{\"a\" : \"\\ud83d\\ude00\"}], \"next_month\":2 }";

    #[test]
    fn an_unedited_body_is_the_same_bytes() {
        let body = EditableBody::parse(ODD.to_owned()).expect("an object");
        assert_eq!(body.to_bytes(), ODD.as_bytes());
        assert_eq!(body.get("model"), Some("\"a\""));
    }

    #[test]
    fn untouched_values_keep_their_bytes() {
        let mut body = EditableBody::parse(ODD.to_owned()).expect("an object");
        assert!(body.remove("millrace"));
        assert!(!body.remove("millrace"));
        body.set("model", &serde_json::json!("upstream"));
        body.set("stream", &serde_json::json!(false));
        assert!(body.insert_message_before_last_user("system", "Use \"this\"\n"));
        let expected = "{\"model\":\"upstream\",\"temperature\":1e2,\"seed\":-0.0,\"logit_bias\":{ \"1\" :\t1.10 },\
            \"messages\":[ {\"role\":\"system\",\"content\":\"\\u00e9\\/\"} ,\n {\"role\":\"system\",\"content\":\"Use \\\"this\\\"\\n\"},\
            {\"content\" : \"q\", \"role\":\"user\"} , {\"role\":\"assistant\",\"content\":null} ],\
            \"next_month\":[1.0,1E5,{\"a\" : \"\\ud83d\\ude00\"}],\"next_month\":2,\"stream\":false}";
        assert_eq!(String::from_utf8(body.to_bytes()).expect("UTF-8"), expected);
    }

    #[test]
    fn a_message_finds_its_place_without_a_user() {
        for (messages, expected) in [
            ("[]", None),
            ("7", None),
            ("[{\"role\":\"tool\"}]", Some("[{\"role\":\"system\",\"content\":\"p\"},{\"role\":\"tool\"}]")),
        ] {
            let mut body = EditableBody::parse(format!("{{\"messages\":{messages}}}")).expect("an object");
            assert_eq!(body.insert_message_before_last_user("system", "p"), expected.is_some());
            assert_eq!(body.get("messages"), Some(expected.unwrap_or(messages)));
        }
    }
}
