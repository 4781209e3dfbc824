//! The deliveries of one partition: from the store to their endpoints and back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use millrace_config::Config;
use millrace_schemas::{Lane, now_micros};
use millrace_stage::core::{Backoff, jitter};
use millrace_storage::{
    DeliveryStatus, Due, INBOX, Storage, StorageError, WEBHOOK_DAYS, WebhookDeliveries, WebhookDelivery,
    WebhookSchedule,
};
use millrace_tenants::Tenants;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attempt;
use crate::endpoint::Endpoint;
use crate::endpoints::Endpoints;
use crate::enqueue::{due, new_delivery};
use crate::event::Event;
use crate::http::Caller;
use crate::metrics::WebhookMetrics;
use crate::pauses::minute_of;
use crate::turn::Turn;

/// Between two looks at the inbox, and at the clock.
const LOOK: Duration = Duration::from_secs(1);
/// The same where nobody has an endpoint: what is still to be delivered can only be given up.
const LOOK_WITHOUT_ENDPOINTS: Duration = Duration::from_secs(15);
/// Between two marks.
const MARK: Duration = Duration::from_secs(10);
/// Notes read at a time.
const PAGE: usize = 500;
/// A mark stays so many minutes behind, for whoever is just writing a note, and clocks that differ.
const MARGIN: i64 = 5;
/// Whatever has no place is looked at again within so many minutes.
const DEFER_MINUTES: u32 = 5;
const BETWEEN_CLEANINGS: Duration = Duration::from_secs(3_600);
const BETWEEN_REPORTS: Duration = Duration::from_secs(5);
/// Changes of endpoints that come within so much time are taken up together.
const TOGETHER: Duration = Duration::from_millis(200);
const DAY_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// What all shards of a lane in this process share.
pub(crate) struct Sender {
    pub endpoints: Endpoints,
    pub deliveries: Arc<dyn WebhookDeliveries>,
    pub schedule: Arc<dyn WebhookSchedule>,
    pub caller: Caller,
    pub metrics: WebhookMetrics,
    pub lane: &'static str,
    pub tasks: TaskTracker,
    /// Cancelled when the service stops: attempts that were begun end, and no other begins.
    pub stop: CancellationToken,
    shards: Mutex<Vec<Weak<Shard>>>,
}

impl Sender {
    pub(crate) fn new(config: &Config, lane: Lane, storage: &Storage, caller: Caller, metrics: WebhookMetrics) -> Self {
        Self {
            endpoints: Endpoints::new(config),
            deliveries: Arc::clone(&storage.webhooks),
            schedule: Arc::clone(&storage.webhook_schedule),
            caller,
            metrics,
            lane: lane.as_str(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            shards: Mutex::default(),
        }
    }

    /// Takes endpoints up as they are made, changed and deleted.
    pub(crate) async fn follow(self: Arc<Self>, tenants: Tenants) {
        let mut changes = tenants.webhook_changes();
        loop {
            changes.mark_unchanged();
            self.endpoints.take_up(&tenants.told_webhooks());
            // All of them are looked at: changes that come together are one.
            tokio::time::sleep(TOGETHER).await;
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Begins no attempt any more and waits for those that were begun.
    pub(crate) async fn stop(&self, patience: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_err() {
            tracing::warn!(lane = self.lane, "attempts were left in the middle: they are made again");
        }
        self.metrics.held.with_label_values(&[self.lane]).set(0);
        self.metrics.late.with_label_values(&[self.lane]).set(0);
    }

    /// Shows how much there is to do, and removes what is not kept any more.
    pub(crate) async fn keep_house(self: Arc<Self>) {
        let mut cleaned: Option<tokio::time::Instant> = None;
        loop {
            self.report(now_micros());
            if cleaned.is_none_or(|at| at.elapsed() > BETWEEN_CLEANINGS) {
                cleaned = Some(tokio::time::Instant::now());
                let before = now_micros() - i64::from(WEBHOOK_DAYS) * DAY_MICROS;
                if let Err(error) = self.deliveries.forget_deliveries(before).await {
                    tracing::warn!(%error, "old webhook deliveries could not be removed");
                }
            }
            tokio::time::sleep(BETWEEN_REPORTS).await;
        }
    }

    fn report(&self, now: i64) {
        let (mut held, mut oldest) = (0, now);
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.retain(|shard| shard.upgrade().is_some_and(|shard| !shard.token.is_cancelled()));
        for shard in shards.iter().filter_map(Weak::upgrade) {
            let state = shard.state();
            held += state.held.len();
            oldest = state.held.values().map(|held| held.due_at).fold(oldest, i64::min);
        }
        self.metrics.held.with_label_values(&[self.lane]).set(i64::try_from(held).unwrap_or(i64::MAX));
        self.metrics.late.with_label_values(&[self.lane]).set((now - oldest) / 1_000_000);
    }

    fn count(&self, result: &str) {
        self.metrics.deliveries.with_label_values(&[result]).inc();
    }
}

/// A delivery that is in memory.
struct Held {
    /// Where its note is.
    minute: i64,
    due_at: i64,
    wake: Arc<Notify>,
}

struct State {
    /// The first minute whose notes were not asked for yet. What is due in an earlier one is held.
    next: i64,
    held: HashMap<String, Held>,
}

/// One shard, while its partition is ours.
pub(crate) struct Shard {
    pub sender: Arc<Sender>,
    pub number: i32,
    /// Cancelled when the partition is taken away.
    pub token: CancellationToken,
    state: Mutex<State>,
}

impl Shard {
    /// Takes a shard over from where its mark is.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn adopt(
        sender: &Arc<Sender>,
        number: i32,
        mark: Option<i64>,
        token: CancellationToken,
    ) -> Result<Arc<Self>, StorageError> {
        let next = match mark {
            Some(mark) => mark,
            None => {
                // Before any note, or the next owner would not know how far to look back.
                let first = minute_of(now_micros()) - MARGIN;
                sender.schedule.put_mark(sender.lane, number, first).await?;
                first
            }
        };
        let state = Mutex::new(State { next, held: HashMap::new() });
        let shard = Arc::new(Self { sender: Arc::clone(sender), number, token, state });
        sender.shards.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&shard));
        sender.tasks.spawn(Arc::clone(&shard).run(next));
        Ok(shard)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When its partition is taken away, or the service stops.
    pub(crate) async fn ended(&self) {
        tokio::select! {
            () = self.token.cancelled() => {}
            () = self.sender.stop.cancelled() => {}
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.token.is_cancelled() || self.sender.stop.is_cancelled()
    }

    /// Asks the store until it answers; at least once, and not after the end.
    pub(crate) async fn patiently<T, F>(&self, call: impl Fn() -> F + Send) -> Option<T>
    where
        F: Future<Output = Result<T, StorageError>> + Send,
    {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            match call().await {
                Ok(answer) => return Some(answer),
                Err(error) => {
                    if self.has_ended() {
                        return None;
                    }
                    tracing::warn!(shard = self.number, lane = self.sender.lane, %error, "webhooks wait for the store");
                    let pause = tokio::time::sleep(backoff.next(jitter(), None));
                    tokio::select! { () = pause => {}, () = self.ended() => {} }
                }
            }
        }
    }

    async fn run(self: Arc<Self>, mut mark: i64) {
        let mut marked = tokio::time::Instant::now();
        while !self.has_ended() {
            self.empty_inbox().await;
            while self.load_next().await {}
            if marked.elapsed() >= MARK {
                marked = tokio::time::Instant::now();
                mark = self.move_mark(mark).await;
            }
            let endpoints = &self.sender.endpoints;
            let changed = endpoints.changed();
            let look = if endpoints.is_empty() { LOOK_WITHOUT_ENDPOINTS } else { LOOK };
            tokio::select! {
                () = tokio::time::sleep(look) => {}
                () = changed => {}
                () = self.ended() => {}
            }
        }
    }

    /// Before the mark there is no note of what is pending.
    async fn move_mark(&self, mark: i64) -> i64 {
        let earliest = {
            let state = self.state();
            state.held.values().map(|held| held.minute).fold(state.next - MARGIN, i64::min)
        };
        if earliest <= mark {
            return mark;
        }
        match self.sender.schedule.put_mark(self.sender.lane, self.number, earliest).await {
            Ok(()) => earliest,
            Err(error) => {
                tracing::warn!(shard = self.number, %error, "the mark of webhooks could not be moved");
                mark
            }
        }
    }

    /// Takes over what is due in the next minute, once it has begun; whether there may be another.
    async fn load_next(self: &Arc<Self>) -> bool {
        let minute = {
            let mut state = self.state();
            if state.next > minute_of(now_micros()) || self.has_ended() {
                return false;
            }
            // From now on whoever writes a note for this minute holds the delivery, too: our reading may be over.
            state.next += 1;
            state.next - 1
        };
        let mut after = String::new();
        while let Some(page) = self.notes(minute, &after).await {
            let Some(last) = page.last() else { return true };
            after.clone_from(&last.id);
            let is_last = page.len() < PAGE;
            for note in page {
                self.enter(note, minute).await;
            }
            if is_last {
                return true;
            }
        }
        false
    }

    async fn notes(&self, minute: i64, after: &str) -> Option<Vec<Due>> {
        let Sender { schedule, lane, .. } = &*self.sender;
        self.patiently(|| schedule.due(lane, self.number, minute, after, PAGE)).await
    }

    pub(crate) async fn write_note(&self, minute: i64, due: &Due) -> Option<()> {
        let Sender { schedule, lane, .. } = &*self.sender;
        self.patiently(|| schedule.put_due(lane, self.number, minute, due)).await
    }

    pub(crate) async fn strike(&self, minute: i64, id: &str) -> Option<()> {
        let Sender { schedule, lane, .. } = &*self.sender;
        self.patiently(|| schedule.remove_due(lane, self.number, minute, id)).await
    }

    /// Takes over a note of a minute: into memory while its endpoint has a place there, else to a later minute.
    async fn enter(self: &Arc<Self>, due: Due, minute: i64) {
        let endpoint = self.sender.endpoints.get(&due.tenant, &due.endpoint);
        if self.state().held.contains_key(&due.id) {
            return;
        }
        match endpoint.place() {
            Some(place) => {
                if let Some(wake) = self.hold(&due.id, minute, now_micros()) {
                    self.begin(Turn { due, minute, due_at: now_micros(), place, wake });
                }
            }
            None => {
                let later = self.later();
                if self.write_note(later, &due).await.is_some() {
                    self.strike(minute, &due.id).await;
                }
            }
        }
    }

    /// A minute, left to chance, for what has no place now.
    fn later(&self) -> i64 {
        self.sender.metrics.deferred.inc();
        // The minute after this one at the earliest: this one's notes may have been read already.
        minute_of(now_micros()) + 1 + (jitter() * f64::from(DEFER_MINUTES)) as i64
    }

    /// Remembers a delivery, so that the mark does not pass its note; nothing when it is held already.
    fn hold(&self, id: &str, minute: i64, due_at: i64) -> Option<Arc<Notify>> {
        let mut state = self.state();
        if state.held.contains_key(id) {
            return None;
        }
        let wake = Arc::new(Notify::new());
        state.held.insert(id.to_owned(), Held { minute, due_at, wake: Arc::clone(&wake) });
        Some(wake)
    }

    /// Forgets a delivery that is finished, or not begun.
    pub(crate) fn release(&self, id: &str) {
        self.state().held.remove(id);
    }

    /// What becomes of a delivery whose note has moved to another minute: it stays in memory when that minute's
    /// notes were read already, and is forgotten until they are.
    pub(crate) fn stays(&self, id: &str, minute: i64, due_at: i64) -> bool {
        let mut state = self.state();
        if minute >= state.next {
            state.held.remove(id);
            return false;
        }
        if let Some(held) = state.held.get_mut(id) {
            (held.minute, held.due_at) = (minute, due_at);
        }
        true
    }

    fn begin(self: &Arc<Self>, turn: Turn) {
        self.sender.tasks.spawn(turn.work(Arc::clone(self)));
    }

    /// Makes a delivery of an event durable, and begins it. Again for the same event, it changes nothing.
    ///
    /// # Errors
    /// [`StorageError`]: nothing is promised yet.
    pub(crate) async fn create(
        self: &Arc<Self>,
        tenant: &str,
        event: &Event,
        endpoint: &Arc<Endpoint>,
    ) -> Result<(), StorageError> {
        let now = now_micros();
        let delivery = new_delivery(tenant, &endpoint.id, (self.sender.lane, self.number), event, now);
        let due = due(&delivery, false);
        let Some(place) = endpoint.place() else {
            self.write_new(&delivery, &due, self.later()).await?;
            return Ok(());
        };
        let minute = minute_of(now);
        let Some(wake) = self.hold(&delivery.id, minute, now) else { return Ok(()) };
        match self.write_new(&delivery, &due, minute).await {
            Ok(true) => self.begin(Turn { due, minute, due_at: now, place, wake }),
            Ok(false) => self.release(&delivery.id),
            Err(error) => {
                self.release(&delivery.id);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether there is something to deliver: an earlier owner may have done it.
    async fn write_new(&self, delivery: &WebhookDelivery, due: &Due, minute: i64) -> Result<bool, StorageError> {
        let Sender { deliveries, schedule, lane, .. } = &*self.sender;
        match deliveries.delivery(&delivery.tenant, &delivery.id).await? {
            Some(there) if there.status != DeliveryStatus::Pending => return Ok(false),
            Some(_) => {}
            None => {
                deliveries.put_delivery(delivery).await?;
                self.sender.count("created");
            }
        }
        schedule.put_due(lane, self.number, minute, due).await?;
        Ok(true)
    }

    /// What others asked for.
    async fn empty_inbox(self: &Arc<Self>) {
        let Some(notes) = self.notes(INBOX, "").await else { return };
        for note in notes {
            if self.has_ended() {
                return;
            }
            self.take_in(note).await;
        }
    }

    /// The note goes to the minute in which its delivery is due, and then out of the inbox.
    async fn take_in(self: &Arc<Self>, note: Due) -> Option<()> {
        let Sender { deliveries, .. } = &*self.sender;
        let found = self.patiently(|| deliveries.delivery(&note.tenant, &note.id)).await?;
        let Some(mut delivery) = found.filter(|found| note.again || found.status == DeliveryStatus::Pending) else {
            return self.strike(INBOX, &note.id).await;
        };
        let now = now_micros();
        if note.again {
            attempt::again(&mut delivery, now);
        }
        let plain = due(&delivery, false);
        let wake = self.state().held.get(&note.id).map(|held| Arc::clone(&held.wake));
        if wake.is_none() {
            self.write_note(minute_of(delivery.next_at.max(now)), &plain).await?;
        }
        if note.again {
            self.patiently(|| deliveries.put_delivery(&delivery)).await?;
        }
        match wake {
            // Its own note is still there.
            Some(wake) => wake.notify_one(),
            None => {
                let minute = minute_of(delivery.next_at.max(now));
                if minute < self.state().next {
                    self.enter(plain, minute).await;
                }
            }
        }
        self.strike(INBOX, &note.id).await
    }

    pub(crate) fn settled(&self, delivery: &WebhookDelivery) {
        match delivery.status {
            DeliveryStatus::Pending => {}
            DeliveryStatus::Delivered => self.sender.count("delivered"),
            DeliveryStatus::Failed => {
                self.sender.count("failed");
                tracing::warn!(
                    delivery = delivery.id,
                    endpoint = delivery.endpoint,
                    tenant = delivery.tenant,
                    attempts = delivery.attempts,
                    "a webhook was given up"
                );
            }
        }
    }
}
