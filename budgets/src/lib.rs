//! What is left of budgets, and who may begin a call.
//!
//! ```text
//! calls ── cost-ledger ──> budgets ── follow.rs ──> Budgets ── ingress: is it used up? / router: reserve()
//! ```
//!
//! - `cells.rs`: what the topic says, the newest of each key; no I/O.
//! - `rule.rs`: whether a call may begin; pure, with the proof of the bound.
//! - `owners.rs`: what was begun here and is not in the cells yet; no clock of its own.
//! - `budgets.rs`: the three together, shared by a process.
//! - [`follow`] reads the topic.
//!
//! Invariant: when the snapshot is as of an instant, it holds every call of anybody whose `started` was
//! acknowledged before that instant.

mod budgets;
mod cells;
mod follow;
mod metrics;
#[cfg(test)]
mod model;
mod owners;
mod rule;

pub use budgets::{Budgets, Caller, Limits, NotNow, Owner, Reservation};
pub use cells::Standing;
pub use follow::follow;
pub use metrics::BudgetMetrics;

/// An amount for people: units of the currency, without needless zeros.
#[must_use]
pub fn amount(nanos: i64) -> String {
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let decimals = format!("{:09}", nanos % 1_000_000_000);
    let decimals = decimals.trim_end_matches('0');
    format!("{sign}{}.{decimals:0<2}", nanos / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    #[test]
    fn amounts_are_written_for_people() {
        for (nanos, text) in [
            (0, "0.00"),
            (25_000_000_000, "25.00"),
            (1, "0.000000001"),
            (-1_500_000_000, "-1.50"),
            (123_456_000, "0.123456"),
        ] {
            assert_eq!(super::amount(nanos), text);
        }
    }
}
