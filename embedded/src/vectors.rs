//! The embedded vector store: Qdrant's gRPC API over [`qdrant_edge`].
//!
//! It implements the server traits that qdrant-client generates from Qdrant's own protocol files,
//! for the calls that an application needs: collections, payload indexes, upsert, delete, query
//! (nearest), search, scroll, get and count, with dense vectors. Every other call, and every
//! option of these that changes the result and is not there, is answered `UNIMPLEMENTED`.
//!
//! What is acknowledged is on disk: qdrant-edge does not replay its log, so every change is
//! flushed before its answer, whether the client waits for it or not.

mod collection;
mod collections;
mod condition;
mod points;
mod request;
mod response;
mod store;

use std::path::Path;

use qdrant_client::qdrant::{
    HealthCheckReply, HealthCheckRequest,
    collections_server::CollectionsServer,
    points_server::PointsServer,
    qdrant_server::{Qdrant, QdrantServer},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use crate::EmbeddedError;
use store::Store;

const WHAT: &str = "vector store";

/// The version of Qdrant whose protocol files the traits come from. Clients warn about any other.
const SPOKEN: &str = "1.20.0";

/// Qdrant's own limit of a request.
const LARGEST_REQUEST: usize = 32 * 1024 * 1024;

/// A running vector store. Dropping it stops it.
#[derive(Debug)]
pub struct Vectors {
    url: String,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Vectors {
    /// Opens the collections in `dir`, which is made if need be, and serves them. `port` 0 takes a
    /// free one.
    ///
    /// Call it on a tokio runtime, which it then serves on. Opening reads from disk on the calling
    /// thread; whatever a client asks for later works on the runtime's blocking threads.
    ///
    /// # Errors
    ///
    /// The port is taken, or a stored collection cannot be read.
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
            let served = Server::builder()
                .add_service(QdrantServer::new(Health))
                .add_service(CollectionsServer::new(store.clone()).max_decoding_message_size(LARGEST_REQUEST))
                .add_service(PointsServer::new(store).max_decoding_message_size(LARGEST_REQUEST))
                .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), until_stopped)
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "embedded vector store ended");
            }
        });
        let url = format!("http://{address}");
        tracing::info!(url, directory = %dir.display(), "embedded vector store listens");
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
        // A client that keeps its connection open must not keep the store alive.
        if tokio::time::timeout(crate::PATIENCE, &mut serving).await.is_err() {
            serving.abort();
        }
    }
}

struct Health;

#[tonic::async_trait]
impl Qdrant for Health {
    async fn health_check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckReply>, Status> {
        Ok(Response::new(HealthCheckReply {
            title: "Millrace's embedded vector store".into(),
            version: SPOKEN.into(),
            commit: None,
        }))
    }
}

/// Answers the calls that are not there. What `async_trait` makes of an `async fn` is written out,
/// because it does not look into macros.
macro_rules! unsupported {
    ($($call:ident($request:ident) -> $response:ident;)*) => {$(
        fn $call<'a, 'b>(
            &'a self,
            _: tonic::Request<qdrant_client::qdrant::$request>,
        ) -> std::pin::Pin<Box<
            dyn Future<Output = Result<tonic::Response<qdrant_client::qdrant::$response>, tonic::Status>> + Send + 'b,
        >>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(std::future::ready(Err($crate::vectors::not_here(concat!("the call ", stringify!($call))))))
        }
    )*};
}
use unsupported;

/// Refuses what a Qdrant server has and the embedded one has not.
fn not_here(what: &str) -> Status {
    Status::unimplemented(format!("the embedded vector store does not have {what}: use a Qdrant server for it"))
}
