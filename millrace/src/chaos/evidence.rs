//! What the topics, the store and the provider say afterwards.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt};
use millrace_config::Config;
use millrace_schemas::{Call, CallKind, Codec, Lane, Outcome, topics};
use millrace_simulated_provider::CallRecord;
use millrace_storage::{LedgerTotals, Storage};
use millrace_tests::{Pipeline, client};
use rdkafka::message::Message;

use super::storm::Storm;
use crate::outcomes::whole_topic;
use crate::wiring::connect_codec;

/// Rows asked for at once.
const AT_ONCE: usize = 64;

/// A call as the `calls` topic tells it.
#[derive(Debug, Clone)]
pub struct Told {
    pub request_id: String,
    pub tenant: String,
    pub started_at: i64,
    pub partition: i32,
    /// When it ended, microseconds; none while it is open.
    pub ended_at: Option<i64>,
}

/// Everything that is known.
pub struct Evidence {
    /// First outcome of each request in log order: request id to the bytes.
    pub outcomes: HashMap<String, Vec<u8>>,
    /// Records in the outcome topics beyond the first of each request.
    pub duplicates: u64,
    /// Of the accepted requests, those whose stored outcome is the first in the log.
    pub stored: u64,
    /// Rows in the result store.
    pub stored_rows: u64,
    /// The provider's own list.
    pub provider: Vec<CallRecord>,
    /// Calls by id, from the `calls` topic.
    pub calls: HashMap<String, Told>,
    /// Kinds of ledger entries of each call that the topic or the provider knows.
    pub entries: HashMap<String, Vec<String>>,
    /// Sums over the store.
    pub totals: LedgerTotals,
    /// Records in `dead-letters`.
    pub dead_letters: u64,
}

impl Evidence {
    /// Gathers until the books are closed or `patience` is over; the last look is the evidence.
    pub async fn gather(pipeline: &Pipeline, storm: &Storm, patience: Duration) -> anyhow::Result<Self> {
        let config = Config::load(Some(&pipeline.config), std::iter::empty(), [])?;
        let codec = connect_codec(&config).await?;
        let storage = pipeline.storage().await?;
        let until = Instant::now() + patience;
        loop {
            let evidence = Self::look(pipeline, storm, &config, &codec, &storage).await?;
            let open = evidence.calls.values().filter(|call| call.ended_at.is_none()).count();
            let booked = evidence.calls.keys().filter(|id| evidence.entries.contains_key(*id)).count();
            let closed = evidence.outcomes.len() >= storm.accepted.len()
                && evidence.stored >= storm.accepted.len() as u64
                && open == 0
                && evidence.all_paid_calls_are_booked();
            if closed || Instant::now() >= until {
                return Ok(evidence);
            }
            eprintln!(
                "{} of {} outcomes, {} stored, {open} of {} calls open, {booked} booked",
                evidence.outcomes.len(),
                storm.accepted.len(),
                evidence.stored,
                evidence.calls.len()
            );
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }

    fn all_paid_calls_are_booked(&self) -> bool {
        let mut paid = self.provider.iter().filter(|call| call.billed).filter_map(|c| c.client_request_id.as_deref());
        paid.all(|id| self.entries.contains_key(id))
    }

    async fn look(
        pipeline: &Pipeline,
        storm: &Storm,
        config: &Config,
        codec: &Codec,
        storage: &Storage,
    ) -> anyhow::Result<Self> {
        let mut outcomes: HashMap<String, Vec<u8>> = HashMap::new();
        let mut duplicates = 0;
        for &lane in Lane::ALL {
            for (_, bytes) in read(config, topics::of(topics::OUTCOMES, lane)).await? {
                let outcome: Outcome = codec.decode(&bytes).await?;
                match outcomes.entry(outcome.meta.request_id) {
                    std::collections::hash_map::Entry::Occupied(_) => duplicates += 1,
                    std::collections::hash_map::Entry::Vacant(first) => {
                        first.insert(bytes);
                    }
                }
            }
        }
        let mut calls: HashMap<String, Told> = HashMap::new();
        for (partition, bytes) in read(config, topics::CALLS.to_owned()).await? {
            let call: Call = codec.decode(&bytes).await?;
            let told = calls.entry(call.call_id).or_insert_with(|| Told {
                request_id: call.request_id,
                tenant: call.tenant,
                started_at: call.started_at,
                partition,
                ended_at: None,
            });
            if call.kind != CallKind::Started {
                told.ended_at.get_or_insert(call.at);
            }
        }
        let provider = provider_calls(&pipeline.provider).await?;
        let entries = entries(storage, &calls).await?;
        let stored = stored(storage, &storm.accepted, &outcomes).await?;
        Ok(Self {
            outcomes,
            duplicates,
            stored,
            stored_rows: storage.results.count().await?,
            provider,
            calls,
            entries,
            totals: storage.usage.totals().await?,
            dead_letters: read(config, topics::DEAD_LETTERS.to_owned()).await?.len() as u64,
        })
    }
}

/// All records of one of our topics up to its present end, in order within each partition.
async fn read(config: &Config, topic: String) -> anyhow::Result<Vec<(i32, Vec<u8>)>> {
    let config = config.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let name = config.kafka.topic(&topic);
        let (consumer, ends) = whole_topic(&config, &name, true)?;
        let mut left: HashMap<i32, i64> = ends.into_iter().collect();
        let mut records = Vec::new();
        let until = Instant::now() + Duration::from_secs(120);
        while !left.is_empty() {
            if Instant::now() > until {
                bail!("`{name}` can not be read to its end");
            }
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) else { continue };
            let partition = message.partition();
            records.push((partition, message.payload().map(<[u8]>::to_vec).unwrap_or_default()));
            if left.get(&partition).is_some_and(|end| message.offset() + 1 >= *end) {
                left.remove(&partition);
            }
        }
        Ok(records)
    });
    reading.await?
}

async fn provider_calls(provider: &str) -> anyhow::Result<Vec<CallRecord>> {
    let lines = client()?.get(format!("{provider}/calls")).send().await?.error_for_status()?.text().await?;
    lines.lines().map(|line| serde_json::from_str(line).context("a line of /calls")).collect()
}

async fn entries(storage: &Storage, calls: &HashMap<String, Told>) -> anyhow::Result<HashMap<String, Vec<String>>> {
    const HOUR_MICROS: i64 = 3_600_000_000;
    let found: Vec<_> = futures::stream::iter(calls.iter())
        .map(|(id, call)| async move {
            let hour = call.started_at / HOUR_MICROS;
            let entries = storage.ledger.entries_of(&call.tenant, hour, call.partition, id).await?;
            anyhow::Ok((id.clone(), entries.into_iter().map(|entry| entry.kind).collect::<Vec<_>>()))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(found.into_iter().filter(|(_, kinds)| !kinds.is_empty()).collect())
}

/// How many of the accepted have the first outcome of the log in the store.
async fn stored(storage: &Storage, ids: &[String], outcomes: &HashMap<String, Vec<u8>>) -> anyhow::Result<u64> {
    let wanted: HashSet<&String> = ids.iter().collect();
    futures::stream::iter(wanted)
        .map(|id| async move {
            let row = storage.results.get("acme", id).await?;
            anyhow::Ok(u64::from(row.is_some() && row.as_ref() == outcomes.get(id)))
        })
        .buffer_unordered(AT_ONCE)
        .try_fold(0, |sum, one| async move { Ok(sum + one) })
        .await
}
