//! The connections: how many there are, and how long one may take to say what it wants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower_layer::Layer;

use crate::tls::Tls;

/// How long a connection may stay without a whole request head: new, or kept alive.
const HEAD_WITHIN: Duration = Duration::from_secs(120);
/// After the listener failed, such as for want of file descriptors.
const REST: Duration = Duration::from_millis(200);

/// Who is at the other end of the connection; a proxy where there is one.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Serves until `shutdown`, then until every connection has had its answer. Beyond `connections`
/// new ones wait in the listener's queue.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
    connections: usize,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(connections));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let (place, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(next) = next => next,
            else => break,
        };
        match accepted {
            Ok((stream, from)) => {
                tokio::spawn(connection(stream, from, tls.clone(), router.clone(), place, shutdown.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(connections).unwrap_or(u32::MAX);
    // The semaphore is never closed.
    let _all_ended = places.acquire_many(all).await;
}

async fn connection(
    stream: TcpStream,
    from: SocketAddr,
    tls: Option<Tls>,
    router: Router,
    place: OwnedSemaphorePermit,
    shutdown: CancellationToken,
) {
    let _place = place;
    // An answer leaves at once; without it, it only leaves later.
    let _slower = stream.set_nodelay(true);
    let first = tokio::select! {
        first = tokio::time::timeout(HEAD_WITHIN, stream.readable()) => first,
        () = shutdown.cancelled() => return,
    };
    if !matches!(first, Ok(Ok(()))) {
        return;
    }
    let ended = match tls {
        None => answers(stream, from, router, shutdown).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => answers(stream, from, router, shutdown).await,
            Err(error) => Err(error.into()),
        },
    };
    if let Err(error) = ended {
        tracing::debug!(%from, %error, "a connection broke off");
    }
}

/// Every request of a connection, one after the other or, over HTTP/2, at once.
async fn answers<S>(
    stream: S,
    from: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(HEAD_WITHIN));
    let service = TowerToHyperService::new(Extension(Peer(from)).layer(router));
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.as_mut().await
        }
    }
}
