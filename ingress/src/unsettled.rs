//! Tokens of requests whose outcomes are not there yet, whether anybody waits for them or not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_limits::Reserved;
use millrace_schemas::{Codec, Outcome, now_millis};
use tokio::runtime::Handle;

/// So many are kept, about 30 MB. Beyond them a request stays counted by what it might have become.
const MOST: usize = 100_000;
/// Between two looks for those that are overdue, when there is no more room.
const LOOK: Duration = Duration::from_secs(60);

/// One request's tokens.
struct Open {
    /// When it came, microseconds since the epoch: another one with the same key came at another time.
    since: i64,
    /// After this instant, milliseconds since the epoch, no outcome is to be expected.
    until: i64,
    reserved: Reserved,
}

#[derive(Default)]
struct Requests {
    open: HashMap<String, Vec<Open>>,
    count: usize,
    looked: Option<Instant>,
}

/// What this replica let in and has no outcome of. Cheap to clone.
#[derive(Clone)]
pub struct Unsettled {
    most: usize,
    requests: Arc<Mutex<Requests>>,
}

impl Default for Unsettled {
    fn default() -> Self {
        Self { most: MOST, requests: Arc::default() }
    }
}

impl Unsettled {
    /// Keeps what a request took, from before it is written until its outcome or its deadline.
    pub(crate) fn keep(&self, request_id: &str, since: i64, until: i64, reserved: Reserved) {
        let mut requests = self.lock();
        if requests.count >= self.most {
            requests.forget_overdue();
        }
        if requests.count < self.most {
            requests.count += 1;
            requests.open.entry(request_id.to_owned()).or_default().push(Open { since, until, reserved });
        }
    }

    /// A request was not written: it becomes nothing.
    pub(crate) fn give_back(&self, request_id: &str, since: i64) {
        for open in self.take(request_id) {
            if open.since == since {
                open.reserved.settle(0);
            } else {
                self.keep(request_id, open.since, open.until, open.reserved);
            }
        }
    }

    /// Counts a request by its outcome. Others with its key had the same outcome, for nothing.
    pub(crate) fn settle(&self, outcome: &Outcome) {
        let tokens = u64::try_from(outcome.input_tokens.saturating_add(outcome.output_tokens)).unwrap_or(0);
        for open in self.take(&outcome.meta.request_id) {
            open.reserved.settle(if open.since == outcome.meta.received_at { tokens } else { 0 });
        }
    }

    /// The outcome of a request was written. Whoever waits for it settles by what it is told and answers then, so
    /// this one comes last.
    pub(crate) fn told(&self, request_id: &str, outcome: &[u8], (codec, runtime): &(Codec, Handle)) {
        if !self.has(request_id) {
            return;
        }
        let (unsettled, codec) = (self.clone(), codec.clone());
        let (request_id, outcome) = (request_id.to_owned(), outcome.to_vec());
        runtime.spawn(async move {
            tokio::task::yield_now().await;
            if unsettled.has(&request_id) {
                match codec.decode::<Outcome>(&outcome).await {
                    Ok(outcome) => unsettled.settle(&outcome),
                    Err(error) => tracing::warn!(%error, request_id, "an outcome can not be counted"),
                }
            }
        });
    }

    fn has(&self, request_id: &str) -> bool {
        self.lock().open.contains_key(request_id)
    }

    fn take(&self, request_id: &str) -> Vec<Open> {
        let mut requests = self.lock();
        let taken = requests.open.remove(request_id).unwrap_or_default();
        requests.count -= taken.len();
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Requests {
    fn forget_overdue(&mut self) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        self.looked = Some(Instant::now());
        let now = now_millis();
        self.open.retain(|_, open| {
            open.retain(|open| open.until >= now);
            !open.is_empty()
        });
        self.count = self.open.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millrace_config::UsageLimits;
    use millrace_limits::Limiter;
    use millrace_schemas::{Lane, Meta, Moderation, OutcomeStatus};

    use super::*;

    const SINCE: i64 = 1_000_000;

    fn limits() -> Vec<(String, UsageLimits)> {
        let limits = UsageLimits { tokens_per_day: Some(1_000), ..UsageLimits::default() };
        vec![("tenant/acme".to_owned(), limits)]
    }

    /// What is left of the day's thousand.
    fn left(limiter: &Limiter) -> u64 {
        let exceeded = limiter.take_of_day(&limits(), 1_001, now_millis()).err().expect("more than there is");
        1_000 - exceeded.used
    }

    fn outcome(request_id: &str, received_at: i64, tokens: i64) -> Outcome {
        let meta = Meta {
            request_id: request_id.to_owned(),
            run: 0,
            tenant: "acme".to_owned(),
            user: "u".to_owned(),
            key_id: None,
            lane: Lane::Interactive,
            operation: "chat.completions".to_owned(),
            idempotency_key: None,
            body_hash: None,
            received_at,
            deadline: i64::MAX,
            reply_replica: None,
            reply_topic: None,
            labels: BTreeMap::new(),
        };
        let text = String::new;
        Outcome {
            meta,
            status: OutcomeStatus::Succeeded,
            response: None,
            error: None,
            model: text(),
            provider: None,
            moderation: Moderation { action: text(), rule_set: text(), rules_version: text(), hits: Vec::new() },
            input_tokens: tokens - 1,
            output_tokens: 1,
            cost_nanos: 0,
            charge_nanos: 0,
            currency: text(),
            bill: Vec::new(),
            stages: Vec::new(),
            finished_at: 0,
            prompt_moderation: None,
        }
    }

    fn check(most: usize, overdue: bool, kept: &[(&str, i64)], ended: &[Outcome], expected: u64) {
        let (limiter, unsettled) = (Limiter::new("a"), Unsettled { most, ..Unsettled::default() });
        let until = if overdue { 0 } else { i64::MAX };
        for (request_id, since) in kept {
            let reserved = limiter.take_of_day(&limits(), 100, now_millis()).expect("there is room");
            unsettled.keep(request_id, *since, until, reserved);
        }
        ended.iter().for_each(|outcome| unsettled.settle(outcome));
        assert_eq!(left(&limiter), expected, "{kept:?}");
    }

    #[test]
    fn a_request_counts_by_its_outcome_and_one_with_the_same_key_by_nothing() {
        check(9, false, &[("a", SINCE)], &[], 900);
        check(9, false, &[("a", SINCE)], &[outcome("a", SINCE, 7)], 993);
        check(9, false, &[("a", SINCE)], &[outcome("a", SINCE, 7), outcome("a", SINCE, 99)], 993);
        check(9, false, &[("a", SINCE)], &[outcome("b", SINCE, 7)], 900);
        check(9, false, &[("a", SINCE), ("a", SINCE + 1)], &[outcome("a", SINCE, 7)], 993);
        check(9, false, &[("a", SINCE)], &[outcome("a", SINCE, 150)], 850);
    }

    #[test]
    fn what_there_is_no_room_for_stays_counted_and_what_is_overdue_makes_room() {
        let ended = [outcome("a", SINCE, 7), outcome("b", SINCE, 7)];
        check(1, false, &[("a", SINCE), ("b", SINCE)], &ended, 893);
        check(1, true, &[("a", SINCE), ("b", SINCE)], &ended, 893);
        check(2, true, &[("a", SINCE), ("b", SINCE)], &ended, 986);
    }

    #[tokio::test]
    async fn what_was_not_written_is_given_back_and_what_nobody_waits_for_is_counted_when_it_is_told() {
        let (limiter, unsettled) = (Limiter::new("a"), Unsettled::default());
        let reserve = || limiter.take_of_day(&limits(), 100, now_millis()).expect("there is room");
        unsettled.keep("a", SINCE, i64::MAX, reserve());
        unsettled.keep("a", SINCE + 1, i64::MAX, reserve());
        unsettled.give_back("a", SINCE + 1);
        assert_eq!(left(&limiter), 900);
        let codec = Codec::detached().expect("no registry is asked");
        let bytes = codec.encode(&outcome("a", SINCE, 7)).expect("fits");
        let with = (codec, Handle::current());
        unsettled.told("other", &bytes, &with);
        unsettled.told("a", &bytes, &with);
        while unsettled.has("a") {
            tokio::task::yield_now().await;
        }
        assert_eq!(left(&limiter), 993);
        assert_eq!(unsettled.lock().count, 0);
    }
}
