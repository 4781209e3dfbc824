//! Owners of a partition: they read from the commit, crash anywhere, and go on writing as zombies.

use std::sync::Arc;

use futures::executor::block_on;
use millrace_schemas::Call;
use millrace_storage::{LedgerStore, StorageError};
use rand::Rng;
use rand::rngs::StdRng;

use super::model::{Model, Tables};
use super::spending::counting;
use crate::book::{Book, Folded};
use crate::start::{self, Start};

pub const GENERATION: u32 = 0;
pub const PARTITION: i32 = 5;

/// A ledger process that has the partition, or believes so.
pub struct Owner {
    book: Book,
    next: usize,
}

impl Owner {
    /// Takes the partition over at `committed`.
    pub fn new(store: &Arc<dyn LedgerStore>, committed: usize, log: &[Call]) -> Self {
        let stored = block_on(Book::load(Arc::clone(store), GENERATION, PARTITION, counting())).unwrap();
        let upto = stored.as_ref().map(|book| book.fold().upto());
        let bounds = (0, i64::try_from(log.len()).unwrap());
        assert_eq!(start::check(PARTITION, upto, i64::try_from(committed).unwrap(), bounds), Start::Whole);
        let book = stored.unwrap_or_else(|| Book::empty(Arc::clone(store), GENERATION, PARTITION, counting()));
        Self { book, next: committed }
    }

    /// Folds the next record; false at the end.
    pub fn step(&mut self, log: &[Call]) -> bool {
        let Some(call) = log.get(self.next) else { return false };
        let offset = i64::try_from(self.next).unwrap();
        self.next += 1;
        if offset > self.book.fold().upto() {
            match block_on(self.book.take(offset, call)).unwrap() {
                Folded::Taken | Folded::Ignored(_) => {}
                Folded::Refused(_) => self.book.pass(offset),
            }
        }
        true
    }

    /// Flushes; gives back the offset that may be committed.
    pub fn flush(&mut self) -> Result<usize, StorageError> {
        block_on(self.book.flush()).map(|_| self.next)
    }
}

/// One owner, nothing goes wrong.
pub fn undisturbed(log: &[Call]) -> Tables {
    let model = Arc::new(Model::default());
    let store: Arc<dyn LedgerStore> = model.clone();
    let mut owner = Owner::new(&store, 0, log);
    while owner.step(log) {}
    owner.flush().unwrap();
    model.tables().clone()
}

/// Everything goes wrong.
pub fn disturbed(rng: &mut StdRng, log: &[Call]) -> Tables {
    let model = Arc::new(Model::default());
    let store: Arc<dyn LedgerStore> = model.clone();
    let mut committed = 0;
    let mut zombies: Vec<Owner> = Vec::new();
    for _ in 0..rng.random_range(0..6) {
        let mut owner = Owner::new(&store, committed, log);
        for _ in 0..rng.random_range(0..40) {
            if rng.random_bool(0.7) {
                owner.step(log);
            } else {
                model.fail_after(rng.random_bool(0.3).then(|| rng.random_range(0..8)));
                if let Ok(settled) = owner.flush()
                    && rng.random_bool(0.6)
                {
                    // What the broker has acknowledged is anything up to what is settled.
                    committed = committed.max(rng.random_range(0..=settled));
                }
                model.fail_after(None);
            }
            wake(rng, &model, &mut zombies, log);
        }
        if rng.random_bool(0.5) {
            zombies.push(owner);
        }
    }
    let mut last = Owner::new(&store, committed, log);
    while last.step(log) {
        if rng.random_bool(0.2) {
            last.flush().unwrap();
        }
        wake(rng, &model, &mut zombies, log);
    }
    last.flush().unwrap();
    // The last word of all zombies, as stale as it may be.
    zombies.iter_mut().for_each(|zombie| drop(zombie.flush()));
    model.tables().clone()
}

fn wake(rng: &mut StdRng, model: &Model, zombies: &mut [Owner], log: &[Call]) {
    for zombie in zombies {
        if rng.random_bool(0.2) {
            zombie.step(log);
        }
        if rng.random_bool(0.1) {
            model.fail_after(rng.random_bool(0.5).then(|| rng.random_range(0..6)));
            drop(zombie.flush());
            model.fail_after(None);
        }
    }
}
