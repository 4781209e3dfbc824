//! The address where a process is watched: `/metrics`, `/health` and `/ready`.

use std::io;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Readiness;

/// Serves `/metrics` (Prometheus text), `/health` (200 while the process lives) and `/ready` (200
/// when every check is ready, else 503; each check in JSON).
#[derive(Clone, Debug)]
pub struct AdminServer {
    registry: Registry,
    readiness: Readiness,
}

impl AdminServer {
    /// Serves on `listener` until `shutdown` is cancelled. Cancel it after the drain, so that the
    /// drain can be watched.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(
        listener: TcpListener,
        registry: Registry,
        readiness: Readiness,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        let router = Self { registry, readiness }.router();
        axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
    }

    /// The routes, for a process that serves them beside its own.
    pub fn router_for(registry: Registry, readiness: Readiness) -> Router {
        Self { registry, readiness }.router()
    }

    fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/health", get(health))
            .route("/ready", get(ready))
            .with_state(self)
    }
}

async fn metrics(State(server): State<AdminServer>) -> Response {
    match TextEncoder::new().encode_to_string(&server.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "metrics could not be encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics could not be encoded: {error}\n")).into_response()
        }
    }
}

async fn health() -> &'static str {
    "ok\n"
}

async fn ready(State(server): State<AdminServer>) -> Response {
    let checks = server.readiness.checks();
    let is_ready = server.readiness.is_ready();
    let listed: Map<String, Value> = checks
        .into_iter()
        .map(|(name, check)| (name, json!({ "ready": check.is_ready, "detail": check.detail })))
        .collect();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(json!({ "ready": is_ready, "checks": listed }))).into_response()
}

#[cfg(test)]
mod tests {
    use prometheus::IntCounter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// Status line, headers and body of a GET.
    async fn fetch(address: std::net::SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }

    #[tokio::test]
    async fn serves_metrics_health_and_readiness_until_cancelled() {
        let registry = Registry::new();
        let counter = IntCounter::new("millrace_test_records_total", "Records.").unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        counter.inc_by(7);
        let readiness = Readiness::new();
        let kafka = readiness.register("kafka");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(AdminServer::run(listener, registry, readiness, shutdown.clone()));

        let (status, answer) = fetch(address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(answer.contains("millrace_test_records_total 7"), "{answer}");
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");

        assert_eq!(fetch(address, "/health").await.0, 200);
        let (status, answer) = fetch(address, "/ready").await;
        assert_eq!(status, 503);
        assert!(
            answer.contains(r#"{"ready":false,"checks":{"kafka":{"ready":false,"detail":"starting"}}}"#),
            "{answer}"
        );
        kafka.set(true, "3 brokers");
        let (status, answer) = fetch(address, "/ready").await;
        assert_eq!(status, 200);
        assert!(answer.contains("3 brokers"), "{answer}");
        assert_eq!(fetch(address, "/other").await.0, 404);

        shutdown.cancel();
        server.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
