//! Whether a process can do its work now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state of one thing that a process needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Whether it can be used now.
    pub is_ready: bool,
    /// Why not, or what it is; for people.
    pub detail: String,
}

#[derive(Debug)]
struct Registered {
    /// Tells this registration from an earlier one of the same name.
    number: u64,
    check: Check,
}

#[derive(Debug, Default)]
struct Board {
    next: u64,
    checks: BTreeMap<String, Registered>,
}

/// All that a process needs before it is ready. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Board>>);

impl Readiness {
    /// A board without checks, which is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, not ready until its flag says so. Registering a name again replaces it, as
    /// when a part is restarted.
    pub fn register(&self, name: impl Into<String>) -> ReadyFlag {
        let name = name.into();
        let mut board = self.board();
        let number = board.next;
        board.next += 1;
        let check = Check { is_ready: false, detail: "starting".to_owned() };
        board.checks.insert(name.clone(), Registered { number, check });
        drop(board);
        ReadyFlag(Arc::new(Owner { readiness: self.clone(), name, number }))
    }

    /// Whether every check is ready. Before the first is registered nothing is.
    pub fn is_ready(&self) -> bool {
        let board = self.board();
        !board.checks.is_empty() && board.checks.values().all(|registered| registered.check.is_ready)
    }

    /// Every check by name.
    pub fn checks(&self) -> BTreeMap<String, Check> {
        self.board().checks.iter().map(|(name, registered)| (name.clone(), registered.check.clone())).collect()
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // Each change is one assignment, so a panic elsewhere cannot leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets one check. When its last clone is dropped, the part has stopped and is not ready.
#[derive(Clone, Debug)]
#[must_use = "a dropped flag says that its part has stopped"]
pub struct ReadyFlag(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    readiness: Readiness,
    name: String,
    number: u64,
}

impl Owner {
    fn set(&self, is_ready: bool, detail: String) {
        if let Some(registered) = self.readiness.board().checks.get_mut(&self.name)
            && registered.number == self.number
        {
            registered.check = Check { is_ready, detail };
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.set(false, "stopped".to_owned());
    }
}

impl ReadyFlag {
    /// Says whether the part can be used, and why not.
    pub fn set(&self, is_ready: bool, detail: impl Into<String>) {
        self.0.set(is_ready, detail.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_check_is() {
        let readiness = Readiness::new();
        assert!(!readiness.is_ready(), "nothing has started yet");
        let kafka = readiness.register("kafka");
        let storage = readiness.register("storage");
        assert!(!readiness.is_ready());
        kafka.set(true, "");
        assert!(!readiness.is_ready());
        storage.set(true, "");
        assert!(readiness.is_ready());
        kafka.set(false, "no broker");
        assert!(!readiness.is_ready());
        assert_eq!(readiness.checks()["kafka"], Check { is_ready: false, detail: "no broker".to_owned() });
    }

    #[test]
    fn a_part_that_stops_is_not_ready_and_its_successor_is_not_disturbed() {
        let readiness = Readiness::new();
        let first = readiness.register("stage");
        let copy = first.clone();
        first.set(true, "");
        drop(first);
        assert!(readiness.is_ready(), "a clone is still held");
        let second = readiness.register("stage");
        second.set(true, "");
        drop(copy);
        assert!(readiness.is_ready(), "the predecessor's end is not the successor's");
        drop(second);
        assert_eq!(readiness.checks()["stage"].detail, "stopped");
        assert!(!readiness.is_ready());
    }
}
