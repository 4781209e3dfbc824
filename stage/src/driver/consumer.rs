//! The poll loop, on a thread of its own: it takes, pauses, commits and gives partitions up.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_config::KafkaConfig;
use millrace_schemas::{Coordinates, SOURCE_HEADER, Source};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::committer::{Answer, Committer, Head};
use super::context::Notes;
use super::handler::{Delivery, Handler, Settled};
use super::lost::Lost;
use super::readiness::{Known, readiness};
use super::restore::{Restorer, Told};
use super::run::{DriverError, Ready};
use crate::core::{Duplicates, Lease, Moment, Partition, Refused, Room, Seen, Ticket, Tracker};
use crate::{Received, StageMetrics};

/// Longest sleep in `poll` with nothing to do. Only a shutdown waits for its end.
pub(super) const IDLE: Duration = Duration::from_millis(250);
/// Longest sleep in `poll` while something may change from outside.
const BUSY: Duration = Duration::from_millis(5);
/// Records taken between two looks at everything else.
const BATCH: usize = 256;
/// How long a partition that is given up waits for its last commit.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);

/// What the poll thread and the workers share.
pub struct Shared {
    tracker: Mutex<Tracker>,
    failure: Mutex<Option<String>>,
    metrics: StageMetrics,
    pub stage: &'static str,
    pub lane: String,
    ended: AtomicBool,
}

impl Shared {
    pub fn new(tracker: Tracker, metrics: StageMetrics, stage: &'static str, lane: String) -> Self {
        Self {
            tracker: Mutex::new(tracker),
            failure: Mutex::new(None),
            metrics,
            stage,
            lane,
            ended: AtomicBool::new(false),
        }
    }

    pub fn tracker(&self) -> MutexGuard<'_, Tracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn settle(&self, ticket: Ticket, outcome: Settled, taken: Instant) {
        self.tracker().settle(ticket);
        if outcome == Settled::DeadLettered {
            self.count_error("poison");
        }
        self.metrics.records.with_label_values(&[self.stage, &self.lane, outcome.label()]).inc();
        self.metrics
            .seconds
            .with_label_values(&[self.stage, self.lane.as_str()])
            .observe(taken.elapsed().as_secs_f64());
    }

    pub fn abandon(&self, ticket: Ticket, record: &Received) {
        if self.tracker().abandon(ticket) && !self.ended.load(Ordering::Acquire) {
            self.fail(format!("record {} was dropped unsettled", record.at));
        }
    }

    /// Ends the stage; the first error is the one that is told.
    pub fn fail(&self, error: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    pub fn count_error(&self, class: &str) {
        self.metrics.errors.with_label_values(&[self.stage, self.lane.as_str(), class]).inc();
    }

    pub(super) fn rebalanced(&self) {
        self.metrics.rebalances.with_label_values(&[self.stage, &self.lane]).inc();
    }

    fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A record that was read when there was no room for it.
pub struct Stashed {
    record: Received,
    bytes: usize,
}

pub struct Active {
    pub token: CancellationToken,
    pub epoch: u64,
    pub duplicates: Option<Duplicates>,
    /// Outputs of an earlier owner: source offset to request id.
    pub done: HashMap<i64, Option<String>>,
    pub paused: bool,
    pub stash: Option<Stashed>,
    /// Records were skipped while there was no room: read again from the next one.
    pub seek: bool,
}

pub struct GivingUp {
    pub partitions: TopicPartitionList,
    pub keys: Vec<Partition>,
    pub until: Instant,
}

pub struct PollLoop<H> {
    pub consumer: Arc<BaseConsumer<Notes>>,
    pub committer: Committer,
    pub shared: Arc<Shared>,
    pub handler: Arc<H>,
    pub restorer: Restorer<H>,
    pub restored: Receiver<Result<Told, DriverError>>,
    pub names: Names,
    pub window: u32,
    pub drop_duplicates: bool,
    pub commit_interval: Duration,
    pub drain: Duration,
    pub shutdown: CancellationToken,
    pub ready: Ready,
    pub lease: Lease,
    pub lost: Lost,
    pub state: State,
}

/// Logical topic names by their names on the broker.
pub struct Names {
    pub logical: BTreeMap<String, Arc<str>>,
    pub kafka: KafkaConfig,
}

impl Names {
    fn partition(&self, topic: &str, number: i32) -> Partition {
        let logical = self.logical.get(topic).cloned().unwrap_or_else(|| Arc::from(topic));
        Partition { topic: logical, number }
    }

    fn on_broker<'a>(&'a self, partition: &'a Partition) -> &'a str {
        self.logical.iter().find(|(_, l)| **l == partition.topic).map_or(&partition.topic, |(name, _)| name)
    }

    pub fn keys(&self, list: &TopicPartitionList) -> Vec<Partition> {
        list.elements().iter().map(|e| self.partition(e.topic(), e.partition())).collect()
    }

    fn list<'a>(&self, keys: impl IntoIterator<Item = &'a Partition>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for key in keys {
            list.add_partition(self.on_broker(key), key.number);
        }
        list
    }
}

#[derive(Default)]
pub struct State {
    pub active: HashMap<Partition, Active>,
    pub restoring: HashMap<Partition, CancellationToken>,
    pub giving_up: Vec<GivingUp>,
    last_commit: Option<Instant>,
    all_paused: bool,
    /// Partitions, or none, were assigned since the group was last lost.
    pub joined: bool,
    told: Option<(bool, &'static str)>,
    pub asked_why: bool,
    /// When a partition was last taken over that had no position: the client complains of it once.
    pub last_new: Option<Instant>,
    /// Gaps in the life of this process when the commit that is under way was sent.
    doubts_at_commit: u64,
}

impl<H: Handler> PollLoop<H> {
    /// Runs until shutdown (drained and committed) or until the stage fails.
    pub fn run(mut self) -> Result<(), DriverError> {
        let result = self.serve();
        self.shared.ended.store(true, Ordering::Release);
        for (partition, active) in self.state.active.drain() {
            self.shared.tracker().give_up(&partition);
            active.token.cancel();
        }
        self.state.restoring.values().for_each(CancellationToken::cancel);
        self.consumer.context().close();
        (self.ready)(false, "stopped");
        self.committer.stop();
        result
    }

    fn serve(&mut self) -> Result<(), DriverError> {
        let mut closing: Option<Instant> = None;
        loop {
            if let Some(error) = self.shared.failure() {
                self.shared.count_error("fatal");
                return Err(DriverError::Stage(error));
            }
            if self.shutdown.is_cancelled() && closing.is_none() {
                closing = Some(Instant::now() + self.drain);
                self.stop_taking();
            }
            self.lease.beat(Moment::now());
            // One that drains gains nothing by another client.
            if closing.is_none() && self.lost.is_certain(self.consumer.context().has_way(), Instant::now()) {
                return Err(DriverError::Lost);
            }
            self.read_notes()?;
            self.take_over_restored()?;
            self.finish_giving_up();
            self.commit_heads();
            self.update_flow();
            self.tell_readiness();
            if let Some(until) = closing {
                let idle = self.state.active.keys().all(|p| self.shared.tracker().drained(p));
                if (idle && self.state.giving_up.is_empty()) || Instant::now() >= until {
                    let keys: Vec<_> = self.state.active.keys().cloned().collect();
                    self.commit_now(&keys);
                    return Ok(());
                }
            }
            self.poll_batch(closing.is_some())?;
        }
    }

    fn poll_batch(&mut self, closing: bool) -> Result<(), DriverError> {
        let in_flight = self.shared.tracker().in_flight().0;
        self.shared
            .metrics
            .in_flight
            .with_label_values(&[self.shared.stage, self.shared.lane.as_str()])
            .set(in_flight as i64);
        self.shared
            .metrics
            .lag
            .with_label_values(&[self.shared.stage, self.shared.lane.as_str()])
            .set(self.consumer.context().lag());
        let stashed = self.state.active.values().any(|a| a.stash.is_some() || a.paused);
        let waiting = closing || stashed || !self.state.restoring.is_empty() || !self.state.giving_up.is_empty();
        let mut timeout = if waiting || self.state.all_paused {
            BUSY
        } else if in_flight > 0 || self.committer.busy() {
            BUSY * 4
        } else {
            IDLE
        };
        let consumer = Arc::clone(&self.consumer);
        for _ in 0..BATCH {
            // The message borrows the consumer, so what is needed of it is copied out first.
            let record = match consumer.poll(timeout) {
                None => return Ok(()),
                Some(Ok(message)) => self.receive(&message),
                Some(Err(error)) => return self.on_error(&error),
            };
            if let Some((partition, stashed)) = record {
                self.take(&partition, stashed);
            }
            timeout = Duration::ZERO;
        }
        Ok(())
    }

    fn tell_readiness(&mut self) {
        let now = readiness(Known {
            connected: self.consumer.context().is_connected(),
            joined: self.state.joined,
            active: self.state.active.len(),
            restoring: self.state.restoring.len(),
        });
        if self.state.told.replace(now) != Some(now) {
            let (is_ready, why) = now;
            (self.ready)(is_ready, why);
        }
    }

    /// Copies a message. `None` when its partition is not ready: it is read again later.
    fn receive(&mut self, message: &BorrowedMessage<'_>) -> Option<(Partition, Stashed)> {
        let partition = self.names.partition(message.topic(), message.partition());
        let active = self.state.active.get_mut(&partition)?;
        if active.stash.is_some() || active.seek {
            active.seek = true;
            return None;
        }
        let headers: Vec<_> = message
            .headers()
            .map(|h| h.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect())
            .unwrap_or_default();
        let at = Coordinates {
            topic: partition.topic.to_string(),
            generation: self.names.kafka.generation_of(&partition.topic),
            partition: partition.number,
            offset: message.offset(),
        };
        let source = headers
            .iter()
            .rev()
            .find(|(name, _)| name == SOURCE_HEADER)
            .and_then(|(_, value)| std::str::from_utf8(value.as_deref()?).ok()?.parse::<Source>().ok());
        let record = Received {
            as_source: Source { from: at.clone(), window: self.window, epoch: active.epoch },
            at,
            timestamp: message.timestamp().to_millis().unwrap_or_else(millrace_schemas::now_millis),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec).unwrap_or_default(),
            headers,
            source,
            assignment: active.token.clone(),
            lease: self.lease.clone(),
        };
        let bytes = record.size() + 512;
        Some((partition, Stashed { record, bytes }))
    }

    fn take(&mut self, partition: &Partition, stashed: Stashed) {
        let Some(active) = self.state.active.get_mut(partition) else { return };
        let taken = self.shared.tracker().take(partition, stashed.record.at.offset, stashed.bytes);
        let ticket = match taken {
            Ok(ticket) => ticket,
            Err(Refused::Full) => {
                active.stash = Some(stashed);
                return;
            }
            Err(Refused::Before | Refused::NotOurs) => return,
        };
        let record = stashed.record;
        let offset = record.at.offset;
        let duplicate = match (&mut active.duplicates, &record.source) {
            (Some(duplicates), Some(source)) => duplicates.observe(source) == Seen::Duplicate,
            _ => false,
        };
        // Records of our own stages name their request; others may say what they like there.
        let ours = record.source.as_ref().and_then(|_| record.header("request_id"));
        let recovered = active.done.remove(&offset).is_some_and(|request| match (request, ours) {
            (Some(theirs), Some(ours)) => theirs == ours,
            _ => true,
        });
        let taken = Instant::now();
        if duplicate {
            self.shared.settle(ticket, Settled::Duplicate, taken);
        } else if recovered {
            self.shared.settle(ticket, Settled::Recovered, taken);
        } else {
            self.handler.deliver(Delivery { record, ticket: Some(ticket), shared: Arc::clone(&self.shared), taken });
        }
    }

    fn on_error(&mut self, error: &KafkaError) -> Result<(), DriverError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset) => {
                self.ask_why(error);
                Ok(())
            }
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed,
            ) => Err(DriverError::Kafka(format!("{error}: check the ACLs and credentials of this service"))),
            Some(RDKafkaErrorCode::PollExceeded) => {
                tracing::warn!("the poll loop was stopped for longer than max.poll.interval");
                Ok(())
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => Err(DriverError::Kafka(error.to_string())),
            _ => {
                tracing::warn!(%error, stage = self.shared.stage, "kafka is not available, trying on");
                self.consumer.context().disconnected();
                Ok(())
            }
        }
    }

    fn stop_taking(&mut self) {
        tracing::info!(stage = self.shared.stage, lane = self.shared.lane, "draining");
        let keys: Vec<_> = self.state.active.keys().cloned().collect();
        for key in &keys {
            self.shared.tracker().give_up(key);
            if let Some(active) = self.state.active.get_mut(key) {
                active.stash = None;
            }
        }
        self.state.restoring.values().for_each(CancellationToken::cancel);
        if !keys.is_empty()
            && let Err(error) = self.consumer.pause(&self.names.list(&keys))
        {
            tracing::warn!(%error, "pause was refused");
        }
    }

    fn commit_heads(&mut self) {
        if let Some(answer) = self.committer.answer() {
            self.on_committed(answer);
        }
        let rested = self.state.last_commit.is_none_or(|at| at.elapsed() >= self.commit_interval);
        if self.committer.busy() || !(rested || self.shared.tracker().commit_is_urgent()) {
            return;
        }
        let mut heads = self.shared.tracker().uncommitted();
        if heads.is_empty() && self.lease.is_doubted() {
            // The same positions once more: who was given up meanwhile is refused.
            heads = self.shared.tracker().committed_heads();
        }
        if !heads.is_empty() {
            self.state.last_commit = Some(Instant::now());
            self.commit(heads);
        }
    }

    fn commit(&mut self, heads: Vec<Head>) {
        let offsets = self.offsets(&heads);
        self.state.doubts_at_commit = self.lease.doubts();
        self.committer.commit(heads, offsets);
    }

    fn on_committed(&mut self, answer: Answer) {
        match answer.result {
            Ok(()) => {
                self.lease.confirm(self.state.doubts_at_commit);
                let mut tracker = self.shared.tracker();
                answer
                    .heads
                    .iter()
                    .for_each(|(partition, epoch, offset)| tracker.committed(partition, *epoch, *offset));
            }
            Err(error) => {
                tracing::warn!(%error, stage = self.shared.stage, "commit failed, it is sent again");
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownMemberId) {
                    self.expelled();
                }
            }
        }
    }

    /// Commits what is settled of these partitions and waits for it.
    pub fn commit_now(&mut self, keys: &[Partition]) {
        if !self.await_commit() {
            return;
        }
        let wanted: HashSet<_> = keys.iter().collect();
        let heads: Vec<_> =
            self.shared.tracker().uncommitted().into_iter().filter(|(p, _, _)| wanted.contains(p)).collect();
        if !heads.is_empty() {
            self.commit(heads);
            self.await_commit();
        }
    }

    /// Commits where a partition begins that had no position, before anything is read from it: a missing
    /// position in a log that is not empty needs an operator.
    pub fn commit_first(&mut self, head: Head) {
        if self.await_commit() {
            self.commit(vec![head]);
            self.await_commit();
        }
    }

    /// Waits for the commit that is under way. False when nothing was heard of it.
    fn await_commit(&mut self) -> bool {
        if self.committer.busy() {
            match self.committer.wait(COMMIT_PATIENCE) {
                Some(answer) => self.on_committed(answer),
                None => {
                    tracing::warn!(
                        stage = self.shared.stage,
                        "no answer to the last commit, the next owner works off what it misses"
                    );
                    return false;
                }
            }
        }
        true
    }

    fn offsets(&self, heads: &[(Partition, u64, i64)]) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, _, offset) in heads {
            let name = self.names.on_broker(partition);
            if let Err(error) = list.add_partition_offset(name, partition.number, Offset::Offset(*offset)) {
                tracing::warn!(%error, "offset is out of range");
            }
        }
        list
    }

    /// Retries what was stashed, pauses what is full, resumes what has room again.
    fn update_flow(&mut self) {
        let room_again = !self.state.all_paused || self.shared.tracker().roomy();
        self.state.all_paused = !room_again;
        let keys: Vec<_> = self.state.active.keys().cloned().collect();
        for key in keys {
            self.update_partition(&key, room_again);
        }
    }

    fn update_partition(&mut self, key: &Partition, room_again: bool) {
        if self.state.giving_up.iter().any(|g| g.keys.contains(key)) || self.shutdown.is_cancelled() {
            return;
        }
        if let Some(stashed) = self.state.active.get_mut(key).filter(|_| room_again).and_then(|a| a.stash.take()) {
            self.take(key, stashed);
        }
        let room = self.shared.tracker().room(key);
        if room == Room::AllFull {
            self.state.all_paused = true;
        }
        let next = self.shared.tracker().next(key);
        let Some(active) = self.state.active.get_mut(key) else { return };
        let stuck = active.stash.is_some() || room != Room::Yes;
        if stuck {
            if !active.paused {
                match self.consumer.pause(&self.names.list([key])) {
                    Ok(()) => active.paused = true,
                    Err(error) => tracing::warn!(%error, "pause was refused"),
                }
            }
            return;
        }
        if !room_again {
            return;
        }
        if active.seek
            && let Some((next, _)) = next
        {
            let name = self.names.on_broker(key);
            if let Err(error) = self.consumer.seek(name, key.number, Offset::Offset(next), Duration::from_secs(5)) {
                tracing::debug!(%error, "seek was refused, trying again");
                return;
            }
            active.seek = false;
        }
        if active.paused {
            match self.consumer.resume(&self.names.list([key])) {
                Ok(()) => active.paused = false,
                Err(error) => tracing::warn!(%error, "resume was refused"),
            }
        }
    }
}
