//! What the topic `budgets` says: the newest of each key, whichever came last.

use std::collections::HashMap;

use millrace_config::{BudgetConfig, BudgetPeriod};
use millrace_schemas::{Account, Budget, month_of};
use serde::Serialize;

use crate::amount;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A partition of `calls` of a generation.
pub(crate) type Place = (i32, i32);

/// How a budget stands. Amounts are in nano-units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The user whose it is; neither this nor the key for all of the tenant together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The id of the key whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// When it begins anew.
    pub period: BudgetPeriod,
    /// ISO 4217.
    pub currency: String,
    /// All of it.
    pub budget_nanos: i64,
    /// Charged in this period.
    pub spent_nanos: i64,
    /// Held for calls that are on their way.
    pub reserved_nanos: i64,
    /// What is left; below zero when it was exceeded, or made smaller.
    pub remaining_nanos: i64,
}

impl Standing {
    /// Whose it is, in words: "the tenant", "the user `ann`".
    #[must_use]
    pub fn whose(&self) -> String {
        match (&self.user, &self.key_id) {
            (Some(user), _) => format!("the user `{user}`"),
            (None, Some(key)) => format!("the key `{key}`"),
            (None, None) => "the tenant".to_owned(),
        }
    }

    /// That it is used up, in words; without a full stop.
    #[must_use]
    pub fn used_up(&self) -> String {
        format!(
            "The budget of {} is used up: of {} {} are {} spent and {} reserved for calls on their way",
            self.whose(),
            amount(self.budget_nanos),
            self.currency,
            amount(self.spent_nanos),
            amount(self.reserved_nanos),
        )
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.remaining_nanos <= 0
    }
}

/// All cells of all partitions and generations.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    /// By tenant, account and currency.
    cells: HashMap<(String, Account, String), HashMap<Place, Budget>>,
    marks: HashMap<Place, i64>,
}

impl Cells {
    /// Takes a record in, unless something newer is known.
    pub(crate) fn take(&mut self, budget: Budget) {
        let place = (budget.generation, budget.partition);
        let Some(tenant) = budget.tenant.clone() else {
            let mark = self.marks.entry(place).or_insert(-1);
            *mark = budget.upto.max(*mark);
            return;
        };
        let key = (tenant, budget.account(), budget.currency.clone());
        let cells = self.cells.entry(key).or_default();
        if cells.get(&place).is_none_or(|known| known.upto <= budget.upto) {
            cells.insert(place, budget);
        }
    }

    /// Whether everything before `end` is in the cells of this partition.
    pub(crate) fn covers(&self, place: Place, end: i64) -> bool {
        end <= self.marks.get(&place).map_or(0, |upto| upto + 1)
    }

    /// How the budget of a tenant's account stands at `now`, microseconds since the epoch.
    pub(crate) fn standing(&self, tenant: &str, account: &Account, budget: &BudgetConfig, now: i64) -> Standing {
        let today = now.div_euclid(MICROS_PER_DAY);
        let key = (tenant.to_owned(), account.clone(), budget.currency.clone());
        let (mut spent, mut reserved) = (0_i64, 0_i64);
        for cell in self.cells.get(&key).into_iter().flat_map(HashMap::values) {
            // One that is ahead of our clock counts as well.
            let nanos = match budget.period {
                BudgetPeriod::Day if cell.day < today => 0,
                BudgetPeriod::Day => cell.day_nanos,
                BudgetPeriod::Month if cell.month < month_of(today) => 0,
                BudgetPeriod::Month => cell.month_nanos,
                BudgetPeriod::Total => cell.total_nanos,
            };
            spent = spent.saturating_add(nanos);
            reserved = reserved.saturating_add(cell.open_nanos);
        }
        // It was read before it came here.
        let budget_nanos = budget.nanos().unwrap_or(0);
        let (user, key_id) = match key.1 {
            Account::Tenant => (None, None),
            Account::User(user) => (Some(user), None),
            Account::Key(key) => (None, Some(key)),
        };
        Standing {
            user,
            key_id,
            period: budget.period,
            currency: key.2,
            budget_nanos,
            spent_nanos: spent,
            reserved_nanos: reserved,
            remaining_nanos: budget_nanos.saturating_sub(spent).saturating_sub(reserved),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(partition: i32, upto: i64, nanos: i64) -> Budget {
        Budget {
            tenant: Some("acme".to_owned()),
            currency: "USD".to_owned(),
            day: 31,
            day_nanos: nanos,
            month: 1,
            month_nanos: nanos * 10,
            total_nanos: nanos * 100,
            open_nanos: 1,
            ..Budget::mark(0, partition, upto)
        }
    }

    fn budget(period: BudgetPeriod) -> BudgetConfig {
        BudgetConfig { amount: "1".to_owned(), currency: "USD".to_owned(), period }
    }

    #[test]
    fn partitions_add_up_and_the_newest_word_counts_whenever_it_comes() {
        let mut cells = Cells::default();
        for (partition, upto, nanos) in [(0, 5, 7), (1, 3, 2), (0, 4, 6), (0, 5, 7), (1, 9, 3)] {
            cells.take(cell(partition, upto, nanos));
        }
        cells.take(Budget { generation: 1, ..cell(0, 0, 5) });
        cells.take(Budget { user: Some("ann".to_owned()), ..cell(0, 99, 1_000) });
        cells.take(Budget { currency: "EUR".to_owned(), ..cell(0, 99, 1_000) });
        let standing = cells.standing("acme", &Account::Tenant, &budget(BudgetPeriod::Day), 31 * MICROS_PER_DAY);
        assert_eq!((standing.spent_nanos, standing.reserved_nanos), (7 + 3 + 5, 3));
        assert_eq!(standing.remaining_nanos, 1_000_000_000 - 18);
        cells.take(cell(0, 99, 2_000).of("acme".to_owned(), Account::Key("k".to_owned())));
        let standing = cells.standing("acme", &Account::User("ann".to_owned()), &budget(BudgetPeriod::Total), 0);
        assert_eq!(standing.spent_nanos, 100_000);
        let standing = cells.standing("acme", &Account::Key("k".to_owned()), &budget(BudgetPeriod::Total), 0);
        assert_eq!((standing.spent_nanos, standing.key_id.as_deref()), (200_000, Some("k")));
        assert_eq!(cells.standing("rival", &Account::Tenant, &budget(BudgetPeriod::Day), 0).spent_nanos, 0);
    }

    #[test]
    fn a_period_begins_with_nothing_spent() {
        let mut cells = Cells::default();
        cells.take(cell(0, 5, 7));
        let check = |period: BudgetPeriod, day: i64, expected: i64| {
            let standing = cells.standing("acme", &Account::Tenant, &budget(period), day * MICROS_PER_DAY);
            assert_eq!((standing.spent_nanos, standing.reserved_nanos), (expected, 1), "{period:?} {day}");
        };
        check(BudgetPeriod::Day, 31, 7);
        check(BudgetPeriod::Day, 32, 0);
        // A clock behind that of whoever began the call.
        check(BudgetPeriod::Day, 30, 7);
        check(BudgetPeriod::Month, 58, 70);
        check(BudgetPeriod::Month, 59, 0);
        check(BudgetPeriod::Total, 9_999, 700);
    }

    #[test]
    fn a_mark_says_how_far_and_never_goes_back() {
        let mut cells = Cells::default();
        assert!(cells.covers((0, 1), 0) && !cells.covers((0, 1), 1));
        cells.take(Budget::mark(0, 1, 4));
        cells.take(Budget::mark(0, 1, 2));
        cells.take(Budget::mark(1, 1, 9));
        assert!(cells.covers((0, 1), 5) && !cells.covers((0, 1), 6));
    }
}
