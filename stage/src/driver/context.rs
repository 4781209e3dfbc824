//! librdkafka's callbacks. They run inside `poll`, on the poll thread, and only leave a note.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::util::Timeout;

use super::consumer::IDLE;

/// A note from a callback.
pub enum Note {
    Assigned(TopicPartitionList),
    Revoked { partitions: TopicPartitionList, lost: bool },
}

#[derive(Default)]
pub struct Notes {
    queue: Mutex<VecDeque<Note>>,
    closing: AtomicBool,
    lag: AtomicI64,
    disconnected: AtomicBool,
    has_no_way: AtomicBool,
}

impl Notes {
    pub fn take(&self) -> Option<Note> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// From now on revocations are granted at once: everything is drained and committed.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Records between the positions and the ends of the log, as of the last statistics.
    pub fn lag(&self) -> i64 {
        self.lag.load(Ordering::Relaxed)
    }

    /// False from an error until a connection to a broker is up again, as of the last statistics.
    pub fn is_connected(&self) -> bool {
        !self.disconnected.load(Ordering::Relaxed)
    }

    /// Whether it has a connection and knows its group's coordinator, as of the last statistics.
    pub fn has_way(&self) -> bool {
        !self.has_no_way.load(Ordering::Relaxed)
    }

    /// The consumer reported an error.
    pub fn disconnected(&self) {
        self.disconnected.store(true, Ordering::Relaxed);
    }

    fn leave(&self, note: Note) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(note);
    }
}

impl ClientContext for Notes {
    fn stats(&self, statistics: Statistics) {
        let partitions = statistics.topics.values().flat_map(|t| t.partitions.values());
        self.lag.store(partitions.map(|p| p.consumer_lag.max(0)).sum(), Ordering::Relaxed);
        let is_up = statistics.brokers.values().any(|broker| broker.state == "UP");
        if is_up {
            self.disconnected.store(false, Ordering::Relaxed);
        }
        let has_coordinator = statistics.cgrp.is_none_or(|group| group.state == "up");
        self.has_no_way.store(!is_up || !has_coordinator, Ordering::Relaxed);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "consumer error");
    }
}

impl ConsumerContext for Notes {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let closing = self.closing.load(Ordering::Acquire);
        if err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            if let Err(error) = consumer.incremental_assign(partitions) {
                tracing::warn!(%error, "assignment was refused");
            }
            // Nothing is read before the partition's state is rebuilt.
            if let Err(error) = consumer.pause(partitions) {
                tracing::warn!(%error, "pause was refused");
            }
            if !closing {
                self.leave(Note::Assigned(partitions.clone()));
            }
            return;
        }
        let lost = consumer.assignment_lost();
        if (closing || lost || partitions.count() == 0)
            && let Err(error) = consumer.incremental_unassign(partitions)
        {
            tracing::warn!(%error, "unassignment was refused");
        }
        if !closing && partitions.count() > 0 {
            self.leave(Note::Revoked { partitions: partitions.clone(), lost });
        }
    }

    fn main_queue_min_poll_interval(&self) -> Timeout {
        Timeout::After(IDLE)
    }
}
