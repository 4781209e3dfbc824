//! What tenants, the users that they list and the keys that have budgets have spent and reserved: part of the fold, so that it is the
//! same for whoever folds the same log, and kept in the same checkpoint. Published to `budgets`.
//!
//! Spent is what the customer is charged. A cell knows the latest day and month in which a call began that
//! was booked in it, so nothing has to be removed when a period ends; a line of an earlier one counts in
//! the total only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_schemas::{Account, Budget, Call, month_of};
use millrace_storage::Entry;

use crate::fold::{Decision, Effect, PartitionFold};
use crate::open::OpenCall;

const HOURS_PER_DAY: i64 = 24;

/// Whether a user or key of a tenant has a cell of its own: anybody may invent users, and there may be many keys.
pub type Listed = Arc<dyn Fn(&str, &Account) -> bool + Send + Sync>;

/// Whether anybody has a budget.
pub type InUse = Arc<dyn Fn() -> bool + Send + Sync>;

/// What the ledger has to know of budgets. Both are asked again each time: tenants change.
#[derive(Clone)]
pub struct Counting {
    /// Whose spending is counted beside the tenant's.
    pub listed: Listed,
    /// Whether spending is published at all.
    pub in_use: InUse,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Scope {
    tenant: String,
    account: Account,
    currency: String,
}

/// Who made a call, and what it costs in.
struct Caller<'a> {
    tenant: &'a str,
    user: &'a str,
    key_id: Option<&'a str>,
    currency: &'a str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Cell {
    day: i64,
    day_nanos: i64,
    month: i64,
    month_nanos: i64,
    total_nanos: i64,
    open_nanos: i64,
}

/// A cell of a tenant or user in a checkpoint: day, month and total. What is open is known from the open calls.
pub type Row = (String, Option<String>, String, i64, i64, i64, i64, i64);

/// The same of a tenant's key.
pub type KeyRow = (String, String, String, i64, i64, i64, i64, i64);

/// The cells of one partition. Their number is that of the tenants, of the users that these list, and of the keys
/// that have budgets.
#[derive(Debug, Default)]
pub struct Spending {
    cells: BTreeMap<Scope, Cell>,
    changed: BTreeSet<Scope>,
}

impl Spending {
    /// From a checkpoint.
    #[must_use]
    pub fn restored(rows: Vec<Row>, keys: Vec<KeyRow>, open: &BTreeMap<String, OpenCall>) -> Self {
        let cell = |scope: Scope, [day, day_nanos, month, month_nanos, total_nanos]: [i64; 5]| {
            let open_nanos = held(&scope, open);
            (scope, Cell { day, day_nanos, month, month_nanos, total_nanos, open_nanos })
        };
        let others = rows.into_iter().map(|(tenant, user, currency, a, b, c, d, e)| {
            let account = user.map_or(Account::Tenant, Account::User);
            cell(Scope { tenant, account, currency }, [a, b, c, d, e])
        });
        let of_keys = keys.into_iter().map(|(tenant, key, currency, a, b, c, d, e)| {
            cell(Scope { tenant, account: Account::Key(key), currency }, [a, b, c, d, e])
        });
        Self { cells: others.chain(of_keys).collect(), changed: BTreeSet::new() }
    }

    /// For a checkpoint: of tenants and users, and of keys.
    #[must_use]
    pub fn rows(&self) -> (Vec<Row>, Vec<KeyRow>) {
        let (mut rows, mut keys) = (Vec::new(), Vec::new());
        for (scope, cell) in &self.cells {
            let Scope { tenant, account, currency } = scope.clone();
            let Cell { day, day_nanos, month, month_nanos, total_nanos, .. } = *cell;
            let user = match account {
                Account::Tenant => None,
                Account::User(user) => Some(user),
                Account::Key(key) => {
                    keys.push((tenant, key, currency, day, day_nanos, month, month_nanos, total_nanos));
                    continue;
                }
            };
            rows.push((tenant, user, currency, day, day_nanos, month, month_nanos, total_nanos));
        }
        (rows, keys)
    }

    /// Follows what was decided about a record; `fold` does not have it yet.
    pub fn follow(&mut self, fold: &PartitionFold, call: &Call, decision: &Decision, listed: &Listed) {
        let open = fold.open();
        match decision {
            Decision::Open(opened) => self.hold(opened, opened.held_nanos(), open, listed),
            Decision::Close => {
                if let Some(closed) = open.get(&call.call_id) {
                    self.hold(closed, -closed.held_nanos(), open, listed);
                }
            }
            Decision::Book(booking) => {
                match booking.effect {
                    Effect::Call | Effect::UnconfirmedCall => {
                        if let Some(closed) = open.get(&call.call_id) {
                            self.hold(closed, -closed.held_nanos(), open, listed);
                        }
                    }
                    Effect::LateEnd | Effect::Amounts => {}
                }
                let Entry { tenant, user, currency, .. } = &booking.entry;
                // An entry does not say which key: the call's start does, or the record that it is booked from.
                let started = open.get(&call.call_id).and_then(|started| started.key_id.as_deref());
                let caller = Caller { tenant, user, key_id: started.or(call.key_id.as_deref()), currency };
                self.change(&caller, open, listed, |cell| cell.book(&booking.entry));
            }
            Decision::Ask | Decision::Ignore(_) | Decision::Refuse(_) => {}
        }
    }

    /// The cells that changed since the last time, or all, as of `mark`.
    pub fn take(&mut self, all: bool, mark: &Budget) -> Vec<Budget> {
        let changed = std::mem::take(&mut self.changed);
        let wanted = self.cells.iter().filter(|(scope, _)| all || changed.contains(*scope));
        let budget = |(scope, cell): (&Scope, &Cell)| {
            let Scope { tenant, account, currency } = scope.clone();
            let Cell { day, day_nanos, month, month_nanos, total_nanos, open_nanos } = *cell;
            let mark = mark.clone();
            Budget { currency, day, day_nanos, month, month_nanos, total_nanos, open_nanos, ..mark }.of(tenant, account)
        };
        wanted.map(budget).collect()
    }

    fn hold(&mut self, call: &OpenCall, nanos: i64, open: &BTreeMap<String, OpenCall>, listed: &Listed) {
        let OpenCall { tenant, user, key_id, currency, .. } = call;
        let caller = Caller { tenant, user, key_id: key_id.as_deref(), currency };
        self.change(&caller, open, listed, |cell| {
            cell.open_nanos = cell.open_nanos.saturating_add(nanos);
        });
    }

    fn change(
        &mut self,
        caller: &Caller<'_>,
        open: &BTreeMap<String, OpenCall>,
        listed: &Listed,
        change: impl Fn(&mut Cell),
    ) {
        for account in Account::all(caller.user, caller.key_id) {
            let scope = Scope { tenant: caller.tenant.to_owned(), account, currency: caller.currency.to_owned() };
            if !self.cells.contains_key(&scope) {
                if scope.account != Account::Tenant && !listed(caller.tenant, &scope.account) {
                    continue;
                }
                let cell = Cell { open_nanos: held(&scope, open), ..Cell::default() };
                self.cells.insert(scope.clone(), cell);
            }
            self.cells.get_mut(&scope).into_iter().for_each(&change);
            self.changed.insert(scope);
        }
    }
}

impl Cell {
    fn book(&mut self, entry: &Entry) {
        let day = entry.hour.div_euclid(HOURS_PER_DAY);
        let charge = entry.charge_nanos;
        self.total_nanos = self.total_nanos.saturating_add(charge);
        add(&mut self.day, &mut self.day_nanos, day, charge);
        add(&mut self.month, &mut self.month_nanos, month_of(day), charge);
    }
}

fn add(period: &mut i64, sum: &mut i64, of: i64, charge: i64) {
    if of > *period {
        (*period, *sum) = (of, 0);
    }
    if of == *period {
        *sum = sum.saturating_add(charge);
    }
}

/// What the open calls of a scope hold.
fn held(scope: &Scope, open: &BTreeMap<String, OpenCall>) -> i64 {
    let is_of = |call: &&OpenCall| {
        call.tenant == scope.tenant
            && call.currency == scope.currency
            && match &scope.account {
                Account::Tenant => true,
                Account::User(user) => *user == call.user,
                Account::Key(key) => call.key_id.as_ref() == Some(key),
            }
    };
    open.values().filter(is_of).fold(0_i64, |sum, call| sum.saturating_add(call.held_nanos()))
}
