//! The fold over random logs, with and without crashes.

use super::logs::{RandomLog, random_log};
use super::{owners, spending, truth};

const SEEDS: u64 = 6000;

#[test]
fn every_log_is_booked_as_it_says_and_no_crash_changes_a_byte() {
    for seed in 0..SEEDS {
        let result = std::panic::catch_unwind(|| {
            let RandomLog { mut rng, records } = random_log(seed);
            let tables = owners::undisturbed(&records);
            truth::check(&records, &tables);
            spending::check(&tables);
            let crashed = owners::disturbed(&mut rng, &records);
            assert_eq!(crashed, tables, "a crash changed the books");
        });
        assert!(result.is_ok(), "seed {seed} fails, see above; its log: {:#?}", random_log(seed).records);
    }
}

#[test]
fn the_random_logs_reach_every_rule() {
    let (mut late, mut adjusted, mut unconfirmed, mut finished) = (0, 0, 0, 0);
    for seed in 0..500 {
        for entry in owners::undisturbed(&random_log(seed).records).entries.values() {
            match (entry.kind.as_str(), entry.provider.as_str()) {
                ("adjusted", "by-hand") => adjusted += 1,
                ("adjusted", _) => late += 1,
                ("unconfirmed", _) => unconfirmed += 1,
                _ => finished += 1,
            }
        }
    }
    assert!(
        late > 50 && adjusted > 50 && unconfirmed > 50 && finished > 50,
        "{late} {adjusted} {unconfirmed} {finished}"
    );
}
