//! Records of any bytes: they are read or refused, and neither panics nor grows.

use millrace_admission::record::{self, RecordHeader};
use millrace_mutate as mutate;
use millrace_schemas::Request;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const NAMES: [&str; 24] = [
    "content-type",
    "Content-Type",
    "idempotency-key",
    "operation",
    "user",
    "deadline",
    "reply-topic",
    "labels",
    "label-",
    "label-é",
    "LABEL-x",
    "__value_schema_id",
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_user",
    "CE_Deadline",
    "ce_labels",
    "ce_replytopic",
    "ce_operation",
    "ce_idempotencykey",
    "ce_",
    "é",
];

const VALUES: [&str; 18] = [
    "application/json",
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
    "application/cloudevents",
    "application/json;;",
    ";",
    "1.0",
    "/shop",
    "2030-01-31T12:00:00Z",
    "9999-99-99T99:99:99Z",
    "99999999999999999999",
    "-1",
    "a=b,c=d",
    "=",
    "{\"a\":\"b\"}",
    "{\"a\":[[[[",
    "{",
    "",
];

const BODIES: &[&str] = &[
    r#"{"specversion":"1.0","id":"7","source":"/s","type":"t","deadline":5,"labels":{"a":"b"},"data":{"model":"m"}}"#,
    r#"{"specversion":"1.0","id":"7","source":"/s","type":"t","data_base64":"e30=","user":null,"x":[1,{"y":"\u00e9"}]}"#,
    r#"{"schema":{"type":"struct","fields":[]},"payload":{"model":"m","messages":[]}}"#,
    r#"{"model":"m","messages":[{"role":"user","content":"q\ud83d\ude00"}]}"#,
    "[{}]",
    "\u{0}\u{0}\u{0}\u{0}\u{1}x",
];

fn headers() -> impl Strategy<Value = Vec<RecordHeader>> {
    let name = prop_oneof![8 => select(NAMES.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,9}"];
    let value = prop_oneof![
        6 => select(VALUES.to_vec()).prop_map(|value| Some(value.as_bytes().to_vec())),
        1 => option::of(prop::collection::vec(any::<u8>(), 0..300)),
    ];
    prop::collection::vec((name, value), 0..10)
}

proptest! {
    #![proptest_config(mutate::cases(3_000))]

    #[test]
    fn any_record_is_read_or_refused(headers in headers(), value in mutate::bytes(BODIES)) {
        let size = value.len() + headers.iter().map(|(n, v)| n.len() + v.as_ref().map_or(0, Vec::len)).sum::<usize>();
        let asked = record::read(&headers, &value).unwrap_or_else(|| {
            let mut request = Request::new(value.clone());
            let refused = record::fill(&mut request, &headers);
            (request, refused)
        });
        let (request, refused) = asked;
        prop_assert!(request.body.len() <= value.len(), "a body is a part of its record");
        let labels: usize = request.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        prop_assert!(labels <= size, "so are labels");
        if let Some(refused) = refused {
            prop_assert!(["invalid_header", "invalid_cloudevent", "unsupported_content_type"].contains(&refused.code.as_str()));
            prop_assert_eq!(refused.http_status, 400);
            prop_assert!(refused.message.len() < 600 && !refused.message.contains('\n'), "{}", refused.message);
        }
        let again = record::read(&headers, &value);
        prop_assert_eq!(again, record::read(&headers, &value), "the same bytes are the same request");
    }
}
