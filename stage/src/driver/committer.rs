//! Commits, one at a time, on a thread of their own.
//!
//! The binding never tells how an asynchronous commit ended: librdkafka answers only through a
//! callback that the binding does not set. The window moves on by that answer, so each commit is a
//! synchronous one, made where nobody else has to wait for it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use millrace_fail_point::{self as fail_point, Side};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::context::Notes;
use crate::core::Partition;

/// A head to commit: partition, epoch, offset.
pub type Head = (Partition, u64, i64);

struct Request {
    heads: Vec<Head>,
    offsets: TopicPartitionList,
}

/// How a commit ended.
pub struct Answer {
    pub heads: Vec<Head>,
    pub result: Result<(), KafkaError>,
}

/// The thread that commits.
pub struct Committer {
    requests: Sender<Request>,
    answers: Receiver<Answer>,
    thread: JoinHandle<()>,
    busy: bool,
}

impl Committer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(consumer: Arc<BaseConsumer<Notes>>, name: String) -> std::io::Result<Self> {
        let (requests, requested) = channel::<Request>();
        let (answered, answers) = channel();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            for Request { heads, offsets } in requested {
                fail_point::reach(Side::Before, || "commit".to_owned());
                let result = consumer.commit(&offsets, CommitMode::Sync);
                fail_point::reach(Side::After, || "commit".to_owned());
                if answered.send(Answer { heads, result }).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { requests, answers, thread, busy: false })
    }

    /// Whether an answer is awaited.
    pub fn busy(&self) -> bool {
        self.busy
    }

    /// Commits; only while not [busy](Self::busy), so that commits never overtake each other.
    pub fn commit(&mut self, heads: Vec<Head>, offsets: TopicPartitionList) {
        // The thread ends only with this value.
        self.busy = self.requests.send(Request { heads, offsets }).is_ok();
    }

    /// The answer, when it is there.
    pub fn answer(&mut self) -> Option<Answer> {
        self.wait(Duration::ZERO)
    }

    /// The answer, waited for.
    pub fn wait(&mut self, patience: Duration) -> Option<Answer> {
        let answer = self.answers.recv_timeout(patience).ok()?;
        self.busy = false;
        Some(answer)
    }

    /// Ends the thread. One that still waits for the broker ends by itself.
    pub fn stop(self) {
        drop(self.requests);
        if !self.busy && self.thread.join().is_err() {
            tracing::error!("the committing thread panicked");
        }
    }
}
