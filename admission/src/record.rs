//! A plain JSON record on a topic: OpenAI's request shape as the value, the rest in headers.
//!
//! | header | meaning |
//! |---|---|
//! | `content-type` | begins with `application/json`: what makes it one |
//! | `idempotency-key` | the same key is the same request |
//! | `operation` | `embeddings`, or `chat.completions` as without it |
//! | `user` | user within the tenant |
//! | `deadline` | milliseconds since the epoch, or RFC 3339 |
//! | `reply-topic` | allow-listed topic for the outcome |
//! | `label-<name>` | a label |

use millrace_schemas::{Ended, Request};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A header of a record, in the order of the log.
pub type RecordHeader = (String, Option<Vec<u8>>);

const LABEL: &str = "label-";

/// Whether a record with this `content-type` is plain JSON.
#[must_use]
pub fn is_json(content_type: &str) -> bool {
    const JSON: &str = "application/json";
    let kind = content_type.trim_start();
    kind.get(..JSON.len()).is_some_and(|start| start.eq_ignore_ascii_case(JSON))
        && kind[JSON.len()..].trim_start().chars().next().is_none_or(|next| next == ';')
}

/// The request that a plain JSON record makes. Headers of other names are not looked at; of several
/// with one name the last counts. A header that can not be read is left out of the request, and
/// returned as how the request ends.
#[must_use]
pub fn from_json_record(headers: &[RecordHeader], value: Vec<u8>) -> (Request, Option<Ended>) {
    let mut request = Request::new(value);
    let mut refused = None;
    for (written, value) in headers {
        let name = written.to_ascii_lowercase();
        let is_ours = matches!(name.as_str(), "idempotency-key" | "operation" | "user" | "deadline" | "reply-topic");
        if !is_ours && !name.starts_with(LABEL) {
            continue;
        }
        let Some(text) = value.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()) else {
            let message = format!("The record's header '{}' is not UTF-8 text: write it as text.", shown(&name));
            refused.get_or_insert(Ended::invalid("invalid_header", None, message));
            continue;
        };
        match name.as_str() {
            "idempotency-key" => request.idempotency_key = Some(text.to_owned()),
            "operation" => text.clone_into(&mut request.operation),
            "user" => request.user = Some(text.to_owned()),
            "reply-topic" => request.reply_topic = Some(text.to_owned()),
            "deadline" => match deadline(text) {
                Some(deadline) => request.deadline = Some(deadline),
                None => {
                    let message = "The record's header 'deadline' is no instant: write milliseconds since the epoch, \
                                   or RFC 3339 such as 2030-01-31T12:00:00Z.";
                    refused.get_or_insert(Ended::invalid("invalid_header", Some("deadline"), message));
                }
            },
            _ => {
                request.labels.insert(written[LABEL.len()..].to_owned(), text.to_owned());
            }
        }
    }
    (request, refused)
}

fn deadline(text: &str) -> Option<i64> {
    let text = text.trim();
    text.parse().ok().or_else(|| {
        let nanos = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
        i64::try_from(nanos / 1_000_000).ok()
    })
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

    #[test]
    fn headers_become_fields() {
        let headers = [
            header("content-type", "application/json"),
            header("Idempotency-Key", "first"),
            header("idempotency-key", "k"),
            header("user", "web"),
            header("deadline", "2030-01-31T12:00:00.5Z"),
            header("reply-topic", "acme.outcomes"),
            header("Label-Team", "a"),
            ("other".to_owned(), Some(vec![0xff])),
        ];
        let (request, refused) = from_json_record(&headers, b"{}".to_vec());
        assert_eq!(refused, None);
        let labels = [("Team".to_owned(), "a".to_owned())].into();
        let expected = Request {
            idempotency_key: Some("k".to_owned()),
            user: Some("web".to_owned()),
            deadline: Some(1_896_091_200_500),
            reply_topic: Some("acme.outcomes".to_owned()),
            labels,
            ..Request::new(b"{}".to_vec())
        };
        assert_eq!(request, expected);
        assert_eq!(from_json_record(&[header("deadline", " 5 ")], Vec::new()).0.deadline, Some(5));
    }

    #[test]
    fn unreadable_headers_are_refused() {
        for bad in [header("deadline", "tomorrow"), ("user".to_owned(), Some(vec![0xff])), ("label-x".to_owned(), None)]
        {
            let (_, refused) = from_json_record(std::slice::from_ref(&bad), Vec::new());
            assert_eq!(refused.expect("refused").code, "invalid_header", "{bad:?}");
        }
    }

    #[test]
    fn json_is_told_by_its_content_type() {
        for json in ["application/json", "Application/JSON; charset=utf-8", " application/json ;x"] {
            assert!(is_json(json), "{json}");
        }
        for other in ["", "application/jsonl", "application/jso", "avro/binary", "application/é"] {
            assert!(!is_json(other), "{other}");
        }
    }
}
