//! The whole arrow as separate processes on real Kafka, Cassandra and registry.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_config::Config;
use millrace_embedded::Vectors;
use millrace_stack::{Stack, free_ports};
use millrace_storage::Storage;
use serde_json::Value;

use crate::process::{Process, State, millrace, run};
use crate::secrets::{Search, Secrets};
use crate::settings::{BINDINGS, PROMPT_RULES, configuration};

/// API key of the tenant `acme`.
pub const TENANT_KEY: &str = "mr_test_acme";
/// The administrator's key.
pub const ADMIN_KEY: &str = "mra_test";
/// A topic bound to the tenant `acme` in the interactive lane.
pub const FAST_REQUESTS: &str = "acme.fast.requests";
/// A second topic that `acme` may ask its outcomes to.
pub const FAST_OUTCOMES: &str = "acme.fast.outcomes";
/// A third one, on which outcomes are JSON.
pub const JSON_OUTCOMES: &str = "acme.json.outcomes";
/// The topics of the tenant `rival`.
pub const RIVAL_TOPICS: (&str, &str) = ("rival.requests", "rival.outcomes");
/// Customers who use Kafka themselves, as users of the broker's SASL listener: their tenants' names.
pub const CUSTOMERS: [&str; 2] = ["acme", "rival"];
/// The operator on the broker's SASL listener, where the stack has that listener.
pub const KAFKA_USER: (&str, &str) = ("millrace-operator", "test-only");

/// Everybody on the broker's SASL listener: the operator first, who may do anything, then each service
/// as a user of its own, who may do what an ACL allows.
pub fn kafka_users() -> impl Iterator<Item = (String, String)> {
    let (operator, password) = KAFKA_USER;
    let services = SERVICES.map(principal);
    let customers = CUSTOMERS.map(str::to_owned);
    std::iter::once(operator.to_owned()).chain(services).chain(customers).map(move |user| (user, password.to_owned()))
}

fn principal(service: &str) -> String {
    format!("millrace-{service}")
}
/// API key of the tenant `rival`.
pub const RIVAL_KEY: &str = "mr_test_rival";

/// Services of which any number may run.
const SERVICES: [&str; 8] =
    ["prompt-builder", "inference-router", "moderator", "result-sink", "webhooks", "cost-ledger", "indexer", "ingress"];

/// The longest that a process may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// How a pipeline is set up.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// Processes of every service.
    pub copies: usize,
    /// Their environment, such as `("MILLRACE_STAGE__WINDOW", "10")`. In a value, `{folder}` is the folder
    /// of this run and `{name}` the name of the process.
    pub env: &'a [(&'a str, &'a str)],
    /// Whether a customer has topics of its own. A group that reads several topics may give all of one to
    /// one process.
    pub bindings: bool,
    /// Another `millrace` than the one under test, for every process until [`Pipeline::upgrade`].
    pub binary: Option<&'a Path>,
    /// Partitions of every topic, where that matters.
    pub partitions: Option<u16>,
}

impl<'a> Setup<'a> {
    /// So many processes of every service, and every other setting at its default.
    #[must_use]
    pub fn copies(copies: usize) -> Self {
        Self { copies, env: &[], bindings: true, binary: None, partitions: None }
    }

    /// With so many partitions of every topic.
    #[must_use]
    pub fn partitions(self, partitions: u16) -> Self {
        Self { partitions: Some(partitions), ..self }
    }

    /// With this environment.
    #[must_use]
    pub fn env(self, env: &'a [(&'a str, &'a str)]) -> Self {
        Self { env, ..self }
    }
}

/// One process of a service, which may be ended and started again.
struct Member {
    name: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    log: PathBuf,
    /// Where it is watched.
    watched: String,
    /// The `millrace` that it runs.
    binary: PathBuf,
    process: Option<Process>,
    /// It was asked to drain.
    drains: bool,
    /// It is started once it has ended: see [`Pipeline::revive`].
    returns: bool,
}

impl Member {
    fn start(&mut self, env: &[(&str, &str)]) -> anyhow::Result<()> {
        ensure!(
            !matches!(self.state()?, State::Running | State::Frozen),
            "{} runs yet: end it before it is started again",
            self.name
        );
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let mut all = self.env.clone();
        all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.process = Some(Process::start_binary(&self.binary, &self.name, &args, &all, self.log.clone())?);
        (self.drains, self.returns) = (false, false);
        Ok(())
    }

    fn state(&mut self) -> anyhow::Result<State> {
        self.process.as_mut().map_or(Ok(State::Ended), Process::state)
    }

    /// The end of its output, after a word on what is the matter.
    fn complaint(&self, what: &str) -> String {
        let tail = self.process.as_ref().map(Process::tail).unwrap_or_default();
        format!("{tail}\n{} {what}", self.name)
    }
}

/// A running pipeline.
pub struct Pipeline {
    /// Base URL of the first ingress.
    pub http: String,
    /// Base URLs of all of them.
    pub doors: Vec<String>,
    /// Root of the simulated provider (without `/v1`).
    pub provider: String,
    /// The configuration file of every process.
    pub config: PathBuf,
    /// What nobody may find in anything that was written.
    pub secrets: Secrets,
    members: Vec<Member>,
    provider_process: Process,
    vectors: Vectors,
    /// Removed after those who write to it are gone.
    folder: tempfile::TempDir,
}

impl Pipeline {
    /// Starts every service on `stack`.
    pub async fn start(stack: &Stack, setup: Setup<'_>) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("millrace-e2e-").tempdir()?;
        let logs = folder.path();
        let listen = format!("127.0.0.1:{}", free_ports(1)?[0]);
        let args = ["run", "simulated-provider", "--listen", &listen];
        let mut provider_process = Process::start("simulated-provider", &args, logs.join("provider.log"))?;
        let base = provider_process.line("http://").await?;
        let provider = base.trim_end_matches("/v1").to_owned();

        // Qdrant is in no package registry: the embedded endpoint speaks its protocol.
        let vectors = Vectors::start(&logs.join("vectors"), 0)?;
        let config = logs.join("millrace.toml");
        let mut settings = configuration(stack, &base, vectors.url());
        if let Some(partitions) = setup.partitions {
            settings = settings.replace("[kafka]\n", &format!("[kafka]\npartitions = {partitions}\n"));
        }
        if setup.binary.is_some() {
            // The last release does not know it.
            settings = settings.replace(&format!("json_reply_topics = [\"{JSON_OUTCOMES}\"]\n"), "");
            settings = settings.replace(PROMPT_RULES, "");
        }
        if !setup.bindings {
            settings = settings.replace(BINDINGS, "");
        }
        std::fs::write(&config, settings)?;
        let file = text(&config)?;
        let binary = setup.binary.map_or_else(millrace, |binary| Ok(binary.to_owned()))?;
        for tool in [["storage", "migrate"], ["topics", "apply"], ["topics", "check"]] {
            run(binary.clone(), &[&tool[..], &["--config", file]].concat()).await?;
        }

        let mut pipeline = Self {
            http: String::new(),
            doors: Vec::new(),
            provider,
            config: config.clone(),
            secrets: Secrets::default(),
            folder,
            members: Vec::new(),
            provider_process,
            vectors,
        };
        let (_, password) = KAFKA_USER;
        for (name, value) in [
            ("acme's key", TENANT_KEY),
            ("rival's key", RIVAL_KEY),
            ("the administrator's key", ADMIN_KEY),
            ("the password on the broker", password),
        ] {
            pipeline.secrets.add(name, value);
        }
        pipeline.add("", &config, setup)?;
        pipeline.http = pipeline.doors.first().cloned().unwrap_or_default();
        pipeline.until_ready().await?;
        Ok(pipeline)
    }

    /// Starts processes of every service with this configuration beside those that run; `suffix` is put
    /// behind their names.
    pub fn add(&mut self, suffix: &str, config: &Path, setup: Setup<'_>) -> anyhow::Result<()> {
        let logs = self.folder.path().to_owned();
        let mut ports = free_ports(2 * SERVICES.len() * setup.copies)?.into_iter();
        let mut port = || ports.next().context("as many ports as were asked for");
        // The last release has none.
        for service in SERVICES.into_iter().filter(|service| *service != "webhooks" || setup.binary.is_none()) {
            for copy in 0..setup.copies {
                let (front, metrics) = (port()?, port()?);
                if service == "ingress" {
                    self.doors.push(format!("http://127.0.0.1:{front}"));
                }
                let name = format!("{service}-{copy}{suffix}");
                let own = logs.join(format!("{name}.toml"));
                let settings = std::fs::read_to_string(config)?
                    .replace(&format!("\"{}\"", KAFKA_USER.0), &format!("\"{}\"", principal(service)))
                    .replace("\"127.0.0.1:1\"", &format!("\"127.0.0.1:{front}\""))
                    .replace("\"127.0.0.1:2\"", &format!("\"127.0.0.1:{metrics}\""));
                std::fs::write(&own, settings)?;
                let mut member = Member {
                    args: ["run", service, "--config", text(&own)?].map(str::to_owned).to_vec(),
                    env: environment(setup.env, text(&logs)?, &name),
                    log: logs.join(format!("{name}.log")),
                    watched: format!("http://127.0.0.1:{metrics}"),
                    binary: setup.binary.map_or_else(millrace, |binary| Ok(binary.to_owned()))?,
                    process: None,
                    drains: false,
                    returns: false,
                    name,
                };
                member.start(&[])?;
                self.members.push(member);
            }
        }
        Ok(())
    }

    /// Drains one process for good.
    pub async fn retire(&mut self, name: &str) -> anyhow::Result<()> {
        self.terminate(name).await?;
        self.members.retain(|member| member.name != name);
        Ok(())
    }

    /// Changes the configuration file of one process, which takes up what it can while it runs, and all at its next start.
    pub fn edit(&mut self, name: &str, edit: impl FnOnce(String) -> String) -> anyhow::Result<()> {
        let file = self.folder.path().join(format!("{name}.toml"));
        let settings = std::fs::read_to_string(&file)?;
        Ok(std::fs::write(&file, edit(settings))?)
    }

    /// Waits until every process says that it is ready, apart from those that were ended.
    pub async fn until_ready(&self) -> anyhow::Result<()> {
        let client = client()?;
        for member in self.members.iter().filter(|member| member.process.is_some()) {
            let until = Instant::now() + READY_WITHIN;
            loop {
                let why = match client.get(format!("{}/ready", member.watched)).send().await {
                    Ok(answer) if answer.status().is_success() => break,
                    Ok(answer) => answer.text().await.unwrap_or_default(),
                    Err(error) => error.to_string(),
                };
                if Instant::now() > until {
                    bail!("{}", member.complaint(&format!("is not ready after {READY_WITHIN:?}: {why}")));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    /// The end of every process's output.
    pub fn tails(&self) -> String {
        let running = self.members.iter().filter_map(|m| m.process.as_ref());
        running.map(|p| format!("--- {}\n{}", p.name, p.last_lines(5))).collect::<Vec<_>>().join("\n")
    }

    /// Names of the processes, such as `moderator-1`.
    pub fn names(&self) -> Vec<String> {
        self.members.iter().map(|m| m.name.clone()).collect()
    }

    /// SIGKILL to one process; it stays down until [`restart`](Self::restart).
    pub async fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let member = self.member(name)?;
        member.returns = false;
        let process = member.process.take().with_context(|| format!("{name} does not run"))?;
        process.kill().await
    }

    /// Asks a process to drain and does not wait: [`revive`](Self::revive) starts it again when it
    /// has ended and [`restart_once_ended`](Self::restart_once_ended) was called. One that drains already
    /// is left to it: a second signal would stop it at once.
    pub async fn drain(&mut self, name: &str) -> anyhow::Result<()> {
        if !self.member(name)?.drains {
            self.signal(name, "TERM").await?;
            self.member(name)?.drains = true;
        }
        Ok(())
    }

    /// Has [`revive`](Self::revive) start a process that drains, or was killed; one that simply runs is
    /// left alone.
    pub fn restart_once_ended(&mut self, name: &str) -> anyhow::Result<()> {
        let member = self.member(name)?;
        member.returns = match member.state()? {
            State::Running | State::Frozen => member.drains,
            State::Ended | State::Killed | State::Failed => true,
        };
        Ok(())
    }

    /// Starts the processes that have drained and are to return. One that did not drain well is an error.
    pub fn revive(&mut self) -> anyhow::Result<()> {
        for member in self.members.iter_mut().filter(|member| member.returns) {
            match member.state()? {
                State::Ended | State::Killed => member.start(&[])?,
                State::Failed => bail!("{}", member.complaint("did not drain well")),
                State::Running | State::Frozen => {}
            }
        }
        Ok(())
    }

    /// Whether processes still drain that are to return.
    pub fn any_returns(&self) -> bool {
        self.members.iter().any(|member| member.returns)
    }

    /// A process that ended with an error, and the end of its output; nobody told it to.
    pub fn failed(&mut self) -> anyhow::Result<Option<String>> {
        for member in &mut self.members {
            if member.state()? == State::Failed {
                return Ok(Some(member.complaint("ended with an error")));
            }
        }
        Ok(None)
    }

    /// Starts a process that was killed.
    pub fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        self.restart_with(name, &[])
    }

    /// [`restart`](Self::restart) with more environment variables, this time.
    pub fn restart_with(&mut self, name: &str, env: &[(&str, &str)]) -> anyhow::Result<()> {
        self.member(name)?.start(env)
    }

    /// From its next start on one process runs this `millrace`, or the one under test.
    pub fn upgrade(&mut self, name: &str, binary: Option<&Path>) -> anyhow::Result<()> {
        self.member(name)?.binary = binary.map_or_else(millrace, |binary| Ok(binary.to_owned()))?;
        Ok(())
    }

    /// Drains one process; it stays down until [`restart`](Self::restart).
    pub async fn terminate(&mut self, name: &str) -> anyhow::Result<()> {
        let process = self.member(name)?.process.take().with_context(|| format!("{name} does not run"))?;
        process.terminate().await
    }

    /// What one process is doing.
    pub fn state(&mut self, name: &str) -> anyhow::Result<State> {
        self.member(name)?.state()
    }

    /// Sends a signal to one process by name, such as `STOP`.
    pub async fn signal(&mut self, name: &str, signal: &str) -> anyhow::Result<()> {
        self.member(name)?.process.as_ref().with_context(|| format!("{name} does not run"))?.signal(signal).await
    }

    fn member(&mut self, name: &str) -> anyhow::Result<&mut Member> {
        self.members.iter_mut().find(|m| m.name == name).with_context(|| format!("there is no process `{name}`"))
    }

    /// Process ids of the services, without the provider.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|m| m.process.as_ref()?.pid()).collect()
    }

    /// Process ids of the services of this kind.
    pub fn pids_of(&self, service: &str) -> Vec<u32> {
        let of_service = self.members.iter().filter(|m| m.name.starts_with(service));
        of_service.filter_map(|m| m.process.as_ref()?.pid()).collect()
    }

    /// Where files of this run may be put.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command of `millrace` against this pipeline.
    pub async fn command(&self, args: &[&str]) -> anyhow::Result<String> {
        let file = text(&self.config)?;
        let mut all = args.to_vec();
        all.extend(["--config", file]);
        run(millrace()?, &all).await
    }

    /// The provider's own count.
    pub async fn count(&self) -> anyhow::Result<Value> {
        Ok(client()?.get(format!("{}/count", self.provider)).send().await?.json().await?)
    }

    /// What every process shows at `/metrics`, by its name.
    pub async fn metrics(&self) -> anyhow::Result<Vec<(String, String)>> {
        let client = client()?;
        let mut pages = Vec::new();
        for member in &self.members {
            let shown = client.get(format!("{}/metrics", member.watched)).send().await?.error_for_status()?;
            pages.push((member.name.clone(), shown.text().await?));
        }
        Ok(pages)
    }

    /// Looks through all that there is of this run: metrics and logs of every process, files in its folder, and
    /// the records of all topics.
    pub async fn look_through(&self, stack: &Stack, search: &mut Search) -> anyhow::Result<()> {
        for (name, page) in self.metrics().await? {
            ensure!(!page.is_empty(), "{name} shows no metrics");
            search.look(&format!("metrics of {name}"), page.as_bytes());
        }
        for member in &self.members {
            ensure!(std::fs::metadata(&member.log)?.len() > 0, "{} has logged nothing", member.name);
        }
        search.folder(self.folder())?;
        search.records(&stack.bootstrap_servers())
    }

    /// Ids of the documents of which Qdrant has at least one passage.
    pub async fn documents(&self) -> anyhow::Result<HashSet<String>> {
        crate::documents::stored(self.vectors.url()).await
    }

    /// The store, opened for a look.
    pub async fn storage(&self) -> anyhow::Result<Storage> {
        let config = Config::load(Some(&self.config), std::iter::empty(), [])?;
        Ok(Storage::open(&config.storage).await?)
    }

    /// Drains every service and checks that each ends well.
    pub async fn stop(self) -> anyhow::Result<()> {
        let running = self.members.into_iter().filter_map(|m| m.process);
        let ends: Vec<_> = running.map(|process| tokio::spawn(process.terminate())).collect();
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

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}

fn environment(env: &[(&str, &str)], folder: &str, name: &str) -> Vec<(String, String)> {
    let filled = |value: &str| value.replace("{folder}", folder).replace("{name}", name);
    env.iter().map(|(variable, value)| ((*variable).to_owned(), filled(value))).collect()
}
