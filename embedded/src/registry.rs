//! The embedded schema registry: the part of Confluent's API that serializers and our tools use.
//!
//! Ids are global, start at 1 and never change: the same schema has the same id under every
//! subject. Schemas are Avro only. Subjects and schemas cannot be deleted.

mod api;
mod compatibility;
mod store;

use std::path::Path;

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::EmbeddedError;
use store::Store;

const WHAT: &str = "schema registry";

/// A running registry. Dropping it stops it.
#[derive(Debug)]
pub struct Registry {
    url: String,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Registry {
    /// Starts a registry on `dir`, which is made if need be. `port` 0 takes a free one.
    ///
    /// Call it on a tokio runtime, which it then serves on.
    ///
    /// # Errors
    ///
    /// The port is taken, or the stored schemas cannot be read.
    pub fn start(dir: &Path, port: u16) -> Result<Self, EmbeddedError> {
        crate::make_directory(dir)?;
        let store = Store::open(dir)?;
        let listener = crate::listen(WHAT, port)?;
        let failed = |source| EmbeddedError::listen(WHAT, port, source);
        let address = listener.local_addr().map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;

        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let until_stopped = async {
                // Also when the sender is dropped.
                let _ = stopped.await;
            };
            let served = axum::serve(listener, api::router(store)).with_graceful_shutdown(until_stopped);
            if let Err(error) = served.await {
                tracing::error!(%error, "embedded schema registry ended");
            }
        });
        let url = format!("http://{address}");
        tracing::info!(url, directory = %dir.display(), "embedded schema registry listens");
        Ok(Self { url, stop, serving })
    }

    /// Returns where clients connect: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops, after the requests in flight.
    pub async fn shutdown(self) {
        let Self { stop, mut serving, .. } = self;
        drop(stop);
        // A client that keeps its connection open must not keep the registry alive.
        if tokio::time::timeout(crate::PATIENCE, &mut serving).await.is_err() {
            serving.abort();
        }
    }
}
