//! The JSON that goes to the provider: the prompt's, with the paths that the router owns edited.

use millrace_admission::{EditableBody, responses};
use millrace_schemas::Operation;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The prompt's body for one target: `model` is the model's name there, and a stream with its usage is
/// asked for, or none. Every other value keeps its bytes.
pub(crate) fn for_provider(operation: Operation, body: &EditableBody, model: &str, streams: bool) -> Box<RawValue> {
    let mut body = body.clone();
    if operation == Operation::Responses {
        responses::for_provider(&mut body);
    }
    if streams && operation == Operation::Chat {
        let given = body.get("stream_options").and_then(|raw| serde_json::from_str(raw).ok());
        let mut options: Map<String, Value> = given.unwrap_or_default();
        if options.get("include_usage") != Some(&Value::Bool(true)) {
            options.insert("include_usage".to_owned(), Value::Bool(true));
            body.set("stream_options", &Value::Object(options));
        }
    } else if !streams {
        body.remove("stream");
        body.remove("stream_options");
    }
    let name = Value::from(model);
    if body.get("model") != Some(name.to_string().as_str()) {
        body.set("model", &name);
    }
    let text = String::from_utf8(body.to_bytes()).expect("a body is made of strings");
    RawValue::from_string(text).expect("a body is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn becomes(streams: bool, body: &str, expected: &str) {
        let body = EditableBody::parse(body.to_owned()).expect("an object");
        assert_eq!(for_provider(Operation::Chat, &body, "up", streams).get(), expected);
    }

    #[test]
    fn a_response_is_kept_by_nobody_else() {
        let check = |streams: bool, expected: &str| {
            let asked = r#"{"model":"a","input":"hi","stream":true,"previous_response_id":"resp_1","store":true}"#;
            let body = EditableBody::parse(asked.to_owned()).expect("an object");
            assert_eq!(for_provider(Operation::Responses, &body, "up", streams).get(), expected);
        };
        check(true, r#"{"model":"up","input":"hi","stream":true,"store":false}"#);
        check(false, r#"{"model":"up","input":"hi","store":false}"#);
    }

    #[test]
    fn only_our_own_paths_change() {
        let check = |body: &str, expected: &str| becomes(false, body, expected);
        check(
            r#"{ "model":"alias", "messages" : [ {"a":1.0} ],"stream":false,"stream_options":null,"new":1e2}"#,
            r#"{"model":"up","messages":[ {"a":1.0} ],"new":1e2}"#,
        );
        let untouched = r#"{ "model":"up" , "new" : "\u00e9" }"#;
        check(untouched, untouched);
        check(r#"{"messages":[]}"#, r#"{"messages":[],"model":"up"}"#);
    }

    #[test]
    fn a_stream_always_has_its_usage() {
        let check = |body: &str, expected: &str| becomes(true, body, expected);
        check(
            r#"{"model":"up","stream": true}"#,
            r#"{"model":"up","stream":true,"stream_options":{"include_usage":true}}"#,
        );
        check(
            r#"{"model":"up","stream":true,"stream_options":{"new":1,"include_usage":false}}"#,
            r#"{"model":"up","stream":true,"stream_options":{"new":1,"include_usage":true}}"#,
        );
        let untouched = r#"{"model":"up" ,"stream":true,"stream_options":{ "include_usage":true }}"#;
        check(untouched, untouched);
    }
}
