//! An endpoint of a customer: it keeps what it is told, and answers as it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;

/// One attempt, as it arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    pub path: String,
    pub id: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
    pub answered: u16,
}

impl Arrived {
    pub fn event(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The request that it is about.
    pub fn about(&self) -> String {
        self.event()["data"]["id"].as_str().unwrap_or_default().to_owned()
    }
}

/// A running endpoint. `/flaky` refuses the first attempt of every delivery, `/dead` never answers, every
/// other path takes what comes.
#[derive(Clone, Default)]
pub struct Receiver(Arc<Mutex<Vec<Arrived>>>);

impl Receiver {
    pub async fn start() -> anyhow::Result<(Self, String)> {
        let receiver = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = Router::new().route("/{path}", post(take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((receiver, url))
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arrived>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What arrived at a path.
    pub fn at(&self, path: &str) -> Vec<Arrived> {
        self.all().iter().filter(|arrived| arrived.path == path).cloned().collect()
    }

    /// What a path has taken.
    pub fn taken(&self, path: &str) -> Vec<Arrived> {
        self.at(path).into_iter().filter(|arrived| arrived.answered == 200).collect()
    }
}

async fn take(
    State(receiver): State<Receiver>,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, &'static str) {
    let headers: BTreeMap<String, String> =
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned())).collect();
    let id = headers.get("webhook-id").cloned().unwrap_or_default();
    let is_first = !receiver.all().iter().any(|arrived| arrived.path == path && arrived.id == id);
    let answered = if path == "flaky" && is_first { 500 } else { 200 };
    receiver.all().push(Arrived { path: path.clone(), id, headers, body, answered });
    if path == "dead" {
        tokio::time::sleep(Duration::from_secs(3_600)).await;
    }
    (StatusCode::from_u16(answered).unwrap_or_default(), if answered == 200 { "thank you" } else { "not now" })
}
