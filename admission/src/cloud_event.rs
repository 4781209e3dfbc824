//! Requests as CloudEvents 1.0, in both content modes of their Kafka protocol binding.
//!
//! The data is the client's JSON, byte for byte. Of the attributes, `source` and `id` make the
//! idempotency key where none is given, since by their specification they name one event;
//! `specversion`, `type` and `datacontenttype` are checked; those that [`crate::record`] lists are
//! read. All others (`subject`, `time`, `dataschema`, other people's extensions) are left alone, and so
//! is what `type` says: an event of any type is a request here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_schemas::Request;
use sha2::{Digest, Sha256};

use crate::json::{self, NotAnObject, Object};
use crate::record::{Asked, Fields, RecordHeader, header, media_type, not_text};

/// Code of what is no event that can be read.
pub(crate) const INVALID: &str = "invalid_cloudevent";

/// How the media types of events in one piece begin.
pub(crate) const FAMILY: &str = "application/cloudevents";

const PREFIX: &str = "ce_";
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];
/// Longest idempotency key.
const MAX_KEY: usize = 255;

/// Whether a record is an event whose attributes are headers.
pub(crate) fn is_binary(headers: &[RecordHeader]) -> bool {
    REQUIRED.iter().any(|name| header(headers, &format!("{PREFIX}{name}")).is_some())
}

/// An event whose attributes are headers and whose data is the value.
pub(crate) fn binary(content_type: Option<&str>, headers: &[RecordHeader], value: &[u8]) -> Asked {
    let mut fields = Fields::of_headers(headers);
    let mut event = Event::default();
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        let Some(attribute) = name.strip_prefix(PREFIX) else { continue };
        match value.as_deref().map(std::str::from_utf8) {
            Some(Ok(text)) => event.take(&mut fields, attribute, text),
            Some(Err(_)) | None if is_read(attribute) => {
                fields.refuse(INVALID, attribute, not_text("header", &name));
            }
            Some(Err(_)) | None => {}
        }
    }
    event.finish(fields, content_type, value.to_vec())
}

/// An event in one piece, of this media type.
pub(crate) fn structured(media_type: &str, headers: &[RecordHeader], value: &[u8]) -> Asked {
    let mut fields = Fields::of_headers(headers);
    match media_type {
        "application/cloudevents+json" => {}
        "application/cloudevents-batch+json" => {
            fields.refuse(
                "unsupported_content_type",
                "content-type",
                "The record is a batch of CloudEvents, which could end in several ways: publish each event as a record of its own.",
            );
            return (fields.request, fields.refused);
        }
        other => {
            let message = format!(
                "CloudEvents of '{}' are not read: publish them as application/cloudevents+json, or in binary mode.",
                other.chars().take(64).collect::<String>()
            );
            fields.refuse("unsupported_content_type", "content-type", message);
            return (fields.request, fields.refused);
        }
    }
    let Ok(text) = std::str::from_utf8(value) else {
        fields.refuse(INVALID, "data", "The CloudEvent is not UTF-8 text: write JSON in UTF-8.");
        return (fields.request, fields.refused);
    };
    let object = match Object::parse(text) {
        Ok(object) => object,
        Err(NotAnObject::Syntax(error)) => {
            fields.refuse(INVALID, "data", format!("The CloudEvent is not JSON: {error}."));
            return (fields.request, fields.refused);
        }
        Err(NotAnObject::Other(kind)) => {
            fields.refuse(INVALID, "data", format!("A CloudEvent is a JSON object, but this is {kind}."));
            return (fields.request, fields.refused);
        }
    };
    let mut event = Event::default();
    let mut datacontenttype = None;
    let mut seen = Vec::new();
    for (name, raw) in &object.0 {
        let name = name.as_ref();
        if *raw == "null" || !(is_read(name) || matches!(name, "data" | "data_base64" | "datacontenttype")) {
            continue;
        }
        if seen.contains(&name) {
            fields.refuse(INVALID, name, format!("The CloudEvent has '{name}' twice: give it once."));
        }
        seen.push(name);
        match (name, json::string(raw)) {
            ("data" | "data_base64", _) => {}
            ("datacontenttype", Some(text)) => datacontenttype = Some(text),
            (_, Some(text)) => event.take(&mut fields, name, &text),
            // Integers are a type of attributes; and labels as an object are what they would be in a string.
            ("deadline" | "labels", None) => event.take(&mut fields, name, raw),
            (_, None) => {
                let message = format!("The CloudEvent's attribute '{name}' is {}: make it a string.", json::kind(raw));
                fields.refuse(INVALID, name, message);
            }
        }
    }
    let given = |name: &str| object.get(name).filter(|raw| *raw != "null");
    let data = match (object.get("data"), given("data_base64")) {
        (Some(_), Some(_)) => Err("The CloudEvent has both 'data' and 'data_base64': give one of them."),
        (None, None) => Err("The CloudEvent has no data: put the request, as OpenAI's API takes it, into 'data'."),
        (Some(data), None) => Ok(data.as_bytes().to_vec()),
        (None, Some(raw)) => json::string(raw)
            .and_then(|text| STANDARD.decode(text.as_bytes()).ok())
            .ok_or("The CloudEvent's 'data_base64' is no string in base64: write the data as JSON into 'data'."),
    };
    let data = data.unwrap_or_else(|message| {
        fields.refuse(INVALID, "data", message);
        Vec::new()
    });
    event.finish(fields, datacontenttype.as_deref(), data)
}

fn is_read(attribute: &str) -> bool {
    REQUIRED.contains(&attribute) || Fields::knows(attribute)
}

/// What is required of an event.
#[derive(Default)]
struct Event {
    required: [Option<String>; REQUIRED.len()],
}

impl Event {
    fn take(&mut self, fields: &mut Fields, attribute: &str, text: &str) {
        match REQUIRED.iter().position(|name| *name == attribute) {
            Some(index) => self.required[index] = Some(text.to_owned()),
            None => fields.attribute(attribute, text),
        }
    }

    fn finish(self, mut fields: Fields, datacontenttype: Option<&str>, data: Vec<u8>) -> Asked {
        for (name, value) in REQUIRED.iter().zip(&self.required) {
            if value.as_deref().is_none_or(str::is_empty) {
                fields.refuse(INVALID, name, format!("The CloudEvent lacks its required attribute '{name}': set it."));
            }
        }
        let [version, id, source, _] = self.required.map(Option::unwrap_or_default);
        if version != "1.0" {
            fields.refuse(
                INVALID,
                "specversion",
                "The CloudEvent's 'specversion' is not 1.0, the only one that is read.",
            );
        }
        if source.contains(char::is_whitespace) {
            fields.refuse(INVALID, "source", "The CloudEvent's 'source' is no URI reference: it has a space in it.");
        }
        if datacontenttype.is_some_and(|written| !is_json_of_any_kind(written)) {
            let message = "The CloudEvent's data is not JSON by its content type: send JSON as application/json.";
            fields.refuse(INVALID, "datacontenttype", message);
        }
        if fields.refused.is_none() {
            // A refusal must not take the key of the event that is sent again, mended.
            let key = &mut fields.request.idempotency_key;
            key.get_or_insert_with(|| key_of(&source, &id));
        }
        (Request { body: data, ..fields.request }, fields.refused)
    }
}

fn is_json_of_any_kind(content_type: &str) -> bool {
    let kind = media_type(content_type).to_ascii_lowercase();
    kind == "application/json" || kind == "text/json" || kind.ends_with("+json")
}

/// The source has no space, so no two events have one key.
fn key_of(source: &str, id: &str) -> String {
    let key = format!("{source} {id}");
    if key.chars().count() <= MAX_KEY { key } else { format!("sha256 {}", hex::encode(Sha256::digest(key))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::read;

    const BODY: &str = r#"{"model":"m","messages":[]}"#;

    fn headers(pairs: &[(&str, &str)]) -> Vec<RecordHeader> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Some(value.as_bytes().to_vec()))).collect()
    }

    const BINARY: [(&str, &str); 9] = [
        ("ce_specversion", "1.0"),
        ("ce_id", "7"),
        ("ce_source", "/shop"),
        ("ce_type", "com.example.asked"),
        ("content-type", "application/json"),
        ("ce_user", "web"),
        ("ce_replytopic", "acme.outcomes"),
        ("ce_deadline", "5"),
        ("ce_labels", "team=a"),
    ];

    fn structured_event(more: &str) -> (Request, Option<millrace_schemas::Ended>) {
        let text = format!(r#"{{"specversion":"1.0","id":"7","source":"/shop","type":"com.example.asked"{more}}}"#);
        read(&headers(&[("content-type", "application/cloudevents+json; charset=UTF-8")]), text.as_bytes())
            .expect("event")
    }

    fn expected() -> Request {
        Request {
            idempotency_key: Some("/shop 7".to_owned()),
            user: Some("web".to_owned()),
            deadline: Some(5),
            reply_topic: Some("acme.outcomes".to_owned()),
            labels: [("team".to_owned(), "a".to_owned())].into(),
            ..Request::new(BODY.as_bytes().to_vec())
        }
    }

    #[test]
    fn both_modes_make_the_same_request() {
        assert_eq!(read(&headers(&BINARY), BODY.as_bytes()), Some((expected(), None)));
        let attributes =
            r#","user":"web","replytopic":"acme.outcomes","deadline":5,"labels":{"team":"a"},"subject":3,"time":null"#;
        assert_eq!(structured_event(&format!(r#"{attributes},"data":{BODY}"#)), (expected(), None));
        let data = STANDARD.encode(BODY);
        assert_eq!(structured_event(&format!(r#"{attributes},"data_base64":"{data}""#)), (expected(), None));
    }

    #[test]
    fn the_key_is_the_one_that_is_given_or_that_of_the_event() {
        let key = |more: &[(&str, &str)]| {
            let (request, refused) = read(&headers(&[&BINARY, more].concat()), BODY.as_bytes()).expect("event");
            assert_eq!(refused, None);
            request.idempotency_key.expect("a key")
        };
        assert_eq!(key(&[("idempotency-key", "k")]), "k");
        assert_eq!(key(&[("idempotency-key", "k"), ("ce_idempotencykey", "e")]), "e", "the event counts more");
        let long = key(&[("ce_id", &"é".repeat(300))]);
        assert!(long.starts_with("sha256 ") && long.len() < MAX_KEY, "{long}");
        assert_ne!(long, key(&[("ce_id", &"é".repeat(301))]));
    }

    #[test]
    fn bad_events_are_refused_and_keep_no_key() {
        let check = |(request, refused): Asked, code: &str, param: &str| {
            let refused = refused.expect("refused");
            assert_eq!((refused.code.as_str(), refused.param.as_deref()), (code, Some(param)), "{}", refused.message);
            assert!(refused.message.ends_with('.') && !refused.message.contains('\n'), "{}", refused.message);
            assert_eq!(request.idempotency_key, None);
        };
        for name in REQUIRED {
            let without: Vec<_> = BINARY.into_iter().filter(|(written, _)| *written != format!("ce_{name}")).collect();
            check(read(&headers(&without), b"").expect("event"), INVALID, name);
        }
        let with = |name, value| read(&headers(&[&BINARY[..], &[(name, value)]].concat()), b"{}").expect("event");
        check(with("ce_specversion", "0.3"), INVALID, "specversion");
        check(with("ce_source", "a b"), INVALID, "source");
        check(with("content-type", "application/avro"), INVALID, "datacontenttype");
        check(with("ce_deadline", "x"), INVALID, "deadline");
        check(with("ce_labels", "x"), INVALID, "labels");
        let unsupported = "unsupported_content_type";
        check(with("content-type", "application/cloudevents-batch+json"), unsupported, "content-type");
        check(with("content-type", "application/cloudevents+avro"), unsupported, "content-type");
        let mut bytes = headers(&BINARY);
        bytes.push(("ce_user".to_owned(), Some(vec![0xff])));
        check(read(&bytes, b"{}").expect("event"), INVALID, "user");

        check(structured_event(""), INVALID, "data");
        check(structured_event(r#","data":{},"data_base64":"""#), INVALID, "data");
        check(structured_event(r#","data_base64":"_""#), INVALID, "data");
        check(structured_event(r#","data":{},"id":"8""#), INVALID, "id");
        check(structured_event(r#","data":{},"user":7"#), INVALID, "user");
        check(structured_event(r#","data":{}"#.replace("{}", "{").as_str()), INVALID, "data");
        check(structured_event(r#","data":"x","datacontenttype":"text/plain""#), INVALID, "datacontenttype");
        let structured = headers(&[("content-type", "application/cloudevents+json")]);
        check(read(&structured, b"[]").expect("event"), INVALID, "data");
        check(read(&structured, b"\xff").expect("event"), INVALID, "data");
    }
}
