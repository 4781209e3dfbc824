//! Processes of ours, ended by pid.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// The binary under test, built beside this one.
pub fn millrace() -> anyhow::Result<PathBuf> {
    let mut path = std::env::current_exe()?;
    if path.file_stem().is_some_and(|name| name == "millrace") {
        return Ok(path);
    }
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    let path = path.join("millrace");
    if !path.is_file() {
        bail!("{} is not built; run `cargo build --release --ignore-rust-version --workspace`", path.display());
    }
    Ok(path)
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs, or waits for something.
    Running,
    /// It was stopped by a signal.
    Frozen,
    /// It ended well.
    Ended,
    /// SIGKILL ended it.
    Killed,
    /// It ended with an error.
    Failed,
}

/// A running process; killed when dropped.
pub struct Process {
    /// What it is called in messages.
    pub name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `millrace` with these arguments; its output is added to `log`.
    pub fn start(name: &str, args: &[&str], log: PathBuf) -> anyhow::Result<Self> {
        Self::start_with(name, args, &[], log)
    }

    /// [`start`](Self::start) with more environment variables.
    pub fn start_with(name: &str, args: &[&str], env: &[(String, String)], log: PathBuf) -> anyhow::Result<Self> {
        Self::start_binary(&millrace()?, name, args, env, log)
    }

    /// [`start_with`](Self::start_with) of another `millrace` than the one under test.
    pub fn start_binary(
        binary: &Path,
        name: &str,
        args: &[&str],
        env: &[(String, String)],
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let child = Command::new(binary)
            .args(args)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} can not be started"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The first line of its output that begins so.
    pub async fn line(&mut self, start: &str) -> anyhow::Result<String> {
        for _ in 0..900 {
            let text = tokio::fs::read(&self.log).await?;
            let mut lines = BufReader::new(text.as_slice()).lines();
            while let Some(line) = lines.next_line().await? {
                if line.starts_with(start) {
                    return Ok(line);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("{} printed no line that begins with `{start}`:\n{}", self.name, self.tail())
    }

    /// Asks it to drain, and waits; an exit code other than 0 is an error.
    pub async fn terminate(mut self) -> anyhow::Result<()> {
        self.signal("TERM").await?;
        let status = tokio::time::timeout(Duration::from_secs(120), self.child.wait())
            .await
            .with_context(|| format!("{} does not end after SIGTERM:\n{}", self.name, self.tail()))??;
        if !status.success() {
            bail!("{} ended with {status}:\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// What it is doing.
    pub fn state(&mut self) -> anyhow::Result<State> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(match status.signal() {
                Some(SIGKILL) => State::Killed,
                // It had not come to listen for it yet, and so had done nothing.
                Some(SIGTERM) => State::Ended,
                Some(_) | None if status.success() => State::Ended,
                Some(_) | None => State::Failed,
            });
        }
        let pid = self.child.id().unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let is_frozen = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'));
        Ok(if is_frozen { State::Frozen } else { State::Running })
    }

    /// SIGKILL.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Sends a signal by name, such as `STOP`.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let Some(pid) = self.child.id() else { bail!("{} has ended:\n{}", self.name, self.tail()) };
        run("kill", &[&format!("-{name}"), &pid.to_string()]).await.map(drop)
    }

    /// The end of its output.
    pub fn tail(&self) -> String {
        self.last_lines(40)
    }

    /// The last lines of its output, each cut to a length that can be read.
    pub fn last_lines(&self, count: usize) -> String {
        const LONGEST: usize = 300;
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(count)..].iter();
        last.map(|line| line.chars().take(LONGEST).collect::<String>()).collect::<Vec<_>>().join("\n")
    }
}

/// Runs a command to its end and returns its standard output.
pub async fn run(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> anyhow::Result<String> {
    let program = program.as_ref();
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().await?;
    if !output.status.success() {
        bail!(
            "{} {} ended with {}:\n{}",
            program.display(),
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
