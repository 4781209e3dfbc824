//! Following `outcomes` for requests that were published here.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use millrace_config::Config;
use millrace_schemas::{Codec, Lane, Outcome, topics};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::reading::whole_topic;

/// Outcomes of a lane from now on: request id and bytes of each.
pub struct Follower {
    records: mpsc::Receiver<(String, Vec<u8>)>,
    stop: CancellationToken,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Follower {
    /// Follows the outcomes of `lane` from their present end.
    pub async fn start(config: &Config, lane: Lane) -> anyhow::Result<Self> {
        let (config, topic) = (config.clone(), config.kafka.topic(&topics::of(topics::OUTCOMES, lane)));
        let (consumer, _) = tokio::task::spawn_blocking(move || whole_topic(&config, &topic, false)).await??;
        let (sender, records) = mpsc::channel(4096);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        std::thread::Builder::new().name("outcomes".to_owned()).spawn(move || {
            while !stopped.is_cancelled() {
                match consumer.poll(Duration::from_millis(100)) {
                    Some(Ok(message)) => {
                        let Some(id) = request_id(&message) else { continue };
                        let value = message.payload().map(<[u8]>::to_vec).unwrap_or_default();
                        if sender.blocking_send((id, value)).is_err() {
                            return;
                        }
                    }
                    Some(Err(error)) => tracing::debug!(%error, "outcomes can not be read now"),
                    None => {}
                }
            }
        })?;
        Ok(Self { records, stop })
    }

    /// Collects the outcomes of `expected`, the first of each in log order, and tells each one.
    pub async fn collect(
        &mut self,
        codec: &Codec,
        expected: HashSet<String>,
        timeout: Duration,
        mut each: impl FnMut(&Outcome, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut left = Expected::new(expected, timeout);
        while let Some(bytes) = left.next(&mut self.records).await? {
            each(&codec.decode(&bytes).await?, &bytes)?;
        }
        Ok(())
    }

    /// Waits until all of `expected` have an outcome, whatever it is, and tells when each has come.
    #[cfg(feature = "harness")]
    pub async fn wait(
        &mut self,
        expected: HashSet<String>,
        timeout: Duration,
        mut each: impl FnMut(),
    ) -> anyhow::Result<()> {
        let mut left = Expected::new(expected, timeout);
        while left.next(&mut self.records).await?.is_some() {
            each();
        }
        Ok(())
    }
}

struct Expected {
    ids: HashSet<String>,
    timeout: Duration,
    until: Instant,
}

impl Expected {
    fn new(ids: HashSet<String>, timeout: Duration) -> Self {
        Self { ids, timeout, until: Instant::now() + timeout }
    }

    /// The next outcome of one of these, until there is none left.
    async fn next(&mut self, records: &mut mpsc::Receiver<(String, Vec<u8>)>) -> anyhow::Result<Option<Vec<u8>>> {
        while !self.ids.is_empty() {
            let left = self.until.saturating_duration_since(Instant::now());
            let Ok(record) = tokio::time::timeout(left, records.recv()).await else {
                bail!(
                    "{} requests have no outcome after {} s; they are accepted and go on: `millrace tap` shows them later",
                    self.ids.len(),
                    self.timeout.as_secs()
                );
            };
            let (id, bytes) = record.context("reading outcomes ended")?;
            if self.ids.remove(&id) {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

fn request_id(message: &BorrowedMessage<'_>) -> Option<String> {
    let header = message.headers()?.iter().find(|header| header.key == "request_id")?;
    String::from_utf8(header.value?.to_vec()).ok()
}
