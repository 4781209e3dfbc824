//! The servers that `millrace up` runs inside itself, so that nothing has to be installed.
//!
//! | module | speaks | is | keeps its data in |
//! |---|---|---|---|
//! | [`broker`] | the Kafka protocol | nisshi's services over SQLite | `broker.db` |
//! | [`registry`] | Confluent's schema registry API | axum over one JSON file | `registry.json` |
//! | [`vectors`] | Qdrant's gRPC API | qdrant-client's server traits over qdrant-edge | one directory a collection |
//!
//! Each listens on loopback only, has no authentication, and takes one directory of its own. They
//! speak the real protocols, so the services run the same code against them and against a cluster.
//! What they acknowledged survives `kill -9`, not a power loss.
//!
//! Start them on a tokio runtime, stop the clients before them, and let no two processes share a
//! directory: the caller holds the lock.
//!
//! Why these parts and what each costs to build: `docs/adr/0002-embedded-broker.md`.

pub mod broker;
pub mod registry;
pub mod vectors;

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

pub use broker::Broker;
pub use registry::Registry;
pub use vectors::Vectors;

/// Why an embedded server cannot start or work. Every message is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Somebody else listens on the port.
    #[error("port {port} for the embedded {what} is taken: stop the other process or choose another port")]
    PortTaken {
        /// The server.
        what: &'static str,
        /// The port.
        port: u16,
    },
    /// The port cannot be listened on for another reason.
    #[error("the embedded {what} cannot listen on 127.0.0.1:{port}: {source}: choose another port")]
    Listen {
        /// The server.
        what: &'static str,
        /// The port.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// A directory cannot be made or read.
    #[error("cannot use the directory {}: {source}: choose another data directory or mend its permissions", path.display())]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The stored data cannot be opened.
    #[error("the embedded {what} cannot open its data in {}: {reason}: choose another data directory or restore this one", path.display())]
    Storage {
        /// The server.
        what: &'static str,
        /// The server's directory.
        path: PathBuf,
        /// What the storage says.
        reason: String,
    },
    /// Old records were not deleted.
    #[error("the embedded broker cannot retire old records: {reason}: check the free space of its disk")]
    Retire {
        /// What the storage says.
        reason: String,
    },
    /// The process has no threads or descriptors left.
    #[error("cannot start a thread for an embedded server: {0}: raise the limits of this process")]
    Runtime(io::Error),
}

impl EmbeddedError {
    fn listen(what: &'static str, port: u16, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::AddrInUse {
            Self::PortTaken { what, port }
        } else {
            Self::Listen { what, port, source }
        }
    }

    fn directory(path: &Path, source: io::Error) -> Self {
        Self::Directory { path: path.into(), source }
    }

    fn storage(what: &'static str, path: &Path, reason: &str) -> Self {
        let reason = reason.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        Self::Storage { what, path: path.into(), reason }
    }
}

/// Listens on loopback, not blocking, on a free port when `port` is 0.
fn listen(what: &'static str, port: u16) -> Result<TcpListener, EmbeddedError> {
    let listening = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let listener = listening.map_err(|source| EmbeddedError::listen(what, port, source))?;
    listener.set_nonblocking(true).map_err(|source| EmbeddedError::listen(what, port, source))?;
    Ok(listener)
}

/// How long a server waits at shutdown for the requests in flight.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

fn make_directory(path: &Path) -> Result<(), EmbeddedError> {
    fs::create_dir_all(path).map_err(|source| EmbeddedError::directory(path, source))
}
