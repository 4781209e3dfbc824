//! What to do after a call that brought no answer. Pure: the clock and the dice are arguments.
//!
//! The rules, for each target of the request's route (the model, then its fallbacks):
//!
//! - **An outage** (nothing sent, 408, 409, 429, 5xx) costs nothing and is not the request's fault.
//!   It is tried again, with full jitter and never before the provider's `Retry-After`, for as long
//!   as the request's deadline allows. After `max_attempts` such tries in a row, or when the
//!   provider asks for a long wait, the next target gets its turn, and so on in a circle.
//! - **A key of a pool was refused or has made too many calls**: the call is made again with whatever key has room, and when
//!   none has for a while, at the next target. It is no try of the request's.
//! - **A lost answer** may have been paid for, so `max_attempts` bounds how many a target may lose;
//!   then it is out.
//! - **The operator's fault** (the provider refuses our key, our account, or does not know the model
//!   we configured) puts the target out at once.
//! - **The request's own fault** ends it with the provider's words: another provider is not asked to
//!   judge it again.
//!
//! A provider that is away is not called at all (see the circuit breaker of `millrace-provider`): then
//! the next target of the route that may be called gets its turn at once.
//!
//! It ends when no target is left, or when none may be called again before the deadline.

use std::time::Duration;

use millrace_provider::{CallError, Refusal};
use millrace_schemas::{Ended, EndedStatus};
use millrace_stage::core::Backoff;

/// The first delay is drawn from nothing to this.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// No delay of our own is longer.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// Rather than wait longer than this for one target, another is asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Call the current target after this delay.
    Call {
        /// How long to wait first.
        after: Duration,
    },
    /// No more calls.
    End(Ended),
}

/// A target that may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its place in the route.
    pub target: usize,
    /// Not before this instant, milliseconds since the epoch.
    pub not_before: i64,
}

/// The calls made for one request so far.
#[derive(Debug)]
pub(crate) struct Attempts {
    tries: Vec<Tries>,
    current: usize,
}

/// The calls made to one target.
#[derive(Debug)]
struct Tries {
    max_attempts: u32,
    backoff: Backoff,
    /// Outages since the target got its turn.
    outages: u32,
    /// Answers lost, which may have been paid for.
    lost: u32,
    /// No call before this instant, milliseconds since the epoch.
    not_before: i64,
    out: bool,
}

impl Attempts {
    /// None yet; one target for each `max_attempts`, in the order of the route.
    pub(crate) fn new(max_attempts: impl IntoIterator<Item = u32>) -> Self {
        let tries = max_attempts.into_iter().map(|max_attempts| Tries {
            max_attempts,
            backoff: Backoff::new(FIRST_DELAY, LONGEST_DELAY),
            outages: 0,
            lost: 0,
            not_before: 0,
            out: false,
        });
        Self { tries: tries.collect(), current: 0 }
    }

    /// Which target of the route to call now.
    pub(crate) fn target(&self) -> usize {
        self.current
    }

    /// Decides after a failed call to the current target. `now` and `deadline` are milliseconds
    /// since the epoch, `random` is uniform in `0..1`.
    pub(crate) fn next_step(&mut self, error: &CallError, now: i64, deadline: i64, random: f64) -> Step {
        let tried = &mut self.tries[self.current];
        let asked = match error {
            // Its keys wait, if any must: see where slots are given.
            CallError::Answered(refusal) if refusal.of_key => return Step::Call { after: Duration::ZERO },
            CallError::Answered(refusal) if refusal.retryable => {
                tried.outages += 1;
                refusal.retry_after
            }
            CallError::NotSent(_) => {
                tried.outages += 1;
                None
            }
            CallError::Lost(_) => {
                tried.lost += 1;
                tried.out = tried.lost >= tried.max_attempts;
                None
            }
            CallError::Answered(refusal) if is_operators_fault(refusal) => {
                tried.out = true;
                None
            }
            CallError::Answered(refusal) => return Step::End(refused(refusal)),
        };
        let delay = tried.backoff.next(random, asked);
        tried.not_before = now.saturating_add(millis(delay));
        let stays = !tried.out && tried.outages < tried.max_attempts && delay <= PATIENCE;
        if !stays || tried.not_before >= deadline {
            tried.outages = 0;
            match self.soonest() {
                Some(target) => self.current = target,
                None => return Step::End(ended(error)),
            }
        }
        let not_before = self.tries[self.current].not_before;
        if not_before >= deadline {
            return Step::End(ended(error));
        }
        Step::Call { after: Duration::from_millis(u64::try_from(not_before - now).unwrap_or(0)) }
    }

    /// The targets that may still be called, the current one first. Never empty before an end.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let others = (0..self.tries.len()).filter(|target| *target != self.current);
        let order = std::iter::once(self.current).chain(others).filter(|target| !self.tries[*target].out);
        order.map(|target| Candidate { target, not_before: self.tries[target].not_before }).collect()
    }

    /// Another target is called, because the current one's provider is away.
    pub(crate) fn go_to(&mut self, target: usize) {
        if target != self.current {
            self.tries[self.current].outages = 0;
            self.current = target;
        }
    }

    /// The target that may be called first; of several, the first of the route.
    fn soonest(&self) -> Option<usize> {
        let open = self.tries.iter().enumerate().filter(|(_, tries)| !tries.out);
        open.min_by_key(|(_, tries)| tries.not_before).map(|(index, _)| index)
    }
}

/// Whether the provider refused us rather than the request.
fn is_operators_fault(refusal: &Refusal) -> bool {
    // A model that the provider does not know was checked against our own configuration before; a
    // redirect means that the configured address is not the provider's.
    matches!(refusal.status, 300..=399 | 401 | 403 | 404) || refusal.code.as_deref() == Some("insufficient_quota")
}

/// How a request ends for want of a target to call.
fn ended(error: &CallError) -> Ended {
    match error {
        CallError::Answered(refusal) if !refusal.retryable => refused(refusal),
        CallError::Answered(refusal) => unavailable(&format!("answers {}", refusal.status)),
        CallError::NotSent(_) => unavailable("can not be reached"),
        CallError::Lost(_) => unavailable("gave no complete answer"),
    }
}

fn unavailable(what: &str) -> Ended {
    failed(502, "provider_unavailable", "api_error", format!("The provider {what}. Send the request again later."))
}

/// How a request ends that the provider refused for good. What a provider says about our key or our
/// account is for the operator's log and not for the client.
fn refused(refusal: &Refusal) -> Ended {
    let operators = |code: &str, what: &str| {
        failed(502, code, "api_error", format!("The provider {what}. Tell the operator of this service."))
    };
    match refusal.status {
        401 | 403 => operators("provider_auth", "refuses this service's key"),
        429 => operators("provider_quota", "has no quota left for this service"),
        400..=499 => Ended {
            status: EndedStatus::Failed,
            code: refusal.code.clone().unwrap_or_else(|| "provider_refused".to_owned()),
            kind: if refusal.kind.is_empty() { "invalid_request_error".to_owned() } else { refusal.kind.clone() },
            message: refusal.message.clone(),
            param: refusal.param.clone(),
            http_status: i32::from(refusal.status),
        },
        status => operators("provider_misconfigured", &format!("answers {status} instead of a completion")),
    }
}

/// An end with an error that is not the client's.
pub(crate) fn failed(http_status: i32, code: &str, kind: &str, message: impl Into<String>) -> Ended {
    Ended {
        status: EndedStatus::Failed,
        code: code.to_owned(),
        kind: kind.to_owned(),
        message: message.into(),
        param: None,
        http_status,
    }
}

fn millis(delay: Duration) -> i64 {
    i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn refusal(status: u16, code: Option<&str>, wait: Option<u64>) -> CallError {
        CallError::Answered(Refusal {
            status,
            message: "the provider's words".to_owned(),
            kind: "some_type".to_owned(),
            code: code.map(str::to_owned),
            param: Some("messages".to_owned()),
            retry_after: wait.map(Duration::from_millis),
            retryable: matches!(status, 408 | 409 | 429 | 500..) && code != Some("insufficient_quota"),
            of_key: false,
        })
    }

    fn not_sent() -> CallError {
        CallError::NotSent("refused".to_owned())
    }

    fn lost() -> CallError {
        CallError::Lost("cut".to_owned())
    }

    /// What follows from these failures, one after the other and each at once: `target@delay` in
    /// milliseconds, or the code that it ends with. Delays are the longest that can be drawn.
    fn check(max_attempts: &[u32], deadline_in: i64, errors: &[CallError], expected: &[&str]) {
        let mut attempts = Attempts::new(max_attempts.iter().copied());
        let mut now = NOW;
        let steps: Vec<String> = errors
            .iter()
            .map(|error| match attempts.next_step(error, now, NOW + deadline_in, 1.0) {
                Step::Call { after } => {
                    now += millis(after);
                    format!("{}@{}", attempts.target(), after.as_millis())
                }
                Step::End(ended) => format!("{} {}", ended.http_status, ended.code),
            })
            .collect();
        assert_eq!(steps, expected, "{errors:?}");
    }

    #[test]
    fn an_outage_is_retried_up_to_the_deadline_and_not_counted() {
        let outages =
            [refusal(503, None, None), not_sent(), refusal(429, None, None), refusal(500, None, None), not_sent()];
        check(&[2], 600_000, &outages, &["0@250", "0@500", "0@1000", "0@2000", "0@4000"]);
        let many = vec![not_sent(); 40];
        let mut attempts = Attempts::new([4]);
        let mut now = NOW;
        for (number, error) in many.iter().enumerate() {
            match attempts.next_step(error, now, NOW + 86_400_000, 1.0) {
                Step::Call { after } => {
                    assert!(after <= LONGEST_DELAY, "{after:?}");
                    now += millis(after);
                }
                Step::End(ended) => panic!("{number}: {ended:?}"),
            }
        }
        check(&[2], 1_500, &outages[..3], &["0@250", "0@500", "502 provider_unavailable"]);
    }

    #[test]
    fn a_key_that_is_refused_is_no_try_of_the_requests() {
        let of_key = |status: u16| match refusal(status, None, Some(60_000)) {
            CallError::Answered(refusal) => CallError::Answered(Refusal { of_key: true, ..refusal }),
            other @ (CallError::NotSent(_) | CallError::Lost(_)) => other,
        };
        let refused = [of_key(401), of_key(429), of_key(403), of_key(429)];
        check(&[1, 1], 600_000, &refused, &["0@0"; 4]);
    }

    #[test]
    fn retry_after_is_honoured_within_the_deadline() {
        // A quarter of the asked time is added as jitter at most, and no more than our own delay.
        check(&[4], 60_000, &[refusal(429, None, Some(1_500))], &["0@1750"]);
        check(&[4], 60_000, &[refusal(429, None, Some(20_000))], &["0@20250"]);
        check(&[4], 10_000, &[refusal(429, None, Some(20_000))], &["502 provider_unavailable"]);
        check(&[4, 4], 60_000, &[refusal(429, None, Some(20_000))], &["1@0"]);
        check(&[4, 4], 10_000, &[refusal(429, None, Some(20_000)), refusal(503, None, None)], &["1@0", "1@250"]);
    }

    #[test]
    fn targets_take_turns_during_an_outage() {
        let outages = vec![refusal(503, None, None); 6];
        // Two tries, the fallback, two tries there, then whichever may be called first.
        check(&[2, 2], 600_000, &outages, &["0@250", "1@0", "1@250", "0@250", "0@1000", "1@0"]);
        check(&[1, 1], 600_000, &[not_sent(), not_sent(), not_sent()], &["1@0", "0@250", "1@0"]);
    }

    #[test]
    fn candidates_are_the_targets_that_are_not_out_the_current_one_first() {
        let mut attempts = Attempts::new([1, 1, 4]);
        let places = |attempts: &Attempts| attempts.candidates().iter().map(|c| c.target).collect::<Vec<_>>();
        assert_eq!(places(&attempts), [0, 1, 2]);
        attempts.next_step(&refusal(401, None, None), NOW, NOW + 60_000, 1.0);
        assert_eq!(places(&attempts), [1, 2]);
        attempts.go_to(2);
        attempts.next_step(&refusal(429, None, Some(2_000)), NOW, NOW + 60_000, 1.0);
        let [current, other] = attempts.candidates()[..] else { panic!("two are left") };
        assert_eq!(current, Candidate { target: 2, not_before: NOW + 2_250 });
        assert_eq!(other, Candidate { target: 1, not_before: 0 });
    }

    #[test]
    fn lost_answers_may_have_been_paid_and_are_bounded() {
        check(&[2], 600_000, &[lost(), lost()], &["0@250", "502 provider_unavailable"]);
        check(&[2, 1], 600_000, &[lost(), lost(), lost()], &["0@250", "1@0", "502 provider_unavailable"]);
        let mixed = [lost(), not_sent(), refusal(500, None, None), lost()];
        check(&[2], 600_000, &mixed, &["0@250", "0@500", "0@1000", "502 provider_unavailable"]);
        check(&[1], 600_000, &[lost()], &["502 provider_unavailable"]);
        check(&[4], 100, &[lost()], &["502 provider_unavailable"]);
    }

    #[test]
    fn the_operators_fault_fails_over_and_tells_the_client_nothing() {
        check(&[4], 600_000, &[refusal(401, Some("invalid_api_key"), None)], &["502 provider_auth"]);
        check(&[4], 600_000, &[refusal(403, None, None)], &["502 provider_auth"]);
        check(&[4], 600_000, &[refusal(429, Some("insufficient_quota"), None)], &["502 provider_quota"]);
        check(&[4], 600_000, &[refusal(404, Some("model_not_found"), None)], &["404 model_not_found"]);
        check(&[4], 600_000, &[refusal(307, None, None)], &["502 provider_misconfigured"]);
        check(&[4, 4], 600_000, &[refusal(401, None, None), not_sent(), not_sent()], &["1@0", "1@250", "1@500"]);
        let mut attempts = Attempts::new([4]);
        let Step::End(ended) = attempts.next_step(&refusal(401, None, None), NOW, NOW + 1_000, 0.5) else {
            panic!("there is nobody else to ask");
        };
        assert!(!ended.message.contains("the provider's words"), "{}", ended.message);
    }

    #[test]
    fn the_requests_fault_ends_it_in_the_providers_words() {
        for status in [400, 413, 422] {
            let mut attempts = Attempts::new([4, 4]);
            let error = refusal(status, Some("context_length_exceeded"), None);
            let expected = Ended {
                status: EndedStatus::Failed,
                code: "context_length_exceeded".to_owned(),
                kind: "some_type".to_owned(),
                message: "the provider's words".to_owned(),
                param: Some("messages".to_owned()),
                http_status: i32::from(status),
            };
            assert_eq!(attempts.next_step(&error, NOW, NOW + 1_000, 0.5), Step::End(expected));
        }
        check(&[4], 600_000, &[refusal(400, None, None)], &["400 provider_refused"]);
    }
}
