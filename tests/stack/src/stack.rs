//! The running servers, their addresses, and the faults that can be done to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::builder::Builder;
use crate::leftovers::PidFile;
use crate::registry::API;
use crate::server::Server;

/// A part that faults can be done to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Part {
    /// The Kafka broker with this index, from 0.
    Broker(usize),
    /// The CQL database.
    Database,
    /// The schema registry.
    Registry,
}

/// Where the parts serve; a part that was not asked for has no address.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Addresses {
    /// Kafka's `bootstrap.servers`, plain.
    pub bootstrap_servers: Option<String>,
    /// Kafka's `bootstrap.servers` of the SASL listener.
    pub sasl_bootstrap_servers: Option<String>,
    /// `127.0.0.1:port` of the CQL database.
    pub cassandra: Option<String>,
    /// The URL of the Confluent-compatible registry API.
    pub registry_url: Option<String>,
    /// The folder with data, configuration and logs.
    pub data_dir: PathBuf,
}

#[derive(Debug)]
pub(crate) enum Data {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Data {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(folder) => folder,
        }
    }
}

/// Running servers. Dropping it kills them; [`Stack::stop`] is the orderly way.
#[derive(Debug)]
pub struct Stack {
    brokers: Vec<Arc<Server>>,
    sasl_ports: Vec<u16>,
    database: Option<Arc<Server>>,
    registry: Option<Arc<Server>>,
    patience: Duration,
    // Dropped in this order: the data goes before the page that names it.
    data: Data,
    _pids: Arc<PidFile>,
}

impl Stack {
    pub(crate) fn new(
        brokers: Vec<Arc<Server>>,
        sasl_ports: Vec<u16>,
        database: Option<Arc<Server>>,
        registry: Option<Arc<Server>>,
        patience: Duration,
        data: Data,
        pids: Arc<PidFile>,
    ) -> Self {
        Self { brokers, sasl_ports, database, registry, patience, data, _pids: pids }
    }

    /// All three parts, one broker, temporary data; the builder changes any of it.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn brokers(&self) -> &[Arc<Server>] {
        &self.brokers
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.brokers.iter().chain(&self.database).chain(&self.registry)
    }

    /// Kafka's `bootstrap.servers`; empty when Kafka was not asked for.
    #[must_use]
    pub fn bootstrap_servers(&self) -> String {
        let addresses: Vec<String> = self.brokers.iter().map(|broker| broker.address().to_string()).collect();
        addresses.join(",")
    }

    /// `bootstrap.servers` of the SASL listener; empty when [`Builder::sasl`] was not used.
    #[must_use]
    pub fn sasl_bootstrap_servers(&self) -> String {
        let addresses: Vec<String> = self.sasl_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        addresses.join(",")
    }

    /// How many Kafka brokers there are.
    #[must_use]
    pub fn broker_count(&self) -> usize {
        self.brokers.len()
    }

    /// `127.0.0.1:port` of the CQL database; empty when it was not asked for.
    #[must_use]
    pub fn cassandra_addr(&self) -> String {
        self.database.as_ref().map(|server| server.address().to_string()).unwrap_or_default()
    }

    /// The URL of the Confluent-compatible registry API; empty when it was not asked for.
    #[must_use]
    pub fn registry_url(&self) -> String {
        self.registry.as_ref().map(|server| format!("http://{}{API}", server.address())).unwrap_or_default()
    }

    /// The folder with every server's data, configuration and `server.log`.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// All addresses in one value, as `millrace-stack up` prints them.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        let present = |text: String| (!text.is_empty()).then_some(text);
        Addresses {
            bootstrap_servers: present(self.bootstrap_servers()),
            sasl_bootstrap_servers: present(self.sasl_bootstrap_servers()),
            cassandra: present(self.cassandra_addr()),
            registry_url: present(self.registry_url()),
            data_dir: self.data_dir().to_owned(),
        }
    }

    /// The log file of a part: standard output and error of all its runs.
    ///
    /// # Errors
    /// When the stack has no such part.
    pub fn log_path(&self, part: Part) -> Result<PathBuf> {
        Ok(self.server(part)?.log_path())
    }

    fn server(&self, part: Part) -> Result<&Server> {
        match part {
            Part::Broker(index) => self.brokers.get(index),
            Part::Database => self.database.as_ref(),
            Part::Registry => self.registry.as_ref(),
        }
        .map(Arc::as_ref)
        .with_context(|| format!("this stack has no {part:?}: ask the builder for it"))
    }

    /// Ends a part as a crash would, by SIGKILL. Ending it twice is no error.
    ///
    /// # Errors
    /// When the stack has no such part.
    pub async fn kill(&self, part: Part) -> Result<()> {
        self.server(part)?.kill().await
    }

    /// Ends a part in order, by SIGTERM.
    ///
    /// # Errors
    /// When the stack has no such part.
    pub async fn stop_part(&self, part: Part) -> Result<()> {
        self.server(part)?.stop().await
    }

    /// Starts a part again on the same port with the same data, and waits until it serves.
    ///
    /// # Errors
    /// When the stack has no such part, or it does not serve in time.
    pub async fn start_part(&self, part: Part) -> Result<()> {
        self.server(part)?.start(self.patience).await
    }

    /// Freezes a part, by SIGSTOP: its connections stay open and nothing answers.
    ///
    /// # Errors
    /// When the part is not running.
    pub async fn sigstop(&self, part: Part) -> Result<()> {
        self.server(part)?.signal("STOP").await
    }

    /// Lets a frozen part go on, by SIGCONT.
    ///
    /// # Errors
    /// When the part is not running.
    pub async fn sigcont(&self, part: Part) -> Result<()> {
        self.server(part)?.signal("CONT").await
    }

    /// [`Stack::kill`] for the broker with this index.
    ///
    /// # Errors
    /// When there is no such broker.
    pub async fn kill_broker(&self, index: usize) -> Result<()> {
        self.kill(Part::Broker(index)).await
    }

    /// [`Stack::start_part`] for the broker with this index.
    ///
    /// # Errors
    /// When there is no such broker, or it does not serve in time.
    pub async fn start_broker(&self, index: usize) -> Result<()> {
        self.start_part(Part::Broker(index)).await
    }

    /// [`Stack::stop_part`] for the database.
    ///
    /// # Errors
    /// When the stack has no database.
    pub async fn stop_database(&self) -> Result<()> {
        self.stop_part(Part::Database).await
    }

    /// [`Stack::start_part`] for the database.
    ///
    /// # Errors
    /// When the stack has no database, or it does not serve in time.
    pub async fn start_database(&self) -> Result<()> {
        self.start_part(Part::Database).await
    }

    /// [`Stack::stop_part`] for the registry.
    ///
    /// # Errors
    /// When the stack has no registry.
    pub async fn stop_registry(&self) -> Result<()> {
        self.stop_part(Part::Registry).await
    }

    /// [`Stack::start_part`] for the registry.
    ///
    /// # Errors
    /// When the stack has no registry, or it does not serve in time.
    pub async fn start_registry(&self) -> Result<()> {
        self.start_part(Part::Registry).await
    }

    /// Ends every part: in order when the data is kept, by SIGKILL when nobody will read it again.
    ///
    /// # Errors
    /// When a server cannot be ended.
    pub async fn stop(self) -> Result<()> {
        let kept = matches!(self.data, Data::Kept(_));
        let mut ending = tokio::task::JoinSet::new();
        for server in self.servers().map(Arc::clone) {
            ending.spawn(async move { if kept { server.stop().await } else { server.kill().await } });
        }
        while let Some(ended) = ending.join_next().await {
            ended.context("an end was cancelled")??;
        }
        Ok(())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for server in self.servers() {
            server.kill_now();
        }
    }
}
