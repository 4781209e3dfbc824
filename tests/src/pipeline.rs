//! The whole arrow as separate processes on real Kafka, Cassandra and registry.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use millrace_config::Config;
use millrace_embedded::Vectors;
use millrace_stack::Stack;
use millrace_storage::Storage;
use serde_json::Value;

use crate::process::{Process, millrace, run};

/// API key of the tenant `acme`.
pub const TENANT_KEY: &str = "mr_test_acme";
/// API key of the tenant `rival`.
pub const RIVAL_KEY: &str = "mr_test_rival";

/// Services of which any number may run.
const SERVICES: [&str; 7] =
    ["prompt-builder", "inference-router", "moderator", "result-sink", "cost-ledger", "indexer", "ingress"];

/// A running pipeline.
pub struct Pipeline {
    /// Base URL of the first ingress.
    pub http: String,
    /// Root of the simulated provider (without `/v1`).
    pub provider: String,
    /// The configuration file of every process.
    pub config: PathBuf,
    folder: tempfile::TempDir,
    processes: Vec<Process>,
    provider_process: Process,
    vectors: Vectors,
}

impl Pipeline {
    /// Starts `copies` processes of every service on `stack`.
    pub async fn start(stack: &Stack, copies: usize) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("millrace-e2e-").tempdir()?;
        let logs = folder.path();
        let listen = format!("127.0.0.1:{}", free_port()?);
        let args = ["run", "simulated-provider", "--listen", &listen];
        let mut provider_process = Process::start("simulated-provider", &args, logs.join("provider.log"))?;
        let base = provider_process.line("http://").await?;
        let provider = base.trim_end_matches("/v1").to_owned();

        // Qdrant is in no package registry: the embedded endpoint speaks its protocol.
        let vectors = Vectors::start(&logs.join("vectors"), 0)?;
        let config = logs.join("millrace.toml");
        std::fs::write(&config, configuration(stack, &base, vectors.url()))?;
        let file = config.to_str().context("a path in UTF-8")?;
        run(millrace()?, &["storage", "migrate", "--config", file]).await?;
        run(millrace()?, &["topics", "apply", "--replication-factor", "1", "--config", file]).await?;
        run(millrace()?, &["topics", "check", "--replication-factor", "1", "--config", file]).await?;

        let mut processes = Vec::new();
        let mut http = String::new();
        let mut admin = Vec::new();
        for service in SERVICES {
            for copy in 0..copies {
                let (front, metrics) = (free_port()?, free_port()?);
                if service == "ingress" && copy == 0 {
                    http = format!("http://127.0.0.1:{front}");
                }
                let own = logs.join(format!("{service}-{copy}.toml"));
                let text = std::fs::read_to_string(&config)?
                    .replace("\"127.0.0.1:1\"", &format!("\"127.0.0.1:{front}\""))
                    .replace("\"127.0.0.1:2\"", &format!("\"127.0.0.1:{metrics}\""));
                std::fs::write(&own, text)?;
                let name = format!("{service}-{copy}");
                let args = ["run", service, "--config", own.to_str().context("a path in UTF-8")?];
                processes.push(Process::start(&name, &args, logs.join(format!("{name}.log")))?);
                admin.push(format!("http://127.0.0.1:{metrics}/ready"));
            }
        }
        let pipeline = Self { http, provider, config, folder, processes, provider_process, vectors };
        for url in admin {
            pipeline.until_ready(&url).await?;
        }
        Ok(pipeline)
    }

    async fn until_ready(&self, url: &str) -> anyhow::Result<()> {
        let client = client()?;
        for _ in 0..600 {
            if client.get(url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let tails: Vec<_> = self.processes.iter().map(|p| format!("--- {}\n{}", p.name, p.tail())).collect();
        bail!("{url} is not ready after two minutes\n{}", tails.join("\n"))
    }

    /// Process ids of the services, without the provider.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().filter_map(Process::pid).collect()
    }

    /// Where files of this run may be put.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command of `millrace` against this pipeline.
    pub async fn command(&self, args: &[&str]) -> anyhow::Result<String> {
        let file = self.config.to_str().context("a path in UTF-8")?;
        let mut all = args.to_vec();
        all.extend(["--config", file]);
        run(millrace()?, &all).await
    }

    /// The provider's own count.
    pub async fn count(&self) -> anyhow::Result<Value> {
        Ok(client()?.get(format!("{}/count", self.provider)).send().await?.json().await?)
    }

    /// The store, opened for a look.
    pub async fn storage(&self) -> anyhow::Result<Storage> {
        let config = Config::load(Some(&self.config), std::iter::empty(), [])?;
        Ok(Storage::open(&config.storage).await?)
    }

    /// Drains every service and checks that each ends well.
    pub async fn stop(self) -> anyhow::Result<()> {
        let ends: Vec<_> = self.processes.into_iter().map(|p| tokio::spawn(p.terminate())).collect();
        for end in ends {
            end.await??;
        }
        self.provider_process.terminate().await?;
        self.vectors.shutdown().await;
        Ok(())
    }
}

/// A client that talks to loopback only.
pub fn client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build()?)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn configuration(stack: &Stack, provider: &str, vectors: &str) -> String {
    format!(
        r#"
[kafka]
bootstrap_servers = "{kafka}"
topic_prefix = "e2e."
group_prefix = "e2e."

[registry]
url = "{registry}"

[storage]
kind = "cql"
nodes = ["{cassandra}"]
keyspace = "millrace_e2e"
replication_factor = 1

[providers.sim]
base_url = "{provider}"

[models.sim-small]
provider = "sim"
context_tokens = 128000

[models.sim-large]
provider = "sim"
context_tokens = 128000

[models.sim-embed]
provider = "sim"
context_tokens = 8192
embedding = true
dimensions = 384

[knowledge]
embedding_model = "sim-embed"

[vectors]
url = "{vectors}"

[tenants.rival]
keys = [{{ id = "default", key = "{RIVAL_KEY}" }}]

[tenants.acme]
reply_topics = ["acme.outcomes"]
users = {{ ada = {{}}, grace = {{}} }}
keys = [{{ id = "default", key = "{TENANT_KEY}" }}]

[topic_bindings]
"acme.requests" = {{ tenant = "acme" }}

[ingress]
listen = "127.0.0.1:1"
admin_key = "mra_test"

[telemetry]
listen = "127.0.0.1:2"
log_format = "pretty"
"#,
        kafka = stack.bootstrap_servers(),
        registry = stack.registry_url(),
        cassandra = stack.cassandra_addr(),
    )
}
