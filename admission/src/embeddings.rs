//! Requests for vectors: how many texts there are, how long they are, and how large the answer will be.

use millrace_config::ModelConfig;
use millrace_schemas::{ANSWER_LIMIT, Ended};

use crate::body::EditableBody;
use crate::checks::{integer, missing, wrong_type};
use crate::json;
use crate::tokens;

/// Members that are read here.
pub(crate) const READ: [&str; 5] = ["model", "input", "dimensions", "encoding_format", "millrace"];

const EXPECTED: &str = "a string, an array of strings, or an array of tokens or of such arrays";
const MAX_INPUTS: usize = 2_048;
const MAX_DIMENSIONS: u32 = 16_384;
/// The longest number that a provider writes, with the white space around it.
const NUMBER_BYTES: usize = 24;
/// What stands around each vector.
const ITEM_BYTES: usize = 128;

/// Tokens of all inputs together, or a bound of them.
///
/// # Errors
/// What is wrong with the request; also when its answer could not travel.
pub(crate) fn tokens_of(body: &EditableBody, model: &ModelConfig) -> Result<u32, Ended> {
    let raw = body.get("input").ok_or_else(|| missing("input", body.keys()))?;
    let inputs = inputs(raw)?;
    check_count(&inputs, body, model)?;
    let mut sum = 0_u32;
    for (index, input) in inputs.iter().enumerate() {
        let tokens = input.tokens(model.context_tokens);
        if tokens > model.context_tokens {
            let message = format!(
                "This model's maximum input is {} tokens. However, input {index} has {tokens}. Please shorten it.",
                model.context_tokens
            );
            return Err(Ended::invalid("context_length_exceeded", Some("input"), message));
        }
        sum = sum.saturating_add(tokens);
    }
    Ok(sum)
}

/// Tokens of all inputs of a request that was admitted, counted.
pub(crate) fn count(body: &EditableBody) -> u32 {
    let inputs = body.get("input").and_then(|raw| inputs(raw).ok()).unwrap_or_default();
    // Nothing is within a limit of none, so each is counted.
    inputs.iter().fold(0, |sum, input| sum.saturating_add(input.tokens(0)))
}

/// One of the things to embed.
enum Input<'a> {
    Text(&'a str),
    Tokens(u32),
}

impl Input<'_> {
    /// Exact only where the number of bytes, which bounds it, is beyond `limit`.
    fn tokens(&self, limit: u32) -> u32 {
        match self {
            Self::Tokens(count) => *count,
            Self::Text(raw) if tokens::upper_bound(raw.len()) <= limit => tokens::upper_bound(raw.len()),
            Self::Text(raw) => json::string(raw).map_or(0, |text| tokens::count(&text)),
        }
    }
}

fn inputs(raw: &str) -> Result<Vec<Input<'_>>, Ended> {
    let wrong = |raw: &str| wrong_type("input", EXPECTED, json::kind(raw));
    if json::kind(raw) == "a string" {
        return Ok(vec![text(raw)?]);
    }
    let items = json::items(raw).ok_or_else(|| wrong(raw))?;
    match items.first() {
        None => Err(empty("'input' is an empty array: name at least one text.")),
        Some(first) if json::kind(first) == "a number" => Ok(vec![tokens(&items)?]),
        Some(_) => items
            .into_iter()
            .map(|item| match json::kind(item) {
                "a string" => text(item),
                "an array" => tokens(&json::items(item).ok_or_else(|| wrong(item))?),
                _ => Err(wrong(item)),
            })
            .collect(),
    }
}

fn text(raw: &str) -> Result<Input<'_>, Ended> {
    if json::string(raw).is_none_or(|text| text.is_empty()) {
        return Err(empty("'input' has an empty string, which has no vector: leave it out."));
    }
    Ok(Input::Text(raw))
}

fn tokens<'a>(items: &[&str]) -> Result<Input<'a>, Ended> {
    if items.is_empty() {
        return Err(empty("'input' has an empty array of tokens, which has no vector: leave it out."));
    }
    match items.iter().find(|item| item.parse::<u32>().is_err()) {
        Some(item) if json::kind(item) == "a number" => Err(wrong_type("input", EXPECTED, "a number that is no token")),
        Some(item) => Err(wrong_type("input", EXPECTED, json::kind(item))),
        None => Ok(Input::Tokens(tokens::upper_bound(items.len()))),
    }
}

fn empty(message: &str) -> Ended {
    Ended::invalid("invalid_value", Some("input"), message)
}

/// Vectors are large, and a call whose answer can not travel would be paid for nothing.
fn check_count(inputs: &[Input<'_>], body: &EditableBody, model: &ModelConfig) -> Result<(), Ended> {
    let named = integer("dimensions", body.get("dimensions"), 1..=MAX_DIMENSIONS)?;
    let dimensions = named.or(model.dimensions).unwrap_or(MAX_DIMENSIONS);
    let numbers = usize::try_from(dimensions).unwrap_or(usize::MAX);
    let (vector, hint) = match body.get("encoding_format") {
        Some("\"base64\"") => (numbers.saturating_mul(4).div_ceil(3).saturating_mul(4), ""),
        None | Some("null" | "\"float\"") => {
            (numbers.saturating_mul(NUMBER_BYTES), ", or more of them with `\"encoding_format\": \"base64\"`")
        }
        Some(other) => {
            let message =
                format!("Invalid value for 'encoding_format': use 'float' or 'base64' ({}).", json::kind(other));
            return Err(Ended::invalid("invalid_value", Some("encoding_format"), message));
        }
    };
    let most = (ANSWER_LIMIT / vector.saturating_add(ITEM_BYTES)).clamp(1, MAX_INPUTS);
    if inputs.len() > most {
        let message = format!(
            "'input' has {} items: an answer has room for {most} vectors of {dimensions} numbers. Send at most {most} at a \
             time{hint}.",
            inputs.len()
        );
        return Err(Ended::invalid("too_many_inputs", Some("input"), message));
    }
    Ok(())
}
