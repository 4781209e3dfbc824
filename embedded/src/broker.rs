//! The embedded Kafka broker: [`nisshi_broker`]'s services over a SQLite file, on loopback.
//!
//! What survives: every acknowledged record, every topic and every commit, through `kill -9`.
//! SQLite runs in WAL mode with `synchronous = normal`, so a power loss may take the last
//! acknowledged records. Group members do not survive a restart (see `groups`).
//!
//! It has its own runtime, because SQLite works on the thread that asks it: on the caller's
//! runtime a large read would stop whatever else runs there.
//!
//! The listener is ours rather than nisshi's. Its own would leave on the process's SIGINT and
//! SIGTERM, before the services that are still draining into it; it could not choose a free port
//! and know it before the storage does; and it waits for its clients when it is told to stop.

mod api_versions;
mod fetch;
mod groups;
mod log_ends;
mod retention;
mod routes;
mod storage;

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    path::Path,
    sync::{Arc, mpsc::Sender},
    time::Duration,
};

use nisshi_broker::coordinator::group::administrator::{Controller, GroupCoordinatorConfig};
use nisshi_service::{BytesFrameLayer, TcpBytesLayer, TcpContext, TcpContextLayer};
use nisshi_storage::ArcDynStorage;
use rama::{Layer as _, Service as _, extensions::Extensions, tcp::TcpStream};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle},
    sync::oneshot,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::EmbeddedError;
use log_ends::LogEnds;
use storage::Database;

const WHAT: &str = "broker";

/// The cluster's name and its only node, as clients see them.
const CLUSTER: &str = "millrace";
const NODE: i32 = 1;

/// SQLite takes one request at a time, so a second thread is for the protocol work.
const THREADS: usize = 2;

/// How often old records are deleted.
const RETIRE_EVERY: Duration = Duration::from_secs(5 * 60);

/// Nobody waits for a second member here: every group forms as soon as its first member joins.
const GROUPS: GroupCoordinatorConfig =
    GroupCoordinatorConfig { initial_rebalance_delay: Duration::ZERO, poll_interval: Duration::from_secs(5) };

/// How long to wait after a failed `accept`, which is the process running out of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How long a request in flight may take to end at shutdown.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running broker. Dropping it stops it without waiting; see [`Broker::shutdown`].
#[derive(Debug)]
pub struct Broker {
    bootstrap_servers: String,
    storage: ArcDynStorage,
    ends: Arc<LogEnds>,
    runtime: Handle,
    stop: DropGuard,
    stopped: oneshot::Receiver<()>,
}

impl Broker {
    /// Starts a broker on `dir`, which is made if need be, and returns once it listens.
    ///
    /// `port` 0 takes a free one. One broker per directory at a time: the caller holds the lock.
    ///
    /// # Errors
    ///
    /// The port is taken, or the directory or the database in it cannot be used.
    pub fn start(dir: &Path, port: u16) -> Result<Self, EmbeddedError> {
        let database = Database::open(dir)?;
        let listener = crate::listen(WHAT, port)?;
        let address = listener.local_addr().map_err(|source| EmbeddedError::listen(WHAT, port, source))?;

        let stop = CancellationToken::new();
        let (started, starting) = std::sync::mpsc::channel();
        let (ended, stopped) = oneshot::channel();
        let thread = {
            let stop = stop.clone();
            move || {
                run(database, listener, address, &stop, &started);
                // Nobody listens when the broker was dropped instead of shut down.
                let _ = ended.send(());
            }
        };
        std::thread::Builder::new().name("broker".into()).spawn(thread).map_err(EmbeddedError::Runtime)?;

        let (storage, ends, runtime) =
            starting.recv().map_err(|_| EmbeddedError::storage(WHAT, dir, "it ended while starting"))??;
        let bootstrap_servers = address.to_string();
        tracing::info!(%bootstrap_servers, directory = %dir.display(), "embedded broker listens");
        Ok(Self { bootstrap_servers, storage, ends, runtime, stop: stop.drop_guard(), stopped })
    }

    /// Returns where clients connect: `127.0.0.1:PORT`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Deletes the records that their topic's `retention.ms` (seven days when it has none),
    /// `retention.bytes` and `cleanup.policy` no longer keep, now.
    ///
    /// The broker does so by itself at start and every five minutes. The file does not shrink;
    /// the freed pages are used for the next records.
    ///
    /// # Errors
    ///
    /// The database cannot be read or written.
    pub async fn retire(&self) -> Result<(), EmbeddedError> {
        let (storage, ends) = (self.storage.clone(), self.ends.clone());
        let retiring = self.runtime.spawn(async move { retention::retire(&storage, &ends).await });
        let reason = match retiring.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(EmbeddedError::Retire { reason })
    }

    /// Stops: connections close, then the database. Of a record that is being produced meanwhile
    /// its producer learns nothing; stop the clients first.
    pub async fn shutdown(self) {
        let Self { stop, stopped, storage, .. } = self;
        drop(storage);
        drop(stop);
        // An error says that the thread has already ended, which is what is waited for.
        let _ = stopped.await;
    }
}

type Started = Result<(ArcDynStorage, Arc<LogEnds>, Handle), EmbeddedError>;

/// What the broker's own thread does from its start to its end.
fn run(
    database: Database,
    listener: StdListener,
    address: SocketAddr,
    stop: &CancellationToken,
    started: &Sender<Started>,
) {
    let built = Builder::new_multi_thread().worker_threads(THREADS).thread_name("broker").enable_all().build();
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(error) => return tell(started, Err(EmbeddedError::Runtime(error))),
    };
    runtime.block_on(async {
        let server = match Server::new(&database, listener, address).await {
            Ok(server) => server,
            Err(error) => return tell(started, Err(error)),
        };
        let handle = Handle::current();
        tell(started, Ok((server.storage.clone(), server.ends.clone(), handle)));
        server.serve(stop).await;
    });
    runtime.shutdown_timeout(PATIENCE);
}

fn tell(started: &Sender<Started>, outcome: Started) {
    // `Broker::start` waits for exactly this, so there is always somebody to tell.
    let _ = started.send(outcome);
}

struct Server {
    listener: TcpListener,
    storage: ArcDynStorage,
    ends: Arc<LogEnds>,
    groups: Controller<ArcDynStorage>,
}

impl Server {
    async fn new(database: &Database, listener: StdListener, address: SocketAddr) -> Result<Self, EmbeddedError> {
        let listener =
            TcpListener::from_std(listener).map_err(|source| EmbeddedError::listen(WHAT, address.port(), source))?;
        let storage = database.engine(CLUSTER, NODE, address).await?;
        groups::forget_members(&storage)
            .await
            .map_err(|error| EmbeddedError::storage(WHAT, database.directory(), &error.to_string()))?;
        let groups = Controller::new(storage.clone(), GROUPS);
        Ok(Self { listener, storage, ends: Arc::default(), groups })
    }

    /// Serves until told to stop.
    async fn serve(self, stop: &CancellationToken) {
        let mut connections = JoinSet::new();
        let mut retirement = interval(RETIRE_EVERY);
        retirement.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut retiring = JoinSet::new();

        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.connect(stream, &mut connections),
                    Err(error) => {
                        tracing::warn!(%error, "embedded broker cannot accept a connection");
                        sleep(ACCEPT_BACKOFF).await;
                    }
                },
                _ = retirement.tick(), if retiring.is_empty() => {
                    let (storage, ends) = (self.storage.clone(), self.ends.clone());
                    retiring.spawn(async move { retention::retire(&storage, &ends).await });
                }
                Some(retired) = retiring.join_next() => if let Ok(Err(error)) = retired {
                    tracing::warn!(%error, "embedded broker cannot retire old records");
                },
                Some(_) = connections.join_next() => {}
            }
        }
        connections.shutdown().await;
        retiring.shutdown().await;
    }

    fn connect(&self, stream: tokio::net::TcpStream, connections: &mut JoinSet<()>) {
        let routes = match routes::routes(self.storage.clone(), self.groups.clone(), &self.ends) {
            Ok(routes) => routes,
            Err(error) => {
                tracing::error!(%error, "embedded broker cannot build its routes");
                return;
            }
        };
        let service = (
            TcpContextLayer::new(TcpContext::default().cluster_id(Some(CLUSTER.into()))),
            TcpBytesLayer,
            BytesFrameLayer::default(),
        )
            .into_layer(routes);
        connections.spawn(async move {
            // Without it every small answer waits for the client's delayed acknowledgement.
            if stream.set_nodelay(true).is_err() {
                return;
            }
            let stream = TcpStream::from_tokio_tcp_stream(stream, Extensions::default());
            if let Err(error) = service.serve(stream).await {
                tracing::debug!(%error, "embedded broker connection ended");
            }
        });
    }
}
