//! Who works on which batch: every replica looks for batches that nobody works on, takes one under a lease, and keeps
//! it until it has ended, this replica drains, or somebody else has taken it.
//!
//! Invariant: a batch changes by a condition on its version only, so of two replicas that each think that it is
//! theirs one is told so at its next write. What the other did meanwhile is harmless: requests are written with keys,
//! and parts of files under the epoch of their writer.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_admission::SYSTEM_TENANT;
use millrace_files::stored::{self, At, Stored};
use millrace_schemas::now_micros;
use millrace_storage::{Order, StorageError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batches::run::{Ended, Run};
use crate::batches::tell::tell;
use crate::batches::{Batch, Lease, Status, Work};
use crate::files;
use crate::run::Ingress;

/// Between two looks for work.
const LOOK: Duration = Duration::from_secs(2);
/// Between two looks for files whose time has come.
const SWEEP: Duration = Duration::from_secs(60);
/// How long a batch is left to a worker of which nothing is heard, milliseconds.
pub(crate) const LEASE: i64 = 25_000;
/// A batch that somebody else works on is looked at so often: it may have been given back. Milliseconds.
const LOOK_AGAIN: i64 = 6_000;
/// Batches that one replica works on at once.
const AT_ONCE: usize = 16;
/// Batches looked at in one look.
const PAGE: u32 = 1_000;
/// For so long there may be work without its batch, which is written right after it, in milliseconds.
const UNBORN: i64 = 600_000;

/// Batches that this replica works on.
#[derive(Clone, Default)]
struct Running(Arc<Mutex<HashSet<String>>>);

impl Running {
    fn with<T>(&self, change: impl FnOnce(&mut HashSet<String>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a look leaves for the next one.
#[derive(Default)]
struct Seen {
    /// Until when batches that others work on are left to them, milliseconds.
    taken: HashMap<String, i64>,
    /// Everything before this one has ended: reading over what was deleted costs, for days.
    from: Option<String>,
    due: Option<String>,
}

/// Works on batches until `stop`, then lets go of all of them.
pub(crate) async fn work(ingress: Arc<Ingress>, stop: CancellationToken) {
    let (running, tasks) = (Running::default(), TaskTracker::new());
    let mut seen = Seen::default();
    let mut swept: Option<Instant> = None;
    while !stop.is_cancelled() {
        if let Err(error) = look(&ingress, &running, &tasks, &mut seen, &stop).await {
            tracing::warn!(%error, "batches can not be looked for");
        }
        if swept.is_none_or(|at| at.elapsed() >= SWEEP) {
            swept = Some(Instant::now());
            if let Err(error) = files::sweep(&ingress.storage, &mut seen.due).await {
                tracing::warn!(%error, "files whose time has come can not be deleted yet");
            }
        }
        let _stopped = stop.run_until_cancelled(tokio::time::sleep(LOOK)).await;
    }
    tasks.close();
    tasks.wait().await;
}

async fn look(
    ingress: &Arc<Ingress>,
    running: &Running,
    tasks: &TaskTracker,
    seen: &mut Seen,
    stop: &CancellationToken,
) -> Result<(), StorageError> {
    let now = now_millis();
    seen.taken.retain(|_, until| *until > now);
    let works = stored::list::<Work>(&ingress.storage, SYSTEM_TENANT, seen.from.as_deref(), Order::Rising, PAGE);
    let mut before_all = true;
    for Stored { id, value: Work { tenant }, .. } in works.await? {
        let has_ended = if running.with(|running| running.contains(&id)) || seen.taken.contains_key(&id) {
            false
        } else if running.with(|running| running.len()) >= AT_ONCE {
            break;
        } else {
            match stored::read::<Batch>(&ingress.storage, At { tenant: &tenant, id: &id }).await? {
                None => is_older(&id, now - UNBORN),
                Some(stored) if stored.value.status.is_final() => {
                    tell(ingress, &stored.value).await?;
                    true
                }
                Some(stored) => {
                    match taken_by_others(&stored.value, &ingress.replica, now) {
                        Some(until) => drop(seen.taken.insert(id.clone(), until.min(now + LOOK_AGAIN))),
                        None => start(ingress, running, tasks, stop, stored),
                    }
                    false
                }
            }
        };
        if has_ended {
            stored::delete::<Work>(&ingress.storage, At { tenant: SYSTEM_TENANT, id: &id }).await?;
        }
        before_all &= has_ended;
        // Another replica's clock may be behind, so only what is old is passed over from now on.
        if before_all && is_older(&id, now - UNBORN) {
            seen.from = Some(id);
        }
    }
    Ok(())
}

/// Until when somebody else works on it.
fn taken_by_others(batch: &Batch, replica: &str, now: i64) -> Option<i64> {
    batch.lease.as_ref().filter(|lease| lease.owner != replica && lease.until > now).map(|lease| lease.until)
}

fn start(
    ingress: &Arc<Ingress>,
    running: &Running,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    stored: Stored<Batch>,
) {
    let id = stored.id.clone();
    running.with(|running| running.insert(id.clone()));
    let (ingress, running, stop) = (Arc::clone(ingress), running.clone(), stop.clone());
    tasks.spawn(async move {
        match Run::take(ingress, stored, stop).run().await {
            Ok(status) => tracing::info!(batch = id, status = ?status, "a batch has ended"),
            Err(Ended::Stopped) => tracing::info!(batch = id, "a batch is left to another replica"),
            Err(Ended::Taken) => tracing::info!(batch = id, "a batch was taken by another replica"),
            Err(Ended::Store(error)) => tracing::warn!(batch = id, %error, "a batch is put aside"),
        }
        running.with(|running| running.remove(&id));
    });
}

/// Whether an id was given out before this time, in milliseconds.
fn is_older(id: &str, than: i64) -> bool {
    let uuid = id.rsplit('_').next().and_then(|digits| uuid::Uuid::try_parse(digits).ok());
    let seconds = uuid.and_then(|uuid| uuid.get_timestamp()).map(|at| at.to_unix().0);
    seconds.is_some_and(|seconds| i64::try_from(seconds).is_ok_and(|seconds| seconds.saturating_mul(1_000) < than))
}

pub(crate) fn now_millis() -> i64 {
    now_micros() / 1_000
}

/// The lease of a replica, from now on.
pub(crate) fn lease(replica: &str) -> Lease {
    Lease { owner: replica.to_owned(), until: now_millis() + LEASE }
}

/// What has changed in a batch by others than its worker: its client may have cancelled it.
pub(crate) fn adopt(ours: &mut Batch, stored: &Batch) {
    if stored.status == Status::Cancelling && !ours.status.is_final() {
        ours.status = Status::Cancelling;
        ours.cancelling_at = stored.cancelling_at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_tell_their_age() {
        let id = files::fresh_id("batch_");
        assert!(is_older(&id, now_millis() + 2_000) && !is_older(&id, now_millis() - 2_000));
        assert!(!is_older("batch_x", i64::MAX) && !is_older("", i64::MAX));
    }
}
