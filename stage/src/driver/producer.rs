//! Records out, each with its acknowledgement.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use millrace_config::KafkaConfig;
use millrace_fail_point::{self as fail_point, Side};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};
use tokio::sync::oneshot;

use super::kafka::producer_config;
use super::nagle::Nagle;
use super::polled::Polled;
use crate::{Outgoing, To};

/// Why a record was not acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProduceError {
    /// The producer can not go on; a new one must recover.
    #[error("the producer failed for good: {0}")]
    Fatal(String),
    /// The broker refuses this record.
    #[error("the broker refuses a record for `{topic}`: {error}")]
    Refused {
        /// Name of the topic on the broker.
        topic: String,
        /// What it said.
        error: String,
    },
    /// Whether it was written is not known.
    #[error("the broker did not acknowledge in time; whether the record was written is unknown")]
    Unknown,
}

/// Long enough to fill a request to the broker under load, short beside a call.
const BATCH_LINGER_MS: &str = "20";

/// A hint that is older than this is of no use any more.
const HINT: Duration = Duration::from_secs(5);

struct Acks;

impl ClientContext for Acks {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "producer error");
    }
}

impl ProducerContext for Acks {
    type DeliveryOpaque = Box<oneshot::Sender<Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, ack: Self::DeliveryOpaque) {
        // The receiver is gone when its work was called off: nobody waits for the answer.
        let _gone = ack.send(result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone()));
    }
}

/// An idempotent producer, cheap to clone.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<RwLock<Arc<Polled<Acks>>>>,
    /// By topic, for one that does not linger: records of different topics never share a request to a broker.
    nagle: Option<Arc<Mutex<HashMap<String, Nagle>>>>,
    /// For one that is replaced when it has failed for good.
    renewal: Option<Arc<ClientConfig>>,
    kafka: Arc<KafkaConfig>,
    partitions: Arc<Mutex<HashMap<String, i32>>>,
}

impl Producer {
    /// A producer whose records leave at once, or together as soon as those before them are acknowledged (at most
    /// ten milliseconds later), and never time out.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub fn new(kafka: &KafkaConfig) -> Result<Self, KafkaError> {
        Self::with(kafka, &[])
    }

    /// A producer for the batch lane: its records wait a moment for others, and never time out.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub fn batching(kafka: &KafkaConfig) -> Result<Self, KafkaError> {
        Ok(Self { nagle: None, ..Self::with(kafka, &[("linger.ms", BATCH_LINGER_MS)])? })
    }

    /// A producer whose records time out, for callers who can say "unknown" to somebody. After
    /// [`ProduceError::Fatal`] a new client takes the place of the one that failed.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub fn with_timeout(kafka: &KafkaConfig, timeout: Duration) -> Result<Self, KafkaError> {
        let settings = [("message.timeout.ms", timeout.as_millis().to_string())];
        let config = producer_config(kafka, &settings.each_ref().map(|(name, value)| (*name, value.as_str())));
        Ok(Self { renewal: Some(Arc::new(config.clone())), ..Self::of(kafka, &config)? })
    }

    /// A producer of hints, which nobody misses for long: what is not acknowledged soon is given up.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub fn hinting(kafka: &KafkaConfig) -> Result<Self, KafkaError> {
        Self::with_timeout(kafka, HINT)
    }

    fn with(kafka: &KafkaConfig, settings: &[(&str, &str)]) -> Result<Self, KafkaError> {
        Self::of(kafka, &producer_config(kafka, settings))
    }

    fn of(kafka: &KafkaConfig, config: &ClientConfig) -> Result<Self, KafkaError> {
        Ok(Self {
            inner: Arc::new(RwLock::new(Arc::new(Polled::new(config, Acks)?))),
            nagle: Some(Arc::default()),
            renewal: None,
            kafka: Arc::new(kafka.clone()),
            partitions: Arc::default(),
        })
    }

    /// Number of partitions of a topic of ours, asked once.
    ///
    /// # Errors
    /// When the broker does not answer or does not know the topic.
    pub async fn partitions(&self, topic: &str) -> Result<i32, KafkaError> {
        let name = self.kafka.topic(topic);
        let known = self.partitions.lock().unwrap_or_else(PoisonError::into_inner).get(&name).copied();
        if let Some(count) = known {
            return Ok(count);
        }
        let producer = self.client();
        let asked = name.clone();
        let count = tokio::task::spawn_blocking(move || {
            let metadata = producer.client().fetch_metadata(Some(&asked), Duration::from_secs(10))?;
            let found = metadata.topics().iter().find(|t| t.name() == asked).map_or(0, |t| t.partitions().len());
            if found == 0 {
                return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
            }
            Ok(i32::try_from(found).unwrap_or(i32::MAX))
        })
        .await
        .map_err(|_| KafkaError::Canceled)??;
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).insert(name, count);
        Ok(count)
    }

    /// Whether a broker tells of this topic of ours within `patience`.
    pub async fn reaches(&self, topic: &str, patience: Duration) -> bool {
        let (client, name) = (self.client(), self.kafka.topic(topic));
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = client.client().fetch_metadata(Some(&name), patience)?;
            Ok::<_, KafkaError>(metadata.topics().iter().any(|t| t.name() == name && !t.partitions().is_empty()))
        });
        matches!(asked.await, Ok(Ok(true)))
    }

    /// Writes a record and waits until all in-sync replicas have it. `source_partition` resolves
    /// [`To::SamePartition`].
    ///
    /// # Errors
    /// [`ProduceError`].
    pub async fn send(
        &self,
        record: &Outgoing,
        source_partition: i32,
        headers: &[(&str, &str)],
    ) -> Result<(), ProduceError> {
        let topic = if record.foreign { record.topic.clone() } else { self.kafka.topic(&record.topic) };
        let mut all = OwnedHeaders::new_with_capacity(record.headers.len() + headers.len());
        for (key, value) in record.headers.iter().map(|(k, v)| (*k, v.as_str())).chain(headers.iter().copied()) {
            all = all.insert(Header { key, value: Some(value) });
        }
        let effect = || format!("produce {}", if record.foreign { "customer topic" } else { &record.topic });
        fail_point::reach(Side::Before, effect);
        let _going = match self.nagle(&topic) {
            Some(nagle) => Some(nagle.turn().await),
            None => None,
        };
        let (ack, acked) = oneshot::channel();
        let mut base: BaseRecord<'_, [u8], [u8], _> =
            BaseRecord::with_opaque_to(&topic, Box::new(ack)).payload(record.value.as_slice()).headers(all);
        if !record.key.is_empty() {
            base = base.key(record.key.as_slice());
        }
        base = match record.to {
            To::SamePartition => base.partition(source_partition),
            To::Partition(number) => base.partition(number),
            To::ByKey => base,
        };
        let client = self.client();
        while let Err((error, back)) = client.send(base) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(self.classify(&client, &topic, &error));
            }
            // Everything in flight is bounded, so the queue empties as the broker acknowledges.
            tokio::time::sleep(Duration::from_millis(5)).await;
            base = back;
        }
        match acked.await {
            Ok(Ok(())) => {
                fail_point::reach(Side::After, effect);
                Ok(())
            }
            Ok(Err(error)) => Err(self.classify(&client, &topic, &error)),
            Err(_) => Err(ProduceError::Unknown),
        }
    }

    /// Waits until everything sent is acknowledged, at most this long.
    ///
    /// # Errors
    /// When the time is over.
    pub async fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        let producer = self.client();
        tokio::task::spawn_blocking(move || producer.flush(timeout)).await.map_err(|_| KafkaError::Canceled)?
    }

    fn nagle(&self, topic: &str) -> Option<Nagle> {
        let mut topics = self.nagle.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(nagle) = topics.get(topic) {
            return Some(nagle.clone());
        }
        Some(topics.entry(topic.to_owned()).or_default().clone())
    }

    fn client(&self) -> Arc<Polled<Acks>> {
        Arc::clone(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn classify(&self, client: &Arc<Polled<Acks>>, topic: &str, error: &KafkaError) -> ProduceError {
        if let Some((code, reason)) = client.client().fatal_error() {
            self.renew(client);
            return ProduceError::Fatal(format!("{code}: {reason}"));
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageTimedOut) => ProduceError::Unknown,
            Some(RDKafkaErrorCode::Fatal) => ProduceError::Fatal(error.to_string()),
            _ => ProduceError::Refused { topic: topic.to_owned(), error: error.to_string() },
        }
    }

    fn renew(&self, failed: &Arc<Polled<Acks>>) {
        let Some(config) = &self.renewal else { return };
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&inner, failed) {
            return;
        }
        match Polled::new(config, Acks) {
            Ok(client) => *inner = Arc::new(client),
            Err(error) => tracing::error!(%error, "no new producer can be made in place of one that failed"),
        }
    }
}
