//! What to start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;

use crate::kafka::{self, NodePorts, User};
use crate::leftovers::{PidFile, TEMPORARY_PREFIX, sweep};
use crate::server::Server;
use crate::stack::{Data, Stack};
use crate::{cassandra, free_ports, registry, wire};

/// Chooses the parts of a [`Stack`]. By default all three, with one broker and temporary data.
#[derive(Clone, Debug)]
pub struct Builder {
    brokers: usize,
    broker_session: Duration,
    kafka: bool,
    cassandra: bool,
    synced: bool,
    registry: bool,
    users: Vec<User>,
    data_dir: Option<PathBuf>,
    patience: Duration,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            brokers: 1,
            broker_session: Duration::from_secs(6),
            kafka: true,
            cassandra: true,
            synced: false,
            registry: true,
            users: Vec::new(),
            data_dir: None,
            patience: Duration::from_secs(180),
        }
    }
}

impl Builder {
    /// How many Kafka brokers: 1, or 3 (topics then default to three replicas, two in sync).
    #[must_use]
    pub fn brokers(mut self, brokers: usize) -> Self {
        self.brokers = brokers;
        self
    }

    /// How long a broker may be silent before the cluster does without it; 6 s unless said otherwise. One that was
    /// killed comes back no sooner.
    #[must_use]
    pub fn broker_session(mut self, session: Duration) -> Self {
        self.broker_session = session;
        self
    }

    /// Whether Kafka is started.
    #[must_use]
    pub fn kafka(mut self, wanted: bool) -> Self {
        self.kafka = wanted;
        self
    }

    /// Whether the database is started.
    #[must_use]
    pub fn cassandra(mut self, wanted: bool) -> Self {
        self.cassandra = wanted;
        self
    }

    /// The database acknowledges nothing that is not on the disk: for tests that kill it.
    #[must_use]
    pub fn synced(mut self) -> Self {
        self.synced = true;
        self
    }

    /// Whether the schema registry is started.
    #[must_use]
    pub fn registry(mut self, wanted: bool) -> Self {
        self.registry = wanted;
        self
    }

    /// Adds a SASL listener (SCRAM-SHA-256, no TLS) for these users and passwords, and switches
    /// access control on. The first user may do anything, and so may whoever comes by the plain
    /// listener; every other user may do only what an ACL allows.
    #[must_use]
    pub fn sasl<N: Into<String>, P: Into<String>>(mut self, users: impl IntoIterator<Item = (N, P)>) -> Self {
        self.users =
            users.into_iter().map(|(name, password)| User { name: name.into(), password: password.into() }).collect();
        self
    }

    /// Keeps data, configuration and logs in this folder, also after the stack has ended. A later
    /// stack of the same shape finds its data there again.
    #[must_use]
    pub fn data_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(folder.into());
        self
    }

    /// How long one server may take until it serves; 180 s unless said otherwise.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Ends what killed runs left, starts the parts together and returns when all serve.
    ///
    /// # Errors
    /// When a part was not fetched, Java is missing, or a server does not serve in time; the
    /// message then ends with that server's last log lines.
    pub async fn start(self) -> Result<Stack> {
        ensure!(matches!(self.brokers, 1 | 3), "{} brokers: choose 1 or 3", self.brokers);
        tokio::task::spawn_blocking(sweep).await??;
        let patience = self.patience;
        let stack = self.lay_out()?;

        let mut starting = JoinSet::new();
        for server in stack.servers().map(Arc::clone) {
            starting.spawn(async move {
                server.prepare().await?;
                server.start(patience).await
            });
        }
        while let Some(started) = starting.join_next().await {
            if let Err(failed) = started.context("a start was cancelled").flatten() {
                // The other starts let go of their servers before the stack is dropped.
                starting.shutdown().await;
                return Err(failed);
            }
        }
        stack.wait_for_cluster(patience).await?;
        Ok(stack)
    }

    /// Chooses ports and writes every configuration, without starting anything.
    fn lay_out(&self) -> Result<Stack> {
        let data = match &self.data_dir {
            Some(folder) => {
                std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
                Data::Kept(std::fs::canonicalize(folder)?)
            }
            None => Data::Temporary(tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempdir()?),
        };
        let temporary = matches!(data, Data::Temporary(_)).then(|| data.path().to_owned());
        let pids = Arc::new(PidFile::create(temporary)?);

        let ports = free_ports(3 * self.brokers + 3)?;
        let (kafka_ports, other_ports) = ports.split_at(3 * self.brokers);
        let nodes: Vec<NodePorts> = kafka_ports
            .chunks_exact(3)
            .map(|ports| NodePorts { plain: ports[0], controller: ports[1], sasl: ports[2] })
            .collect();

        let server = |launch| Arc::new(Server::new(launch, Arc::clone(&pids)));
        let mut brokers = Vec::new();
        if self.kafka {
            for index in 0..nodes.len() {
                let folder = data.path().join(format!("kafka-{index}"));
                brokers.push(server(kafka::launch(&folder, index, &nodes, &self.users, self.broker_session)?));
            }
        }
        let database = if self.cassandra {
            let folder = data.path().join("cassandra");
            Some(server(cassandra::launch(&folder, other_ports[0], other_ports[1], self.synced)?))
        } else {
            None
        };
        let registry = if self.registry {
            Some(server(registry::launch(&data.path().join("registry"), other_ports[2])?))
        } else {
            None
        };
        let sasl_ports = if self.kafka && !self.users.is_empty() {
            nodes.iter().map(|node| node.sasl).collect()
        } else {
            Vec::new()
        };

        Ok(Stack::new(brokers, sasl_ports, database, registry, self.patience, data, pids))
    }
}

impl Stack {
    /// Waits until the first broker counts all of them: a topic with three replicas needs three.
    async fn wait_for_cluster(&self, patience: Duration) -> Result<()> {
        let Some(first) = self.brokers().first() else { return Ok(()) };
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let nodes = wire::kafka_nodes(first.address()).await.unwrap_or_default();
            if nodes.len() == self.brokers().len() {
                return Ok(());
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "of {} Kafka brokers only {nodes:?} joined in time",
                self.brokers().len()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
