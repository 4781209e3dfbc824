//! What the topics, the store and the provider say afterwards.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use millrace_config::Config;
use millrace_schemas::{Budget, Call, CallKind, Codec, DeadLetter, Lane, Outcome, topics};
use millrace_simulated_provider::CallRecord;
use millrace_storage::{LedgerTotals, Storage};
use millrace_tests::client;
use rdkafka::message::Message;

use super::storm::Storm;
use crate::reading::{read_to_end, whole_topic};

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

/// What the topics say.
#[derive(Default)]
pub struct Topics {
    /// First outcome of each request in log order: request id to the bytes.
    pub outcomes: HashMap<String, Vec<u8>>,
    /// Records in the outcome topics beyond the first of each request.
    pub duplicates: u64,
    /// Calls by id.
    pub calls: HashMap<String, Told>,
    /// What `dead-letters` holds: the request or, where there is none, the place of each record that was given up.
    pub dead_letters: HashSet<String>,
    /// Of each cell of all users of a tenant together, the newest word in `budgets`.
    pub budgets: BTreeMap<Cell, Budget>,
}

/// Partition of `calls`, tenant, currency.
pub type Cell = (i32, String, String);

/// What the store says.
#[derive(Default)]
pub struct Books {
    /// Of the accepted requests, those whose stored outcome is the first in the log.
    pub stored: u64,
    /// Rows in the result store.
    pub rows: u64,
    /// Kinds of the ledger entries of each call that has any.
    pub entries: HashMap<String, Vec<String>>,
    /// What these entries charge.
    pub charged: BTreeMap<Cell, i64>,
    /// Sums over everything.
    pub totals: LedgerTotals,
}

/// Everything that is known.
pub struct Evidence {
    pub topics: Topics,
    pub books: Books,
    /// The provider's own list.
    pub provider: Vec<CallRecord>,
    /// Documents that can be found.
    pub documents: HashSet<String>,
}

impl Evidence {
    /// True when nothing is left to wait for.
    pub fn is_closed(&self, storm: &Storm) -> bool {
        let accepted = &storm.accepted;
        let mut paid = self.provider.iter().filter(|call| call.billed).filter_map(|c| c.client_request_id.as_deref());
        self.topics.is_closed(accepted)
            && self.books.stored >= accepted.len() as u64
            && storm.documents.iter().all(|id| self.documents.contains(id))
            && paid.all(|id| self.books.entries.contains_key(id))
            && self.other_budgets().is_empty()
    }

    /// Cells of `budgets` that say something else than the ledger's lines; none where nobody has a budget.
    pub fn other_budgets(&self) -> Vec<String> {
        let Topics { budgets, .. } = &self.topics;
        let charged = self.books.charged.iter().filter(|_| !budgets.is_empty());
        let missing = charged.filter(|(cell, nanos)| **nanos != 0 && !budgets.contains_key(*cell));
        let missing = missing.map(|(cell, nanos)| format!("{cell:?} is missing, {nanos} are charged"));
        let other = budgets.iter().filter_map(|(cell, budget)| {
            let charged = self.books.charged.get(cell).copied().unwrap_or(0);
            let holds = (budget.total_nanos, budget.open_nanos) == (charged, 0);
            (!holds).then(|| format!("{charged} are charged and {budget:?}"))
        });
        missing.chain(other).collect()
    }
}

impl Topics {
    /// True when every accepted request has an outcome and every call its end.
    pub fn is_closed(&self, accepted: &[String]) -> bool {
        let open = self.calls.values().filter(|call| call.ended_at.is_none()).count();
        if self.outcomes.len() < accepted.len() || open > 0 {
            eprintln!(
                "{} of {} outcomes, {open} of {} calls are open",
                self.outcomes.len(),
                accepted.len(),
                self.calls.len()
            );
            return false;
        }
        true
    }

    /// Reads them from their beginning to their present end.
    pub async fn read(config: &Config, codec: &Codec) -> anyhow::Result<Self> {
        let mut topics = Self::default();
        for &lane in Lane::ALL {
            for (_, bytes) in read(config, topics::of(topics::OUTCOMES, lane)).await? {
                let outcome: Outcome = codec.decode(&bytes).await?;
                match topics.outcomes.entry(outcome.meta.request_id) {
                    Entry::Occupied(_) => topics.duplicates += 1,
                    Entry::Vacant(first) => {
                        first.insert(bytes);
                    }
                }
            }
        }
        for (partition, bytes) in read(config, topics::CALLS.to_owned()).await? {
            let call: Call = codec.decode(&bytes).await?;
            let told = topics.calls.entry(call.call_id).or_insert_with(|| Told {
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
        for (_, bytes) in read(config, topics::DEAD_LETTERS.to_owned()).await? {
            let letter: DeadLetter = codec.decode(&bytes).await?;
            let place = || format!("{}/{}/{}", letter.topic, letter.partition, letter.offset);
            topics.dead_letters.insert(letter.request_id.clone().unwrap_or_else(place));
        }
        for (_, bytes) in read(config, topics::BUDGETS.to_owned()).await? {
            let budget: Budget = codec.decode(&bytes).await?;
            let Budget { partition, tenant: Some(tenant), user: None, currency, .. } = budget.clone() else { continue };
            let newest = topics.budgets.entry((partition, tenant, currency)).or_insert_with(|| budget.clone());
            if newest.upto <= budget.upto {
                *newest = budget;
            }
        }
        Ok(topics)
    }
}

impl Books {
    /// Reads what the store has of these.
    pub async fn read(storage: &Storage, tenant: &str, accepted: &[String], topics: &Topics) -> anyhow::Result<Self> {
        let (entries, charged) = entries(storage, &topics.calls).await?;
        Ok(Self {
            stored: stored(storage, tenant, accepted, &topics.outcomes).await?,
            rows: storage.results.count().await?,
            entries,
            charged,
            totals: storage.usage.totals().await?,
        })
    }
}

/// All records of one of our topics up to its present end, in order within each partition.
async fn read(config: &Config, topic: String) -> anyhow::Result<Vec<(i32, Vec<u8>)>> {
    let config = config.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let name = config.kafka.topic(&topic);
        let (consumer, ends) = whole_topic(&config, &name, true)?;
        let mut records = Vec::new();
        read_to_end(&consumer, ends, |message| {
            records.push((message.partition(), message.payload().map(<[u8]>::to_vec).unwrap_or_default()));
            true
        })
        .with_context(|| name.clone())?;
        Ok(records)
    });
    reading.await?
}

/// The provider's own list of the calls it got.
pub async fn provider_calls(provider: &str) -> anyhow::Result<Vec<CallRecord>> {
    let lines = client()?.get(format!("{provider}/calls")).send().await?.error_for_status()?.text().await?;
    lines.lines().map(|line| serde_json::from_str(line).context("a line of /calls")).collect()
}

type Entries = (HashMap<String, Vec<String>>, BTreeMap<Cell, i64>);

async fn entries(storage: &Storage, calls: &HashMap<String, Told>) -> anyhow::Result<Entries> {
    const HOUR_MICROS: i64 = 3_600_000_000;
    let found: Vec<_> = futures::stream::iter(calls.iter())
        .map(|(id, call)| async move {
            let hour = call.started_at / HOUR_MICROS;
            let entries = storage.ledger.entries_of(&call.tenant, hour, call.partition, id).await?;
            anyhow::Ok((id.clone(), entries))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let mut charged = BTreeMap::new();
    for entry in found.iter().flat_map(|(_, entries)| entries) {
        *charged.entry((entry.partition, entry.tenant.clone(), entry.currency.clone())).or_default() +=
            entry.charge_nanos;
    }
    let kinds = |(id, entries): (String, Vec<_>)| {
        let kinds: Vec<String> = entries.into_iter().map(|entry: millrace_storage::Entry| entry.kind).collect();
        (!kinds.is_empty()).then_some((id, kinds))
    };
    Ok((found.into_iter().filter_map(kinds).collect(), charged))
}

/// How many of the accepted have the first outcome of the log in the store.
async fn stored(
    storage: &Storage,
    tenant: &str,
    ids: &[String],
    outcomes: &HashMap<String, Vec<u8>>,
) -> anyhow::Result<u64> {
    let wanted: HashSet<&String> = ids.iter().collect();
    futures::stream::iter(wanted)
        .map(|id| async move {
            let row = storage.results.get(tenant, id).await?;
            anyhow::Ok(u64::from(row.is_some() && row.as_ref() == outcomes.get(id)))
        })
        .buffer_unordered(AT_ONCE)
        .try_fold(0, |sum, one| async move { Ok(sum + one) })
        .await
}
