//! Which target of its route a request goes to next, when some let no calls through.

use std::time::Duration;

use futures::future::select_all;
use millrace_provider::{Slot, Target};
use millrace_schemas::now_millis;

use crate::decide::Attempts;

/// The right to make the next call. Its target is the current one of `attempts`; while that one's
/// provider is away it is the next that may be called now, and when there is none, whichever lets
/// calls through first. Nothing is taken meanwhile: the wait may be called off at any time.
pub(crate) async fn enter(route: &[Target], attempts: &mut Attempts) -> Slot {
    let candidates = attempts.candidates();
    for candidate in &candidates {
        let target = &route[candidate.target];
        if let Some(pause) = until(candidate.not_before) {
            if candidate.target != attempts.target() || target.is_open() {
                continue;
            }
            tokio::time::sleep(pause).await;
        }
        if let Ok(slot) = target.slot_unless_open().await {
            attempts.go_to(candidate.target);
            return slot;
        }
    }
    let waits = candidates.into_iter().map(|candidate| {
        Box::pin(async move {
            if let Some(pause) = until(candidate.not_before) {
                tokio::time::sleep(pause).await;
            }
            (candidate.target, route[candidate.target].slot().await)
        })
    });
    let ((target, slot), _, _) = select_all(waits).await;
    attempts.go_to(target);
    slot
}

/// Time until an instant, milliseconds since the epoch; `None` when it has passed.
pub(crate) fn until(instant: i64) -> Option<Duration> {
    let left = u64::try_from(instant.saturating_sub(now_millis())).ok()?;
    (left > 0).then(|| Duration::from_millis(left))
}
