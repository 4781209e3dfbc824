//! What `budgets` says, against the lines.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_schemas::{Account, Budget, CallKind, month_of};
use millrace_storage::Entry;

use super::logs::plain;
use super::model::Tables;
use crate::checkpoint;
use crate::fold::{self, PartitionFold};
use crate::spending::{Counting, Spending};

/// Of the users in random logs only `ann` is listed, and of the keys only hers has a budget.
pub fn counting() -> Counting {
    Counting { listed: Arc::new(|_, account| is_listed(account)), in_use: Arc::new(|| true) }
}

fn is_listed(account: &Account) -> bool {
    match account {
        Account::Tenant => true,
        Account::User(user) => user == "ann",
        Account::Key(key) => key == "key-of-ann",
    }
}

/// Whose spending: tenant, account, currency.
type Whose = (String, Account, String);

/// Every user in random logs has a key.
fn whose(tenant: &str, user: &str, currency: &str) -> Vec<Whose> {
    let accounts = [Account::Tenant, Account::User(user.to_owned()), Account::Key(format!("key-of-{user}"))];
    let listed = accounts.into_iter().filter(is_listed);
    listed.map(|account| (tenant.to_owned(), account, currency.to_owned())).collect()
}

/// Spent is what the lines charge, of the latest day, of the latest month and ever; open is what the open
/// calls hold.
pub fn check(tables: &Tables) {
    let (upto, state) = tables.checkpoints.values().next().expect("flushed");
    let (fold, mut spending) = checkpoint::decode(*upto, state).unwrap();
    let mark = Budget::mark(0, 5, *upto);
    let found: BTreeMap<Whose, Budget> = spending
        .take(true, &mark)
        .into_iter()
        .map(|cell| ((cell.tenant.clone().unwrap(), cell.account(), cell.currency.clone()), cell))
        .collect();
    let mut lines: BTreeMap<Whose, Vec<&Entry>> = BTreeMap::new();
    for entry in tables.entries.values() {
        for whose in whose(&entry.tenant, &entry.user, &entry.currency) {
            lines.entry(whose).or_default().push(entry);
        }
    }
    let mut open: BTreeMap<Whose, i64> = BTreeMap::new();
    for call in fold.open().values() {
        for whose in whose(&call.tenant, &call.user, &call.currency) {
            *open.entry(whose).or_default() += call.reserved_charge_nanos.expect("kept");
        }
    }
    for whose in open.keys().chain(lines.keys()) {
        assert!(found.contains_key(whose), "{whose:?} has no cell");
    }
    for (whose, cell) in &found {
        let lines = lines.remove(whose).unwrap_or_default();
        let day = |entry: &Entry| entry.hour.div_euclid(24);
        let charged = |is_in: &dyn Fn(i64) -> bool| -> i64 {
            lines.iter().filter(|entry| is_in(day(entry))).map(|entry| entry.charge_nanos).sum()
        };
        let latest = lines.iter().map(|entry| day(entry)).max().unwrap_or(0);
        assert_eq!((cell.day, cell.month), (latest, month_of(latest)), "{whose:?}");
        assert_eq!(cell.day_nanos, charged(&|day| day == latest), "{whose:?}");
        assert_eq!(cell.month_nanos, charged(&|day| month_of(day) == cell.month), "{whose:?}");
        assert_eq!(cell.total_nanos, charged(&|_| true), "{whose:?}");
        assert_eq!(cell.open_nanos, open.remove(whose).unwrap_or(0), "{whose:?}");
        assert_eq!(cell.upto, *upto);
    }
}

/// The fold and the spending of a log of one open call.
fn one_open() -> (PartitionFold, Spending) {
    let (mut fold, mut spending) = (PartitionFold::empty(), Spending::default());
    let call = plain("c", CallKind::Started, "acme", "ann", 1_700_000_000_000_000, 900);
    let decision = fold.decide(fold::line(0, 5, 0), &call, Some(&[]));
    spending.follow(&fold, &call, &decision, &counting().listed);
    fold.apply(0, &call, &decision);
    (fold, spending)
}

fn open_of_the_tenant(spending: &mut Spending) -> Vec<i64> {
    let cells = spending.take(true, &Budget::mark(0, 5, 0));
    cells.iter().filter(|cell| cell.account() == Account::Tenant).map(|cell| cell.open_nanos).collect()
}

#[test]
fn a_checkpoint_of_an_earlier_release_is_read_and_counting_begins_with_it() {
    let (fold, spending) = one_open();
    let mut state: serde_json::Value = serde_json::from_slice(&checkpoint::encode(&fold, &spending).unwrap()).unwrap();
    let (_, mut whole) = checkpoint::decode(0, &serde_json::to_vec(&state).unwrap()).unwrap();
    assert_eq!(open_of_the_tenant(&mut whole), [1_800]);
    for field in ["charges", "spending", "key_spending"] {
        state.as_object_mut().unwrap().remove(field).expect("written");
    }
    let (fold, mut spending) = checkpoint::decode(0, &serde_json::to_vec(&state).unwrap()).unwrap();
    assert_eq!(open_of_the_tenant(&mut spending), [0_i64; 0]);
    // The next record finds what is open, at what that release had reserved.
    let call = plain("d", CallKind::Started, "acme", "bob", 1_700_000_000_000_000, 50);
    let decision = fold.decide(fold::line(0, 5, 1), &call, Some(&[]));
    spending.follow(&fold, &call, &decision, &counting().listed);
    assert_eq!(open_of_the_tenant(&mut spending), [900 + 100]);
}
