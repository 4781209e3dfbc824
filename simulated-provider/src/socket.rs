//! Connections that a handler can reset.
//!
//! A provider that dies, or a load balancer in front of it, answers with a TCP reset and no byte
//! of HTTP. HTTP libraries have no word for that, so the switch sits under them, in the socket.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Accepts [`Socket`]s.
#[derive(Debug)]
pub(crate) struct Listener(pub TcpListener);

/// A connection's remote address and its switch.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    _address: SocketAddr,
    switch: ResetSwitch,
}

/// Resets the connection that it belongs to.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResetSwitch(Arc<AtomicBool>);

/// A connection that writes nothing more once its switch is thrown, and then closes with a reset.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    switch: ResetSwitch,
}

impl ResetSwitch {
    /// The next write fails and the connection closes with a reset instead of an orderly end.
    pub(crate) fn throw(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn thrown(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl axum::serve::Listener for Listener {
    type Io = Socket;
    type Addr = Peer;

    async fn accept(&mut self) -> (Socket, Peer) {
        loop {
            match self.0.accept().await {
                Ok((stream, address)) => {
                    // Without it the last segment of an answer waits for the client's delayed
                    // acknowledgement; a connection that refuses the option is only slower.
                    let _slower = stream.set_nodelay(true);
                    let switch = ResetSwitch::default();
                    let peer = Peer { _address: address, switch: switch.clone() };
                    return (Socket { stream, switch }, peer);
                }
                Err(error) => {
                    // Mostly too many open files: others must close before this can succeed.
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { _address: self.0.local_addr()?, switch: ResetSwitch::default() })
    }
}

impl Connected<IncomingStream<'_, Listener>> for ResetSwitch {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.remote_addr().switch.clone()
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.switch.thrown() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.switch.thrown() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.switch.thrown() {
            // An orderly end must not go out before the reset.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.switch.thrown() {
            // Should it fail, the client sees an early end of the connection: as broken as meant.
            let _orderly_end = self.stream.set_zero_linger();
        }
    }
}
