//! `POST /v1/responses`: the same answers as of chats, in the Responses API's words. Nothing is kept: every
//! request brings all of its conversation.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::api_error::ApiError;
use crate::call::{Answer, Spoil, Task};
use crate::chat::Chat;
use crate::chat_response::{Choice, Content};
use crate::config::SimulatedProviderConfig;
use crate::dice::Digest;
use crate::reply::{Event, Reply};
use crate::stats::Endpoint;

/// A request for a response, read as the chat that it is.
pub(crate) struct Responses {
    chat: Chat,
    stream: bool,
    /// Members that the response repeats.
    echo: Map<String, Value>,
}

const ECHOED: [(&str, Value); 10] = [
    ("instructions", Value::Null),
    ("max_output_tokens", Value::Null),
    ("metadata", Value::Null),
    ("parallel_tool_calls", Value::Bool(true)),
    ("reasoning", Value::Null),
    ("store", Value::Bool(true)),
    ("temperature", Value::Null),
    ("text", Value::Null),
    ("tool_choice", Value::Null),
    ("top_p", Value::Null),
];

impl Task for Responses {
    const ENDPOINT: Endpoint = Endpoint::Responses;

    fn read(config: &SimulatedProviderConfig, body: Value) -> Result<Self, ApiError> {
        let Value::Object(fields) = body else { return Err(ApiError::not_json()) };
        if let Some(previous) = fields.get("previous_response_id").and_then(Value::as_str) {
            let message = format!("Previous response with id '{previous}' not found.");
            return Err(ApiError::invalid("previous_response_id", Some("previous_response_not_found"), message));
        }
        if fields.get("background") == Some(&Value::Bool(true)) {
            let message = "Unsupported parameter: 'background'.";
            return Err(ApiError::invalid("background", Some("unsupported_parameter"), message));
        }
        let mut echo: Map<String, Value> = ECHOED
            .into_iter()
            .map(|(name, default)| (name.to_owned(), fields.get(name).cloned().unwrap_or(default)))
            .collect();
        let mut default = |name: &str, value: Value| {
            echo.get_mut(name).filter(|given| given.is_null()).into_iter().for_each(|given| *given = value.clone());
        };
        default("metadata", json!({}));
        default("reasoning", json!({ "effort": null, "summary": null }));
        default("temperature", json!(1.0));
        default("text", json!({ "format": { "type": "text" } }));
        default("tool_choice", json!("auto"));
        default("top_p", json!(1.0));
        echo.insert("tools".to_owned(), fields.get("tools").cloned().unwrap_or_else(|| json!([])));
        let stream = fields.get("stream") == Some(&Value::Bool(true));
        Ok(Self { chat: Chat::read(config, chat_of(fields)?)?, stream, echo })
    }

    fn model(&self) -> &str {
        self.chat.model()
    }

    fn texts(&self) -> Vec<&str> {
        self.chat.texts()
    }

    fn digest(&self) -> &Digest {
        self.chat.digest()
    }

    fn prompt_tokens(&self) -> u32 {
        self.chat.prompt_tokens()
    }

    fn answer(self, config: &SimulatedProviderConfig, attempt: u32, created: u64, spoil: &Spoil) -> Answer {
        let choice = self.chat.only_choice(config, spoil);
        let completion_tokens = choice.tokens;
        let id = |prefix: &str| format!("{prefix}_{}", self.digest().with(prefix, u64::from(attempt)).hex(48));
        let item = item(&choice, &id);
        let reason = match choice.finish {
            "length" => Some("max_output_tokens"),
            "content_filter" => Some("content_filter"),
            _ => None,
        };
        let usage = spoil.usage(self.prompt_tokens(), completion_tokens).map(|(input, output)| {
            json!({ "input_tokens": input, "input_tokens_details": { "cached_tokens": 0 }, "output_tokens": output,
                "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": input + output })
        });
        let mut response = Map::from_iter([
            ("id".to_owned(), id("resp").into()),
            ("object".to_owned(), "response".into()),
            ("created_at".to_owned(), created.into()),
            ("status".to_owned(), if reason.is_some() { "incomplete" } else { "completed" }.into()),
            ("background".to_owned(), false.into()),
            ("error".to_owned(), Value::Null),
            ("incomplete_details".to_owned(), reason.map_or(Value::Null, |reason| json!({ "reason": reason }))),
            ("model".to_owned(), self.model().into()),
            ("output".to_owned(), json!([item])),
            ("previous_response_id".to_owned(), Value::Null),
            ("truncation".to_owned(), "disabled".into()),
        ]);
        response.extend(self.echo);
        response.extend(usage.map(|usage| ("usage".to_owned(), usage)));
        let reply = if self.stream {
            Reply::Events(events(&response, &item, &choice))
        } else {
            Reply::Json(Value::Object(response).to_string().into_bytes())
        };
        Answer { reply, completion_tokens }
    }
}

fn item(choice: &Choice, id: &impl Fn(&str) -> String) -> Value {
    match &choice.content {
        Content::Text { text, .. } => json!({ "id": id("msg"), "type": "message", "status": "completed",
            "role": "assistant", "content": [{ "type": "output_text", "annotations": [], "logprobs": [], "text": text }] }),
        Content::ToolCall { id: call, name, arguments } => json!({ "id": id("fc"), "type": "function_call",
            "status": "completed", "arguments": arguments, "call_id": call, "name": name }),
    }
}

/// The request for the chat that a response answers.
fn chat_of(mut fields: Map<String, Value>) -> Result<Value, ApiError> {
    let mut messages = Vec::new();
    if let Some(instructions @ Value::String(_)) = fields.remove("instructions") {
        messages.push(json!({ "role": "developer", "content": instructions }));
    }
    match fields.remove("input") {
        None | Some(Value::Null) => return Err(ApiError::missing("input")),
        Some(text @ Value::String(_)) => messages.push(json!({ "role": "user", "content": text })),
        Some(Value::Array(items)) => messages.extend(items.into_iter().filter_map(message_of)),
        Some(other) => return Err(ApiError::wrong_type("input", "a string or an array of items", &other)),
    }
    let mut chat = Map::from_iter([("messages".to_owned(), Value::Array(messages))]);
    for (name, renamed) in [
        ("model", "model"),
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("max_output_tokens", "max_completion_tokens"),
    ] {
        fields.remove(name).into_iter().for_each(|value| drop(chat.insert(renamed.to_owned(), value)));
    }
    if let Some(Value::Array(tools)) = fields.remove("tools") {
        chat.insert("tools".to_owned(), tools.into_iter().map(nested).collect());
    }
    if let Some(choice) = fields.remove("tool_choice") {
        chat.insert("tool_choice".to_owned(), nested(choice));
    }
    if let Some(format) = fields.get_mut("text").and_then(|text| text.get_mut("format")) {
        let format = match format.get("type").and_then(Value::as_str) {
            Some("json_schema") => json!({ "type": "json_schema", "json_schema": format }),
            Some(_) | None => format.take(),
        };
        chat.insert("response_format".to_owned(), format);
    }
    Ok(Value::Object(chat))
}

/// A function as chats name it: its members in an object of their own.
fn nested(mut tool: Value) -> Value {
    match tool.as_object_mut() {
        Some(members) if members.get("type").is_some_and(|kind| kind == "function") => {
            members.remove("type");
            json!({ "type": "function", "function": tool })
        }
        Some(_) | None => tool,
    }
}

fn message_of(item: Value) -> Option<Value> {
    let text = |name: &str| item.get(name).cloned().unwrap_or_else(|| "".into());
    match item.get("type").and_then(Value::as_str) {
        None | Some("message") => {
            let content = match item.get("content") {
                Some(Value::Array(parts)) => parts.iter().map(part_of).collect(),
                other => other.cloned().unwrap_or(Value::Null),
            };
            Some(json!({ "role": item.get("role").cloned().unwrap_or(Value::Null), "content": content }))
        }
        Some("function_call") => Some(json!({ "role": "assistant", "content": null, "tool_calls": [{
            "id": text("call_id"), "type": "function",
            "function": { "name": text("name"), "arguments": text("arguments") } }] })),
        Some("function_call_output") => {
            let output = match text("output") {
                Value::String(output) => output,
                other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                    other.to_string()
                }
            };
            Some(json!({ "role": "tool", "content": output }))
        }
        // Reasoning and the like: nothing that this model would understand.
        Some(_) => None,
    }
}

fn part_of(part: &Value) -> Value {
    match part.get("type").and_then(Value::as_str) {
        Some("input_text" | "output_text") => json!({ "type": "text", "text": part["text"] }),
        Some("input_image") => json!({ "type": "image_url", "image_url": { "url": part["image_url"] } }),
        Some("input_file") => json!({ "type": "file", "file": part }),
        Some(_) | None => part.clone(),
    }
}

/// The events of a streamed response.
fn events(response: &Map<String, Value>, item: &Value, choice: &Choice) -> Vec<Event> {
    let mut writer = Writer { events: Vec::new() };
    let mut begun = response.clone();
    begun.insert("status".to_owned(), "in_progress".into());
    begun.insert("output".to_owned(), json!([]));
    begun.insert("usage".to_owned(), Value::Null);
    begun.insert("incomplete_details".to_owned(), Value::Null);
    writer.say("created", json!({ "response": begun }), 0);
    writer.say("in_progress", json!({ "response": begun }), 0);
    let mut empty = item.clone();
    empty["status"] = "in_progress".into();
    let id = &item["id"];
    match &choice.content {
        Content::Text { text, parts } => {
            empty["content"] = json!([]);
            writer.say("output_item.added", json!({ "output_index": 0, "item": empty }), 0);
            let part = &item["content"][0];
            let mut empty_part = part.clone();
            empty_part["text"] = "".into();
            let at = json!({ "item_id": id, "output_index": 0, "content_index": 0 });
            writer.say("content_part.added", with(&at, "part", empty_part), 0);
            let mut start = 0;
            for &(end, tokens) in parts {
                let delta = text.get(start..end).unwrap_or_default();
                start = end;
                writer.say("output_text.delta", with(&with(&at, "delta", delta.into()), "logprobs", json!([])), tokens);
            }
            writer.say("output_text.done", with(&with(&at, "text", text.as_str().into()), "logprobs", json!([])), 0);
            writer.say("content_part.done", with(&at, "part", part.clone()), 0);
        }
        Content::ToolCall { arguments, .. } => {
            empty["arguments"] = "".into();
            writer.say("output_item.added", json!({ "output_index": 0, "item": empty }), 0);
            let at = json!({ "item_id": id, "output_index": 0 });
            writer.say("function_call_arguments.delta", with(&at, "delta", arguments.as_str().into()), choice.tokens);
            writer.say("function_call_arguments.done", with(&at, "arguments", arguments.as_str().into()), 0);
        }
    }
    writer.say("output_item.done", json!({ "output_index": 0, "item": item }), 0);
    let end = response.get("status").and_then(Value::as_str).unwrap_or("completed");
    writer.say(end, json!({ "response": response }), 0);
    writer.events
}

struct Writer {
    events: Vec<Event>,
}

impl Writer {
    fn say(&mut self, name: &str, members: Value, tokens: u32) {
        let kind = format!("response.{name}");
        let mut event = with(&members, "type", kind.as_str().into());
        event["sequence_number"] = self.events.len().into();
        self.events.push(Event { bytes: Bytes::from(format!("event: {kind}\ndata: {event}\n\n")), tokens });
    }
}

fn with(at: &Value, name: &str, value: Value) -> Value {
    let mut event = at.clone();
    event[name] = value;
    event
}
