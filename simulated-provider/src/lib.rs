//! A server that speaks OpenAI's API without a model behind it.
//!
//! It exists so that the pipeline can be run, tested, broken and measured with no key and no
//! network: the same prompt gives the same answer and the same token counts in every process, the
//! counts are those of OpenAI's own tokenizers, latency and faults follow a script, and what was
//! charged is counted exactly.
//!
//! ```text
//! POST /v1/chat/completions   plain, or `stream: true` (server-sent events)
//! POST /v1/responses          the same, in the Responses API's words; nothing is kept
//! POST /v1/embeddings         hashed bags of words: texts that share words are near
//! GET  /v1/models  /health
//! GET  /count      what was asked, begun and charged so far     ([`Count`])
//! GET  /calls      one JSON line per request, newest million    ([`CallRecord`])
//! POST /reset      forget counts, attempts and script positions
//! PUT  /faults     replace the fault script                     (a list of [`FaultRule`])
//! PUT  /latency    replace the latency distribution             ([`Latency`])
//! PUT  /keys       replace the keys that are let in              (a JSON array of [`KeyRule`], or null: any)
//! GET  /keys       what was asked with each, by its name         ([`KeyCount`])
//! PUT  /pace       replace the pace of streams                   (`{"tokens_per_second": 50}`, or null: all at once)
//! ```
//!
//! Faults are the ones real providers show: see [`Fault`].

mod api_error;
mod call;
mod chat;
mod chat_request;
mod chat_response;
mod compose;
mod config;
mod control;
mod dice;
mod embed;
mod embeddings;
mod faults;
mod keys;
mod reply;
mod responses;
mod schema_sample;
mod server;
mod socket;
mod stats;
mod tokens;

pub use config::{ApiKey, Latency, SimulatedProviderConfig, TokenRange};
pub use faults::{Fault, FaultRule, When};
pub use keys::{KeyCount, KeyRule};
pub use server::{Error, Server, run};
pub use stats::{CallRecord, Count};
