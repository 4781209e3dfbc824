//! Rollups: totals per tenant, user, hour, generation and partition, each knowing the last record
//! that is in it. A line is added only beyond that, so adding it again changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use millrace_storage::{Entry, Rollup, RollupKey};

use crate::fold::{Booking, Effect};

/// Cells kept between flushes; the least recently used go first. Few in tests, so that they see
/// cells forgotten.
const KEPT: usize = if cfg!(test) { 3 } else { 4096 };

/// The cells in use.
#[derive(Debug, Default)]
pub struct Cells {
    cells: HashMap<RollupKey, Cell>,
    flushes: u64,
}

#[derive(Debug)]
struct Cell {
    rollup: Rollup,
    changed: bool,
    used: u64,
}

/// The cell of a line.
#[must_use]
pub fn key(entry: &Entry) -> RollupKey {
    RollupKey {
        tenant: entry.tenant.clone(),
        user: entry.user.clone(),
        hour: entry.hour,
        generation: entry.place.generation,
        partition: entry.partition,
    }
}

impl Cells {
    /// The cells of these bookings that must be loaded first.
    #[must_use]
    pub fn missing(&self, bookings: &[Booking]) -> Vec<RollupKey> {
        let keys: BTreeSet<_> = bookings.iter().map(|b| key(&b.entry)).collect();
        keys.into_iter().filter(|key| !self.cells.contains_key(key)).collect()
    }

    /// Takes over what the store holds of a cell.
    pub fn loaded(&mut self, key: RollupKey, stored: Option<Rollup>) {
        let rollup = stored.unwrap_or_else(|| Rollup { upto: -1, ..Rollup::default() });
        self.cells.insert(key, Cell { rollup, changed: false, used: self.flushes });
    }

    /// Adds a booking to its cell, which is loaded.
    ///
    /// # Errors
    /// One sentence when a sum leaves 64 bits; the cell is as it was.
    pub fn add(&mut self, booking: &Booking) -> Result<(), String> {
        let key = key(&booking.entry);
        let Some(cell) = self.cells.get_mut(&key) else {
            return Err(format!("the rollup of tenant `{}` hour {} was not loaded", key.tenant, key.hour));
        };
        cell.used = self.flushes;
        if booking.entry.place.offset > cell.rollup.upto {
            cell.rollup = sum(&cell.rollup, booking).ok_or_else(|| {
                format!(
                    "a rollup of tenant `{}` hour {} exceeds 64 bits: look for a wrong price in `calls` partition {} before offset {}",
                    key.tenant, key.hour, key.partition, booking.entry.place.offset
                )
            })?;
            cell.changed = true;
        }
        Ok(())
    }

    /// The cells that the store does not have yet.
    #[must_use]
    pub fn changed(&self) -> Vec<(RollupKey, Rollup)> {
        self.cells.iter().filter(|(_, cell)| cell.changed).map(|(k, cell)| (k.clone(), cell.rollup.clone())).collect()
    }

    /// The store has everything; cells that were not used for long are forgotten.
    pub fn flushed(&mut self) {
        self.flushes += 1;
        if self.cells.len() > KEPT {
            let mut uses: Vec<u64> = self.cells.values().map(|cell| cell.used).collect();
            let (_, median, _) = uses.select_nth_unstable(KEPT / 2);
            let median = *median;
            self.cells.retain(|_, cell| cell.used > median);
        }
        self.cells.values_mut().for_each(|cell| cell.changed = false);
    }
}

fn sum(rollup: &Rollup, booking: &Booking) -> Option<Rollup> {
    let Booking { entry, effect } = booking;
    let (calls, unconfirmed) = match effect {
        Effect::Call => (1, 0),
        Effect::UnconfirmedCall => (1, 1),
        Effect::LateEnd => (0, -1),
        Effect::Amounts => (0, 0),
    };
    let mut sum = rollup.clone();
    sum.upto = entry.place.offset;
    sum.calls = sum.calls.checked_add(calls)?;
    sum.unconfirmed = sum.unconfirmed.checked_add(unconfirmed)?;
    sum.entries = sum.entries.checked_add(1)?;
    sum.input_tokens = sum.input_tokens.checked_add(entry.input_tokens)?;
    sum.output_tokens = sum.output_tokens.checked_add(entry.output_tokens)?;
    add(&mut sum.cost_nanos, &entry.currency, entry.cost_nanos)?;
    add(&mut sum.charge_nanos, &entry.currency, entry.charge_nanos)?;
    Some(sum)
}

fn add(amounts: &mut BTreeMap<String, i64>, currency: &str, amount: i64) -> Option<()> {
    if amount != 0 {
        let total = amounts.entry(currency.to_owned()).or_default();
        *total = total.checked_add(amount)?;
    }
    Some(())
}
