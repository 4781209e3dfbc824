//! Requests of the Responses API: what is asked, how long it is, what it goes on from, and the names of responses.
//!
//! A response is the answer to a request: `resp_` and the digits of the request's id name it, where it is kept. What a
//! provider is sent keeps nothing there, and what a client sees has our names: see [`for_provider`] and [`answer`].

use millrace_schemas::{Ended, RequestId};
use serde_json::{Value, json};

use crate::body::EditableBody;
use crate::checks::{missing, wrong_type};
use crate::json;
use crate::stream::Stream;
use crate::tokens;

/// Members that are read here.
pub(crate) const READ: [&str; 15] = [
    "model",
    "input",
    "instructions",
    "max_output_tokens",
    "stream",
    "stream_options",
    "background",
    "store",
    "previous_response_id",
    "conversation",
    "tools",
    "text",
    "prompt",
    "metadata",
    "millrace",
];

/// Members that become part of the prompt beside the input.
const PROMPTED: [&str; 4] = ["instructions", "tools", "text", "prompt"];

/// Counted for an image, a sound or a file, as in chats.
const TOKENS_PER_MEDIUM: u32 = 1_445;
/// What the provider's template adds to each item, and once to the prompt.
const TOKENS_PER_ITEM: u32 = 3;
/// Words that stand where a medium does.
const MEDIA: [&str; 3] = ["\"input_image\"", "\"input_file\"", "\"input_audio\""];

/// What a request asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub stream: Option<Stream>,
    /// The response that it goes on from, as it is written.
    pub previous: Option<String>,
}

/// Reads a request.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(body: &EditableBody) -> Result<Asked, Ended> {
    let given = |name: &str| body.get(name).filter(|raw| *raw != "null");
    match given("input") {
        Some(raw) => check_input(raw)?,
        // A prompt that the provider keeps may need none.
        None if given("prompt").is_some() => {}
        None => return Err(missing("input", body.keys())),
    }
    if given("conversation").is_some() {
        let message =
            "Unsupported parameter: 'conversation': name the response to go on from as 'previous_response_id'.";
        return Err(Ended::invalid("unsupported_parameter", Some("conversation"), message));
    }
    let is_kept = flag(body, "store")?.unwrap_or(true);
    if flag(body, "background")? == Some(true) && !is_kept {
        let message = "'background' needs 'store': a response that is not kept could not be asked for later.";
        return Err(Ended::invalid("invalid_value", Some("background"), message));
    }
    let previous = given("previous_response_id").map(|raw| {
        let name = json::string(raw).map(std::borrow::Cow::into_owned);
        name.ok_or_else(|| wrong_type("previous_response_id", "a string", json::kind(raw)))
    });
    let stream = (flag(body, "stream")? == Some(true)).then_some(Stream { with_usage: true });
    Ok(Asked { stream, previous: previous.transpose()? })
}

fn check_input(raw: &str) -> Result<(), Ended> {
    if json::kind(raw) == "a string" {
        return Ok(());
    }
    let items =
        json::items(raw).ok_or_else(|| wrong_type("input", "a string or an array of items", json::kind(raw)))?;
    if items.is_empty() {
        let message = "Invalid 'input': empty array. Expected an array with minimum length 1.";
        return Err(Ended::invalid("empty_array", Some("input"), message));
    }
    match items.iter().enumerate().find(|(_, item)| json::kind(item) != "an object") {
        Some((index, item)) => Err(wrong_type(&format!("input[{index}]"), "an object", json::kind(item))),
        None => Ok(()),
    }
}

fn flag(body: &EditableBody, name: &str) -> Result<Option<bool>, Ended> {
    match body.get(name) {
        None | Some("null") => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(wrong_type(name, "a boolean", json::kind(other))),
    }
}

impl Asked {
    /// What [`Asked::tokens`] never exceeds: an item's own JSON is longer than its template.
    pub(crate) fn most_tokens(&self, body: &EditableBody) -> u32 {
        let texts = std::iter::once("input").chain(PROMPTED).filter_map(|name| body.get(name));
        texts.fold(2 * TOKENS_PER_ITEM, |sum, raw| {
            let media: usize = MEDIA.iter().map(|word| raw.matches(word).count()).sum();
            sum.saturating_add(tokens::upper_bound(raw.len()))
                .saturating_add(tokens::upper_bound(media).saturating_mul(TOKENS_PER_MEDIUM))
        })
    }

    /// Tokens of the input and of what else becomes part of the prompt.
    pub(crate) fn tokens(&self, body: &EditableBody) -> u32 {
        let beside = PROMPTED.iter().filter_map(|name| body.get(name)).map(tokens::count);
        beside.fold(TOKENS_PER_ITEM + body.get("input").map_or(0, tokens_of), u32::saturating_add)
    }
}

/// Tokens of an input, JSON as it was written.
#[must_use]
pub fn tokens_of(raw: &str) -> u32 {
    match serde_json::from_str(raw) {
        Ok(Value::Array(items)) => {
            items.iter().fold(0, |sum: u32, item| sum.saturating_add(of_value(item)).saturating_add(TOKENS_PER_ITEM))
        }
        Ok(value) => of_value(&value) + TOKENS_PER_ITEM,
        Err(_) => tokens::upper_bound(raw.len()),
    }
}

fn of_value(value: &Value) -> u32 {
    match value {
        Value::String(text) => tokens::count(text),
        Value::Array(items) => items.iter().map(of_value).fold(0, u32::saturating_add),
        Value::Object(members) => match members.get("type").and_then(Value::as_str) {
            Some("input_image" | "input_file" | "input_audio") => TOKENS_PER_MEDIUM,
            Some(_) | None => members.values().map(of_value).fold(0, u32::saturating_add),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// The name of the response to a request, by which it can be asked for.
#[must_use]
pub fn id_of(request_id: &str) -> String {
    format!("resp_{}", digits(request_id))
}

/// The name of the response to what was asked. Where it is not kept, nobody can ask for it by its name.
#[must_use]
pub fn name_of(request_id: &str, asked: &EditableBody) -> String {
    if is_kept(asked) { id_of(request_id) } else { format!("resp_unstored_{}", digits(request_id)) }
}

fn digits(request_id: &str) -> &str {
    request_id.strip_prefix("req_").unwrap_or(request_id)
}

/// The request that a response of this name answers; `None` when it was never given out to `tenant`.
#[must_use]
pub fn request_of(tenant: &str, name: &str) -> Option<RequestId> {
    RequestId::parse(tenant, &format!("req_{}", name.strip_prefix("resp_").or(name.strip_prefix("req_"))?))
}

/// A request that goes on from a response that is not there.
#[must_use]
pub fn no_previous(name: &str) -> Ended {
    let message = format!(
        "Previous response with id '{}' not found: it was never given out to this tenant, was not stored, was deleted, or \
         has no output.",
        crate::meta::cut(name, 64)
    );
    Ended::invalid("previous_response_not_found", Some("previous_response_id"), message)
}

/// Whether the response is to be kept for whoever asks for it, or goes on from it.
#[must_use]
pub fn is_kept(body: &EditableBody) -> bool {
    body.get("store") != Some("false")
}

/// Whether the client comes back for the response.
#[must_use]
pub fn is_background(body: &EditableBody) -> bool {
    body.get("background") == Some("true")
}

/// What is kept of a request for those who ask for its response, or go on from it.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Microseconds since the epoch.
    pub received_at: i64,
    /// The request with all that it goes on from.
    pub request: EditableBody,
}

impl Kept {
    /// As bytes: JSON with the request as it was written.
    #[must_use]
    pub fn of(request: &EditableBody, received_at: i64) -> Vec<u8> {
        let mut kept = format!(r#"{{"received_at":{received_at},"request":"#).into_bytes();
        kept.extend(request.to_bytes());
        kept.push(b'}');
        kept
    }

    /// Reads what was kept.
    #[must_use]
    pub fn parse(kept: &[u8]) -> Option<Self> {
        let kept = EditableBody::parse(std::str::from_utf8(kept).ok()?.to_owned())?;
        let received_at = kept.get("received_at")?.parse().ok()?;
        Some(Self { received_at, request: EditableBody::parse(kept.get("request")?.to_owned())? })
    }
}

/// The items that are asked about, as they were written: a text is the message of a user.
#[must_use]
pub fn items(body: &EditableBody) -> Vec<String> {
    match body.get("input") {
        Some(raw) if json::kind(raw) == "a string" => {
            vec![format!(r#"{{"type":"message","role":"user","content":[{{"type":"input_text","text":{raw}}}]}}"#)]
        }
        Some(raw) => json::items(raw).unwrap_or_default().into_iter().map(str::to_owned).collect(),
        None => Vec::new(),
    }
}

/// The items of a response's output that its successor is asked with. Reasoning goes along only where it brings its
/// own content: nothing is kept at the provider.
#[must_use]
pub fn output_items(response: &str) -> Option<Vec<String>> {
    let response = EditableBody::parse(response.to_owned())?;
    let output = json::items(response.get("output")?)?;
    let goes_along = |item: &&str| {
        let item: Value = serde_json::from_str(item).unwrap_or(Value::Null);
        item["type"] != "reasoning" || item["encrypted_content"].is_string()
    };
    Some(output.into_iter().filter(goes_along).map(str::to_owned).collect())
}

/// Puts items in place of the input.
pub fn set_items(body: &mut EditableBody, items: &[String]) {
    body.set_raw("input", format!("[{}]", items.join(",")));
}

/// Takes out what is ours, or would keep something at the provider.
pub fn for_provider(body: &mut EditableBody) {
    body.remove("background");
    body.remove("previous_response_id");
    if body.get("store") != Some("false") {
        body.set("store", &Value::Bool(false));
    }
}

/// A provider's response as the client gets it: under our name, and saying of what is ours what was asked. Everything
/// else keeps its bytes. `None` when it is no response.
#[must_use]
pub fn answer(response: Vec<u8>, request_id: &str, asked: &EditableBody) -> Option<Vec<u8>> {
    let mut response = EditableBody::parse(String::from_utf8(response).ok()?)?;
    response.get("output").filter(|output| json::kind(output) == "an array")?;
    name(&mut response, request_id, asked);
    Some(response.to_bytes())
}

/// The same for a response that is a part of an event.
#[must_use]
pub fn named(response: &Value, request_id: &str, asked: &EditableBody) -> Option<Value> {
    let mut body = EditableBody::parse(response.to_string())?;
    name(&mut body, request_id, asked);
    serde_json::from_slice(&body.to_bytes()).ok()
}

fn name(response: &mut EditableBody, request_id: &str, asked: &EditableBody) {
    response.set("id", &json!(name_of(request_id, asked)));
    for name in ["background", "previous_response_id", "store"] {
        match asked.get(name).filter(|raw| *raw != "null") {
            Some(raw) => response.set_raw(name, raw.to_owned()),
            None if name == "previous_response_id" => response.set(name, &Value::Null),
            None => response.set(name, &Value::Bool(name == "store")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> EditableBody {
        EditableBody::parse(text.to_owned()).expect("an object")
    }

    #[test]
    fn what_is_asked_for() {
        let check = |text: &str, expected: Result<(bool, Option<&str>), &str>| {
            let asked = read(&body(text)).map(|asked| (asked.stream.is_some(), asked.previous));
            let asked = asked.map_err(|ended| ended.param.unwrap_or_default());
            let expected = expected.map(|(stream, previous)| (stream, previous.map(str::to_owned)));
            assert_eq!(asked, expected.map_err(str::to_owned), "{text}");
        };
        check(r#"{"input":"hi"}"#, Ok((false, None)));
        check(r#"{"input":[{"role":"user","content":"hi"}],"stream":true,"store":false}"#, Ok((true, None)));
        check(r#"{"input":"hi","previous_response_id":"resp_1","background":true}"#, Ok((false, Some("resp_1"))));
        check(r#"{"prompt":{"id":"pmpt_1"}}"#, Ok((false, None)));
        check("{}", Err("input"));
        check(r#"{"input":[]}"#, Err("input"));
        check(r#"{"input":["hi"]}"#, Err("input[0]"));
        check(r#"{"input":7}"#, Err("input"));
        check(r#"{"input":"hi","stream":1}"#, Err("stream"));
        check(r#"{"input":"hi","previous_response_id":1}"#, Err("previous_response_id"));
        check(r#"{"input":"hi","conversation":"conv_1"}"#, Err("conversation"));
        check(r#"{"input":"hi","background":true,"store":false}"#, Err("background"));
    }

    #[test]
    fn no_input_has_more_tokens_than_its_bound() {
        for text in [
            r#"{"input":"hello world"}"#,
            r#"{"input":""}"#,
            r#"{"input":[{"role":"user","content":"hello"},{"type":"function_call_output","call_id":"c","output":"x"}],"instructions":"be brief"}"#,
            r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":"data:aaaa"}]}],"tools":[{}]}"#,
        ] {
            let body = body(text);
            let asked = read(&body).expect("a request");
            assert!(asked.tokens(&body) <= asked.most_tokens(&body), "{text}");
        }
        let image = body(r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":"data:aaaa"}]}]}"#);
        assert!(read(&image).expect("a request").tokens(&image) > TOKENS_PER_MEDIUM);
    }

    #[test]
    fn names_belong_to_their_tenant() {
        let id = RequestId::fresh("acme");
        let name = id_of(id.as_str());
        assert!(name.starts_with("resp_"));
        assert_eq!(request_of("acme", &name), Some(id.clone()));
        assert_eq!(request_of("acme", id.as_str()), Some(id.clone()));
        assert_eq!(
            (request_of("rival", &name), request_of("acme", "resp_1"), request_of("acme", "")),
            (None, None, None)
        );
        let named = |asked: &str| name_of(id.as_str(), &body(asked));
        assert_eq!(named(r#"{"store":true}"#), name);
        assert_eq!(request_of("acme", &named(r#"{"store":false}"#)), None);
    }

    #[test]
    fn a_provider_keeps_nothing_and_its_answer_has_our_names() {
        let asked = r#"{"model":"m","previous_response_id":"resp_0","background":true,"input":"hi" ,"new":1e2}"#;
        let mut sent = body(asked);
        for_provider(&mut sent);
        let sent = String::from_utf8(sent.to_bytes()).expect("UTF-8");
        assert_eq!(sent, r#"{"model":"m","input":"hi","new":1e2,"store":false}"#);
        let given = r#"{"id":"resp_theirs","store":false,"output":[ {"a":1.0} ],"new":1e2}"#;
        let answered = answer(given.as_bytes().to_vec(), "req_1", &body(asked)).expect("a response");
        assert_eq!(
            String::from_utf8(answered).expect("UTF-8"),
            r#"{"id":"resp_1","store":true,"output":[ {"a":1.0} ],"new":1e2,"background":true,"previous_response_id":"resp_0"}"#
        );
        assert_eq!(answer(b"[]".to_vec(), "req_1", &body(asked)), None);
        assert_eq!(answer(b"{}".to_vec(), "req_1", &body(asked)), None);
    }

    #[test]
    fn a_conversation_is_its_items() {
        assert_eq!(
            items(&body(r#"{"input":"h\u00e9"}"#)),
            [r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"h\u00e9"}]}"#]
        );
        let mut body = body(r#"{"input":[ {"a" : 1.0} ]}"#);
        let output =
            r#"{"output":[{"type":"reasoning","id":"r"},{"type":"reasoning","encrypted_content":"x"},{ "b":1 }]}"#;
        let all = [items(&body), output_items(output).expect("a response")].concat();
        set_items(&mut body, &all);
        let expected = r#"{"input":[{"a" : 1.0},{"type":"reasoning","encrypted_content":"x"},{ "b":1 }]}"#;
        assert_eq!(String::from_utf8(body.to_bytes()).expect("UTF-8"), expected);
        assert_eq!(output_items("{}"), None);

        let kept = Kept::parse(&Kept::of(&body, 7)).expect("it was kept");
        assert_eq!((kept.received_at, kept.request.to_bytes()), (7, body.to_bytes()));
        assert!(Kept::parse(b"").is_none() && Kept::parse(b"{}").is_none());
    }
}
