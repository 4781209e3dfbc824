//! Many owners with views of random ages spend one budget as fast as the rule lets them: what is charged in
//! the end stays within the bound, and the budget can be spent.

use std::time::{Duration, Instant};

use millrace_schemas::Account;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::owners::{OwnCalls, Whose};
use crate::rule::{Judgement, Own, Seen, judge};

struct Call {
    /// Milliseconds; the acknowledgement of `started`, and when its end is in the log.
    started: u64,
    ended: u64,
    reserve: i64,
    charge: i64,
}

struct View {
    own: OwnCalls,
    as_of: u64,
    /// Asked the log, and when the answer takes effect.
    asked: (u64, u64),
}

struct Outcome {
    charged: i64,
    bound: i64,
    most: i64,
    begun: usize,
}

struct World {
    rng: StdRng,
    began: Instant,
    budget: i64,
    owners: i64,
    /// The longest that a view takes until it is as of an instant.
    lag: u64,
    most: i64,
    calls: Vec<Call>,
    views: Vec<View>,
}

fn whose() -> Vec<Whose> {
    vec![("t".to_owned(), Account::Tenant), ("t".to_owned(), Account::User("u".to_owned()))]
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let began = Instant::now();
        let owners = rng.random_range(1..40);
        let most = rng.random_range(1..200);
        let budget = most * rng.random_range(1..150);
        let lag = rng.random_range(1..2_000);
        let views = (0..owners).map(|_| View { own: OwnCalls::new(0, began), as_of: 0, asked: (0, 0) }).collect();
        Self { rng, began, budget, owners, lag, most, calls: Vec::new(), views }
    }

    fn at(&self, millis: u64) -> Instant {
        self.began + Duration::from_millis(millis)
    }

    /// What a snapshot as of an instant shows; some of it shows more.
    fn seen(&self, as_of: u64) -> Seen {
        let mut seen = Seen { budget: self.budget, spent: 0, reserved: 0 };
        for call in self.calls.iter().filter(|call| call.started < as_of) {
            if call.ended < as_of {
                seen.spent += call.charge;
            } else {
                seen.reserved += call.reserve;
            }
        }
        seen
    }

    fn step(&mut self, now: u64, eager: &[bool]) -> i64 {
        let mut left_seen = 0;
        for (index, is_eager) in eager.iter().enumerate() {
            let (asked, due) = self.views[index].asked;
            if due <= now {
                let next = now + self.rng.random_range(0..self.lag);
                let instant = self.at(asked);
                let view = &mut self.views[index];
                view.as_of = view.as_of.max(asked);
                view.own.covered(instant);
                view.asked = (now, next);
            }
            let tries = if *is_eager { 30 } else { usize::from(self.rng.random_bool(0.01)) };
            if tries == 0 {
                continue;
            }
            // Nothing that begins now is in it.
            let seen = self.seen(self.views[index].as_of);
            for _ in 0..tries {
                let reserve = self.rng.random_range(1..=self.most);
                let as_of = self.at(self.views[index].as_of);
                let own = &mut self.views[index].own;
                if judge(seen, own.of(&whose()[0], Some(as_of)), reserve, self.owners) != Judgement::Begin {
                    break;
                }
                left_seen = left_seen.max((seen.budget - seen.spent - seen.reserved).max(reserve * self.owners));
                let id = own.begin(whose(), reserve);
                own.started(id, self.began + Duration::from_millis(now));
                let charge = self.rng.random_range(0..=reserve);
                let ended = now + self.rng.random_range(1..500);
                self.calls.push(Call { started: now, ended, reserve, charge });
            }
        }
        left_seen
    }

    fn charged(&self) -> i64 {
        self.calls.iter().map(|call| call.charge).sum()
    }

    /// What was left in a view that let a call begin when the budget had run out is a part of the bound.
    fn run(mut self) -> Outcome {
        let mut over = 0;
        for now in (1..8_000_u64).step_by(4) {
            let idle = self.calls.last().map_or(0, |call| now.saturating_sub(call.started));
            if idle > 2 * self.lag + 600 {
                break;
            }
            let eager: Vec<bool> = (0..self.owners).map(|_| self.rng.random_bool(0.3)).collect();
            let left = self.step(now, &eager);
            if self.charged() >= self.budget {
                // The views that let these calls begin had not seen the end.
                over = over.max(left);
            }
        }
        Outcome {
            charged: self.charged(),
            bound: self.budget + over.max(self.most * self.owners),
            most: self.most,
            begun: self.calls.len(),
        }
    }
}

#[test]
fn what_is_charged_stays_within_the_bound_whatever_the_age_of_the_views() {
    let (mut over, mut near) = (0, 0);
    for seed in 0..60 {
        let world = World::new(seed);
        let (budget, owners) = (world.budget, world.owners);
        let Outcome { charged, bound, most, begun } = world.run();
        assert!(charged <= bound, "seed {seed}: {charged} of {budget}, {owners} owners, most {most}, bound {bound}");
        over += usize::from(charged > budget);
        near += usize::from(charged + most > budget);
        assert!(begun > 0);
    }
    // The rule is not so careful that the bound is never needed, nor that the money is not spent.
    assert!(over > 0, "no run exceeded its budget at all");
    assert!(near > 30, "only {near} of 60 budgets could be spent");
}

/// A rule that took no account of what the owner began itself would spend without end.
#[test]
fn without_its_own_calls_an_owner_would_exceed_any_bound() {
    let mut world = World::new(7);
    (world.budget, world.most, world.lag) = (1_000, 100, 1_000);
    let mut charged = 0;
    for _ in 0..1_000 {
        if judge(world.seen(0), Own { is_known: true, ..Own::default() }, 100, world.owners) == Judgement::Begin {
            charged += 100;
        }
    }
    assert!(charged > world.budget * 50);
}
