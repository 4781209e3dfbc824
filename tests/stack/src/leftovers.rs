//! What a stack writes down about its processes, so that a run that was killed leaves nothing
//! behind for longer than until the next start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::parts::cache_dir;

/// What a temporary data folder is called; nothing else is ever removed by a sweep.
pub(crate) const TEMPORARY_PREFIX: &str = "millrace-stack-";

/// A process, told apart from a later one that was given the same pid.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
struct Identity {
    pid: u32,
    /// When it started, in the system's own words.
    started: String,
}

impl Identity {
    fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: started(pid)? })
    }

    fn is_alive(&self) -> bool {
        started(self.pid).as_ref() == Some(&self.started)
    }
}

/// When the process started, or nothing when there is no such process (or only its zombie).
fn started(pid: u32) -> Option<String> {
    if Path::new("/proc/self/stat").exists() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain anything; the state follows its last one.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if matches!(fields.first(), None | Some(&"Z" | &"X")) {
            return None;
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        return Some(format!("{} {}", boot.trim(), fields.get(19)?));
    }
    let listed =
        Command::new("ps").args(["-o", "lstart=", "-p", &pid.to_string()]).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&listed.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[derive(Debug, Deserialize, Serialize)]
struct Page {
    owner: Identity,
    servers: BTreeSet<Identity>,
    /// The data folder, when it is temporary and ours to remove.
    temporary: Option<PathBuf>,
}

/// The pid file of one stack. It is removed when the stack ends.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    page: Mutex<Page>,
}

impl PidFile {
    pub(crate) fn create(temporary: Option<PathBuf>) -> Result<Self> {
        static STACKS: AtomicU32 = AtomicU32::new(0);
        let owner =
            Identity::of(std::process::id()).context("cannot read when this process started: is /proc or ps there?")?;
        let folder = run_dir()?;
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let number = STACKS.fetch_add(1, Ordering::Relaxed);
        let file = Self {
            path: folder.join(format!("{}-{number}.json", owner.pid)),
            page: Mutex::new(Page { owner, servers: BTreeSet::new(), temporary }),
        };
        file.change(|_| ())?;
        Ok(file)
    }

    /// Writes down a process that was just started.
    pub(crate) fn add(&self, pid: u32) -> Result<()> {
        // A process that is gone already has nothing to be found by.
        let Some(server) = Identity::of(pid) else { return Ok(()) };
        self.change(|page| {
            page.servers.insert(server);
        })
    }

    /// Forgets a process that has ended.
    pub(crate) fn remove(&self, pid: u32) -> Result<()> {
        self.change(|page| page.servers.retain(|server| server.pid != pid))
    }

    fn change(&self, change: impl FnOnce(&mut Page)) -> Result<()> {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut page);
        let fresh = self.path.with_extension("new");
        std::fs::write(&fresh, serde_json::to_vec(&*page)?)
            .and_then(|()| std::fs::rename(&fresh, &self.path))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // The next sweep removes a file that stays: its owner is gone by then.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What [`sweep`] found and ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Swept {
    /// Server processes killed.
    pub processes: usize,
    /// Temporary data folders removed.
    pub folders: usize,
}

fn run_dir() -> Result<PathBuf> {
    Ok(cache_dir()?.join("run"))
}

/// Kills the servers of stacks whose owner is no longer there, and removes their temporary data.
/// [`crate::Builder::start`] does this first.
///
/// # Errors
/// When the folder of pid files cannot be read.
pub fn sweep() -> Result<Swept> {
    sweep_folder(&run_dir()?)
}

fn sweep_folder(folder: &Path) -> Result<Swept> {
    let mut swept = Swept::default();
    if !folder.exists() {
        return Ok(swept);
    }
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        // Another version's file, or one being written: its own writer looks after it.
        let Some(page) = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Page>(&bytes).ok()) else {
            continue;
        };
        if page.owner.is_alive() {
            continue;
        }
        for server in page.servers.iter().filter(|server| server.is_alive()) {
            if signal(server.pid, "KILL").is_ok() {
                swept.processes += 1;
            }
        }
        if let Some(temporary) = page.temporary.filter(|path| is_temporary(path)) {
            swept.folders += usize::from(std::fs::remove_dir_all(temporary).is_ok());
        }
        let _ = std::fs::remove_file(path);
    }
    Ok(swept)
}

fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY_PREFIX))
}

/// Sends a signal by name (`KILL`, `TERM`, `STOP`, `CONT`), through the shell's own `kill`, which
/// needs neither `unsafe` nor a package.
///
/// # Errors
/// When there is no such process.
pub(crate) fn signal(pid: u32, name: &str) -> Result<()> {
    let sent = Command::new("sh")
        .args(["-c", r#"kill -s "$1" "$2""#, "sh", name, &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .context("cannot run sh to send a signal")?;
    anyhow::ensure!(sent.success(), "cannot send {name} to process {pid}: it has ended");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Child;

    use super::*;

    fn sleeper() -> Result<Child> {
        Ok(Command::new("sleep").arg("60").spawn()?)
    }

    fn write(folder: &Path, page: &Page) -> Result<PathBuf> {
        let path = folder.join("1-0.json");
        std::fs::write(&path, serde_json::to_vec(page)?)?;
        Ok(path)
    }

    /// An owner that has ended: its pid is this process's, its start is not.
    fn gone() -> Identity {
        Identity { pid: std::process::id(), started: "before".to_owned() }
    }

    #[test]
    fn a_sweep_ends_what_a_killed_run_left() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join(format!("{TEMPORARY_PREFIX}x"));
        std::fs::create_dir(&data)?;
        let mut server = sleeper()?;
        let servers = BTreeSet::from([Identity::of(server.id()).context("running")?]);
        let path = write(folder.path(), &Page { owner: gone(), servers, temporary: Some(data.clone()) })?;

        assert_eq!(sweep_folder(folder.path())?, Swept { processes: 1, folders: 1 });
        assert!(!server.wait()?.success());
        assert!(!data.exists() && !path.exists());
        Ok(())
    }

    #[test]
    fn a_sweep_leaves_a_running_stack_alone() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut server = sleeper()?;
        let owner = Identity::of(std::process::id()).context("running")?;
        let servers = BTreeSet::from([Identity::of(server.id()).context("running")?]);
        let path = write(folder.path(), &Page { owner, servers, temporary: None })?;

        assert_eq!(sweep_folder(folder.path())?, Swept::default());
        assert!(server.try_wait()?.is_none() && path.exists());
        server.kill()?;
        server.wait()?;
        Ok(())
    }

    #[test]
    fn a_sweep_spares_a_stranger_with_a_recycled_pid_and_a_folder_of_another_name() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("precious");
        std::fs::create_dir(&data)?;
        let mut stranger = sleeper()?;
        let servers = BTreeSet::from([Identity { pid: stranger.id(), started: "before".to_owned() }]);
        write(folder.path(), &Page { owner: gone(), servers, temporary: Some(data.clone()) })?;

        assert_eq!(sweep_folder(folder.path())?, Swept::default());
        assert!(stranger.try_wait()?.is_none() && data.exists());
        stranger.kill()?;
        stranger.wait()?;
        Ok(())
    }
}
