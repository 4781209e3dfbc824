//! One server process: started, asked until it serves, signalled, ended, started again.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::leftovers::{PidFile, signal};
use crate::wire::Probe;

/// How long a server may take to end after SIGTERM before it is killed.
const TERM: Duration = Duration::from_secs(20);
/// How much of its log an error shows.
const TAIL_LINES: usize = 25;

/// How to run a server.
#[derive(Debug)]
pub(crate) struct Launch {
    /// What it is called in messages.
    pub(crate) name: String,
    /// Its own folder: working directory, configuration, data and log.
    pub(crate) folder: PathBuf,
    /// Arguments of `java`, run once before the first start (formatting a log folder).
    pub(crate) prepare: Option<Vec<String>>,
    /// Arguments of `java`.
    pub(crate) arguments: Vec<String>,
    /// Where it serves, on loopback.
    pub(crate) port: u16,
    /// How to ask it.
    pub(crate) probe: Probe,
}

#[derive(Debug)]
pub(crate) struct Server {
    launch: Launch,
    pids: Arc<PidFile>,
    /// Pid of the newest process, 0 once it was reaped: reachable while the lock is held.
    newest: AtomicU32,
    child: Mutex<Option<Child>>,
}

impl Server {
    pub(crate) fn new(launch: Launch, pids: Arc<PidFile>) -> Self {
        Self { launch, pids, newest: AtomicU32::new(0), child: Mutex::new(None) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.launch.port))
    }

    /// Runs the preparing command, when there is one.
    pub(crate) async fn prepare(&self) -> Result<()> {
        let Some(arguments) = &self.launch.prepare else { return Ok(()) };
        let mut slot = self.child.lock().await;
        let status = slot.insert(self.java(arguments)?).wait().await?;
        self.reaped()?;
        if !status.success() {
            bail!("{} could not be prepared ({status}); its log ends:\n{}", self.launch.name, self.log_tail());
        }
        Ok(())
    }

    /// Starts the process and waits until it serves. Does nothing when it runs already.
    pub(crate) async fn start(&self, patience: Duration) -> Result<()> {
        let mut slot = self.child.lock().await;
        if let Some(child) = slot.as_mut()
            && child.try_wait()?.is_none()
        {
            return Ok(());
        }
        let child = slot.insert(self.java(&self.launch.arguments)?);
        let deadline = Instant::now() + patience;
        loop {
            let refusal = match self.launch.probe.ask(self.address()).await {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            };
            if let Some(status) = child.try_wait()? {
                bail!("{} ended at its start ({status}); its log ends:\n{}", self.launch.name, self.log_tail());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} did not serve on {} within {} s ({refusal:#}); its log ends:\n{}",
                    self.launch.name,
                    self.address(),
                    patience.as_secs(),
                    self.log_tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends the process as a crash would (SIGKILL) and reaps it. Does nothing when it has ended.
    pub(crate) async fn kill(&self) -> Result<()> {
        let mut slot = self.child.lock().await;
        let Some(mut child) = slot.take() else { return Ok(()) };
        child.kill().await.with_context(|| format!("cannot kill {}", self.launch.name))?;
        self.reaped()
    }

    /// Ends the process in order (SIGTERM), by SIGKILL when that takes too long.
    pub(crate) async fn stop(&self) -> Result<()> {
        {
            let mut slot = self.child.lock().await;
            let Some(child) = slot.as_mut() else { return Ok(()) };
            if let Some(pid) = child.id() {
                signal(pid, "TERM")?;
                // A process that was stopped takes the signal only when it goes on.
                signal(pid, "CONT").ok();
                tokio::time::timeout(TERM, child.wait()).await.ok();
            }
        }
        self.kill().await
    }

    /// Sends a signal by name to the running process.
    pub(crate) async fn signal(&self, name: &str) -> Result<()> {
        let slot = self.child.lock().await;
        let pid = slot
            .as_ref()
            .and_then(Child::id)
            .with_context(|| format!("{} is not running: start it first", self.launch.name))?;
        signal(pid, name)
    }

    /// Kills the process without waiting in the runtime: for `Drop`.
    pub(crate) fn kill_now(&self) {
        let Ok(mut slot) = self.child.try_lock() else {
            // A start that was cancelled still holds the child, and will drop and reap it.
            let pid = self.newest.load(Ordering::Acquire);
            if pid != 0 {
                signal(pid, "KILL").ok();
            }
            return;
        };
        let Some(mut child) = slot.take() else { return };
        if child.start_kill().is_err() {
            return;
        }
        // The data folder is removed next: give the kernel the moment it needs.
        for _ in 0..200 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn java(&self, arguments: &[String]) -> Result<Child> {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path())?;
        let child = Command::new("java")
            .args(arguments)
            .current_dir(&self.launch.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Its own group: a ctrl-C at the terminal is for the owner, who ends it in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot run java: install JDK 17 (Debian: apt-get install openjdk-17-jdk-headless)")?;
        if let Some(pid) = child.id() {
            self.newest.store(pid, Ordering::Release);
            self.pids.add(pid)?;
        }
        Ok(child)
    }

    fn reaped(&self) -> Result<()> {
        let pid = self.newest.swap(0, Ordering::AcqRel);
        self.pids.remove(pid)
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.launch.folder.join("server.log")
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

/// Writes a configuration file into a server's folder, making the folder first.
pub(crate) fn write_file(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, text))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
