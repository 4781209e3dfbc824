//! When a call is declared unconfirmed.

use millrace_schemas::{Call, CallKind};

use super::logs::plain;
use crate::fold::{PartitionFold, line};
use crate::sweep::{Next, Sweep};

/// Deadline of the calls, milliseconds.
const DEADLINE: i64 = 1_700_000_060_000;
const GRACE: i64 = 30_000;

fn record(id: &str, kind: CallKind) -> Call {
    plain(id, kind, "acme", "ann", 1_700_000_000_000_000, 900)
}

fn fold(records: &[Call]) -> PartitionFold {
    let mut fold = PartitionFold::empty();
    records.iter().for_each(|call| next(&mut fold, call));
    fold
}

fn next(fold: &mut PartitionFold, call: &Call) {
    let offset = fold.upto() + 1;
    let decision = fold.decide(line(0, 0, offset), call, Some(&[]));
    fold.apply(offset, call, &decision);
}

/// Microseconds, this many milliseconds after deadline and grace.
fn after(millis: i64) -> i64 {
    (DEADLINE + GRACE + millis) * 1000
}

#[test]
fn an_overdue_call_is_declared_only_when_the_log_was_read_to_an_end_fetched_later() {
    let mut fold = fold(&[record("a", CallKind::Started)]);
    let mut sweep = Sweep::new(GRACE);
    assert_eq!(sweep.next(&fold, after(0)), Next::Rest);
    assert_eq!(sweep.next(&fold, after(1)), Next::FetchEnd(vec!["a".into()]));
    // Three records were in the log by then; two of them are unread.
    sweep.fenced(vec!["a".into()], 3);
    assert_eq!(sweep.next(&fold, after(2)), Next::Rest);
    next(&mut fold, &record("b", CallKind::Started));
    assert_eq!(sweep.next(&fold, after(3)), Next::Rest);
    next(&mut fold, &record("c", CallKind::Started));
    let Next::Append(records) = sweep.next(&fold, after(4)) else { panic!("not declared") };
    assert_eq!(
        records.iter().map(|r| (r.call_id.as_str(), r.kind)).collect::<Vec<_>>(),
        [("a", CallKind::Unconfirmed)]
    );
    assert_eq!((records[0].cost_nanos, records[0].charge_nanos, records[0].at), (900, 0, after(4)));
}

#[test]
fn an_end_that_was_unread_is_not_declared_missing() {
    let mut fold = fold(&[record("a", CallKind::Started)]);
    let mut sweep = Sweep::new(GRACE);
    assert!(matches!(sweep.next(&fold, after(1)), Next::FetchEnd(_)));
    sweep.fenced(vec!["a".into()], 2);
    next(&mut fold, &record("a", CallKind::Finished));
    assert_eq!(sweep.next(&fold, after(2)), Next::Rest);
    assert_eq!(sweep.next(&fold, after(3)), Next::Rest);
}

#[test]
fn a_declared_call_waits_to_be_read_back() {
    let mut fold = fold(&[record("a", CallKind::Started)]);
    let mut sweep = Sweep::new(GRACE);
    sweep.fenced(vec!["a".into()], 1);
    assert!(matches!(sweep.next(&fold, after(1)), Next::Append(_)));
    sweep.declared("a".into());
    assert_eq!(sweep.next(&fold, after(2)), Next::Rest);
    assert!(fold.open().contains_key("a"), "it is booked when it is read, not when it is written");
    next(&mut fold, &record("a", CallKind::Unconfirmed));
    assert!(fold.open().is_empty());
}

#[test]
fn a_record_that_was_not_acknowledged_is_written_again() {
    let fold = fold(&[record("a", CallKind::Started)]);
    let mut sweep = Sweep::new(GRACE);
    sweep.fenced(vec!["a".into()], 1);
    assert!(matches!(sweep.next(&fold, after(1)), Next::Append(_)));
    assert_eq!(sweep.next(&fold, after(2)), Next::FetchEnd(vec!["a".into()]));
}
