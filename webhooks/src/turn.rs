//! One delivery that is in memory: it waits until it is due and for its endpoint, and is attempted.

use std::sync::Arc;
use std::time::Duration;

use millrace_schemas::now_micros;
use millrace_stage::core::jitter;
use millrace_storage::{DeliveryStatus, Due};
use tokio::sync::Notify;

use crate::attempt;
use crate::endpoint::Place;
use crate::pauses::minute_of;
use crate::shard::Shard;

/// A delivery, its note, and its place.
pub(crate) struct Turn {
    pub due: Due,
    /// Where its note is.
    pub minute: i64,
    /// Not before, microseconds.
    pub due_at: i64,
    pub place: Place,
    /// Somebody asks for it now.
    pub wake: Arc<Notify>,
}

/// What is to be done next.
enum Next {
    /// It is finished, or another's by now.
    Nothing,
    /// Its note is in this minute, and it is due then.
    At(i64, i64),
}

impl Turn {
    /// Until it is finished, due later, or the shard's end. An attempt that was begun is ended.
    pub(crate) async fn work(mut self, shard: Arc<Shard>) {
        loop {
            tokio::select! {
                () = shard.ended() => return,
                () = tokio::time::sleep(until(self.due_at)) => {}
                () = self.wake.notified() => {}
            }
            let endpoint = Arc::clone(self.place.endpoint());
            let permit = tokio::select! {
                () = shard.ended() => return,
                permit = endpoint.attempts.acquire() => permit,
            };
            let next = self.attempt(&shard).await;
            drop(permit);
            match next {
                None => return,
                Some(Next::Nothing) => return shard.release(&self.due.id),
                Some(Next::At(minute, due_at)) => {
                    (self.minute, self.due_at) = (minute, due_at);
                    if !shard.stays(&self.due.id, minute, due_at) {
                        return;
                    }
                }
            }
        }
    }

    /// `None` when the shard has ended before everything was written: whoever owns it now finds the note.
    async fn attempt(&self, shard: &Shard) -> Option<Next> {
        let (deliveries, Due { id, tenant, .. }) = (&*shard.sender.deliveries, &self.due);
        let found = shard.patiently(|| deliveries.delivery(tenant, id)).await?;
        let Some(mut delivery) = found.filter(|found| found.status == DeliveryStatus::Pending) else {
            shard.strike(self.minute, id).await?;
            return Some(Next::Nothing);
        };
        let at = now_micros();
        if delivery.next_at > at {
            let minute = minute_of(delivery.next_at);
            if minute > self.minute {
                // Left over: its note was written to that minute before the delivery said so.
                shard.strike(self.minute, id).await?;
                return Some(Next::At(minute, delivery.next_at));
            }
            return Some(Next::At(self.minute, delivery.next_at));
        }
        if shard.has_ended() {
            return None;
        }
        let metrics = &shard.sender.metrics;
        let heard = shard.sender.caller.send(self.place.endpoint(), id, &delivery.payload).await;
        let now = now_micros();
        metrics.attempts.with_label_values(&[heard.word()]).inc();
        metrics.seconds.observe((now - at) as f64 / 1e6);
        attempt::settle(&mut delivery, &heard, at, now, jitter());
        if delivery.status != DeliveryStatus::Pending {
            shard.patiently(|| deliveries.put_delivery(&delivery)).await?;
            shard.settled(&delivery);
            shard.strike(self.minute, id).await?;
            return Some(Next::Nothing);
        }
        // The new note first: at no moment is there none.
        let minute = minute_of(delivery.next_at);
        if minute != self.minute {
            shard.write_note(minute, &self.due).await?;
        }
        shard.patiently(|| deliveries.put_delivery(&delivery)).await?;
        if minute != self.minute {
            shard.strike(self.minute, id).await?;
        }
        Some(Next::At(minute, delivery.next_at))
    }
}

fn until(due_at: i64) -> Duration {
    Duration::from_micros(u64::try_from(due_at.saturating_sub(now_micros())).unwrap_or_default())
}
