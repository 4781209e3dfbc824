//! `POST /v1/embeddings`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::api_error::ApiError;
use crate::call::{Answer, Spoil, Task};
use crate::chat_request::read_model;
use crate::config::SimulatedProviderConfig;
use crate::dice::{Digest, Digester};
use crate::embed::embed;
use crate::reply::Reply;
use crate::stats::Endpoint;
use crate::tokens::Encoding;

/// Inputs in one request at most, and tokens in one input.
const MOST_INPUTS: usize = 2_048;
const MOST_TOKENS: u32 = 8_192;

/// An embedding request with what was worked out about it.
pub(crate) struct Embeddings {
    model: String,
    inputs: Vec<String>,
    dimensions: usize,
    base64: bool,
    prompt_tokens: u32,
    digest: Digest,
}

#[derive(Serialize)]
struct Body {
    object: &'static str,
    data: Vec<Item>,
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    /// Little-endian 32-bit floats.
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

impl Task for Embeddings {
    const ENDPOINT: Endpoint = Endpoint::Embeddings;

    fn read(config: &SimulatedProviderConfig, body: Value) -> Result<Self, ApiError> {
        let Value::Object(mut fields) = body else {
            return Err(ApiError::not_json());
        };
        let model = read_model(&mut fields)?;
        if config.models.contains(&model) {
            return Err(ApiError::wrong_endpoint(&model, "v1/chat/completions"));
        }
        if !config.embedding_models.contains(&model) {
            return Err(ApiError::unknown_model(&model));
        }
        let inputs = match fields.remove("input") {
            None | Some(Value::Null) => return Err(ApiError::missing("input")),
            Some(input) => read_inputs(input)?,
        };
        let mut prompt_tokens = 0;
        let mut digester = Digester::new(config.seed);
        digester.part(model.as_bytes());
        for (text, tokens) in &inputs {
            if *tokens > MOST_TOKENS {
                return Err(ApiError::context_length(MOST_TOKENS, u64::from(*tokens)));
            }
            prompt_tokens += tokens;
            digester.part(text.as_bytes());
        }
        Ok(Self {
            model,
            inputs: inputs.into_iter().map(|(text, _)| text).collect(),
            dimensions: read_dimensions(&fields, config.embedding_dimensions)?,
            base64: read_encoding(&fields)?,
            prompt_tokens,
            digest: digester.finish(),
        })
    }

    fn model(&self) -> &str {
        &self.model
    }

    fn texts(&self) -> Vec<&str> {
        self.inputs.iter().map(String::as_str).collect()
    }

    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens
    }

    fn answer(self, _config: &SimulatedProviderConfig, _attempt: u32, _created: u64, spoil: &Spoil) -> Answer {
        let vector = |text: &str| {
            let numbers = embed(text, self.dimensions);
            if self.base64 {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Vector::Base64(STANDARD.encode(bytes))
            } else {
                Vector::Numbers(numbers)
            }
        };
        let data = self
            .inputs
            .iter()
            .enumerate()
            .map(|(index, text)| Item { object: "embedding", index, embedding: vector(text) })
            .collect();
        let usage = spoil.usage(self.prompt_tokens, 0);
        let usage = usage.map(|(tokens, _)| Usage { prompt_tokens: tokens, total_tokens: tokens });
        let body = Body { object: "list", data, model: self.model, usage };
        let json = serde_json::to_vec(&body).expect("plain structures with string keys always serialise");
        Answer { reply: Reply::Json(json), completion_tokens: 0 }
    }
}

/// Every input as text with its tokens: a string, strings, tokens, or lists of tokens.
fn read_inputs(input: Value) -> Result<Vec<(String, u32)>, ApiError> {
    const EXPECTED: &str = "a string, an array of strings or an array of tokens";
    let wrong = |value: &Value| ApiError::wrong_type("input", EXPECTED, value);
    let inputs = match input {
        Value::String(text) => vec![read_text(text)?],
        Value::Array(items) => match items.first() {
            Some(Value::Number(_)) => vec![read_tokens(&items)?],
            Some(_) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => read_text(text),
                    Value::Array(tokens) => read_tokens(&tokens),
                    other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => Err(wrong(&other)),
                })
                .collect::<Result<_, _>>()?,
            None => {
                let message = "Invalid 'input': empty array. Expected an array with minimum length 1, but got an \
                               empty array instead.";
                return Err(ApiError::invalid("input", Some("empty_array"), message));
            }
        },
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => return Err(wrong(&other)),
    };
    if inputs.len() > MOST_INPUTS {
        let message = format!(
            "Invalid 'input': array too long. Expected an array with maximum length {MOST_INPUTS}, but got an array \
             with length {} instead.",
            inputs.len()
        );
        return Err(ApiError::invalid("input", Some("array_above_max_length"), message));
    }
    Ok(inputs)
}

fn read_text(text: String) -> Result<(String, u32), ApiError> {
    if text.is_empty() {
        return Err(ApiError::invalid("input", None, "Invalid 'input': input cannot be an empty string."));
    }
    let tokens = Encoding::Embedding.count(&text);
    Ok((text, tokens))
}

fn read_tokens(tokens: &[Value]) -> Result<(String, u32), ApiError> {
    let wrong = || ApiError::invalid("input", None, "Invalid 'input': not a list of cl100k_base tokens.");
    let ids = tokens
        .iter()
        .map(|token| token.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong))
        .collect::<Result<Vec<u32>, _>>()?;
    let bytes = Encoding::Embedding.tokenizer().decode_bytes(&ids).map_err(|_| wrong())?;
    if bytes.is_empty() {
        return Err(wrong());
    }
    Ok((String::from_utf8_lossy(&bytes).into_owned(), ids.len() as u32))
}

fn read_dimensions(fields: &Map<String, Value>, most: usize) -> Result<usize, ApiError> {
    match fields.get("dimensions") {
        None | Some(Value::Null) => Ok(most),
        Some(value) => match value.as_u64().and_then(|number| usize::try_from(number).ok()) {
            Some(number) if (1..=most).contains(&number) => Ok(number),
            _ => {
                let message = format!("Invalid value for 'dimensions': expected 1 to {most}, but got {value} instead.");
                Err(ApiError::invalid("dimensions", Some("invalid_value"), message))
            }
        },
    }
}

fn read_encoding(fields: &Map<String, Value>) -> Result<bool, ApiError> {
    match fields.get("encoding_format") {
        None | Some(Value::Null) => Ok(false),
        Some(value) => match value.as_str() {
            Some("float") => Ok(false),
            Some("base64") => Ok(true),
            _ => {
                let message = format!("Invalid value: {value}. Supported values are: 'float' and 'base64'.");
                Err(ApiError::invalid("encoding_format", Some("invalid_value"), message))
            }
        },
    }
}
