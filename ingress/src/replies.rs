//! Answers for the clients that this replica holds: its own partition of `replies`, read from the
//! end, by a thread of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_config::{Config, KafkaConfig};
use millrace_schemas::topics;
use millrace_stage::client_config;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

type Waiting = HashMap<String, Vec<(u64, oneshot::Sender<Vec<u8>>)>>;

/// Who waits for which request.
#[derive(Clone, Default)]
pub struct Waiters {
    waiting: Arc<Mutex<Waiting>>,
}

/// One client that waits. Dropping it forgets the client.
pub struct Waiter {
    /// The outcome's bytes as they lie on `outcomes`.
    pub outcome: oneshot::Receiver<Vec<u8>>,
    request_id: String,
    number: u64,
    waiters: Waiters,
}

impl Waiters {
    /// Waits for the outcome of a request; called before the request is written.
    pub fn wait(&self, request_id: &str) -> Waiter {
        let (sender, outcome) = oneshot::channel();
        let number = rand::random();
        self.lock().entry(request_id.to_owned()).or_default().push((number, sender));
        Waiter { outcome, request_id: request_id.to_owned(), number, waiters: self.clone() }
    }

    fn tell(&self, request_id: &str, outcome: &[u8]) {
        let told = self.lock().remove(request_id);
        for (_, sender) in told.into_iter().flatten() {
            // A client that left meanwhile needs no answer.
            let _gone = sender.send(outcome.to_vec());
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
            senders.retain(|(number, _)| *number != self.number);
            if senders.is_empty() {
                waiting.remove(&self.request_id);
            }
        }
    }
}

/// Reads this replica's partition of `replies` until `shutdown`. Returns once the end of the
/// partition is known, so that no answer to a request accepted from now on is missed.
///
/// # Errors
/// When the broker does not answer or does not know the topic.
pub fn start(
    config: &Config,
    replica: &str,
    waiters: Waiters,
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
    let replica = replica.to_owned();
    std::thread::Builder::new()
        .name("replies".to_owned())
        .spawn(move || {
            while !shutdown.is_cancelled() {
                match consumer.poll(Duration::from_millis(100)) {
                    Some(Ok(message)) => answer(&message, &replica, &waiters),
                    Some(Err(error)) => {
                        tracing::warn!(%error, "replies can not be read, clients are answered from the store")
                    }
                    None => {}
                }
            }
        })
        .map_err(|e| KafkaError::ClientCreation(e.to_string()))
}

fn answer(message: &rdkafka::message::BorrowedMessage<'_>, replica: &str, waiters: &Waiters) {
    let Some(headers) = message.headers() else { return };
    let header = |name: &str| headers.iter().find(|h| h.key == name).and_then(|h| h.value);
    if header("replica") != Some(replica.as_bytes()) {
        return;
    }
    let request_id = header("request_id").and_then(|id| std::str::from_utf8(id).ok());
    if let (Some(request_id), Some(outcome)) = (request_id, message.payload()) {
        waiters.tell(request_id, outcome);
    }
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
        let (mut first, mut second, left) = (waiters.wait("a"), waiters.wait("a"), waiters.wait("a"));
        drop(left);
        let other = waiters.wait("b");
        waiters.tell("a", b"outcome");
        assert_eq!(first.outcome.try_recv().as_deref(), Ok(b"outcome".as_slice()));
        assert_eq!(second.outcome.try_recv().as_deref(), Ok(b"outcome".as_slice()));
        drop((first, second, other));
        assert!(waiters.lock().is_empty());
    }
}
