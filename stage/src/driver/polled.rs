//! A producer whose acknowledgements a thread of its own hands on.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, ProducerContext};

/// How long one poll waits. A poll of rdkafka's counts in whole milliseconds and spins through what is left of
/// the last one, so a short poll costs an idle producer a hundredth of a core. This one leaves nothing to spin
/// through when it was quiet, and little beside its length when it was not.
const POLL: Duration = Duration::from_micros(250_020);

/// [`ThreadedProducer`](rdkafka::producer::ThreadedProducer), but for how it waits.
pub struct Polled<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<C: ProducerContext + 'static> Polled<C> {
    /// # Errors
    /// When librdkafka refuses the settings, or no thread can be started.
    pub fn new(config: &ClientConfig, context: C) -> KafkaResult<Self> {
        let producer: Arc<BaseProducer<C>> = Arc::new(config.create_with_context(context)?);
        let is_over = Arc::new(AtomicBool::new(false));
        let (polled, ends) = (Arc::clone(&producer), Arc::clone(&is_over));
        let thread = std::thread::Builder::new().name("acknowledgements".to_owned()).spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                polled.poll(POLL);
            }
        });
        let thread = thread.map_err(|error| KafkaError::ClientCreation(format!("no thread: {error}")))?;
        Ok(Self { producer, is_over, thread: Some(thread) })
    }
}

impl<C: ProducerContext + 'static> Deref for Polled<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &BaseProducer<C> {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for Polled<C> {
    /// Waits for the thread: a client must not outlive what it is used by.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("what hands on acknowledgements panicked");
        }
    }
}
