//! Partitions that come and go: state is rebuilt before the first record, and what is in flight is
//! drained before the last.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use tokio_util::sync::CancellationToken;

use super::consumer::{Active, GivingUp, PollLoop};
use super::context::Note;
use super::handler::Handler;
use super::restore::Told;
use super::run::DriverError;
use crate::core::Partition;

/// How long the client may go on complaining of a partition that had no position.
const COMPLAINS_WITHIN: Duration = Duration::from_secs(60);

impl<H: Handler> PollLoop<H> {
    pub(super) fn read_notes(&mut self) -> Result<(), DriverError> {
        while let Some(note) = self.consumer.context().take() {
            self.shared.rebalanced();
            match note {
                Note::Assigned(list) => self.on_assigned(&list),
                Note::Revoked { partitions, lost } => self.on_revoked(partitions, lost),
            }
        }
        Ok(())
    }

    fn on_assigned(&mut self, list: &TopicPartitionList) {
        let keys = self.names.keys(list);
        tracing::info!(
            stage = self.shared.stage,
            lane = self.shared.lane,
            partitions = keys.len(),
            "partitions assigned"
        );
        let mut tokens = BTreeMap::new();
        for key in keys {
            let token = CancellationToken::new();
            self.state.restoring.insert(key.clone(), token.clone());
            tokens.insert(key, token);
        }
        self.state.joined = true;
        if !tokens.is_empty() {
            self.restorer.start(tokens);
        }
    }

    pub(super) fn take_over_restored(&mut self) -> Result<(), DriverError> {
        while let Ok(restored) = self.restored.try_recv() {
            let restored = match restored? {
                Told::Restored(restored) => restored,
                Told::New => {
                    self.state.asked_why = false;
                    continue;
                }
                Told::Unexplained(error) => {
                    self.unexplained(&error)?;
                    continue;
                }
            };
            let key = restored.partition.clone();
            // A token that was cancelled meanwhile belongs to an assignment that is gone.
            if self.state.restoring.get(&key).is_none_or(CancellationToken::is_cancelled)
                || restored.token.is_cancelled()
            {
                continue;
            }
            let Some(token) = self.state.restoring.remove(&key) else { continue };
            let epoch = rand::random::<u64>();
            self.shared.tracker().assign(key.clone(), epoch, restored.committed);
            let active = Active {
                token,
                epoch,
                duplicates: self.drop_duplicates.then_some(restored.duplicates),
                done: restored.done,
                paused: true,
                stash: None,
                seek: true,
            };
            self.state.active.insert(key.clone(), active);
            if restored.is_new {
                self.state.last_new = Some(Instant::now());
                self.commit_first((key, epoch, restored.committed));
            }
        }
        Ok(())
    }

    /// A position is not in the log: the client only says so, the operator must know which and why.
    /// The answer ends the stage.
    pub(super) fn ask_why(&mut self, error: &KafkaError) {
        if !std::mem::replace(&mut self.state.asked_why, true) {
            let partitions = self.state.restoring.keys().chain(self.state.active.keys()).cloned().collect();
            self.restorer.explain(partitions, error.to_string());
        }
    }

    /// The client misses a position, and by now every one makes sense: it was that of a new partition, or
    /// records are gone that were there.
    fn unexplained(&mut self, error: &str) -> Result<(), DriverError> {
        self.state.asked_why = false;
        if self.state.last_new.is_some_and(|at| at.elapsed() < COMPLAINS_WITHIN) {
            return Ok(());
        }
        Err(DriverError::NoCommit(format!(
            "records that were read are not in the log any more ({error}): was a topic made anew?"
        )))
    }

    fn on_revoked(&mut self, partitions: TopicPartitionList, lost: bool) {
        let keys = self.names.keys(&partitions);
        tracing::info!(
            stage = self.shared.stage,
            lane = self.shared.lane,
            partitions = keys.len(),
            lost,
            "partitions revoked"
        );
        for key in &keys {
            if let Some(token) = self.state.restoring.remove(key) {
                token.cancel();
            }
            if let Some(active) = self.state.active.get_mut(key) {
                active.stash = None;
                active.paused = true;
            }
            self.shared.tracker().give_up(key);
        }
        if lost {
            // Another owner may be at work already: what is in flight here is called off.
            self.state.joined = false;
            keys.iter().for_each(|key| self.forget(key));
        } else {
            if let Err(error) = self.consumer.pause(&partitions) {
                tracing::warn!(%error, "pause was refused");
            }
            self.state.giving_up.push(GivingUp { partitions, keys, until: Instant::now() + self.drain });
        }
    }

    pub(super) fn finish_giving_up(&mut self) {
        let mut waiting = Vec::new();
        for given in std::mem::take(&mut self.state.giving_up) {
            let drained = given.keys.iter().all(|key| self.shared.tracker().drained(key));
            if !drained && Instant::now() < given.until {
                waiting.push(given);
                continue;
            }
            self.commit_now(&given.keys);
            given.keys.iter().for_each(|key| self.forget(key));
            self.let_go(&given.partitions);
        }
        self.state.giving_up = waiting;
    }

    /// The group does not know this process any more. What it gives up has another owner by now, so nothing in flight
    /// there is waited for: it may itself wait for a commit that is acknowledged. The client says of no partition that
    /// it is lost before it has been told that these are let go of.
    pub(super) fn expelled(&mut self) {
        for given in std::mem::take(&mut self.state.giving_up) {
            given.keys.iter().for_each(|key| self.forget(key));
            self.let_go(&given.partitions);
        }
    }

    fn let_go(&self, partitions: &TopicPartitionList) {
        if let Err(error) = self.consumer.incremental_unassign(partitions) {
            tracing::warn!(%error, "unassignment was refused");
        }
    }

    fn forget(&mut self, key: &Partition) {
        self.shared.tracker().remove(key);
        if let Some(active) = self.state.active.remove(key) {
            active.token.cancel();
        }
    }
}
