//! What a store is, in maps.

use std::collections::{BTreeMap, BTreeSet};

use millrace_storage::{Claim, Claimed, Entry, LedgerFlush, LogPlace, Rollup, RollupKey, Waiter};

/// One tenant's rows.
#[derive(Default)]
pub struct Model {
    pub results: BTreeMap<(String, i32), (LogPlace, Vec<u8>)>,
    pub keys: BTreeMap<String, Claim>,
    pub waiters: BTreeMap<String, BTreeSet<Waiter>>,
    pub checkpoints: BTreeMap<(u32, i32), (i64, Vec<u8>)>,
    pub rollups: BTreeMap<RollupKey, Rollup>,
    pub entries: BTreeMap<(i64, i32, String), BTreeMap<LogPlace, Entry>>,
}

impl Model {
    pub fn put(&mut self, request: &str, run: i32, place: LogPlace, outcome: &[u8]) {
        let kept = self.results.entry((request.to_owned(), run)).or_insert((place, outcome.to_vec()));
        if place < kept.0 {
            *kept = (place, outcome.to_vec());
        }
    }

    pub fn latest(&self, request: &str) -> Option<Vec<u8>> {
        let runs = (request.to_owned(), i32::MIN)..=(request.to_owned(), i32::MAX);
        self.results.range(runs).next_back().map(|(_, (_, outcome))| outcome.clone())
    }

    pub fn claim(&mut self, key: &str, claim: &Claim) -> Claimed {
        let holder = self.keys.entry(key.to_owned()).or_insert(claim.clone());
        if holder.coordinates == claim.coordinates { Claimed::Ours } else { Claimed::Theirs(holder.clone()) }
    }

    pub fn flush(&mut self, flush: &LedgerFlush) {
        for entry in &flush.entries {
            let call = (entry.hour, entry.partition, entry.call_id.clone());
            self.entries.entry(call).or_default().insert(entry.place, entry.clone());
        }
        for (key, rollup) in &flush.rollups {
            let kept = self.rollups.entry(key.clone()).or_insert(rollup.clone());
            if kept.upto < rollup.upto {
                kept.clone_from(rollup);
            }
        }
        let at = (flush.upto, flush.checkpoint.clone());
        let kept = self.checkpoints.entry((flush.generation, flush.partition)).or_insert(at.clone());
        if kept.0 < at.0 {
            *kept = at;
        }
    }
}
