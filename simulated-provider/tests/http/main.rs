//! The simulated provider as clients see it: everything here goes through real HTTP.

#![expect(clippy::unwrap_used, reason = "tests")]

mod answers;
mod client_library;
mod counters;
mod embeddings;
mod faults;
mod refusals;
mod streams;

use std::net::SocketAddr;

use millrace_simulated_provider::{Count, Latency, Server, SimulatedProviderConfig, TokenRange};
use reqwest::{Client, Response};
use serde_json::{Value, json};

/// A running provider and a client for it.
struct Provider {
    server: Server,
    client: Client,
}

impl Provider {
    async fn start(config: SimulatedProviderConfig) -> Self {
        let server = Server::start(config, SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        Self { server, client: Client::new() }
    }

    /// With no latency.
    async fn fast() -> Self {
        Self::start(fast()).await
    }

    /// With this fault script and no latency.
    async fn faulty(rules: Value) -> Self {
        Self::start(SimulatedProviderConfig { faults: serde_json::from_value(rules).unwrap(), ..fast() }).await
    }

    fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.addr())
    }

    async fn try_chat(&self, body: &Value) -> reqwest::Result<Response> {
        self.client.post(self.at("/v1/chat/completions")).json(body).send().await
    }

    async fn chat(&self, body: &Value) -> Response {
        self.try_chat(body).await.unwrap()
    }

    /// The body of a chat that must succeed.
    async fn chat_json(&self, body: &Value) -> Value {
        let response = self.chat(body).await;
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    /// Status and body of a POST.
    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let request = self.client.post(self.at(path)).header("content-type", "application/json").body(body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.client.put(self.at(path)).json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn count(&self) -> Count {
        self.client.get(self.at("/count")).send().await.unwrap().json().await.unwrap()
    }
}

fn fast() -> SimulatedProviderConfig {
    SimulatedProviderConfig { latency: Latency::Constant { ms: 0.0 }, ..SimulatedProviderConfig::default() }
}

fn exactly(tokens: u32) -> TokenRange {
    TokenRange { min: tokens, max: tokens }
}

fn ask(prompt: &str) -> Value {
    json!({"model": "sim-small", "messages": [{"role": "user", "content": prompt}]})
}

/// `ask` with more fields.
fn ask_with(prompt: &str, fields: Value) -> Value {
    let mut body = ask(prompt);
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn text(completion: &Value) -> &str {
    completion["choices"][0]["message"]["content"].as_str().unwrap()
}

fn tiktoken(text: &str) -> u64 {
    tiktoken_rs::o200k_base_singleton().encode_ordinary(text).len() as u64
}
