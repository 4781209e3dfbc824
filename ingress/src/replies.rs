//! Answers for the clients that this replica holds: its own partition of `replies`, read from the
//! end, by a thread of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_config::{Config, KafkaConfig};
use millrace_schemas::{Codec, topics};
use millrace_stage::client_config;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::unsettled::Unsettled;

/// Records of chunks that wait for one client. Beyond them its stream has a gap, which the outcome fills.
const MOST_CHUNKS: usize = 64;

type Waiting = HashMap<String, Vec<Client>>;

struct Client {
    number: u64,
    outcome: oneshot::Sender<Vec<u8>>,
    chunks: Option<mpsc::Sender<Vec<u8>>>,
}

/// Who waits for which request.
#[derive(Clone, Default)]
pub struct Waiters {
    waiting: Arc<Mutex<Waiting>>,
}

/// One client that waits. Dropping it forgets the client.
pub struct Waiter {
    /// The outcome's bytes as they lie on `outcomes`.
    pub outcome: oneshot::Receiver<Vec<u8>>,
    /// What is known of the answer before, for one who reads along.
    pub chunks: Option<mpsc::Receiver<Vec<u8>>>,
    request_id: String,
    number: u64,
    waiters: Waiters,
}

impl Waiters {
    /// Waits for the outcome of a request; called before the request is written.
    pub fn wait(&self, request_id: &str, reads_along: bool) -> Waiter {
        let (sender, outcome) = oneshot::channel();
        let (chunk_sender, chunks) = reads_along.then(|| mpsc::channel(MOST_CHUNKS)).unzip();
        let number = rand::random();
        let client = Client { number, outcome: sender, chunks: chunk_sender };
        self.lock().entry(request_id.to_owned()).or_default().push(client);
        Waiter { outcome, chunks, request_id: request_id.to_owned(), number, waiters: self.clone() }
    }

    fn tell(&self, request_id: &str, outcome: &[u8]) {
        let told = self.lock().remove(request_id);
        for client in told.into_iter().flatten() {
            // A client that left meanwhile needs no answer.
            let _gone = client.outcome.send(outcome.to_vec());
        }
    }

    /// Never waits: for a client that does not keep up there is no more of it.
    fn show(&self, request_id: &str, chunk: &[u8]) {
        for client in self.lock().get_mut(request_id).into_iter().flatten() {
            let has_room = |chunks: &mpsc::Sender<Vec<u8>>| chunks.try_send(chunk.to_vec()).is_ok();
            client.chunks = client.chunks.take().filter(has_room);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// The request waited for.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.waiters.lock();
        if let Some(senders) = waiting.get_mut(&self.request_id) {
            senders.retain(|client| client.number != self.number);
            if senders.is_empty() {
                waiting.remove(&self.request_id);
            }
        }
    }
}

/// Reads this replica's partition of `replies` until `shutdown`. Returns once the end of the
/// partition is known, so that no answer to a request accepted from now on is missed.
///
/// Within a runtime.
///
/// # Errors
/// When the broker does not answer or does not know the topic.
pub fn start(
    config: &Config,
    replica: &str,
    (waiters, unsettled, codec): (Waiters, Unsettled, Codec),
    shutdown: CancellationToken,
) -> Result<std::thread::JoinHandle<()>, KafkaError> {
    let topic = config.kafka.topic(topics::REPLIES);
    let consumer = consumer(&config.kafka)?;
    let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(10))?;
    let count = metadata.topics().iter().find(|t| t.name() == topic).map_or(0, |t| t.partitions().len());
    if count == 0 {
        return Err(KafkaError::MetadataFetch(rdkafka::error::RDKafkaErrorCode::UnknownTopicOrPartition));
    }
    let partition = millrace_admission::replies::partition(replica, i32::try_from(count).unwrap_or(i32::MAX));
    let (_, end) = consumer.fetch_watermarks(&topic, partition, Duration::from_secs(10))?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, partition, Offset::Offset(end))?;
    consumer.assign(&list)?;
    let (replica, with) = (replica.to_owned(), (codec, Handle::current()));
    std::thread::Builder::new()
        .name("replies".to_owned())
        .spawn(move || {
            while !shutdown.is_cancelled() {
                match consumer.poll(Duration::from_millis(250)) {
                    Some(Ok(message)) => {
                        if let Some((request_id, outcome)) = answer(&message, &replica, &waiters) {
                            unsettled.told(request_id, outcome, &with);
                        }
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, "replies can not be read, clients are answered from the store")
                    }
                    None => {}
                }
            }
        })
        .map_err(|e| KafkaError::ClientCreation(e.to_string()))
}

/// Tells who waits what a record says, if it is for this replica. Returns the outcome that it says, and of which
/// request.
pub(crate) fn answer<'a>(message: &'a impl Message, replica: &str, waiters: &Waiters) -> Option<(&'a str, &'a [u8])> {
    let headers = message.headers()?;
    let header = |name: &str| headers.iter().find(|h| h.key == name).and_then(|h| h.value);
    if header("replica") != Some(replica.as_bytes()) {
        return None;
    }
    let request_id = std::str::from_utf8(header("request_id")?).ok()?;
    let outcome = message.payload()?;
    if header("kind") == Some(b"chunk".as_slice()) {
        waiters.show(request_id, outcome);
        return None;
    }
    waiters.tell(request_id, outcome);
    Some((request_id, outcome))
}

fn consumer(kafka: &KafkaConfig) -> Result<BaseConsumer, KafkaError> {
    let mut config = client_config(kafka);
    // No member of any group: the id only makes librdkafka's consumer queue.
    config
        .set("group.id", kafka.group("ingress-replies"))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "latest")
        .set("fetch.wait.max.ms", "500");
    for (name, value) in &kafka.consumer {
        config.set(name, value);
    }
    config.create()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_of_a_request_is_told_and_one_that_left_is_forgotten() {
        let waiters = Waiters::default();
        let wait = |id| waiters.wait(id, false);
        let (mut first, mut second, left) = (wait("a"), wait("a"), wait("a"));
        drop(left);
        let other = wait("b");
        waiters.tell("a", b"outcome");
        assert_eq!(first.outcome.try_recv().as_deref(), Ok(b"outcome".as_slice()));
        assert_eq!(second.outcome.try_recv().as_deref(), Ok(b"outcome".as_slice()));
        drop((first, second, other));
        assert!(waiters.lock().is_empty());
    }

    #[test]
    fn a_client_that_does_not_keep_up_is_shown_no_more() {
        let waiters = Waiters::default();
        let (mut slow, whole) = (waiters.wait("a", true), waiters.wait("a", false));
        assert!(whole.chunks.is_none());
        for n in 0..MOST_CHUNKS + 5 {
            waiters.show("a", &[u8::try_from(n).expect("few")]);
        }
        let chunks = slow.chunks.as_mut().expect("it reads along");
        let shown: Vec<Vec<u8>> = std::iter::from_fn(|| chunks.try_recv().ok()).collect();
        assert_eq!((shown.len(), shown[63].as_slice()), (MOST_CHUNKS, [63].as_slice()));
        waiters.show("a", b"later");
        assert!(chunks.try_recv().is_err(), "a gap stays a gap");
        waiters.tell("a", b"outcome");
        assert_eq!(slow.outcome.try_recv().as_deref(), Ok(b"outcome".as_slice()));
    }
}
