//! What a batch takes of the day's tokens: of no other limit, for it is paced by its lines in flight. A line is published
//! once there are tokens for what it may become, and counts by its outcome when that is there; so a batch whose tenant
//! has used up its day goes on in the next one.

use std::time::{Duration, Instant};

use millrace_admission::{DEFAULT_USER, Principal};
use millrace_config::UsageLimits;
use millrace_limits::{Exceeded, Reserved};
use millrace_schemas::{Ended, Operation, now_micros, now_millis};

use crate::batches::run::{Item, Run};
use crate::limits::most_tokens;
use crate::run::Ingress;

/// Somebody may raise a limit, and an answer may have been shorter than it might have been.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

impl Run {
    /// Takes tokens for the first lines that were read. Returns for how many of them there are enough.
    pub(super) async fn take_tokens(&mut self, count: usize) -> usize {
        if self.no_tokens_until.is_some_and(|until| Instant::now() < until) {
            return 0;
        }
        self.no_tokens_until = None;
        if !may_be_limited(&self.ingress, &self.principal) {
            return count;
        }
        let mut items: Vec<Item> = self.ahead.drain(..count).collect();
        let (ingress, principal, operation) =
            (std::sync::Arc::clone(&self.ingress), self.principal.clone(), self.operation);
        // Lines are judged anew, and clients need not wait for that.
        let taken = tokio::task::spawn_blocking(move || {
            for (index, item) in items.iter_mut().enumerate() {
                if item.reserved.is_none() {
                    match take(&ingress, &principal, operation, item) {
                        Ok(reserved) => item.reserved = reserved,
                        Err(exceeded) => return (items, Some((index, exceeded))),
                    }
                }
            }
            (items, None)
        });
        let (items, exceeded) = match taken.await {
            Ok(taken) => taken,
            Err(failure) => std::panic::resume_unwind(failure.into_panic()),
        };
        items.into_iter().rev().for_each(|item| self.ahead.push_front(item));
        let Some((index, exceeded)) = exceeded else { return count };
        tracing::debug!(batch = self.stored.id, subject = exceeded.subject, "a batch waits for tokens of the day");
        let wait = exceeded.retry_after.map_or(LOOK_AGAIN, Duration::from_millis);
        self.no_tokens_until = Some(Instant::now() + wait.min(LOOK_AGAIN));
        index
    }
}

fn may_be_limited(ingress: &Ingress, principal: &Principal) -> bool {
    let user = principal.user.as_deref().unwrap_or(DEFAULT_USER);
    let of_asker =
        ingress.directory().limits(principal, user).into_iter().any(|(_, limits)| limits.tokens_per_day.is_some());
    let settings = ingress.settings.now();
    of_asker || settings.admission.models().values().any(|model| model.limits.tokens_per_day.is_some())
}

/// None for a line that is under no such limit, or is refused by now, as its outcome will say.
fn take(
    ingress: &Ingress,
    principal: &Principal,
    operation: Operation,
    item: &Item,
) -> Result<Option<Reserved>, Exceeded> {
    let settings = ingress.settings.now();
    let Ok(admitted) = settings.admission.judge_line(principal, operation, &item.line, now_micros()) else {
        return Ok(None);
    };
    let limits = ingress.limits_of(principal, &settings.admission, &admitted);
    if least(&limits).is_none() {
        return Ok(None);
    }
    ingress.limiter.take_of_day(&limits, most_tokens(&admitted), now_millis()).map(Some)
}

fn least(limits: &[(String, UsageLimits)]) -> Option<u64> {
    limits.iter().filter_map(|(_, limits)| limits.tokens_per_day).min()
}

/// Refuses what no day has tokens for.
///
/// # Errors
/// What is wrong with it.
pub(super) fn fits(limits: &[(String, UsageLimits)], tokens: u64) -> Result<(), Ended> {
    match least(limits) {
        Some(limit) if tokens > limit => {
            let message = format!(
                "The line may become {tokens} tokens, and the limit is {limit} tokens per day: ask for a shorter answer."
            );
            Err(Ended::invalid("rate_limit_exceeded", None, message))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_fits_into_no_day_is_refused() {
        let of_day = |tokens_per_day| ("a".to_owned(), UsageLimits { tokens_per_day, ..UsageLimits::default() });
        let check = |limits: &[Option<u64>], tokens: u64, expected: Option<&str>| {
            let limits: Vec<_> = limits.iter().map(|limit| of_day(*limit)).collect();
            assert_eq!(fits(&limits, tokens).err().map(|ended| ended.code).as_deref(), expected, "{limits:?}");
        };
        check(&[], u64::MAX, None);
        check(&[None], u64::MAX, None);
        check(&[None, Some(10), Some(20)], 10, None);
        check(&[None, Some(10), Some(20)], 11, Some("rate_limit_exceeded"));
    }
}
