//! What the owners of this process began, until a snapshot has it.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use millrace_schemas::Account;

use crate::rule::Own;

/// A tenant's account.
pub(crate) type Whose = (String, Account);

/// One assignment of one partition of one lane's prompts.
#[derive(Debug)]
pub(crate) struct OwnCalls {
    /// Of the assignment. Another one begins with nothing, and only once a snapshot has all of this one's.
    pub epoch: u64,
    pub since: Instant,
    next: u64,
    calls: BTreeMap<u64, OwnCall>,
    /// Nano-units and calls.
    sums: HashMap<Whose, (i64, usize)>,
}

#[derive(Debug)]
struct OwnCall {
    whose: Vec<Whose>,
    nanos: i64,
    /// When its `started` was known to be acknowledged.
    started: Option<Instant>,
}

impl OwnCalls {
    pub(crate) fn new(epoch: u64, since: Instant) -> Self {
        Self { epoch, since, next: 0, calls: BTreeMap::new(), sums: HashMap::new() }
    }

    /// Of one account, with a snapshot as of this instant.
    pub(crate) fn of(&self, whose: &Whose, as_of: Option<Instant>) -> Own {
        let (nanos, calls) = self.sums.get(whose).copied().unwrap_or_default();
        Own { nanos, calls, is_known: as_of.is_some_and(|as_of| as_of > self.since) }
    }

    /// A call is about to begin.
    pub(crate) fn begin(&mut self, whose: Vec<Whose>, nanos: i64) -> u64 {
        for whose in &whose {
            let (sum, calls) = self.sums.entry(whose.clone()).or_default();
            (*sum, *calls) = (sum.saturating_add(nanos), *calls + 1);
        }
        self.next += 1;
        self.calls.insert(self.next, OwnCall { whose, nanos, started: None });
        self.next
    }

    /// It is in the log.
    pub(crate) fn started(&mut self, id: u64, now: Instant) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.started = Some(now);
        }
    }

    /// It does not begin.
    pub(crate) fn forget(&mut self, id: u64) {
        if self.calls.get(&id).is_some_and(|call| call.started.is_none()) {
            self.remove(id);
        }
    }

    /// A snapshot has what was started before this instant.
    pub(crate) fn covered(&mut self, as_of: Instant) {
        let is_covered = |(id, call): (&u64, &OwnCall)| (call.started? < as_of).then_some(*id);
        let covered: Vec<u64> = self.calls.iter().filter_map(is_covered).collect();
        covered.into_iter().for_each(|id| self.remove(id));
    }

    fn remove(&mut self, id: u64) {
        let Some(OwnCall { whose, nanos, .. }) = self.calls.remove(&id) else { return };
        for whose in whose {
            if let Some((sum, calls)) = self.sums.get_mut(&whose) {
                (*sum, *calls) = (sum.saturating_sub(nanos), calls.saturating_sub(1));
                if *calls == 0 {
                    self.sums.remove(&whose);
                }
            }
        }
    }
}
