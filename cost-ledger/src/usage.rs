//! Usage: rollups summed per user and day, for `GET /v1/usage` and `millrace usage`.

use std::collections::BTreeMap;

use millrace_storage::{Rollup, RollupKey};
use serde::Serialize;

const HOURS_PER_DAY: i64 = 24;
const SECONDS_PER_DAY: i64 = 24 * 60 * 60;

/// What a tenant used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageReport {
    /// The tenant.
    pub tenant: String,
    /// One line per day and user, days first.
    pub lines: Vec<UsageLine>,
    /// The sum of the lines.
    pub total: Amounts,
}

/// What a user used on a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageLine {
    /// `2025-11-23`, in UTC: the day that the calls began on.
    pub day: String,
    /// The user.
    pub user: String,
    /// How much.
    #[serde(flatten)]
    pub amounts: Amounts,
}

/// Sums.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Amounts {
    /// Calls to providers.
    pub calls: i64,
    /// Of those, calls whose end is not known: their cost is an upper bound, their charge 0.
    pub unconfirmed: i64,
    /// Prompt tokens.
    pub input_tokens: i64,
    /// Output tokens.
    pub output_tokens: i64,
    /// Charge in nano-units (a billionth of the currency) by ISO 4217 code.
    pub charge_nanos: BTreeMap<String, i64>,
    /// Cost at the providers in nano-units; absent in what customers see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_nanos: Option<BTreeMap<String, i64>>,
}

/// A sum that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sum exceeds 64 bits: ask for fewer days at a time")]
pub struct TooLarge;

impl UsageReport {
    /// Sums the rollups of a tenant, whichever partitions and generations they come from.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn of(tenant: &str, rollups: &[(RollupKey, Rollup)]) -> Result<Self, TooLarge> {
        let mut days: BTreeMap<(i64, &str), Amounts> = BTreeMap::new();
        let mut total = Amounts::default();
        for (key, rollup) in rollups.iter().filter(|(key, _)| key.tenant == tenant) {
            let day = key.hour.div_euclid(HOURS_PER_DAY);
            days.entry((day, key.user.as_str())).or_default().add(rollup)?;
            total.add(rollup)?;
        }
        let lines = days.into_iter();
        let lines = lines.map(|((day, user), amounts)| UsageLine { day: date(day), user: user.to_owned(), amounts });
        Ok(Self { tenant: tenant.to_owned(), lines: lines.collect(), total })
    }

    /// The report as the customer may see it: what is charged, not what it costs.
    #[must_use]
    pub fn without_cost(mut self) -> Self {
        self.total.cost_nanos = None;
        self.lines.iter_mut().for_each(|line| line.amounts.cost_nanos = None);
        self
    }
}

impl Amounts {
    fn add(&mut self, rollup: &Rollup) -> Result<(), TooLarge> {
        self.calls = sum(self.calls, rollup.calls)?;
        self.unconfirmed = sum(self.unconfirmed, rollup.unconfirmed)?;
        self.input_tokens = sum(self.input_tokens, rollup.input_tokens)?;
        self.output_tokens = sum(self.output_tokens, rollup.output_tokens)?;
        add_all(&mut self.charge_nanos, &rollup.charge_nanos)?;
        add_all(self.cost_nanos.get_or_insert_default(), &rollup.cost_nanos)
    }
}

fn add_all(sums: &mut BTreeMap<String, i64>, more: &BTreeMap<String, i64>) -> Result<(), TooLarge> {
    for (currency, amount) in more {
        let total = sums.entry(currency.clone()).or_default();
        *total = sum(*total, *amount)?;
    }
    Ok(())
}

fn sum(total: i64, more: i64) -> Result<i64, TooLarge> {
    total.checked_add(more).ok_or(TooLarge)
}

/// A day since the epoch as a date; a day beyond the calendar as its number.
fn date(day: i64) -> String {
    day.checked_mul(SECONDS_PER_DAY)
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok())
        .map_or_else(|| format!("day {day}"), |at| at.date().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(tenant: &str, user: &str, hour: i64, partition: i32, cost: i64) -> (RollupKey, Rollup) {
        let key = RollupKey { tenant: tenant.into(), user: user.into(), hour, generation: 0, partition };
        let nanos = |amount| BTreeMap::from([("USD".to_owned(), amount)]);
        let rollup = Rollup {
            upto: 9,
            calls: 1,
            unconfirmed: 0,
            entries: 1,
            input_tokens: 3,
            output_tokens: 2,
            cost_nanos: nanos(cost),
            charge_nanos: nanos(cost.saturating_mul(2)),
        };
        (key, rollup)
    }

    #[test]
    fn hours_and_partitions_add_up_to_days_and_users() {
        let noon = 20_415 * 24 + 12;
        let rollups = [
            cell("acme", "ann", noon, 0, 5),
            cell("acme", "ann", noon + 1, 1, 7),
            cell("acme", "bob", noon, 0, 11),
            cell("acme", "ann", noon + 12, 0, 13),
            cell("other", "ann", noon, 0, 1000),
        ];
        let report = UsageReport::of("acme", &rollups).unwrap();
        let lines: Vec<_> = report
            .lines
            .iter()
            .map(|l| (l.day.as_str(), l.user.as_str(), l.amounts.calls, l.amounts.cost_nanos.as_ref().unwrap()["USD"]))
            .collect();
        assert_eq!(lines, [("2025-11-23", "ann", 2, 12), ("2025-11-23", "bob", 1, 11), ("2025-11-24", "ann", 1, 13)]);
        assert_eq!(report.total.charge_nanos["USD"], 72);
        assert_eq!((report.total.input_tokens, report.total.output_tokens), (12, 8));
    }

    #[test]
    fn a_customer_does_not_see_what_it_costs() {
        let report = UsageReport::of("acme", &[cell("acme", "ann", 1, 0, 5)]).unwrap().without_cost();
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.contains(r#""charge_nanos":{"USD":10}"#) && !text.contains("cost_nanos"), "{text}");
    }

    #[test]
    fn a_sum_that_does_not_fit_is_refused() {
        let rollups = [cell("acme", "ann", 1, 0, i64::MAX / 2 + 1), cell("acme", "ann", 2, 0, i64::MAX / 2 + 1)];
        assert_eq!(UsageReport::of("acme", &rollups), Err(TooLarge));
    }
}
