//! Records for customers' own topics. Such a topic may be gone, closed to us or without a leader, and
//! nobody of ours can mend it: records for it give up after a while, and after one that did, the
//! others do not wait at all for a moment. So a broken topic never stalls those who write to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_config::KafkaConfig;

use super::producer::{ProduceError, Producer};
use crate::Outgoing;

/// How long one record is tried: longer than an election of a new leader.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a topic is left alone that did not take a record.
const REST: Duration = Duration::from_secs(30);

/// Writes to customers' topics. Cheap to clone.
#[derive(Clone)]
pub(super) struct Customers {
    kafka: KafkaConfig,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Made when it is needed first.
    producer: Option<Producer>,
    resting: Resting,
}

/// Topics that are left alone.
#[derive(Default)]
struct Resting(HashMap<String, Instant>);

impl Resting {
    fn is_resting(&mut self, topic: &str, now: Instant) -> bool {
        self.0.retain(|_, until| *until > now);
        self.0.contains_key(topic)
    }

    fn rest(&mut self, topic: &str, now: Instant) {
        self.0.insert(topic.to_owned(), now + REST);
    }
}

impl Customers {
    pub fn new(kafka: &KafkaConfig) -> Self {
        Self { kafka: kafka.clone(), state: Arc::default() }
    }

    /// Writes a record, or says within ten seconds why it was not written.
    pub async fn send(&self, record: &Outgoing, partition: i32, headers: &[(&str, &str)]) -> Result<(), ProduceError> {
        let producer = self.producer(&record.topic)?;
        let sent = producer.send(record, partition, headers).await;
        if sent.is_err() {
            self.state().resting.rest(&record.topic, Instant::now());
        }
        sent
    }

    fn producer(&self, topic: &str) -> Result<Producer, ProduceError> {
        let mut state = self.state();
        if state.resting.is_resting(topic, Instant::now()) {
            let error = format!("it did not take an earlier record and is left alone for {} s", REST.as_secs());
            return Err(ProduceError::Refused { topic: topic.to_owned(), error });
        }
        if let Some(producer) = &state.producer {
            return Ok(producer.clone());
        }
        let made = Producer::with_timeout(&self.kafka, PATIENCE).map_err(|e| ProduceError::Fatal(e.to_string()))?;
        Ok(state.producer.insert(made).clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_failed_rests_alone_and_not_for_ever() {
        let (mut resting, now) = (Resting::default(), Instant::now());
        resting.rest("broken", now);
        assert!(resting.is_resting("broken", now + REST / 2));
        assert!(!resting.is_resting("sound", now + REST / 2));
        assert!(!resting.is_resting("broken", now + REST));
        assert!(resting.0.is_empty());
    }

    #[tokio::test]
    async fn a_topic_that_nobody_serves_is_given_up_and_the_next_record_does_not_wait() {
        let kafka = KafkaConfig { bootstrap_servers: "127.0.0.1:1".to_owned(), ..KafkaConfig::default() };
        let customers = Customers::new(&kafka);
        let record = Outgoing { foreign: true, ..Outgoing::new("acme.outcomes", "key", b"value".to_vec()) };
        let first = customers.send(&record.clone().to(crate::To::ByKey), 0, &[]).await;
        assert!(matches!(first, Err(ProduceError::Unknown)), "{first:?}");
        let next = tokio::time::timeout(PATIENCE / 2, customers.send(&record, 0, &[])).await;
        assert!(matches!(next, Ok(Err(ProduceError::Refused { .. }))), "{next:?}");
    }
}
