//! What a process knows of budgets, and the reservations of its routers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_config::BudgetConfig;
use millrace_schemas::{Account, Budget, now_micros};
use tokio::sync::watch;

use crate::cells::{Cells, Place, Standing};
use crate::metrics::BudgetMetrics;
use crate::owners::{OwnCalls, Whose};
use crate::rule::{Judgement, Seen, judge};

/// How long a request waits for reservations to come back before it is refused.
const HOLD: Duration = Duration::from_secs(5);
/// How long it waits to learn what is left, while the ledger is behind.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who asks for a call.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// On whose account.
    pub user: &'a str,
    /// The id of the key that asks, where one does.
    pub key_id: Option<&'a str>,
}

impl Caller<'_> {
    /// The accounts that its calls are counted in.
    fn accounts(&self) -> Vec<Whose> {
        Account::all(self.user, self.key_id).map(|account| (self.tenant.to_owned(), account)).collect()
    }
}

/// The budgets that a caller's calls go to. Asked for every decision: they change.
pub type Limits = Arc<dyn Fn(Caller<'_>) -> Vec<(Account, BudgetConfig)> + Send + Sync>;

/// Who begins a call: an assignment of a partition of prompts.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// Tells assignments of it apart.
    pub epoch: u64,
}

/// Why a call may not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// There is no room in this budget.
    #[error("the budget has no room for the call")]
    UsedUp(Box<Standing>),
    /// The call's price is in another currency than this budget, so it can not be held.
    #[error("the budget is in another currency than the call")]
    Currency(Box<Standing>),
    /// What is left did not become known in time.
    #[error("what is left of the budget is not known")]
    Unknown,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Budgets {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    caught_up: watch::Sender<bool>,
    metrics: BudgetMetrics,
}

#[derive(Default)]
struct State {
    cells: Cells,
    as_of: Option<Instant>,
    /// Of all processes.
    owners: i64,
    own: HashMap<(String, i32), OwnCalls>,
}

/// Room in the budgets for one call. Dropped before the call is [`started`](Self::started), it is given back.
#[must_use = "a reservation that is dropped is given back"]
pub struct Reservation {
    shared: Arc<Shared>,
    /// None when there is no budget to hold.
    at: Option<(String, i32, u64, u64)>,
}

impl Budgets {
    /// That know nothing yet.
    #[must_use]
    pub fn new(limits: Limits, metrics: BudgetMetrics) -> Self {
        let shared = Shared {
            limits,
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            caught_up: watch::Sender::new(false),
            metrics,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Where nobody has a budget.
    ///
    /// # Panics
    /// Never in practice: the metrics' names are constant.
    #[must_use]
    pub fn none() -> Self {
        let metrics = BudgetMetrics::new().expect("our metrics have valid names");
        Self::new(Arc::new(|_| Vec::new()), metrics)
    }

    /// How the budgets that a caller's calls go to stand.
    #[must_use]
    pub fn standings(&self, caller: Caller<'_>) -> Vec<Standing> {
        self.standings_of(caller.tenant, (self.shared.limits)(caller))
    }

    /// How these budgets of a tenant stand.
    #[must_use]
    pub fn standings_of(&self, tenant: &str, budgets: Vec<(Account, BudgetConfig)>) -> Vec<Standing> {
        let now = now_micros();
        let state = self.shared.state();
        budgets.iter().map(|(account, budget)| state.cells.standing(tenant, account, budget, now)).collect()
    }

    /// The budget of a caller's calls of which least is left. What it says may be late by as much as the topic is.
    #[must_use]
    pub fn tightest(&self, caller: Caller<'_>) -> Option<Standing> {
        self.standings(caller).into_iter().min_by_key(|standing| standing.remaining_nanos)
    }

    /// The budget that has no room for a small call of a caller, because it is used up; the refusal is counted. For
    /// calls that are not worth a reservation: nothing is held for them, and nobody waits.
    #[must_use]
    pub fn refuses(&self, caller: Caller<'_>) -> Option<Standing> {
        let standing = self.tightest(caller).filter(Standing::is_used_up)?;
        self.shared.metrics.refused("call");
        Some(standing)
    }

    /// Counts a request that the door refused because it found a budget used up.
    pub fn refused_at_the_door(&self) {
        self.shared.metrics.refused("door");
    }

    /// Room for a call that may cost up to `nanos` of `currency`. Waits while there may be room soon.
    ///
    /// # Errors
    /// [`NotNow`]: no call may be made.
    pub async fn reserve(
        &self,
        owner: Owner<'_>,
        caller: Caller<'_>,
        (nanos, currency): (i64, &str),
    ) -> Result<Reservation, NotNow> {
        let mut changed = self.shared.changed.subscribe();
        let began = Instant::now();
        let mut full_since = None;
        let mut waiting = None;
        loop {
            let wait = match self.shared.decide(owner, caller, (nanos, currency), now_micros(), Instant::now()) {
                Decision::Begin(at) => return Ok(Reservation { shared: Arc::clone(&self.shared), at }),
                Decision::Refuse(why) => return Err(self.refused(why)),
                Decision::Full(standing) => {
                    let since = *full_since.get_or_insert_with(Instant::now);
                    let Some(left) = HOLD.checked_sub(since.elapsed()) else {
                        return Err(self.refused(NotNow::UsedUp(standing)));
                    };
                    left
                }
                Decision::Later => {
                    full_since = None;
                    PATIENCE.checked_sub(began.elapsed()).ok_or_else(|| self.refused(NotNow::Unknown))?
                }
            };
            waiting.get_or_insert_with(|| Waiting::new(&self.shared));
            // The sender is in `self`, so only time can end this otherwise.
            let _changed = tokio::time::timeout(wait + Duration::from_millis(1), changed.changed()).await;
        }
    }

    fn refused(&self, why: NotNow) -> NotNow {
        self.shared.metrics.refused(match why {
            NotNow::UsedUp(_) | NotNow::Currency(_) => "call",
            NotNow::Unknown => "unknown",
        });
        why
    }

    /// Waits until everything that was published before the process began is known.
    pub async fn until_caught_up(&self) {
        let mut receiver = self.shared.caught_up.subscribe();
        // The sender is in `self`, so it is not gone.
        let _caught_up = receiver.wait_for(|caught_up| *caught_up).await;
    }

    pub(crate) fn caught_up(&self) {
        self.shared.caught_up.send_replace(true);
    }

    pub(crate) fn take(&self, budget: Budget) {
        self.shared.state().cells.take(budget);
    }

    pub(crate) fn owners(&self, count: i64) {
        self.shared.state().owners = count;
    }

    /// When all of `ends` are in the cells: they are as of `asked`, the instant at which the log ended there.
    pub(crate) fn is_as_of(&self, asked: Instant, ends: &HashMap<Place, i64>) -> bool {
        let mut state = self.shared.state();
        let is_covered = ends.iter().all(|(place, end)| state.cells.covers(*place, *end));
        if is_covered {
            state.as_of = Some(asked);
            state.own.values_mut().for_each(|own| own.covered(asked));
        }
        is_covered
    }

    /// Lets those who wait look again, and shows how old the snapshot is.
    pub(crate) fn look_again(&self, in_use: bool) {
        let age = self.shared.state().as_of.filter(|_| in_use).map_or(0.0, |as_of| as_of.elapsed().as_secs_f64());
        self.shared.metrics.age.set(age);
        self.shared.changed.send_replace(());
    }
}

enum Decision {
    Begin(Option<(String, i32, u64, u64)>),
    Full(Box<Standing>),
    /// The owner's share is used until more is known.
    Later,
    Refuse(NotNow),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(
        &self,
        owner: Owner<'_>,
        caller: Caller<'_>,
        (nanos, currency): (i64, &str),
        now: i64,
        instant: Instant,
    ) -> Decision {
        let limits = (self.limits)(caller);
        if limits.is_empty() {
            return Decision::Begin(None);
        }
        let mut state = self.state();
        let State { cells, as_of, owners, own } = &mut *state;
        let key = (owner.topic.to_owned(), owner.partition);
        let own = own.entry(key.clone()).or_insert_with(|| OwnCalls::new(owner.epoch, instant));
        if own.epoch != owner.epoch {
            *own = OwnCalls::new(owner.epoch, instant);
        }
        let mut wait = None;
        for (account, limit) in limits {
            let standing = cells.standing(caller.tenant, &account, &limit, now);
            if limit.currency != currency {
                return Decision::Refuse(NotNow::Currency(Box::new(standing)));
            }
            let seen =
                Seen { budget: standing.budget_nanos, spent: standing.spent_nanos, reserved: standing.reserved_nanos };
            let whose = (caller.tenant.to_owned(), account);
            match judge(seen, own.of(&whose, *as_of), nanos, *owners) {
                Judgement::Begin => {}
                Judgement::UsedUp => return Decision::Refuse(NotNow::UsedUp(Box::new(standing))),
                Judgement::Full => wait = Some(Decision::Full(Box::new(standing))),
                Judgement::Share => wait = wait.or(Some(Decision::Later)),
            }
        }
        wait.unwrap_or_else(|| Decision::Begin(Some((key.0, key.1, owner.epoch, own.begin(caller.accounts(), nanos)))))
    }
}

impl Reservation {
    /// The call's `started` is acknowledged: it counts until the snapshot has it.
    pub fn started(&self) {
        self.with(|own, id| own.started(id, Instant::now()));
    }

    fn with(&self, change: impl FnOnce(&mut OwnCalls, u64)) {
        let Some((topic, partition, epoch, id)) = &self.at else { return };
        let mut state = self.shared.state();
        if let Some(own) = state.own.get_mut(&(topic.clone(), *partition)).filter(|own| own.epoch == *epoch) {
            change(own, *id);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.with(OwnCalls::forget);
    }
}

struct Waiting(prometheus::IntGauge);

impl Waiting {
    fn new(shared: &Shared) -> Self {
        shared.metrics.waiting.inc();
        Self(shared.metrics.waiting.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use millrace_config::BudgetPeriod;

    use super::*;

    const OWNERS: i64 = 4;

    const ANN: Caller<'_> = Caller { tenant: "acme", user: "ann", key_id: Some("large") };
    const BOB: Caller<'_> = Caller { user: "bob", ..ANN };

    /// The tenant has 1000 nano-units, its user `ann` and its key `small` 100.
    fn budgets() -> Budgets {
        let budget = |account, amount: &str| {
            let (amount, currency) = (amount.to_owned(), "USD".to_owned());
            (account, BudgetConfig { amount, currency, period: BudgetPeriod::Total })
        };
        let limits = move |caller: Caller<'_>| {
            let all = budget(Account::Tenant, "0.000001");
            let own = match (caller.user, caller.key_id) {
                ("ann", _) => Some(budget(Account::User("ann".to_owned()), "0.0000001")),
                (_, Some("small")) => Some(budget(Account::Key("small".to_owned()), "0.0000001")),
                _ => None,
            };
            if caller.tenant == "acme" { std::iter::once(all).chain(own).collect() } else { Vec::new() }
        };
        let budgets = Budgets::new(Arc::new(limits), BudgetMetrics::new().expect("valid"));
        budgets.owners(OWNERS);
        budgets
    }

    fn spend(budgets: &Budgets, account: Account, upto: i64, total_nanos: i64, open_nanos: i64) {
        let budget = Budget { currency: "USD".to_owned(), total_nanos, open_nanos, ..Budget::mark(0, 0, upto) };
        budgets.take(budget.of("acme".to_owned(), account));
        budgets.take(Budget::mark(0, 0, upto));
    }

    fn is_as_of_now(budgets: &Budgets, end: i64) -> bool {
        std::thread::sleep(Duration::from_millis(2));
        budgets.is_as_of(Instant::now(), &HashMap::from([((0, 0), end)]))
    }

    fn decide(budgets: &Budgets, epoch: u64, whose: Caller<'_>, nanos: i64) -> (&'static str, Option<Reservation>) {
        let owner = Owner { topic: "prompts.batch", partition: 1, epoch };
        match budgets.shared.decide(owner, whose, (nanos, "USD"), now_micros(), Instant::now()) {
            Decision::Begin(at) => ("begin", Some(Reservation { shared: Arc::clone(&budgets.shared), at })),
            Decision::Full(_) => ("full", None),
            Decision::Later => ("later", None),
            Decision::Refuse(_) => ("refuse", None),
        }
    }

    #[test]
    fn a_call_counts_until_the_snapshot_has_it_and_no_longer() {
        let budgets = budgets();
        // Nothing is known of what an earlier owner began: a tenth of the share of 250.
        assert_eq!(decide(&budgets, 1, BOB, 26).0, "later");
        assert!(is_as_of_now(&budgets, 0));
        let (_, first) = decide(&budgets, 1, BOB, 900);
        assert_eq!(decide(&budgets, 1, BOB, 1).0, "later", "the share is used");
        // Not begun: it is given back.
        drop(first);
        let (_, first) = decide(&budgets, 1, BOB, 900);
        let first = first.expect("room");
        first.started();
        drop(first);
        assert_eq!(decide(&budgets, 1, BOB, 1).0, "later", "a call that was begun is not given back");
        assert!(!is_as_of_now(&budgets, 1), "the ledger has not folded it");
        assert_eq!(decide(&budgets, 1, BOB, 1).0, "later");
        spend(&budgets, Account::Tenant, 0, 0, 900);
        assert!(is_as_of_now(&budgets, 1));
        assert_eq!(decide(&budgets, 1, BOB, 101).0, "full");
        assert_eq!(decide(&budgets, 1, BOB, 100).0, "begin");
        spend(&budgets, Account::Tenant, 1, 950, 0);
        assert_eq!(decide(&budgets, 1, BOB, 51).0, "refuse");
        assert_eq!(decide(&budgets, 1, Caller { tenant: "rival", ..BOB }, i64::MAX).0, "begin");
    }

    #[test]
    fn a_new_owner_of_a_partition_waits_until_its_predecessors_calls_are_seen() {
        let budgets = budgets();
        assert_eq!(decide(&budgets, 1, BOB, 26).0, "later");
        assert!(is_as_of_now(&budgets, 0));
        let (begun, reservation) = decide(&budgets, 1, BOB, 600);
        assert_eq!(begun, "begin");
        assert_eq!(decide(&budgets, 2, BOB, 600).0, "later");
        assert_eq!(decide(&budgets, 2, BOB, 25).0, "begin", "far from the end nobody is held up");
        // It belongs to an owner that is gone.
        reservation.expect("room").started();
        spend(&budgets, Account::Tenant, 5, 0, 600);
        assert!(is_as_of_now(&budgets, 6));
        assert_eq!(decide(&budgets, 2, BOB, 401).0, "full");
    }

    #[test]
    fn every_budget_must_have_room() {
        let budgets = budgets();
        assert_eq!(decide(&budgets, 1, ANN, 90).0, "later");
        assert!(is_as_of_now(&budgets, 0));
        assert_eq!(decide(&budgets, 1, ANN, 101).0, "refuse");
        assert_eq!(decide(&budgets, 1, BOB, 101).0, "begin");
        let owner = Owner { topic: "prompts.batch", partition: 1, epoch: 1 };
        let other = budgets.shared.decide(owner, ANN, (1, "EUR"), 0, Instant::now());
        assert!(matches!(other, Decision::Refuse(NotNow::Currency(_))));
        spend(&budgets, Account::User("ann".to_owned()), 3, 60, 40);
        spend(&budgets, Account::Key("small".to_owned()), 3, 80, 0);
        let small = Caller { key_id: Some("small"), ..BOB };
        assert_eq!(decide(&budgets, 1, small, 21).0, "refuse");
        assert_eq!(decide(&budgets, 1, small, 20).0, "begin");
        let tightest = |caller| budgets.tightest(caller).expect("a budget");
        assert!(tightest(ANN).is_used_up() && tightest(ANN).user.as_deref() == Some("ann"));
        assert!(!tightest(small).is_used_up() && tightest(small).key_id.as_deref() == Some("small"));
        assert_eq!(tightest(BOB).remaining_nanos, 1_000);
        assert!(budgets.refuses(small).is_none() && budgets.refuses(BOB).is_none());
        let refused = budgets.refuses(ANN).expect("it is used up").used_up();
        assert_eq!(
            refused,
            "The budget of the user `ann` is used up: of 0.0000001 USD are 0.00000006 spent and 0.00000004 reserved for \
             calls on their way"
        );
        assert!(budgets.refuses(Caller { tenant: "rival", ..ANN }).is_none());
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_it_when_it_comes() {
        let budgets = budgets();
        let reserve = |nanos| {
            let budgets = budgets.clone();
            async move {
                let owner = Owner { topic: "prompts.batch", partition: 1, epoch: 1 };
                budgets.reserve(owner, BOB, (nanos, "USD")).await
            }
        };
        spend(&budgets, Account::Tenant, 0, 0, 900);
        let waiting = tokio::spawn(reserve(500));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        spend(&budgets, Account::Tenant, 1, 400, 0);
        assert!(is_as_of_now(&budgets, 2));
        budgets.look_again(true);
        let room = waiting.await.expect("no panic").expect("room");
        let refused = reserve(601).await.err().expect("no room");
        assert!(matches!(refused, NotNow::UsedUp(standing) if standing.spent_nanos == 400));
        drop(room);
    }
}
