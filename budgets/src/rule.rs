//! Whether a call may begin.
//!
//! Owners are the partitions of the prompts of both lanes, `N` of them: each is worked off by one router at
//! a time. An owner sees a snapshot of what everybody spent and reserved, as of some instant, and knows
//! what it began itself since then. With `left` of the budget `B` in its snapshot it begins a call that may
//! cost `r`, while `own` is what it began that the snapshot may lack, only if
//!
//! - `own + r <= left / N`: it stays within its share, or
//! - nothing is in `own` and `r <= left`: one call at a time it may always make.
//!
//! The bound. Let `W(t)` be what all calls begun until `t` will be charged in the end. A snapshot as of `s`
//! shows at least `W(s)`, for a reservation is never less than the charge. Let `t*` be when `W` reaches `B`.
//! Whoever begins a call after `t*` sees less than `B`, so its snapshot is as of an instant before `t*`, so
//! everything that it began after `t*` is in its `own`. Hence no owner spends more than
//! `max(left / N, r)` after `t*`, and all of them together are charged less than
//!
//! ```text
//! B + the sum over the owners of max(left / N, r)  <=  B + max(N * r, left)  roughly
//! ```
//!
//! to which comes a tenth of a share for every assignment that changed hands meanwhile, see [`Own::is_known`].
//! Here `left` is what a snapshot showed that was the last one before the budget ran out: while no more
//! than `N * r` is spent within the age of a snapshot, one reservation for each owner. How old the
//! snapshots are does not matter for this, and neither does which owner's is older. A ledger that stands
//! still stops them all with `own` at their share: nobody can spend more than was left at that moment.

/// What a snapshot shows of one budget, nano-units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub budget: i64,
    pub spent: i64,
    pub reserved: i64,
}

/// What an owner began that its snapshot may lack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Own {
    pub nanos: i64,
    pub calls: usize,
    /// Whether the snapshot has what an earlier owner of the same partition began. Until it has, a tenth of a
    /// share is all that may be spent: far from its end a budget holds up nobody whose partition moved.
    pub is_known: bool,
}

/// See [`Own::is_known`].
const UNKNOWN: i64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    Begin,
    /// What is reserved leaves no room: some of it will come back.
    Full,
    /// The owner's share is used until the snapshot has what it began.
    Share,
    /// What is spent leaves no room.
    UsedUp,
}

pub(crate) fn judge(seen: Seen, own: Own, reserve: i64, owners: i64) -> Judgement {
    let left = seen.budget.saturating_sub(seen.spent);
    if reserve > left {
        return Judgement::UsedUp;
    }
    let left = left.saturating_sub(seen.reserved);
    if reserve > left {
        return Judgement::Full;
    }
    let share = left / owners.max(1);
    let (share, is_first) = if own.is_known { (share, own.calls == 0) } else { (share / UNKNOWN, false) };
    if is_first || own.nanos.saturating_add(reserve) <= share { Judgement::Begin } else { Judgement::Share }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_at_a_time_and_more_within_the_share() {
        let check = |spent: i64, reserved: i64, own: (i64, usize), reserve: i64, expected: Judgement| {
            let seen = Seen { budget: 1_000, spent, reserved };
            let own = Own { nanos: own.0, calls: own.1, is_known: true };
            assert_eq!(judge(seen, own, reserve, 4), expected, "{seen:?} {own:?} {reserve}");
        };
        check(0, 0, (0, 0), 1_000, Judgement::Begin);
        check(0, 0, (0, 0), 1_001, Judgement::UsedUp);
        check(0, 0, (100, 1), 150, Judgement::Begin);
        check(0, 0, (100, 1), 151, Judgement::Share);
        check(900, 0, (0, 0), 100, Judgement::Begin);
        check(901, 0, (0, 0), 100, Judgement::UsedUp);
        check(500, 401, (0, 0), 100, Judgement::Full);
        check(2_000, 0, (0, 0), 0, Judgement::UsedUp);
        let check = |own: i64, reserve: i64, expected: Judgement| {
            let seen = Seen { budget: 1_000, spent: 200, reserved: 0 };
            let own = Own { nanos: own, calls: usize::from(own > 0), is_known: false };
            assert_eq!(judge(seen, own, reserve, 4), expected, "{own:?} {reserve}");
        };
        check(0, 20, Judgement::Begin);
        check(0, 21, Judgement::Share);
        check(10, 11, Judgement::Share);
        check(0, 801, Judgement::UsedUp);
    }

    #[test]
    fn what_costs_nothing_needs_no_budget() {
        let seen = Seen { budget: 1_000, spent: 1_000, reserved: 0 };
        assert_eq!(judge(seen, Own::default(), 0, 4), Judgement::Begin);
    }
}
