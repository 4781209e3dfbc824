//! Which target of its route a request goes to next, when some let no calls through.

use futures::future::select_all;
use millrace_provider::{Slot, Target};
use millrace_schemas::{Meta, time_until};

use crate::decide::Attempts;

/// The right to make the next call, for this request. Its target is the current one of `attempts`; while that one's
/// provider is away it is the next that may be called now, and when there is none, whichever lets
/// calls through first. Nothing is taken meanwhile: the wait may be called off at any time.
pub(crate) async fn enter(meta: &Meta, route: &[Target], attempts: &mut Attempts) -> Slot {
    let lane = meta.lane.as_str();
    let candidates = attempts.candidates();
    for candidate in &candidates {
        let target = &route[candidate.target];
        if let Some(pause) = time_until(candidate.not_before) {
            if candidate.target != attempts.target() || target.is_open() {
                continue;
            }
            tokio::time::sleep(pause).await;
        }
        if let Ok(slot) = target.slot_unless_open(lane, &meta.tenant).await {
            attempts.go_to(candidate.target);
            return slot;
        }
    }
    let waits = candidates.into_iter().map(|candidate| {
        Box::pin(async move {
            if let Some(pause) = time_until(candidate.not_before) {
                tokio::time::sleep(pause).await;
            }
            (candidate.target, route[candidate.target].slot(lane, &meta.tenant).await)
        })
    });
    let ((target, slot), _, _) = select_all(waits).await;
    attempts.go_to(target);
    slot
}
