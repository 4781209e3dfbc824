//! What `tests/instructions.py` counts instructions of: a call's two records through the book, and a flush of 500.

use std::sync::Arc;

use futures::executor::block_on;
use millrace_schemas::{Call, CallKind};

use super::logs::plain;
use super::model::Model;
use super::spending::counting;
use crate::book::{Book, Folded};

/// How many calls; the difference between two counts is what the calls cost.
fn calls() -> i64 {
    std::env::var("MILLRACE_RECORDS").map_or(500, |count| count.parse().expect("a number"))
}

#[test]
fn ledger_fold_of_a_call() {
    let mut book = Book::empty(Arc::new(Model::default()), 0, 0, counting());
    for number in 0..calls() {
        let micros = 1_700_000_000_000_000 + number * 1_000;
        let id = format!("call_{:012x}7000800000000000{:04x}", micros / 1000, number % 0x1_0000);
        for (offset, kind) in [(number * 2, CallKind::Started), (number * 2 + 1, CallKind::Finished)] {
            let call = Call { cost_nanos: 7, charge_nanos: 14, ..plain(&id, kind, "acme", "ann", micros, 900) };
            assert_eq!(block_on(book.take(offset, &call)).unwrap(), Folded::Taken);
        }
        if number % 500 == 499 {
            assert_eq!(block_on(book.flush()).unwrap().len(), 500);
        }
    }
}
