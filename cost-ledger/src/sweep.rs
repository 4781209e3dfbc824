//! When a call without an end is declared unconfirmed.
//!
//! An overdue call is not enough: its end may lie in the log, unread. So the end of the log is
//! fetched after the call became overdue, and only when the fold has read up to there and the call
//! is still open, a record says so in the log. A ledger that was down for a day declares nothing
//! false.

use std::collections::BTreeSet;

use millrace_schemas::Call;

use crate::fold::PartitionFold;

/// Calls declared at once; the others follow.
const AT_ONCE: usize = 256;

/// The sweep of one partition.
#[derive(Debug)]
pub struct Sweep {
    /// Milliseconds after its deadline.
    grace: i64,
    fence: Option<Fence>,
    declared: BTreeSet<String>,
}

#[derive(Debug)]
struct Fence {
    calls: Vec<String>,
    end: i64,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Rest,
    /// Fetch the log's end, from now on, for these calls: [`Sweep::fenced`].
    FetchEnd(Vec<String>),
    /// Append these, and tell [`Sweep::declared`] of each that is acknowledged.
    Append(Vec<Call>),
}

impl Sweep {
    /// A sweep that waits `grace` milliseconds after a deadline.
    #[must_use]
    pub fn new(grace: i64) -> Self {
        Self { grace, fence: None, declared: BTreeSet::new() }
    }

    /// Decides at `now` (microseconds).
    pub fn next(&mut self, fold: &PartitionFold, now: i64) -> Next {
        self.declared.retain(|id| fold.open().contains_key(id));
        if let Some(fence) = self.fence.take_if(|fence| fold.upto() + 1 >= fence.end) {
            let open = fence.calls.iter().filter_map(|id| Some((id, fold.open().get(id)?)));
            let records: Vec<_> = open.map(|(id, call)| call.unconfirmed(id, now)).collect();
            return if records.is_empty() { Next::Rest } else { Next::Append(records) };
        }
        if self.fence.is_some() {
            return Next::Rest;
        }
        let instant = (now / 1000).saturating_sub(self.grace);
        let overdue = fold.overdue(instant).filter(|id| !self.declared.contains(*id));
        let calls: Vec<_> = overdue.take(AT_ONCE).map(str::to_owned).collect();
        if calls.is_empty() { Next::Rest } else { Next::FetchEnd(calls) }
    }

    /// The log ended at `end` (offset of the next record) after these calls were overdue.
    pub fn fenced(&mut self, calls: Vec<String>, end: i64) {
        self.fence = Some(Fence { calls, end });
    }

    /// The call's record is in the log: it is not written again while it waits to be read.
    pub fn declared(&mut self, call_id: String) {
        self.declared.insert(call_id);
    }
}
