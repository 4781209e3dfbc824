//! Deleting what no topic keeps any longer.

use std::time::SystemTime;

use nisshi_sans_io::{
    ConfigResource, IsolationLevel, ListOffset,
    delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
};
use nisshi_storage::{ArcDynStorage, Error, Storage as _, Topition};

use super::log_ends::LogEnds;

const POLICY: &str = "cleanup.policy";

/// Deletes old records as the topics' `retention.ms`, `retention.bytes` and `cleanup.policy` ask.
pub(super) async fn retire(storage: &ArcDynStorage, ends: &LogEnds) -> Result<(), Error> {
    #[expect(clippy::disallowed_methods, reason = "nisshi takes the time in this form")]
    let now = SystemTime::now();
    storage.maintain(now).await?;
    let advanced = advance(storage).await;
    ends.forget();
    advanced
}

/// Moves the start of each log to its first record.
///
/// nisshi deletes records and leaves the start where it was: a consumer that fell behind would
/// then skip what it missed without a word, where Kafka tells it `OFFSET_OUT_OF_RANGE`. A
/// compacted topic has holes by its nature, so there the start stays.
async fn advance(storage: &ArcDynStorage) -> Result<(), Error> {
    let metadata = storage.metadata(None).await?;
    for topic in metadata.topics() {
        let Some(name) = topic.name.as_deref() else { continue };
        if is_compacted(storage, name).await? {
            continue;
        }
        let partitions = topic.partitions.iter().flatten();
        let asked: Vec<_> = partitions
            .map(|partition| (Topition::new(name, partition.partition_index), ListOffset::Earliest))
            .collect();
        let mut moves = Vec::new();
        for (partition, first) in storage.list_offsets(IsolationLevel::ReadUncommitted, &asked).await? {
            let start = storage.offset_stage(&partition).await?.log_start();
            if let Some(first) = first.offset
                && first > start
            {
                moves.push(DeleteRecordsPartition::default().partition_index(partition.partition()).offset(first));
            }
        }
        if !moves.is_empty() {
            tracing::debug!(topic = name, partitions = moves.len(), "embedded broker retires records");
            let moves = DeleteRecordsTopic::default().name(name.into()).partitions(Some(moves));
            storage.delete_records(&[moves]).await?;
        }
    }
    Ok(())
}

async fn is_compacted(storage: &ArcDynStorage, topic: &str) -> Result<bool, Error> {
    let described = storage.describe_config(topic, ConfigResource::Topic, None).await?;
    let policy =
        described.configs.iter().flatten().find(|config| config.name == POLICY).and_then(|config| config.value.clone());
    Ok(policy.is_some_and(|policy| policy.contains("compact")))
}
