//! When the fold must read the store, and what it makes of what is there.

use std::sync::Arc;

use futures::executor::block_on;
use millrace_schemas::{Call, CallKind};
use millrace_storage::{Entry, LedgerStore};

use super::logs::plain;
use super::model::Model;
use super::spending::counting;
use crate::book::{Book, Folded};
use crate::fold::Ignored;

const START: i64 = 1_700_000_000_000_000;

fn call(number: i64, kind: CallKind, cost: i64) -> Call {
    let micros = START + number * 1_000_000;
    let id = format!("call_{:012x}7000800000000000{number:04x}", micros / 1000);
    Call { cost_nanos: cost, charge_nanos: cost * 2, ..plain(&id, kind, "acme", "ann", micros, 900) }
}

fn fold(model: &Arc<Model>, records: &[Call]) -> (Vec<Folded>, Vec<Entry>) {
    let store: Arc<dyn LedgerStore> = model.clone();
    let book = block_on(Book::load(Arc::clone(&store), 0, 0, counting())).unwrap();
    let mut book = book.unwrap_or_else(|| Book::empty(store, 0, 0, counting()));
    let first = book.fold().upto() + 1;
    let folded = (first..).zip(records).map(|(offset, call)| block_on(book.take(offset, call)).unwrap()).collect();
    (folded, block_on(book.flush()).unwrap())
}

#[test]
fn a_healthy_log_never_reads_the_store() {
    let model = Arc::new(Model::default());
    for number in 0..20 {
        let (folded, _) = fold(&model, &[call(number, CallKind::Started, 0), call(number, CallKind::Finished, 7)]);
        assert_eq!(folded, [Folded::Taken, Folded::Taken]);
    }
    assert_eq!(*model.lookups.lock().unwrap(), 0);
    assert_eq!(model.tables().entries.len(), 20);
}

#[test]
fn a_flush_writes_each_line_once() {
    let model = Arc::new(Model::default());
    let mut book = Book::empty(model, 0, 0, counting());
    for (offset, number) in (0..).step_by(2).zip(0..5) {
        block_on(book.take(offset, &call(number, CallKind::Started, 0))).unwrap();
        block_on(book.take(offset + 1, &call(number, CallKind::Finished, 7))).unwrap();
        let lines = block_on(book.flush()).unwrap();
        assert_eq!(lines.iter().map(|line| line.place.offset).collect::<Vec<_>>(), [offset + 1]);
    }
    assert_eq!(block_on(book.flush()).unwrap(), []);
}

#[test]
fn a_late_end_books_the_difference_across_a_restart() {
    let model = Arc::new(Model::default());
    fold(&model, &[call(1, CallKind::Started, 0), call(1, CallKind::Unconfirmed, 0)]);
    let (_, booked) = fold(&model, &[call(1, CallKind::Finished, 40)]);
    let [line] = &booked[..] else { panic!("{booked:?}") };
    assert_eq!((line.kind.as_str(), line.cost_nanos, line.charge_nanos), ("adjusted", 40 - 900, 80));
    let (folded, booked) = fold(&model, &[call(1, CallKind::Finished, 40), call(1, CallKind::Unconfirmed, 0)]);
    assert_eq!(folded, [Folded::Ignored(Ignored::Duplicate), Folded::Ignored(Ignored::Duplicate)]);
    assert_eq!(booked, []);
    let cells: Vec<_> = model.tables().rollups.values().cloned().collect();
    assert_eq!((cells[0].calls, cells[0].unconfirmed, cells[0].cost_nanos["USD"]), (1, 0, 40));
}

#[test]
fn a_repricing_leaves_a_late_end_its_word_and_a_correction_does_not() {
    for (version, sum) in [("v2", 40), ("v1", 900 - 100)] {
        let model = Arc::new(Model::default());
        let correction = Call { price_version: version.into(), ..call(1, CallKind::Adjusted, -100) };
        fold(&model, &[call(1, CallKind::Started, 0), call(1, CallKind::Unconfirmed, 0), correction]);
        fold(&model, &[call(1, CallKind::Finished, 40), call(1, CallKind::Finished, 40)]);
        let total: i64 = model.tables().entries.values().map(|e| e.cost_nanos).sum();
        assert_eq!(total, sum, "{version}");
    }
}

#[test]
fn an_end_in_another_currency_is_refused() {
    let model = Arc::new(Model::default());
    let end = Call { currency: "EUR".into(), ..call(1, CallKind::Finished, 40) };
    let records = [call(1, CallKind::Started, 0), call(1, CallKind::Unconfirmed, 0), end];
    let (folded, _) = fold(&model, &records);
    assert!(
        matches!(&folded[2], Folded::Refused(error) if error.contains("EUR") && error.contains("USD")),
        "{folded:?}"
    );
}

#[test]
fn a_start_that_comes_again_after_a_restart_is_found_in_the_store() {
    let model = Arc::new(Model::default());
    fold(&model, &[call(1, CallKind::Started, 0), call(1, CallKind::Finished, 7)]);
    let (folded, booked) = fold(&model, &[call(1, CallKind::Started, 0), call(1, CallKind::Finished, 7)]);
    assert_eq!(folded, [Folded::Ignored(Ignored::Duplicate), Folded::Ignored(Ignored::Duplicate)]);
    assert_eq!(booked, []);
}

#[test]
fn the_end_of_a_call_that_never_began_is_ignored() {
    let (folded, booked) = fold(&Arc::new(Model::default()), &[call(1, CallKind::Finished, 7)]);
    assert_eq!((folded, booked), (vec![Folded::Ignored(Ignored::Unknown)], vec![]));
}

#[test]
fn what_can_not_be_added_up_is_refused_by_name() {
    let good = call(1, CallKind::Finished, 7);
    assert_eq!(crate::valid::check(&good), Ok(()));
    assert_eq!(crate::valid::check(&Call { cost_nanos: -7, ..call(1, CallKind::Adjusted, 0) }), Ok(()));
    for (bad, field) in [
        (Call { cost_nanos: -1, ..good.clone() }, "cost_nanos"),
        (Call { charge_nanos: i64::MAX, ..good.clone() }, "charge_nanos"),
        (Call { output_tokens: i64::MIN, ..good.clone() }, "output_tokens"),
        (Call { reserved_nanos: -1, ..good.clone() }, "reserved_nanos"),
        (Call { user: "x".repeat(5000), ..good.clone() }, "user"),
        (Call { tenant: String::new(), ..good }, "tenant"),
    ] {
        let error = crate::valid::check(&bad).unwrap_err();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
}
