//! `POST /v1/chat/completions`: the answer as a function of seed, model and messages.

use serde_json::{Value, json};

use crate::api_error::ApiError;
use crate::call::{Answer, Spoil, Task};
use crate::chat_request::{ChatRequest, ForcedTool, Format};
use crate::chat_response::{Choice, Content, Envelope, Usage, completion, events};
use crate::compose::{Topic, compose, topics};
use crate::config::SimulatedProviderConfig;
use crate::dice::{Digest, Digester};
use crate::reply::Reply;
use crate::schema_sample;
use crate::stats::Endpoint;
use crate::tokens::{Encoding, parts};

/// A chat request with what was worked out about it.
pub(crate) struct Chat {
    request: ChatRequest,
    prompt_tokens: u32,
    digest: Digest,
}

impl Task for Chat {
    const ENDPOINT: Endpoint = Endpoint::Chat;

    fn read(config: &SimulatedProviderConfig, body: Value) -> Result<Self, ApiError> {
        let request = ChatRequest::read(body)?;
        if config.embedding_models.contains(&request.model) {
            return Err(ApiError::wrong_endpoint(&request.model, "v1/embeddings"));
        }
        if !config.models.contains(&request.model) {
            return Err(ApiError::unknown_model(&request.model));
        }
        let prompt_tokens = request.prompt_tokens();
        if prompt_tokens >= config.context_tokens {
            return Err(ApiError::context_length(config.context_tokens, u64::from(prompt_tokens)));
        }
        let digest = request.digest(config.seed);
        Ok(Self { request, prompt_tokens, digest })
    }

    fn model(&self) -> &str {
        &self.request.model
    }

    fn texts(&self) -> Vec<&str> {
        self.request.texts()
    }

    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens
    }

    fn answer(self, config: &SimulatedProviderConfig, attempt: u32, created: u64, spoil: &Spoil) -> Answer {
        let topics = topics(self.request.question());
        let choices: Vec<Choice> =
            (0..self.request.choices).map(|index| self.choice(config, &topics, index, spoil)).collect();
        let completion_tokens = choices.iter().map(|choice| choice.tokens).sum();
        let usage = spoil
            .usage(self.prompt_tokens, completion_tokens)
            .map(|(prompt, completion)| Usage::new(prompt, completion));
        let envelope = Envelope {
            id: format!("chatcmpl-{}", self.digest.with("id", u64::from(attempt)).hex(29)),
            created,
            fingerprint: fingerprint(config.seed, &self.request.model),
            model: self.request.model,
        };
        let reply = if self.request.stream {
            Reply::Events(events(&envelope, &choices, self.request.include_usage, usage))
        } else {
            Reply::Json(completion(&envelope, &choices, usage))
        };
        Answer { reply, completion_tokens }
    }
}

/// The same for every answer of one model under one seed, as of one backend configuration.
fn fingerprint(seed: u64, model: &str) -> String {
    let mut digester = Digester::new(seed);
    digester.part(model.as_bytes());
    format!("fp_{}", digester.finish().hex(10))
}

impl Chat {
    /// The first answer, for who asks for no other.
    pub(crate) fn only_choice(&self, config: &SimulatedProviderConfig, spoil: &Spoil) -> Choice {
        self.choice(config, &topics(self.request.question()), 0, spoil)
    }

    fn choice(&self, config: &SimulatedProviderConfig, topics: &[Topic], index: u32, spoil: &Spoil) -> Choice {
        let digest = self.digest.with("choice", u64::from(index));
        let room = config.context_tokens - self.prompt_tokens;
        let limit = self.request.limit.map_or(room, |limit| limit.min(room));
        let mut dice = digest.dice();
        let length = config.completion_tokens.sample(&mut dice);
        if let Some(tool) = &self.request.forced_tool {
            return self.tool_call(tool, &digest, limit);
        }
        let limit = if spoil.filtered { (length.min(limit) / 2).max(1) } else { limit };
        let composed = compose(&mut dice, topics, length, Some(limit));
        let mut choice = Choice {
            finish: if composed.finished { "stop" } else { "length" },
            tokens: composed.tokens,
            content: Content::Text { text: composed.text, parts: composed.parts },
        };
        self.shape(&mut choice, &digest, limit);
        if spoil.filtered {
            choice.finish = "content_filter";
        }
        choice
    }

    fn tool_call(&self, tool: &ForcedTool, digest: &Digest, limit: u32) -> Choice {
        let arguments = schema_sample::sample(&tool.parameters, &self.words(), &mut digest.dice()).to_string();
        let (arguments, _, arguments_tokens, whole) = cut(&arguments, limit);
        // A call that `tool_choice` names ends with "stop" at OpenAI, any other with "tool_calls".
        let finish = match (whole, tool.named) {
            (false, _) => "length",
            (true, true) => "stop",
            (true, false) => "tool_calls",
        };
        let id = format!("call_{}", digest.with("tool", 0).hex(24));
        let tokens = Encoding::Chat.count(&tool.name) + arguments_tokens;
        Choice { content: Content::ToolCall { id, name: tool.name.clone(), arguments }, finish, tokens }
    }

    /// Puts a text into the format asked for, and ends it at a stop sequence.
    fn shape(&self, choice: &mut Choice, digest: &Digest, limit: u32) {
        let Content::Text { text, parts } = &mut choice.content else { return };
        let mut wanted = match &self.request.format {
            Format::Text => None,
            Format::JsonObject => Some(json!({"answer": text.as_str()}).to_string()),
            Format::JsonSchema(schema) => {
                Some(schema_sample::sample(schema, &self.words(), &mut digest.dice()).to_string())
            }
        };
        let shaped = wanted.as_deref().unwrap_or(text.as_str());
        let stop = self.request.stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| shaped.find(stop)).min();
        if let Some(end) = stop {
            wanted = Some(shaped[..end].to_owned());
        }
        if let Some(wanted) = wanted {
            let (cut_text, cut_parts, tokens, whole) = cut(&wanted, limit);
            (*text, *parts, choice.tokens) = (cut_text, cut_parts, tokens);
            choice.finish = if whole { "stop" } else { "length" };
        }
    }

    /// A few words of the prompt, for the strings of structured answers.
    fn words(&self) -> String {
        self.request.question().split_whitespace().take(6).collect::<Vec<_>>().join(" ")
    }
}

/// As much of `text` as fits `limit` tokens, its parts for a stream, its tokens, and whether it
/// is all of the text.
fn cut(text: &str, limit: u32) -> (String, Vec<(usize, u32)>, u32, bool) {
    let (mut end, mut tokens, mut kept) = (0, 0, Vec::new());
    for part in parts(text) {
        let cost = Encoding::Chat.count(part);
        if tokens + cost > limit {
            break;
        }
        end += part.len();
        tokens += cost;
        kept.push((end, cost));
    }
    (text[..end].to_owned(), kept, tokens, end == text.len())
}
