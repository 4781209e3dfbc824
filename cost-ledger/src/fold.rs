//! The fold of one partition of `calls`. Pure: the same log gives the same lines, whoever folds it,
//! from whichever checkpoint, however often.
//!
//! | record | while the call is open | otherwise |
//! |---|---|---|
//! | `started` | ignored | opens it, unless it was booked before |
//! | `finished` | books it, closes it | after `unconfirmed`, an adjustment to what it says; else ignored |
//! | `not_sent` | closes it | after `unconfirmed`, an adjustment to zero; else ignored |
//! | `unconfirmed` | books its upper bound, closes it | ignored |
//! | `adjusted` | books its difference | books its difference |
//!
//! "Was booked before" is read from the call's lines that lie before the record in the log, stored or
//! not yet flushed. The fold itself does no I/O: it answers [`Decision::Ask`] when it needs them,
//! which on a healthy log is never.

use std::collections::{BTreeMap, BTreeSet};

use millrace_schemas::{Call, CallKind};
use millrace_storage::{Entry, LogPlace};

use crate::entry::{self, Booked, Line};
use crate::open::OpenCall;

/// Booked calls remembered, so that a late `started` record need not be looked up. Few in tests, so
/// that they see calls forgotten.
const REMEMBERED: usize = if cfg!(test) { 3 } else { 16_384 };

/// Open calls of a partition and how far it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionFold {
    pub(crate) upto: i64,
    /// The latest start of any call seen, microseconds.
    pub(crate) seen_until: i64,
    pub(crate) open: BTreeMap<String, OpenCall>,
    recent: Recent,
}

/// What a record means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Decide again with the call's lines.
    Ask,
    /// A call begins.
    Open(Box<OpenCall>),
    /// A line is booked; unless it is an adjustment the call is closed by it.
    Book(Box<Booking>),
    /// The call ends without a line.
    Close,
    /// Nothing.
    Ignore(Ignored),
    /// It can never be folded; one sentence why.
    Refuse(String),
}

/// Why a record changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// An earlier record said the same.
    Duplicate,
    /// The end of a call that never began here.
    Unknown,
}

/// A line and what it does to the totals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booking {
    /// The line.
    pub entry: Entry,
    /// What it does to the totals.
    pub effect: Effect,
}

/// What a line does to the numbers of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A call is booked.
    Call,
    /// A call is booked whose end was not seen.
    UnconfirmedCall,
    /// The end of an unconfirmed call was seen.
    LateEnd,
    /// Only amounts change.
    Amounts,
}

impl PartitionFold {
    /// The fold of nothing yet.
    #[must_use]
    pub fn empty() -> Self {
        Self::restored(-1, i64::MIN, BTreeMap::new())
    }

    pub(crate) fn restored(upto: i64, seen_until: i64, open: BTreeMap<String, OpenCall>) -> Self {
        Self { upto, seen_until, open, recent: Recent { floor: seen_until, calls: BTreeSet::new() } }
    }

    /// Offset of the last record folded; -1 for none.
    #[must_use]
    pub fn upto(&self) -> i64 {
        self.upto
    }

    /// The calls that are open, by their ids.
    #[must_use]
    pub fn open(&self) -> &BTreeMap<String, OpenCall> {
        &self.open
    }

    /// What the record at `at` means. `lines` are the lines of its call that lie before it, or `None`
    /// when they were not read; with them the answer is never [`Decision::Ask`].
    #[must_use]
    pub fn decide(&self, at: Line, call: &Call, lines: Option<&[Entry]>) -> Decision {
        let open = self.open.get(&call.call_id);
        match (call.kind, open) {
            (CallKind::Started, Some(_)) => Decision::Ignore(Ignored::Duplicate),
            (CallKind::Started, None) => match self.was_booked(call, lines) {
                None => Decision::Ask,
                Some(true) => Decision::Ignore(Ignored::Duplicate),
                Some(false) => Decision::Open(Box::new(OpenCall::of(call))),
            },
            (CallKind::Finished, Some(open)) => book(entry::finished(at, open, call), Effect::Call),
            (CallKind::Unconfirmed, Some(open)) => book(entry::unconfirmed(at, open, call), Effect::UnconfirmedCall),
            (CallKind::NotSent, Some(_)) => Decision::Close,
            // Written only for calls that were open, by the ledger or by who broke the call off: a copy, or
            // the end was seen before.
            (CallKind::Unconfirmed, None) => Decision::Ignore(Ignored::Duplicate),
            (CallKind::Finished | CallKind::NotSent, None) => lines.map_or(Decision::Ask, |l| late(at, call, l)),
            (CallKind::Adjusted, _) => book(entry::adjusted(at, call), Effect::Amounts),
        }
    }

    /// Takes over what was decided about the record at `offset`.
    pub fn apply(&mut self, offset: i64, call: &Call, decision: &Decision) {
        match decision {
            Decision::Open(open) => {
                self.seen_until = self.seen_until.max(open.started_at);
                self.open.insert(call.call_id.clone(), (**open).clone());
            }
            Decision::Book(booking) => match booking.effect {
                Effect::Call | Effect::UnconfirmedCall => {
                    if let Some(open) = self.open.remove(&call.call_id) {
                        self.recent.remember(open.started_at, &call.call_id);
                    }
                }
                Effect::LateEnd | Effect::Amounts => {}
            },
            Decision::Close => {
                self.open.remove(&call.call_id);
            }
            Decision::Ask | Decision::Ignore(_) | Decision::Refuse(_) => {}
        }
        self.pass(offset);
    }

    /// Goes past a record that is not folded.
    pub fn pass(&mut self, offset: i64) {
        self.upto = self.upto.max(offset);
    }

    /// Calls whose end was due before `instant` (milliseconds).
    pub fn overdue(&self, instant: i64) -> impl Iterator<Item = &str> {
        self.open.iter().filter(move |(_, call)| call.deadline < instant).map(|(id, _)| id.as_str())
    }

    fn was_booked(&self, call: &Call, lines: Option<&[Entry]>) -> Option<bool> {
        self.recent
            .was_booked(entry::started_at(call), &call.call_id)
            .or_else(|| lines.map(|lines| entry::booked(lines) != Booked::Nothing))
    }
}

fn book(entry: Entry, effect: Effect) -> Decision {
    Decision::Book(Box::new(Booking { entry, effect }))
}

fn late(at: Line, call: &Call, lines: &[Entry]) -> Decision {
    match entry::booked(lines) {
        Booked::Nothing => Decision::Ignore(Ignored::Unknown),
        Booked::Ended => Decision::Ignore(Ignored::Duplicate),
        Booked::Unconfirmed(unconfirmed) => match entry::late(at, call, unconfirmed, lines) {
            Ok(entry) => book(entry, Effect::LateEnd),
            Err(error) => Decision::Refuse(error),
        },
    }
}

/// Answers "was this call booked?" from memory for calls that began after `floor`: a checkpoint
/// knows the latest start that it had seen, so a call that began later was not booked before it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Recent {
    floor: i64,
    calls: BTreeSet<(i64, String)>,
}

impl Recent {
    fn was_booked(&self, started_at: i64, call_id: &str) -> Option<bool> {
        (started_at > self.floor).then(|| self.calls.contains(&(started_at, call_id.to_owned())))
    }

    fn remember(&mut self, started_at: i64, call_id: &str) {
        if started_at > self.floor {
            self.calls.insert((started_at, call_id.to_owned()));
        }
        while self.calls.len() > REMEMBERED
            && let Some((started_at, _)) = self.calls.pop_first()
        {
            self.floor = self.floor.max(started_at);
        }
    }
}

/// Where a line of this log is booked from.
#[must_use]
pub fn line(generation: u32, partition: i32, offset: i64) -> Line {
    Line { partition, place: LogPlace { generation, offset } }
}
