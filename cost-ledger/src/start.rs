//! Whether a checkpoint and a log belong together.

/// What to make of a partition's checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Every record is in the checkpoint or will be delivered.
    Whole,
    /// Records are in neither, and the log does not hold them any more; one sentence.
    Gap(String),
    /// An operator's word is needed; one sentence that says what to do.
    Refused(String),
}

/// Compares the checkpoint's last offset with the group's commit and the log (`low..end`).
#[must_use]
pub fn check(partition: i32, upto: Option<i64>, committed: i64, (low, end): (i64, i64)) -> Start {
    let folded = upto.map_or(0, |upto| upto + 1);
    let place = format!("`calls` partition {partition}");
    if folded > end {
        return Start::Refused(format!(
            "the store has {place} folded up to offset {folded}, but the log ends at {end}: the topic was made anew; \
             raise kafka.generation, or use the store that belongs to this log"
        ));
    }
    if folded >= committed {
        return Start::Whole;
    }
    match upto {
        _ if committed > low => Start::Refused(format!(
            "the store has {place} folded up to offset {folded} only, but the group `cost-ledger` is committed at {committed}: \
             the store is older than the log; restore its latest backup, or reset the group to offset {}",
            folded.max(low)
        )),
        // Nothing was ever folded, and the log is read from its beginning.
        None => Start::Whole,
        Some(_) => Start::Gap(format!(
            "{place} begins at {low} and the store has it folded up to {folded} only: retention removed the records between"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_at_or_ahead_of_the_commit_is_whole() {
        for (upto, committed, bounds) in [
            (None, 0, (0, 0)),
            (None, 0, (0, 9)),
            (None, 7, (7, 9)),
            (Some(4), 5, (0, 9)),
            (Some(8), 5, (0, 9)),
            (Some(8), 9, (9, 9)),
        ] {
            assert_eq!(check(0, upto, committed, bounds), Start::Whole, "{upto:?} {committed} {bounds:?}");
        }
    }

    #[test]
    fn a_store_that_does_not_belong_to_the_log_is_refused() {
        for (upto, committed, bounds, word) in [
            (None, 5, (0, 9), "reset the group to offset 0"),
            (None, 5, (3, 9), "reset the group to offset 3"),
            (Some(2), 5, (0, 9), "reset the group to offset 3"),
            (Some(2), 8, (5, 9), "reset the group to offset 5"),
            (Some(9), 5, (0, 9), "raise kafka.generation"),
        ] {
            match check(0, upto, committed, bounds) {
                Start::Refused(error) => assert!(error.contains(word), "{error}"),
                other @ (Start::Whole | Start::Gap(_)) => panic!("{upto:?} {committed} {bounds:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_loss_that_the_operator_accepted_is_told() {
        assert!(matches!(check(0, Some(2), 5, (5, 9)), Start::Gap(_)));
    }
}
