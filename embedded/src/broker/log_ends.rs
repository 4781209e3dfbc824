//! What the broker knows in memory about the ends of its logs, and who waits for them to move.
//!
//! nisshi's own `Fetch` asks the database again and again while it waits for a record. Here the
//! broker is the only writer of its database, so an append can wake the waiting consumers itself:
//! an idle broker costs nothing, and a record reaches a waiting consumer at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nisshi_sans_io::{ProduceRequest, Request, RequestInput};
use nisshi_storage::{ArcDynStorage, Error, OffsetStage, Storage as _, TopicId, Topition};
use rama::Service;
use tokio::sync::Notify;
use uuid::Uuid;

/// The ends of all logs, learned when first asked for and forgotten by every append.
#[derive(Debug, Default)]
pub(super) struct LogEnds {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    topics: HashMap<String, Topic>,
    names: HashMap<Uuid, String>,
}

#[derive(Debug, Default)]
struct Topic {
    count: Option<i32>,
    appended: Arc<Notify>,
    partitions: HashMap<i32, Partition>,
}

#[derive(Debug, Default)]
struct Partition {
    /// Appends seen. A stage read from the database is kept only if this did not move meanwhile.
    appends: u64,
    stage: Option<OffsetStage>,
}

impl LogEnds {
    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic while holding the lock leaves at worst a stage unknown, never a wrong one.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what wakes a consumer of `topic`.
    pub(super) fn appended(&self, topic: &str) -> Arc<Notify> {
        let mut known = self.known();
        match known.topics.get(topic) {
            Some(found) => found.appended.clone(),
            None => known.topics.entry(topic.to_owned()).or_default().appended.clone(),
        }
    }

    /// Returns a topic's name and its number of partitions, or `None` when it does not exist.
    ///
    /// Asked before any partition: the database fails on one that does not exist.
    pub(super) async fn topic(&self, storage: &ArcDynStorage, id: &TopicId) -> Result<Option<(String, i32)>, Error> {
        {
            let known = self.known();
            let name = match id {
                TopicId::Name(name) => Some(name),
                TopicId::Id(id) => known.names.get(id),
            };
            if let Some(name) = name
                && let Some(partitions) = known.topics.get(name).and_then(|topic| topic.count)
            {
                return Ok(Some((name.clone(), partitions)));
            }
        }
        let metadata = storage.metadata(Some(std::slice::from_ref(id))).await?;
        let found = metadata.topics().iter().find(|topic| topic.error_code == 0);
        let Some((name, topic)) = found.and_then(|topic| Some((topic.name.clone()?, topic))) else {
            return Ok(None);
        };
        let count = topic.partitions.as_ref().map_or(0, Vec::len);
        let count = i32::try_from(count).unwrap_or(i32::MAX);

        let mut known = self.known();
        if let TopicId::Id(id) = id {
            known.names.insert(*id, name.clone());
        }
        known.topics.entry(name.clone()).or_default().count = Some(count);
        Ok(Some((name, count)))
    }

    /// Returns where a partition's log starts and ends, from memory if no append came since.
    pub(super) async fn stage(&self, storage: &ArcDynStorage, partition: &Topition) -> Result<OffsetStage, Error> {
        let appends = {
            let known = self.known();
            let found =
                known.topics.get(partition.topic()).and_then(|topic| topic.partitions.get(&partition.partition()));
            if let Some(stage) = found.and_then(|found| found.stage) {
                return Ok(stage);
            }
            found.map_or(0, |found| found.appends)
        };

        let stage = storage.offset_stage(partition).await?;

        let mut known = self.known();
        let entry = known
            .topics
            .entry(partition.topic().to_owned())
            .or_default()
            .partitions
            .entry(partition.partition())
            .or_default();
        if entry.appends == appends {
            entry.stage = Some(stage);
        }
        Ok(stage)
    }

    fn announce(&self, topic: &str, partitions: &[i32]) {
        let appended = {
            let mut known = self.known();
            let entry = known.topics.entry(topic.to_owned()).or_default();
            for partition in partitions {
                let partition = entry.partitions.entry(*partition).or_default();
                partition.appends += 1;
                partition.stage = None;
            }
            entry.appended.clone()
        };
        appended.notify_waiters();
    }

    /// Forgets all that is known, for the rare requests that move the start of a log or end it.
    pub(super) fn forget(&self) {
        let mut known = self.known();
        known.names.clear();
        for topic in known.topics.values_mut() {
            topic.count = None;
            for partition in topic.partitions.values_mut() {
                partition.appends += 1;
                partition.stage = None;
            }
            topic.appended.notify_waiters();
        }
    }
}

/// Announces an append when dropped: also when the request was cancelled after its commit.
struct Announcement {
    ends: Arc<LogEnds>,
    appends: Vec<(String, Vec<i32>)>,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        for (topic, partitions) in &self.appends {
            self.ends.announce(topic, partitions);
        }
    }
}

/// A produce service that wakes the consumers before it acknowledges.
#[derive(Clone, Debug)]
pub(super) struct Announcing<S> {
    inner: S,
    ends: Arc<LogEnds>,
}

impl<S> Announcing<S> {
    pub(super) fn new(inner: S, ends: Arc<LogEnds>) -> Self {
        Self { inner, ends }
    }
}

impl<S> Service<RequestInput<ProduceRequest>> for Announcing<S>
where
    S: Service<RequestInput<ProduceRequest>>,
{
    type Output = S::Output;
    type Error = S::Error;

    async fn serve(&self, input: RequestInput<ProduceRequest>) -> Result<S::Output, S::Error> {
        let appends = input
            .request
            .topic_data
            .iter()
            .flatten()
            .map(|topic| {
                let partitions = topic.partition_data.iter().flatten();
                (topic.name.clone(), partitions.map(|partition| partition.index).collect())
            })
            .collect();
        let _announcement = Announcement { ends: self.ends.clone(), appends };
        self.inner.serve(input).await
    }
}

/// A service after which nothing that was known about the logs holds.
#[derive(Clone, Debug)]
pub(super) struct Forgetting<S> {
    inner: S,
    ends: Arc<LogEnds>,
}

impl<S> Forgetting<S> {
    pub(super) fn new(inner: S, ends: Arc<LogEnds>) -> Self {
        Self { inner, ends }
    }
}

impl<S, Q> Service<RequestInput<Q>> for Forgetting<S>
where
    S: Service<RequestInput<Q>>,
    Q: Request,
{
    type Output = S::Output;
    type Error = S::Error;

    async fn serve(&self, input: RequestInput<Q>) -> Result<S::Output, S::Error> {
        let _forget = Forget(&self.ends);
        self.inner.serve(input).await
    }
}

/// Forgets when dropped: also when the request was cancelled after its commit.
struct Forget<'a>(&'a LogEnds);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.forget();
    }
}
