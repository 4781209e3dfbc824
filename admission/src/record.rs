//! What a record of a topic asks for, in each of the forms in which other people's producers write it.
//!
//! | the record has | it is |
//! |---|---|
//! | `content-type: application/cloudevents+json` | a CloudEvent, structured: the request is its `data` or `data_base64` |
//! | `ce_specversion` or another required attribute as header | a CloudEvent, binary: the request is the value |
//! | `content-type: application/json`, or none and a value that begins with `{` | OpenAI's JSON, bare or in the envelope of Kafka Connect's JsonConverter |
//! | none of these | Avro in Confluent's framing, which the caller decodes and completes with [`fill`] |
//!
//! A request of which that is the whole, `{"body_file": "file-…"}`, is in the file that it names; in Avro, `body_file`
//! says so.
//!
//! The rest is in headers, of which the last of several with one name counts, or in attributes of the
//! event, which count more. What an Avro record says itself counts more than a header, too.
//!
//! | header | attribute | meaning |
//! |---|---|---|
//! | `idempotency-key` | `idempotencykey` | the same key is the same request. Without one, an event's `source` and `id` together are the key |
//! | `operation` | `operation` | `embeddings`, `responses`, or `chat.completions` as without it |
//! | `user` | `user` | user within the tenant |
//! | `deadline` | `deadline` | milliseconds since the epoch, or RFC 3339 |
//! | `reply-topic` | `replytopic` | allow-listed topic for the outcome |
//! | `labels` | `labels` | labels, as a JSON object of strings or as `name=value,name=value` |
//! | `label-<name>` | | one label |

use std::collections::BTreeMap;

use millrace_schemas::{Ended, Operation, Request, SIGNATURE_HEADER};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cloud_event;
use crate::json::{self, Object};

/// A header of a record, in the order of the log.
pub type RecordHeader = (String, Option<Vec<u8>>);

const LABEL: &str = "label-";
/// More than what names a file has, bytes.
const LONGEST_NAME: usize = 1_024;

/// What a record asks for: a request, and how it ends if something of the record can not be read. What
/// can not be read is left out of the request.
pub type Asked = (Request, Option<Ended>);

/// What a record proves its tenant by, where its topic does not: the header `millrace-signature`, or a signed token in
/// that or as `authorization: Bearer <token>`.
#[must_use]
pub fn proof(headers: &[RecordHeader]) -> Option<&str> {
    let bearer = || {
        let (scheme, token) = header(headers, "authorization")?.ok()?.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    };
    header(headers, SIGNATURE_HEADER).and_then(Result::ok).or_else(bearer)
}

/// Whether a content type is JSON of no special kind.
#[must_use]
pub fn is_json(content_type: &str) -> bool {
    media_type(content_type).eq_ignore_ascii_case("application/json")
}

/// The request that a record makes; `None` where it is Avro.
#[must_use]
pub fn read(headers: &[RecordHeader], value: &[u8]) -> Option<Asked> {
    let (mut request, refused) = read_form(headers, value)?;
    if let Some(file) = file_named_in(&request.body) {
        (request.body, request.body_file) = (Vec::new(), Some(file));
    }
    Some((request, refused))
}

/// `{"body_file": "file-…"}` is no request but names the file that it is in. In the value, for that is what a
/// signature is over.
fn file_named_in(body: &[u8]) -> Option<String> {
    if body.len() > LONGEST_NAME {
        return None;
    }
    let object = Object::parse(std::str::from_utf8(body).ok()?).ok()?;
    let name = object.get("body_file").and_then(json::string)?;
    (object.keys().count() == 1).then(|| name.into_owned())
}

fn read_form(headers: &[RecordHeader], value: &[u8]) -> Option<Asked> {
    let content_type = header(headers, "content-type").and_then(Result::ok);
    let kind = content_type.map(|written| media_type(written).to_ascii_lowercase());
    let kind = kind.as_deref();
    if kind.is_some_and(|kind| kind.starts_with(cloud_event::FAMILY)) {
        return Some(cloud_event::structured(kind.unwrap_or_default(), headers, value));
    }
    if cloud_event::is_binary(headers) {
        return Some(cloud_event::binary(content_type, headers, value));
    }
    // Neither Avro's frame nor its id in a header can look like this.
    let is_bare = || {
        header(headers, "content-type").is_none()
            && header(headers, millrace_schemas::VALUE_SCHEMA_ID_HEADER).is_none()
            && value.trim_ascii_start().starts_with(b"{")
    };
    if kind != Some("application/json") && !is_bare() {
        return None;
    }
    let mut fields = Fields::of_headers(headers);
    fields.request.body = unwrapped(value).to_vec();
    Some((fields.request, fields.refused))
}

/// Completes what an Avro record says with its headers, and tells which of them can not be read.
pub fn fill(request: &mut Request, headers: &[RecordHeader]) -> Option<Ended> {
    let Fields { request: written, refused } = Fields::of_headers(headers);
    let or = |own: &mut Option<String>, written: Option<String>| *own = own.take().or(written);
    or(&mut request.idempotency_key, written.idempotency_key);
    or(&mut request.user, written.user);
    or(&mut request.reply_topic, written.reply_topic);
    request.deadline = request.deadline.or(written.deadline);
    if request.operation == Operation::Chat.to_string() {
        request.operation = written.operation;
    }
    for (name, value) in written.labels {
        request.labels.entry(name).or_insert(value);
    }
    refused
}

/// The last header of this name as text; an error where it is none.
pub(crate) fn header<'a>(headers: &'a [RecordHeader], name: &str) -> Option<Result<&'a str, ()>> {
    let (_, value) = headers.iter().rev().find(|(written, _)| written.eq_ignore_ascii_case(name))?;
    Some(value.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or(()))
}

pub(crate) fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// A request without its body, as headers and attributes make it.
pub(crate) struct Fields {
    pub request: Request,
    pub refused: Option<Ended>,
}

impl Fields {
    pub fn of_headers(headers: &[RecordHeader]) -> Self {
        let mut fields = Self { request: Request::new(Vec::new()), refused: None };
        for (written, value) in headers {
            let name = written.to_ascii_lowercase();
            let is_label = name.starts_with(LABEL);
            let Some(field) = FIELDS.iter().find(|field| field.header == name) else {
                if is_label {
                    match text(value.as_deref()) {
                        Some(text) => drop(fields.request.labels.insert(written[LABEL.len()..].to_owned(), text)),
                        None => fields.refuse("invalid_header", &name, not_text("header", &name)),
                    }
                }
                continue;
            };
            match text(value.as_deref()) {
                Some(text) => {
                    if let Err(what) = (field.set)(&mut fields.request, &text) {
                        let message = format!("The record's header '{name}' is no {what}");
                        fields.refuse("invalid_header", &name, message);
                    }
                }
                None => fields.refuse("invalid_header", &name, not_text("header", &name)),
            }
        }
        fields
    }

    /// Whether an attribute of an event is read here.
    pub fn knows(attribute: &str) -> bool {
        FIELDS.iter().any(|field| field.attribute == attribute)
    }

    /// Takes an attribute of an event; others than ours are none of our business.
    pub fn attribute(&mut self, name: &str, text: &str) {
        let Some(field) = FIELDS.iter().find(|field| field.attribute == name) else { return };
        if let Err(what) = (field.set)(&mut self.request, text) {
            self.refuse(cloud_event::INVALID, name, format!("The CloudEvent's attribute '{name}' is no {what}"));
        }
    }

    /// The first refusal is the one that is told.
    pub fn refuse(&mut self, code: &str, param: &str, message: impl Into<String>) {
        self.refused.get_or_insert_with(|| Ended::invalid(code, Some(&shown(param)), message));
    }
}

/// Sets a member of a request; or says what the text should have been.
type Set = fn(&mut Request, &str) -> Result<(), &'static str>;

struct Field {
    header: &'static str,
    attribute: &'static str,
    set: Set,
}

const FIELDS: [Field; 6] = [
    Field {
        header: "idempotency-key",
        attribute: "idempotencykey",
        set: |request, text| {
            request.idempotency_key = Some(text.to_owned());
            Ok(())
        },
    },
    Field {
        header: "operation",
        attribute: "operation",
        set: |request, text| {
            text.clone_into(&mut request.operation);
            Ok(())
        },
    },
    Field {
        header: "user",
        attribute: "user",
        set: |request, text| {
            request.user = Some(text.to_owned());
            Ok(())
        },
    },
    Field {
        header: "deadline",
        attribute: "deadline",
        set: |request, text| {
            let wanted = "instant: write milliseconds since the epoch, or RFC 3339 such as 2030-01-31T12:00:00Z.";
            request.deadline = Some(deadline(text).ok_or(wanted)?);
            Ok(())
        },
    },
    Field {
        header: "reply-topic",
        attribute: "replytopic",
        set: |request, text| {
            request.reply_topic = Some(text.to_owned());
            Ok(())
        },
    },
    Field {
        header: "labels",
        attribute: "labels",
        set: |request, text| {
            let wanted = "list of labels: write a JSON object of strings, or name=value,name=value.";
            request.labels.extend(labels(text).ok_or(wanted)?);
            Ok(())
        },
    },
];

fn text(value: Option<&[u8]>) -> Option<String> {
    value.and_then(|bytes| std::str::from_utf8(bytes).ok()).map(str::to_owned)
}

pub(crate) fn not_text(kind: &str, name: &str) -> String {
    format!("The record's {kind} '{}' is not UTF-8 text: write it as text.", shown(name))
}

fn labels(text: &str) -> Option<BTreeMap<String, String>> {
    let text = text.trim();
    if text.starts_with('{') {
        return serde_json::from_str(text).ok();
    }
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
    pairs.map(|pair| pair.split_once('=').map(|(name, value)| (name.trim().into(), value.trim().into()))).collect()
}

fn deadline(text: &str) -> Option<i64> {
    let text = text.trim();
    text.parse().ok().or_else(|| {
        let nanos = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
        i64::try_from(nanos / 1_000_000).ok()
    })
}

/// Kafka Connect's JsonConverter with `schemas.enable` writes `{"schema": …, "payload": …}`, and nothing
/// else: no request looks like that.
fn unwrapped(value: &[u8]) -> &[u8] {
    let payload = || {
        let object = Object::parse(std::str::from_utf8(value).ok()?).ok()?;
        let is_envelope =
            object.keys().count() == 2 && matches!(json::kind(object.get("schema")?), "an object" | "null");
        object.get("payload").filter(|_| is_envelope)
    };
    payload().map_or(value, str::as_bytes)
}

fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str) -> RecordHeader {
        (name.to_owned(), Some(value.as_bytes().to_vec()))
    }

    fn json() -> RecordHeader {
        header("content-type", "application/json")
    }

    #[test]
    fn headers_become_fields() {
        let headers = [
            json(),
            header("Idempotency-Key", "first"),
            header("idempotency-key", "k"),
            header("user", "web"),
            header("deadline", "2030-01-31T12:00:00.5Z"),
            header("reply-topic", "acme.outcomes"),
            header("Label-Team", "a"),
            header("labels", r#"{"cost centre":"7,a=b"}"#),
            header("Labels", " x = y ,z=a=b, "),
            ("other".to_owned(), Some(vec![0xff])),
        ];
        let (request, refused) = read(&headers, b"{}").expect("plain");
        assert_eq!(refused, None);
        let labels = [("Team", "a"), ("cost centre", "7,a=b"), ("x", "y"), ("z", "a=b")];
        let expected = Request {
            idempotency_key: Some("k".to_owned()),
            user: Some("web".to_owned()),
            deadline: Some(1_896_091_200_500),
            reply_topic: Some("acme.outcomes".to_owned()),
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..Request::new(b"{}".to_vec())
        };
        assert_eq!(request, expected);
        assert_eq!(read(&[json(), header("deadline", " 5 ")], b"").expect("plain").0.deadline, Some(5));
    }

    #[test]
    fn unreadable_headers_are_refused() {
        for bad in [
            header("deadline", "tomorrow"),
            ("user".to_owned(), Some(vec![0xff])),
            ("label-x".to_owned(), None),
            header("labels", "no pair"),
            header("labels", r#"{"a":1}"#),
            header("labels", "{"),
        ] {
            let (_, refused) = read(&[json(), bad.clone()], b"").expect("plain");
            let refused = refused.expect("refused");
            assert_eq!(refused.code, "invalid_header", "{bad:?}");
            assert_eq!(refused.param, Some(bad.0), "{}", refused.message);
        }
    }

    #[test]
    fn json_is_told_by_its_content_type_or_its_first_byte() {
        for json in ["application/json", "Application/JSON; charset=utf-8", " application/json ;x"] {
            assert!(read(&[header("content-type", json)], b"").is_some(), "{json}");
        }
        for other in ["", "application/jsonl", "application/jso", "avro/binary", "application/é"] {
            assert!(read(&[header("content-type", other)], b"{}").is_none(), "{other}");
        }
        assert!(read(&[], b" \n{}").is_some());
        assert!(read(&[], b"\0\0\0\0\x01{").is_none());
        assert!(read(&[], b"[]").is_none());
        assert!(read(&[("__value_schema_id".to_owned(), Some(vec![0; 5]))], b"{}").is_none(), "Avro may begin so");
    }

    #[test]
    fn an_envelope_of_kafka_connect_is_opened() {
        let body = |value: &str| {
            let (request, refused) = read(&[json()], value.as_bytes()).expect("plain");
            assert_eq!(refused, None);
            String::from_utf8(request.body).expect("text")
        };
        assert_eq!(body(r#"{"schema":{"type":"struct"},"payload":{"model": "m"}}"#), r#"{"model": "m"}"#);
        assert_eq!(body(r#"{"payload":"x","schema":null}"#), r#""x""#);
        for other in [r#"{"payload":{},"schema":{},"model":"m"}"#, r#"{"payload":{}}"#, r#"{"schema":1,"payload":{}}"#]
        {
            assert_eq!(body(other), other);
        }
    }

    #[test]
    fn a_request_may_be_in_a_file() {
        let event = |data: &str| {
            format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{data}}}"#).into_bytes()
        };
        let named = |headers: &[RecordHeader], value: &[u8]| {
            let (request, refused) = read(headers, value).expect("plain");
            assert_eq!(refused, None);
            request.body_file.inspect(|_| assert!(request.body.is_empty()))
        };
        let file = r#" { "body_file" : "file-1" } "#;
        let connect = format!(r#"{{"schema":null,"payload":{file}}}"#);
        let in_event = [header("content-type", "application/cloudevents+json")];
        for (headers, value) in [
            (&[json()][..], file.as_bytes()),
            (&[][..], file.trim().as_bytes()),
            (&[json()][..], connect.as_bytes()),
            (&in_event[..], &event(file)[..]),
        ] {
            assert_eq!(named(headers, value), Some("file-1".to_owned()));
        }
        for other in [r#"{"body_file":1}"#, r#"{"body_file":"f","model":"m"}"#, r#"{"body_file":"f","body_file":"g"}"#]
        {
            assert_eq!(named(&[json()], other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn what_an_avro_record_says_itself_counts_more() {
        let headers = [header("user", "a"), header("idempotency-key", "k"), header("labels", "x=1,y=2")];
        let own = Request {
            user: Some("own".to_owned()),
            labels: [("x".to_owned(), "own".to_owned())].into(),
            ..Request::new(b"{}".to_vec())
        };
        let mut request = own.clone();
        assert_eq!(fill(&mut request, &headers), None);
        let labels = [("x".to_owned(), "own".to_owned()), ("y".to_owned(), "2".to_owned())].into();
        assert_eq!(request, Request { idempotency_key: Some("k".to_owned()), labels, ..own });
        assert!(fill(&mut request, &[header("deadline", "x")]).is_some());
    }
}
