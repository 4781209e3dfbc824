//! Chat answers as OpenAI writes them, whole or as server-sent events.

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use crate::reply::Event;

/// What is the same in an answer and in each chunk of its stream.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    pub model: String,
    pub fingerprint: String,
}

/// One of the answers to a request.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub content: Content,
    pub finish: &'static str,
    pub tokens: u32,
}

/// What an answer says.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A text, and where each chunk of a stream ends in it with its tokens.
    Text { text: String, parts: Vec<(usize, u32)> },
    /// A call of a function; `arguments` is JSON.
    ToolCall { id: String, name: String, arguments: String },
}

/// Tokens of a call, in OpenAI's shape.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct PromptDetails {
    cached_tokens: u64,
    audio_tokens: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct CompletionDetails {
    reasoning_tokens: u64,
    audio_tokens: u64,
    accepted_prediction_tokens: u64,
    rejected_prediction_tokens: u64,
}

impl Usage {
    pub(crate) fn new(prompt_tokens: u64, completion_tokens: u64) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptDetails::default(),
            completion_tokens_details: CompletionDetails::default(),
        }
    }
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChoiceJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    service_tier: &'static str,
    system_fingerprint: &'a str,
}

#[derive(Serialize)]
struct ChoiceJson<'a> {
    index: usize,
    message: MessageJson<'a>,
    logprobs: Option<()>,
    finish_reason: &'a str,
}

#[derive(Serialize)]
struct MessageJson<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: Option<()>,
    annotations: [(); 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCallJson<'a>; 1]>,
}

#[derive(Serialize)]
struct ToolCallJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: FunctionJson<'a>,
}

#[derive(Serialize)]
struct FunctionJson<'a> {
    name: &'a str,
    arguments: &'a str,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    service_tier: &'static str,
    system_fingerprint: &'a str,
    choices: &'a [ChunkChoice<'a>],
    /// Absent, `null`, or the usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: usize,
    delta: Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Option<()>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Value>,
}

const SERVICE_TIER: &str = "default";

/// The body of an answer in one piece.
pub(crate) fn completion(envelope: &Envelope, choices: &[Choice], usage: Option<Usage>) -> Vec<u8> {
    let choices = choices.iter().enumerate().map(|(index, choice)| choice_json(index, choice)).collect();
    to_json(&Completion {
        id: &envelope.id,
        object: "chat.completion",
        created: envelope.created,
        model: &envelope.model,
        choices,
        usage,
        service_tier: SERVICE_TIER,
        system_fingerprint: &envelope.fingerprint,
    })
}

fn choice_json(index: usize, choice: &Choice) -> ChoiceJson<'_> {
    let (content, tool_calls) = match &choice.content {
        Content::Text { text, .. } => (Some(text.as_str()), None),
        Content::ToolCall { id, name, arguments } => {
            let function = FunctionJson { name, arguments };
            (None, Some([ToolCallJson { index: None, id, kind: "function", function }]))
        }
    };
    let message = MessageJson { role: "assistant", content, refusal: None, annotations: [], tool_calls };
    ChoiceJson { index, message, logprobs: None, finish_reason: choice.finish }
}

/// The events of a streamed answer, `[DONE]` included. With `include_usage` every chunk has the
/// field, and the last one, without choices, has the numbers; `usage` absent leaves that one out.
pub(crate) fn events(envelope: &Envelope, choices: &[Choice], include_usage: bool, usage: Option<Usage>) -> Vec<Event> {
    let mut writer = EventWriter { envelope, include_usage, events: Vec::new() };
    for (index, choice) in choices.iter().enumerate() {
        writer.choice(index, choice);
    }
    if include_usage && let Some(usage) = usage {
        writer.chunk(&[], Some(usage), 0);
    }
    writer.events.push(Event { bytes: Bytes::from_static(b"data: [DONE]\n\n"), tokens: 0 });
    writer.events
}

struct EventWriter<'a> {
    envelope: &'a Envelope,
    include_usage: bool,
    events: Vec<Event>,
}

impl EventWriter<'_> {
    fn choice(&mut self, index: usize, choice: &Choice) {
        let role = Some("assistant");
        match &choice.content {
            Content::Text { text, parts } => {
                let opening = Delta { role, content: Some(Some("")), refusal: Some(None), tool_calls: None };
                self.delta(index, opening, None, 0);
                let mut start = 0;
                for &(end, tokens) in parts {
                    let content = Some(text.get(start..end));
                    start = end;
                    self.delta(index, Delta { content, ..Delta::default() }, None, tokens);
                }
            }
            Content::ToolCall { id, name, arguments } => {
                let function = FunctionJson { name, arguments: "" };
                let call = serde_json::json!([ToolCallJson { index: Some(0), id, kind: "function", function }]);
                let opening = Delta { role, content: Some(None), refusal: Some(None), tool_calls: Some(call) };
                self.delta(index, opening, None, 0);
                let rest = serde_json::json!([{"index": 0, "function": {"arguments": arguments}}]);
                self.delta(index, Delta { tool_calls: Some(rest), ..Delta::default() }, None, choice.tokens);
            }
        }
        self.delta(index, Delta::default(), Some(choice.finish), 0);
    }

    fn delta(&mut self, index: usize, delta: Delta<'_>, finish_reason: Option<&str>, tokens: u32) {
        self.chunk(&[ChunkChoice { index, delta, logprobs: None, finish_reason }], None, tokens);
    }

    fn chunk(&mut self, choices: &[ChunkChoice<'_>], usage: Option<Usage>, tokens: u32) {
        let json = to_json(&Chunk {
            id: &self.envelope.id,
            object: "chat.completion.chunk",
            created: self.envelope.created,
            model: &self.envelope.model,
            service_tier: SERVICE_TIER,
            system_fingerprint: &self.envelope.fingerprint,
            choices,
            usage: self.include_usage.then_some(usage),
        });
        let mut bytes = Vec::with_capacity(json.len() + 8);
        bytes.extend_from_slice(b"data: ");
        bytes.extend_from_slice(&json);
        bytes.extend_from_slice(b"\n\n");
        self.events.push(Event { bytes: bytes.into(), tokens });
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structures with string keys always serialise")
}
