//! Asks the brokers how far the interactive lane's stages are behind, from a thread of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_config::KafkaConfig;
use millrace_schemas::{Lane, topics};
use millrace_stage::client_config;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::held::Held;
use crate::metrics::IngressMetrics;
use crate::pressure::{Look, Overload, Pressure};

/// Stages that a request passes, and what each of them reads.
pub const STAGES: [(&str, &str); 4] = [
    ("prompt-builder", topics::REQUESTS),
    ("inference-router", topics::PROMPTS),
    ("moderator", topics::COMPLETIONS),
    ("result-sink", topics::OUTCOMES),
];

const EVERY: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(5);

/// What all routes ask.
#[derive(Clone)]
pub struct SharedPressure(Arc<Mutex<Pressure>>);

impl SharedPressure {
    pub fn new(max_lag: u64) -> Self {
        Self(Arc::new(Mutex::new(Pressure::new(max_lag, STAGES.len()))))
    }

    /// [`Pressure::judge`], now.
    pub fn judge(&self, tenant: &str, patience: Duration) -> Result<(), Overload> {
        self.lock().judge(Instant::now(), tenant, patience)
    }

    /// [`Pressure::let_in`], now.
    pub fn let_in(&self, tenant: &str, patience: Duration) -> Result<(), Overload> {
        self.lock().let_in(Instant::now(), tenant, patience)
    }

    fn lock(&self) -> MutexGuard<'_, Pressure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks every second while anything moves, until `shutdown`.
///
/// # Errors
/// When librdkafka refuses the settings.
pub fn start(
    kafka: &KafkaConfig,
    pressure: SharedPressure,
    held: Held,
    metrics: IngressMetrics,
    shutdown: CancellationToken,
) -> Result<std::thread::JoinHandle<()>, KafkaError> {
    let mut watched =
        STAGES.iter().map(|(stage, topic)| Watched::new(kafka, stage, topic)).collect::<Result<Vec<_>, _>>()?;
    std::thread::Builder::new()
        .name("lag".to_owned())
        .spawn(move || {
            while !shutdown.is_cancelled() {
                metrics.held_bytes.set(i64::try_from(held.bytes()).unwrap_or(i64::MAX));
                if pressure.lock().is_moving() {
                    let looks: Vec<_> = watched.iter_mut().map(Watched::look).collect();
                    for ((stage, _), look) in STAGES.iter().zip(&looks) {
                        let lag = look.map_or(0, |look| i64::try_from(look.lag()).unwrap_or(i64::MAX));
                        metrics.lag.with_label_values(&[*stage]).set(lag);
                    }
                    pressure.lock().note(Instant::now(), &looks);
                } else {
                    pressure.lock().still(Instant::now());
                }
                let next = Instant::now() + EVERY;
                while Instant::now() < next && !shutdown.is_cancelled() {
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        })
        .map_err(|e| KafkaError::ClientCreation(e.to_string()))
}

/// One stage's group. It is asked about, never joined.
struct Watched {
    stage: &'static str,
    topic: String,
    consumer: BaseConsumer,
    /// Asked once; topics never grow.
    partitions: Option<i32>,
    failing: bool,
}

impl Watched {
    fn new(kafka: &KafkaConfig, stage: &'static str, topic: &str) -> Result<Self, KafkaError> {
        let mut config = client_config(kafka);
        config
            .set("group.id", kafka.group(&format!("{stage}.{}", Lane::Interactive)))
            .set("enable.auto.commit", "false");
        for (name, value) in &kafka.consumer {
            config.set(name, value);
        }
        let topic = kafka.topic(&topics::of(topic, Lane::Interactive));
        Ok(Self { stage, topic, consumer: config.create()?, partitions: None, failing: false })
    }

    fn look(&mut self) -> Option<Look> {
        // Events of the connections; nothing was subscribed to.
        while self.consumer.poll(Duration::ZERO).is_some() {}
        let found = self.ask();
        let failed = found.as_ref().err();
        if let Some(error) = failed.filter(|_| !self.failing) {
            tracing::warn!(stage = self.stage, %error, "how far a stage is behind can not be read, nothing is shed by it");
        }
        self.failing = failed.is_some();
        found.ok().flatten()
    }

    /// `None` while the group has not committed everywhere.
    fn ask(&mut self) -> Result<Option<Look>, KafkaError> {
        let count = match self.partitions {
            Some(count) => count,
            None => {
                let metadata = self.consumer.fetch_metadata(Some(&self.topic), ANSWER)?;
                let found = metadata.topics().iter().find(|t| t.name() == self.topic);
                let count = found.map_or(0, |t| i32::try_from(t.partitions().len()).unwrap_or(i32::MAX));
                self.partitions = (count > 0).then_some(count);
                count
            }
        };
        let mut asked = TopicPartitionList::new();
        for partition in 0..count {
            asked.add_partition_offset(&self.topic, partition, Offset::End)?;
        }
        let committed = sum(&self.consumer.committed_offsets(asked.clone(), ANSWER)?);
        // In place of a time: the log's end.
        let end = sum(&self.consumer.offsets_for_times(asked, ANSWER)?);
        Ok(committed.zip(end).map(|(committed, end)| Look { committed, end }))
    }
}

fn sum(list: &TopicPartitionList) -> Option<i64> {
    let offsets = list
        .elements()
        .iter()
        .map(|element| element.offset().to_raw().filter(|raw| *raw >= 0))
        .collect::<Option<Vec<_>>>()?;
    (!offsets.is_empty()).then(|| offsets.iter().sum())
}
