//! Sums over the ledger's rows, for audits.

use crate::port::{LedgerTotals, Rollup, StorageError};

/// What a line adds to the totals.
pub(crate) struct Line<'a> {
    pub kind: &'a str,
    pub cost_nanos: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
}

/// Adds rows up. Lines must come grouped by call, as both stores keep them, so that counting
/// distinct calls needs no memory.
pub(crate) struct Tally<Call> {
    totals: LedgerTotals,
    current: Option<Call>,
    current_unconfirmed: bool,
}

impl<Call: PartialEq> Tally<Call> {
    pub(crate) fn new() -> Self {
        Self { totals: LedgerTotals::default(), current: None, current_unconfirmed: false }
    }

    pub(crate) fn line(&mut self, call: Call, line: &Line<'_>) -> Result<(), StorageError> {
        if self.current.as_ref() != Some(&call) {
            self.current = Some(call);
            self.current_unconfirmed = false;
            self.totals.calls += 1;
        }
        if line.kind == "unconfirmed" && !self.current_unconfirmed {
            self.current_unconfirmed = true;
            self.totals.unconfirmed += 1;
        }
        self.totals.entries += 1;
        self.totals.entries_sum = add(self.totals.entries_sum, line.cost_nanos)?;
        self.totals.tokens = add(self.totals.tokens, line.input_tokens)?;
        self.totals.tokens = add(self.totals.tokens, line.output_tokens)?;
        Ok(())
    }

    pub(crate) fn rollup(&mut self, rollup: &Rollup) -> Result<(), StorageError> {
        for cost in rollup.cost_nanos.values() {
            self.totals.rollups_sum = add(self.totals.rollups_sum, *cost)?;
        }
        Ok(())
    }

    pub(crate) fn totals(self) -> LedgerTotals {
        self.totals
    }
}

fn add(sum: i64, more: i64) -> Result<i64, StorageError> {
    sum.checked_add(more).ok_or_else(|| {
        StorageError::Refused("the ledger's sum exceeds 64 bits: add up tenants one by one with `usage`".to_owned())
    })
}
