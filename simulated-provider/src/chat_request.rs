//! Reading a chat request as OpenAI reads it: what it does not know it accepts, what it knows it
//! checks.

use serde_json::{Map, Value};

use crate::api_error::ApiError;
use crate::dice::{Digest, Digester};
use crate::tokens::Encoding;

/// A valid request.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub model: String,
    pub messages: Vec<Message>,
    pub choices: u32,
    /// `max_completion_tokens`, or the older `max_tokens`.
    pub limit: Option<u32>,
    pub stream: bool,
    pub include_usage: bool,
    pub seed: Option<i64>,
    pub format: Format,
    pub forced_tool: Option<ForcedTool>,
    pub stop: Vec<String>,
    /// Tokens of the tools' definitions.
    tool_tokens: u32,
}

/// One message, as far as an answer depends on it.
#[derive(Debug)]
pub(crate) struct Message {
    role: String,
    name: Option<String>,
    texts: Vec<String>,
    /// Tool calls as JSON.
    other: Vec<String>,
    /// Images, sounds and files as JSON.
    media: Vec<String>,
}

/// What the answer has to look like.
#[derive(Debug, PartialEq)]
pub(crate) enum Format {
    Text,
    JsonObject,
    JsonSchema(Value),
}

/// A function that the answer must call.
#[derive(Debug, PartialEq)]
pub(crate) struct ForcedTool {
    pub name: String,
    pub parameters: Value,
    /// `tool_choice` named it, rather than saying `required`.
    pub named: bool,
}

/// Tokens of an image at low detail, whatever its size, and of everything else that is no text.
const MEDIUM_TOKENS: u32 = 85;

impl ChatRequest {
    pub(crate) fn read(body: Value) -> Result<Self, ApiError> {
        let Value::Object(mut fields) = body else {
            return Err(ApiError::not_json());
        };
        let model = read_model(&mut fields)?;
        let messages = match fields.remove("messages") {
            None | Some(Value::Null) => return Err(ApiError::missing("messages")),
            Some(Value::Array(messages)) if messages.is_empty() => {
                let message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an \
                               empty array instead.";
                return Err(ApiError::invalid("messages", Some("empty_array"), message));
            }
            Some(Value::Array(messages)) => messages,
            Some(other) => return Err(ApiError::wrong_type("messages", "an array of objects", &other)),
        };
        let messages = messages
            .into_iter()
            .enumerate()
            .map(|(index, message)| read_message(&format!("messages[{index}]"), message))
            .collect::<Result<_, _>>()?;
        let format = read_format(&mut fields)?;
        let number = |name: &str, least: i64, most: i64| read_integer(&fields, name, least, most);
        let limit = match number("max_completion_tokens", 1, i64::from(u32::MAX))? {
            Some(limit) => Some(limit),
            None => number("max_tokens", 1, i64::from(u32::MAX))?,
        };
        check_range(&fields, "temperature", 0.0, 2.0)?;
        check_range(&fields, "top_p", 0.0, 1.0)?;
        let (tools, tool_tokens) = read_tools(&fields)?;
        Ok(Self {
            model,
            messages,
            choices: number("n", 1, 128)?.unwrap_or(1) as u32,
            limit: limit.map(|limit| limit as u32),
            stream: read_bool(&fields, "stream")?.unwrap_or(false),
            include_usage: read_include_usage(&fields)?,
            seed: number("seed", i64::MIN, i64::MAX)?,
            format,
            forced_tool: forced_tool(&fields, &tools)?,
            stop: read_stop(&fields)?,
            tool_tokens,
        })
    }

    /// Prompt tokens by OpenAI's published rule: three for each message besides its role, name and
    /// content, and three that begin the answer. Tools count as the text of their definitions.
    pub(crate) fn prompt_tokens(&self) -> u32 {
        let count = |text: &str| Encoding::Chat.count(text);
        let messages: u32 = self
            .messages
            .iter()
            .map(|message| {
                let name = message.name.as_ref().map_or(0, |name| 1 + count(name));
                let texts: u32 = message.texts.iter().chain(&message.other).map(|text| count(text)).sum();
                3 + count(&message.role) + name + texts + message.media.len() as u32 * MEDIUM_TOKENS
            })
            .sum();
        3 + messages + self.tool_tokens
    }

    /// Of everything that an answer is a function of.
    pub(crate) fn digest(&self, seed: u64) -> Digest {
        let mut digester = Digester::new(seed);
        digester.part(self.model.as_bytes());
        digester.part(&self.seed.map_or([0; 8], i64::to_le_bytes));
        for message in &self.messages {
            digester.part(message.role.as_bytes());
            digester.part(message.name.as_deref().unwrap_or_default().as_bytes());
            for text in message.texts.iter().chain(&message.other).chain(&message.media) {
                digester.part(text.as_bytes());
            }
        }
        digester.finish()
    }

    pub(crate) fn texts(&self) -> Vec<&str> {
        self.messages.iter().flat_map(|message| &message.texts).map(String::as_str).collect()
    }

    /// The text that the answer takes its words from: the last message of the user's.
    pub(crate) fn question(&self) -> &str {
        let asked = self.messages.iter().rev().find(|message| message.role == "user");
        asked.and_then(|message| message.texts.last()).map_or("", String::as_str)
    }
}

/// The `model` of any request.
pub(crate) fn read_model(fields: &mut Map<String, Value>) -> Result<String, ApiError> {
    match fields.remove("model") {
        None | Some(Value::Null) => Err(ApiError::invalid("", None, "you must provide a model parameter")),
        Some(Value::String(model)) if model.is_empty() => {
            Err(ApiError::invalid("", None, "you must provide a model parameter"))
        }
        Some(Value::String(model)) => Ok(model),
        Some(other) => Err(ApiError::wrong_type("model", "a string", &other)),
    }
}

fn read_message(at: &str, message: Value) -> Result<Message, ApiError> {
    let mut fields = match message {
        Value::Object(fields) => fields,
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            return Err(ApiError::wrong_type(at, "an object", &other));
        }
    };
    let role = match fields.remove("role") {
        None | Some(Value::Null) => return Err(ApiError::missing(&format!("{at}.role"))),
        Some(Value::String(role)) => role,
        Some(other) => return Err(ApiError::wrong_type(&format!("{at}.role"), "a string", &other)),
    };
    const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];
    if !ROLES.contains(&role.as_str()) {
        let message = format!("Invalid value: '{role}'. Supported values are: '{}'.", ROLES.join("', '"));
        return Err(ApiError::invalid(&format!("{at}.role"), Some("invalid_value"), message));
    }
    let name = match fields.remove("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name),
        Some(other) => return Err(ApiError::wrong_type(&format!("{at}.name"), "a string", &other)),
    };
    let mut read = Message { role, name, texts: Vec::new(), other: Vec::new(), media: Vec::new() };
    for calls in ["tool_calls", "function_call"] {
        if let Some(calls) = fields.get(calls) {
            read.other.push(calls.to_string());
        }
    }
    let content = format!("{at}.content");
    match fields.remove("content") {
        Some(Value::String(text)) => read.texts.push(text),
        Some(Value::Array(parts)) => {
            for (index, part) in parts.into_iter().enumerate() {
                read_part(&format!("{content}[{index}]"), part, &mut read)?;
            }
        }
        // Only an assistant that called tools may have said nothing.
        None | Some(Value::Null) if read.role == "assistant" => {}
        None => return Err(ApiError::missing(&content)),
        Some(other) => return Err(ApiError::wrong_type(&content, "one of a string or array of objects", &other)),
    }
    Ok(read)
}

fn read_part(at: &str, part: Value, message: &mut Message) -> Result<(), ApiError> {
    match part.get("type").and_then(Value::as_str) {
        Some(kind @ ("text" | "refusal")) => match part.get(kind) {
            Some(Value::String(text)) => message.texts.push(text.clone()),
            Some(other) => return Err(ApiError::wrong_type(&format!("{at}.{kind}"), "a string", other)),
            None => return Err(ApiError::missing(&format!("{at}.{kind}"))),
        },
        Some("image_url" | "input_audio" | "file") => message.media.push(part.to_string()),
        Some(kind) => {
            let message = format!("Invalid value: '{kind}'.");
            return Err(ApiError::invalid(&format!("{at}.type"), Some("invalid_value"), message));
        }
        None => return Err(ApiError::missing(&format!("{at}.type"))),
    }
    Ok(())
}

fn read_integer(fields: &Map<String, Value>, name: &str, least: i64, most: i64) -> Result<Option<i64>, ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_i64() {
            None => Err(ApiError::wrong_type(name, "an integer", value)),
            Some(number) if number < least => {
                let message = format!(
                    "Invalid '{name}': integer below minimum value. Expected a value >= {least}, but got {number} instead."
                );
                Err(ApiError::invalid(name, Some("integer_below_min_value"), message))
            }
            Some(number) if number > most => {
                let message = format!(
                    "Invalid '{name}': integer above maximum value. Expected a value <= {most}, but got {number} instead."
                );
                Err(ApiError::invalid(name, Some("integer_above_max_value"), message))
            }
            Some(number) => Ok(Some(number)),
        },
    }
}

fn check_range(fields: &Map<String, Value>, name: &str, least: f64, most: f64) -> Result<(), ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(()),
        Some(value) => match value.as_f64() {
            None => Err(ApiError::wrong_type(name, "a decimal", value)),
            Some(number) if (least..=most).contains(&number) => Ok(()),
            Some(number) => {
                let message =
                    format!("Invalid '{name}': expected a value from {least} to {most}, but got {number} instead.");
                Err(ApiError::invalid(name, Some("invalid_value"), message))
            }
        },
    }
}

fn read_bool(fields: &Map<String, Value>, name: &str) -> Result<Option<bool>, ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => Err(ApiError::wrong_type(name, "a boolean", other)),
    }
}

fn read_include_usage(fields: &Map<String, Value>) -> Result<bool, ApiError> {
    match fields.get("stream_options") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Object(options)) => Ok(read_bool(options, "include_usage")?.unwrap_or(false)),
        Some(other) => Err(ApiError::wrong_type("stream_options", "an object", other)),
    }
}

fn read_stop(fields: &Map<String, Value>) -> Result<Vec<String>, ApiError> {
    let wrong = |value: &Value| ApiError::wrong_type("stop", "a string or an array of strings", value);
    match fields.get("stop") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(stop)) => Ok(vec![stop.clone()]),
        Some(Value::Array(stops)) => {
            stops.iter().map(|stop| stop.as_str().map(str::to_owned).ok_or_else(|| wrong(stop))).collect()
        }
        Some(other) => Err(wrong(other)),
    }
}

fn read_format(fields: &mut Map<String, Value>) -> Result<Format, ApiError> {
    let mut format = match fields.remove("response_format") {
        None | Some(Value::Null) => return Ok(Format::Text),
        Some(Value::Object(format)) => format,
        Some(other) => return Err(ApiError::wrong_type("response_format", "an object", &other)),
    };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::JsonObject),
        Some("json_schema") => match format.get_mut("json_schema").and_then(|named| named.get_mut("schema")) {
            Some(schema) => Ok(Format::JsonSchema(schema.take())),
            None => Err(ApiError::missing("response_format.json_schema.schema")),
        },
        Some(kind) => {
            let message =
                format!("Invalid value: '{kind}'. Supported values are: 'text', 'json_object', and 'json_schema'.");
            Err(ApiError::invalid("response_format.type", Some("invalid_value"), message))
        }
        None => Err(ApiError::missing("response_format.type")),
    }
}

/// A function's name and parameters.
type Function<'a> = (&'a str, &'a Value);

/// The functions offered, and the tokens of their definitions.
fn read_tools(fields: &Map<String, Value>) -> Result<(Vec<Function<'_>>, u32), ApiError> {
    let tools = match fields.get("tools") {
        None | Some(Value::Null) => return Ok((Vec::new(), 0)),
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(ApiError::wrong_type("tools", "an array of objects", other)),
    };
    let mut functions = Vec::new();
    for (index, tool) in tools.iter().enumerate() {
        if tool.get("type").and_then(Value::as_str) == Some("function") {
            let Some(name) = tool.pointer("/function/name").and_then(Value::as_str) else {
                return Err(ApiError::missing(&format!("tools[{index}].function.name")));
            };
            functions.push((name, tool.pointer("/function/parameters").unwrap_or(&Value::Null)));
        }
    }
    let tokens = tools.iter().map(|tool| Encoding::Chat.count(&tool.to_string())).sum();
    Ok((functions, tokens))
}

fn forced_tool(fields: &Map<String, Value>, tools: &[Function<'_>]) -> Result<Option<ForcedTool>, ApiError> {
    let choice = match fields.get("tool_choice") {
        None | Some(Value::Null) => return Ok(None),
        Some(choice) => choice,
    };
    let forced = |&(name, parameters): &(&str, &Value), named| {
        Ok(Some(ForcedTool { name: name.to_owned(), parameters: parameters.clone(), named }))
    };
    match (choice.as_str(), choice.pointer("/function/name").and_then(Value::as_str)) {
        (Some("none" | "auto"), _) => Ok(None),
        (Some("required"), _) => match tools.first() {
            Some(tool) => forced(tool, false),
            None => Err(ApiError::invalid(
                "tool_choice",
                None,
                "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
            )),
        },
        (_, Some(wanted)) => match tools.iter().find(|(name, _)| *name == wanted) {
            Some(tool) => forced(tool, true),
            None => {
                let message = format!("Tool choice '{wanted}' not found in 'tools' parameter.");
                Err(ApiError::invalid("tool_choice", None, message))
            }
        },
        _ => Err(ApiError::wrong_type("tool_choice", "'none', 'auto', 'required' or a function", choice)),
    }
}
