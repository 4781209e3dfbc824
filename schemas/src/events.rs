//! The typed events. Each mirrors the schema of the same name in `avro/`, field by field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::letters::{DeadLetter, DeadLetterAction, LetterAction, RecordHeader, Redrive};
use crate::operation::Operation;
use crate::words::words;

words! {
    /// The two lanes; one never waits behind the other.
    Lane {
        /// A person waits.
        Interactive = "interactive",
        /// Nobody waits.
        Batch = "batch",
    }
}

words! {
    /// How a request ended.
    OutcomeStatus {
        /// With an answer.
        Succeeded = "succeeded",
        /// The rules forbade the answer.
        Blocked = "blocked",
        /// It can not be answered.
        Failed = "failed",
        /// The client took it back.
        Cancelled = "cancelled",
        /// Its deadline passed before it was paid for.
        Expired = "expired",
    }
}

words! {
    /// How a request ended without an answer.
    EndedStatus {
        /// The rules forbade it.
        Blocked = "blocked",
        /// It can not be answered.
        Failed = "failed",
        /// The client took it back.
        Cancelled = "cancelled",
        /// Its deadline passed before it was paid for.
        Expired = "expired",
    }
}

impl From<EndedStatus> for OutcomeStatus {
    fn from(status: EndedStatus) -> Self {
        match status {
            EndedStatus::Blocked => Self::Blocked,
            EndedStatus::Failed => Self::Failed,
            EndedStatus::Cancelled => Self::Cancelled,
            EndedStatus::Expired => Self::Expired,
        }
    }
}

words! {
    /// What an entry of `calls` says about its call.
    CallKind {
        /// Acknowledged by the broker before the call is sent.
        Started = "started",
        /// The provider answered; `http_status` says how, the costs say what it charges.
        Finished = "finished",
        /// The call was announced and then not made.
        NotSent = "not_sent",
        /// Written by the ledger when the end was never seen, and by who broke the call off.
        Unconfirmed = "unconfirmed",
        /// A correction of a booked call: the costs are differences.
        Adjusted = "adjusted",
    }
}

/// Who asked, for what, until when, and where the answer goes. Carried unchanged from hop to hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// `req_` and 40 hexadecimal digits; see [`crate::RequestId`].
    pub request_id: String,
    /// 0 for the first run; each redrive adds one.
    pub run: i32,
    /// The proven tenant.
    pub tenant: String,
    /// User within the tenant that the work is accounted to.
    pub user: String,
    /// Identity of the API key that asked.
    pub key_id: Option<String>,
    /// The lane it travels in.
    pub lane: Lane,
    /// One of [`Operation`], unless it was refused.
    pub operation: String,
    /// The client's own key for this request.
    pub idempotency_key: Option<String>,
    /// SHA-256 of the body of a request with a key, in hexadecimal.
    pub body_hash: Option<String>,
    /// Microseconds since the epoch.
    pub received_at: i64,
    /// Milliseconds since the epoch.
    pub deadline: i64,
    /// The ingress replica that holds the client.
    pub reply_replica: Option<String>,
    /// The customer's topic that the outcome is also written to.
    pub reply_topic: Option<String>,
    /// The client's own labels.
    pub labels: BTreeMap<String, String>,
}

impl Meta {
    /// What a run that an operator asked for is claimed under, in the system tenant's name, so that of
    /// several redrives one becomes this run; `None` for the first run.
    #[must_use]
    pub fn redrive_claim(&self) -> Option<String> {
        (self.run > 0).then(|| format!("redrive {} {}", self.request_id, self.run))
    }
}

/// Why a request ended without an answer, in OpenAI's terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How it ended.
    pub status: EndedStatus,
    /// Stable code, e.g. `model_not_found`.
    pub code: String,
    /// OpenAI's error type, e.g. `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// One sentence that says what to do next.
    pub message: String,
    /// Field of the request that the message is about.
    pub param: Option<String>,
    /// Status that a synchronous client gets.
    pub http_status: i32,
}

impl Ended {
    /// A request that can not be answered because of what it asks for (HTTP 400).
    #[must_use]
    pub fn invalid(code: &str, param: Option<&str>, message: impl Into<String>) -> Self {
        Self {
            status: EndedStatus::Failed,
            code: code.to_owned(),
            kind: "invalid_request_error".to_owned(),
            message: message.into(),
            param: param.map(str::to_owned),
            http_status: 400,
        }
    }

    /// A request whose deadline passed before it was paid for (HTTP 504).
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self {
            status: EndedStatus::Expired,
            code: "deadline_exceeded".to_owned(),
            kind: "timeout_error".to_owned(),
            message: message.into(),
            param: None,
            http_status: 504,
        }
    }

    /// A request that its client took back before it was answered (HTTP 499).
    #[must_use]
    pub fn cancelled() -> Self {
        Self {
            status: EndedStatus::Cancelled,
            code: "request_cancelled".to_owned(),
            kind: "invalid_request_error".to_owned(),
            message: "The request was cancelled before it was answered. Send it again with a new key.".to_owned(),
            param: None,
            http_status: 499,
        }
    }
}

/// One provider call behind an answer and what it cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLine {
    /// The same as in the topic `calls`.
    pub call_id: String,
    /// `chat.completions`, `responses` or `embeddings`.
    pub operation: String,
    /// Name of the provider in the configuration.
    pub provider: String,
    /// Model name sent to the provider.
    pub model: String,
    /// `finished`, `failed` or `unconfirmed`.
    pub status: String,
    /// Prompt tokens, cached ones included.
    pub input_tokens: i64,
    /// Prompt tokens served from the provider's cache.
    pub cached_input_tokens: i64,
    /// Tokens that the model wrote.
    pub output_tokens: i64,
    /// True when the tokens were counted here.
    pub estimated: bool,
    /// Provider's cost in nano-units.
    pub cost_nanos: i64,
    /// Customer's charge in nano-units.
    pub charge_nanos: i64,
    /// ISO 4217.
    pub currency: String,
    /// Version of the price table.
    pub price_version: String,
}

/// When one stage had the request in its hands, in microseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTime {
    /// Name of the service.
    pub stage: String,
    /// When the stage took the record.
    pub started_at: i64,
    /// When the stage had decided its output.
    pub finished_at: i64,
}

/// Work asked for; see `avro/request.avsc`. The tenant is proven by the record, not claimed in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The client's JSON, byte for byte; empty where `body_file` names it.
    #[serde(with = "apache_avro::serde::bytes")]
    pub body: Vec<u8>,
    /// Identity given out by Millrace.
    pub request_id: Option<String>,
    /// The client's own key.
    pub idempotency_key: Option<String>,
    /// User within the tenant.
    pub user: Option<String>,
    /// What is asked for: one of [`Operation`].
    pub operation: String,
    /// Microseconds since the epoch.
    pub received_at: Option<i64>,
    /// Milliseconds since the epoch.
    pub deadline: Option<i64>,
    /// The ingress replica that holds the client.
    pub reply_replica: Option<String>,
    /// Allow-listed topic for the outcome.
    pub reply_topic: Option<String>,
    /// The client's own labels.
    pub labels: BTreeMap<String, String>,
    /// The tenant's file that the body is in, where that is larger than a record may be.
    pub body_file: Option<String>,
}

impl Request {
    /// A request of `chat.completions` with nothing but a body.
    #[must_use]
    pub fn new(body: Vec<u8>) -> Self {
        Self {
            body,
            request_id: None,
            idempotency_key: None,
            user: None,
            operation: Operation::Chat.to_string(),
            received_at: None,
            deadline: None,
            reply_replica: None,
            reply_topic: None,
            labels: BTreeMap::new(),
            body_file: None,
        }
    }
}

/// What the rules for prompts found before a model was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptModeration {
    /// `allow`, `redact` or `block`.
    pub action: String,
    /// Hash of the rule set that decided.
    pub rules_version: String,
    /// Names of the rules that matched, sorted.
    pub hits: Vec<String>,
}

/// The exact provider request, or why there will be none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Who asked.
    pub meta: Meta,
    /// Provider request JSON; `None` when ended, and where `body_file` names it.
    #[serde(with = "apache_avro::serde::bytes_opt")]
    pub body: Option<Vec<u8>>,
    /// Model as the client wrote it.
    pub model: String,
    /// Rule set that the answer is held to.
    pub rule_set: String,
    /// Prompt tokens as counted before the call.
    pub prompt_tokens: i64,
    /// Output tokens reserved for each choice.
    pub max_output_tokens: i64,
    /// How many answers are asked for.
    pub choices: i32,
    /// Passages of the tenant's documents in the prompt.
    pub passages: i32,
    /// Set when it ended before a call.
    pub ended: Option<Ended>,
    /// Calls that building the prompt took.
    pub bill: Vec<CallLine>,
    /// Time per stage so far.
    pub stages: Vec<StageTime>,
    /// What the rules for prompts found; `None` where there are none.
    pub prompt_moderation: Option<PromptModeration>,
    /// Values by the placeholders that stand for them in the body, to be put back into the answer. Personal data.
    pub placeholders: BTreeMap<String, String>,
    /// Where the body is that is larger than a record may be.
    pub body_file: Option<String>,
}

/// What the model said and the calls it took; or why it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// Who asked.
    pub meta: Meta,
    /// The provider's JSON as it came, but for values that were put back; `None` when ended.
    #[serde(with = "apache_avro::serde::bytes_opt")]
    pub response: Option<Vec<u8>>,
    /// Model as the client wrote it.
    pub model: String,
    /// Provider that answered.
    pub provider: Option<String>,
    /// Rule set that the answer is held to.
    pub rule_set: String,
    /// Set when it ended without an answer.
    pub ended: Option<Ended>,
    /// All calls behind this answer.
    pub bill: Vec<CallLine>,
    /// Time per stage so far.
    pub stages: Vec<StageTime>,
    /// What the rules for prompts found; `None` where there are none.
    pub prompt_moderation: Option<PromptModeration>,
}

/// What the rules found in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moderation {
    /// `allow`, `redact`, `block`, or `none` when there was nothing to check.
    pub action: String,
    /// Name of the rule set.
    pub rule_set: String,
    /// Hash of the rule set that decided.
    pub rules_version: String,
    /// Names of the rules that matched.
    pub hits: Vec<String>,
}

/// The one outcome of a request and run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Who asked.
    pub meta: Meta,
    /// How it ended.
    pub status: OutcomeStatus,
    /// The answer as the client gets it; `None` unless succeeded.
    #[serde(with = "apache_avro::serde::bytes_opt")]
    pub response: Option<Vec<u8>>,
    /// Set unless succeeded.
    pub error: Option<Ended>,
    /// Model as the client wrote it.
    pub model: String,
    /// Provider that answered.
    pub provider: Option<String>,
    /// What the rules found.
    pub moderation: Moderation,
    /// Sum over the bill.
    pub input_tokens: i64,
    /// Sum over the bill.
    pub output_tokens: i64,
    /// Sum over the bill, nano-units.
    pub cost_nanos: i64,
    /// Sum over the bill, nano-units.
    pub charge_nanos: i64,
    /// ISO 4217; empty when nothing was called.
    pub currency: String,
    /// The calls behind this answer.
    pub bill: Vec<CallLine>,
    /// Time per stage.
    pub stages: Vec<StageTime>,
    /// Microseconds since the epoch.
    pub finished_at: i64,
    /// What the rules for prompts found; `None` where there are none.
    pub prompt_moderation: Option<PromptModeration>,
}

/// One entry of the log that the ledger folds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Identity of the call.
    pub call_id: String,
    /// What this entry says.
    pub kind: CallKind,
    /// The request (or document) the call was made for.
    pub request_id: String,
    /// Run of that request.
    pub run: i32,
    /// Tenant accounted to.
    pub tenant: String,
    /// User accounted to.
    pub user: String,
    /// API key that asked.
    pub key_id: Option<String>,
    /// `interactive`, `batch` or `documents`.
    pub lane: String,
    /// `chat.completions`, `responses` or `embeddings`.
    pub operation: String,
    /// Name of the provider.
    pub provider: String,
    /// Model name sent to the provider.
    pub model: String,
    /// When this entry's event happened, microseconds.
    pub at: i64,
    /// When the call started, the same in every entry of a call, microseconds.
    pub started_at: i64,
    /// After this instant and the ledger's grace an open call is unconfirmed, milliseconds.
    pub deadline: i64,
    /// Version of the price table.
    pub price_version: String,
    /// ISO 4217.
    pub currency: String,
    /// Upper bound of the provider's cost, nano-units.
    pub reserved_nanos: i64,
    /// Prompt tokens.
    pub input_tokens: i64,
    /// Cached prompt tokens.
    pub cached_input_tokens: i64,
    /// Output tokens.
    pub output_tokens: i64,
    /// Counted here for want of the provider's usage.
    pub estimated: bool,
    /// Provider's cost, nano-units; a difference in `adjusted`.
    pub cost_nanos: i64,
    /// Customer's charge, nano-units; a difference in `adjusted`.
    pub charge_nanos: i64,
    /// Status that the provider answered with.
    pub http_status: Option<i32>,
    /// Why it was not sent, unconfirmed or adjusted.
    pub reason: Option<String>,
    /// In `started`: the most that the customer may be charged, nano-units.
    pub reserved_charge_nanos: Option<i64>,
    /// In `started`, and in ends that its caller writes without an answer: the name, never the value, of the key of
    /// a pool that the call is made with.
    pub provider_key: Option<String>,
}

/// One flat record per outcome, without content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Deterministic identity.
    pub event_id: String,
    /// The request.
    pub request_id: String,
    /// Its run.
    pub run: i32,
    /// Tenant.
    pub tenant: String,
    /// User.
    pub user: String,
    /// API key.
    pub key_id: Option<String>,
    /// The client's own labels.
    pub labels: BTreeMap<String, String>,
    /// Lane.
    pub lane: Lane,
    /// Operation.
    pub operation: String,
    /// Model as the client wrote it.
    pub model: String,
    /// Provider that answered.
    pub provider: Option<String>,
    /// How it ended.
    pub status: OutcomeStatus,
    /// Code of the error.
    pub error_code: Option<String>,
    /// What the rules decided.
    pub moderation_action: String,
    /// Number of calls behind the answer.
    pub calls: i32,
    /// Prompt tokens.
    pub input_tokens: i64,
    /// Output tokens.
    pub output_tokens: i64,
    /// Provider's cost, nano-units.
    pub cost_nanos: i64,
    /// Customer's charge, nano-units.
    pub charge_nanos: i64,
    /// ISO 4217.
    pub currency: String,
    /// Microseconds since the epoch.
    pub received_at: i64,
    /// Microseconds since the epoch.
    pub finished_at: i64,
    /// From acceptance to outcome, microseconds.
    pub latency_micros: i64,
    /// Microseconds that each stage held the request.
    pub stage_micros: BTreeMap<String, i64>,
}

/// Knowledge to chunk, embed and upsert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The client's id; derived when `None`.
    pub document_id: Option<String>,
    /// Collection of the tenant.
    pub collection: String,
    /// The text.
    pub text: String,
    /// Title, kept with each passage.
    pub title: Option<String>,
    /// User that the embedding is accounted to.
    pub user: Option<String>,
    /// The client's own fields.
    pub metadata: BTreeMap<String, String>,
}

/// Stop this request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancellation {
    /// Tenant of the request, who must be the one whose key signed the record.
    pub tenant: String,
    /// Identity of the request, as it was given out to the tenant.
    pub request_id: String,
    /// When the client took the request back, microseconds since the epoch.
    pub cancelled_at: i64,
}
