//! `Fetch`, waiting for an append instead of asking the database again and again.
//!
//! It keeps two promises of Apache Kafka that nisshi's own service does not: an idle long poll
//! costs nothing, and a consumer whose position lies beyond the end of the log is told
//! `OFFSET_OUT_OF_RANGE` instead of being parked there in silence.

use std::{sync::Arc, time::Duration};

use futures::future::select_all;
use nisshi_sans_io::{
    ErrorCode, FetchRequest, FetchResponse, IsolationLevel, RequestInput,
    fetch_request::{FetchPartition, FetchTopic},
    fetch_response::{FetchableTopicResponse, PartitionData},
    record::deflated::{Batch, Frame},
};
use nisshi_storage::{ArcDynStorage, Error, OffsetStage, Storage as _, Topition};
use rama::Service;
use tokio::time::{Instant, timeout_at};

use super::log_ends::LogEnds;

/// The most record bytes in one answer, whatever the client allows: reading holds the database.
const MOST_BYTES: u32 = 5 * 1024 * 1024;

/// How long reading the records of one partition may take before the answer goes out with what
/// there is.
const READ_BUDGET: Duration = Duration::from_secs(1);

/// Unknown offset, in an answer that carries an error.
const UNKNOWN: i64 = -1;

/// Answers `Fetch`.
#[derive(Clone, Debug)]
pub(super) struct LongPollFetch {
    storage: ArcDynStorage,
    ends: Arc<LogEnds>,
}

/// One round over everything that a request asks for.
struct Round {
    responses: Vec<FetchableTopicResponse>,
    /// There is something to tell, so the client does not wait.
    answer_now: bool,
}

impl LongPollFetch {
    pub(super) fn new(storage: ArcDynStorage, ends: Arc<LogEnds>) -> Self {
        Self { storage, ends }
    }

    async fn round(
        &self,
        request: &FetchRequest,
        named: &[(&FetchTopic, Option<(String, i32)>)],
    ) -> Result<Round, Error> {
        let isolation = request
            .isolation_level
            .and_then(|level| IsolationLevel::try_from(level).ok())
            .unwrap_or(IsolationLevel::ReadUncommitted);
        let mut bytes_left = request
            .max_bytes
            .and_then(|bytes| u32::try_from(bytes).ok())
            .map_or(MOST_BYTES, |bytes| bytes.min(MOST_BYTES));

        let mut round = Round { responses: Vec::with_capacity(named.len()), answer_now: false };
        let mut every_partition_failed = true;

        for (topic, name) in named {
            let mut partitions = Vec::new();
            for wanted in topic.partitions.iter().flatten() {
                let data = match name {
                    Some((name, count)) if (0..*count).contains(&wanted.partition) => {
                        self.partition(name, wanted, isolation, &mut bytes_left).await?
                    }
                    Some(_) => failed(wanted.partition, ErrorCode::UnknownTopicOrPartition),
                    None => failed(wanted.partition, unknown(topic)),
                };
                let code = data.error_code;
                every_partition_failed &= code != 0;
                round.answer_now |= data.records.is_some() || code == i16::from(ErrorCode::OffsetOutOfRange);
                partitions.push(data);
            }
            round.responses.push(
                FetchableTopicResponse::default()
                    .topic(topic.topic.clone())
                    .topic_id(topic.topic_id)
                    .partitions(Some(partitions)),
            );
        }
        round.answer_now |= every_partition_failed;
        Ok(round)
    }

    async fn partition(
        &self,
        topic: &str,
        wanted: &FetchPartition,
        isolation: IsolationLevel,
        bytes_left: &mut u32,
    ) -> Result<PartitionData, Error> {
        let partition = Topition::new(topic, wanted.partition);
        let offset = wanted.fetch_offset;

        let mut stage = match self.ends.stage(&self.storage, &partition).await {
            Ok(stage) => stage,
            Err(error) => return missing(wanted.partition, error),
        };
        if offset > stage.high_watermark() {
            // The consumer may have read what was appended since: only the database may refuse it.
            stage = match self.storage.offset_stage(&partition).await {
                Ok(stage) => stage,
                Err(error) => return missing(wanted.partition, error),
            };
        }
        if offset < stage.log_start() || offset > stage.high_watermark() {
            return Ok(failed(wanted.partition, ErrorCode::OffsetOutOfRange));
        }
        if offset == stage.high_watermark() || *bytes_left == 0 {
            return Ok(data(wanted.partition, &stage, Vec::new()));
        }

        let most = u32::try_from(wanted.partition_max_bytes).unwrap_or(MOST_BYTES).min(*bytes_left);
        let fetched = self.storage.fetch(&partition, offset, 0, most, isolation, READ_BUDGET).await;
        let batches: Vec<Batch> = match fetched {
            Ok(batches) => batches.into_iter().filter(|batch| batch.record_count > 0).collect(),
            Err(error) => return missing(wanted.partition, error),
        };

        let size: usize = batches.iter().map(|batch| batch.record_data.len()).sum();
        *bytes_left = bytes_left.saturating_sub(u32::try_from(size).unwrap_or(u32::MAX));

        // Records appended while reading may lie beyond the stage that was read before.
        let read_to = batches.last().map_or(offset, |batch| batch.max_offset() + 1);
        stage.high_watermark = stage.high_watermark.max(read_to);
        stage.last_stable = stage.last_stable.max(read_to);
        Ok(data(wanted.partition, &stage, batches))
    }
}

impl Service<RequestInput<FetchRequest>> for LongPollFetch {
    type Output = FetchResponse;
    type Error = Error;

    async fn serve(&self, input: RequestInput<FetchRequest>) -> Result<FetchResponse, Error> {
        let request = input.request;
        let patience = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        let deadline = Instant::now() + patience;

        let responses = loop {
            let mut named = Vec::new();
            for topic in request.topics.iter().flatten() {
                named.push((topic, self.ends.topic(&self.storage, &topic.into()).await?));
            }
            // Registered before the logs are looked at, so that no append falls in between.
            let appended: Vec<_> =
                named.iter().filter_map(|(_, name)| name.as_ref().map(|(name, _)| self.ends.appended(name))).collect();
            let wakes: Vec<_> = appended.iter().map(|appended| Box::pin(appended.notified())).collect();

            let round = self.round(&request, &named).await?;
            if round.answer_now || wakes.is_empty() {
                break round.responses;
            }
            if timeout_at(deadline, select_all(wakes)).await.is_err() {
                break round.responses;
            }
        };

        Ok(FetchResponse::default()
            .throttle_time_ms(Some(0))
            .error_code(Some(ErrorCode::None.into()))
            .session_id(Some(0))
            .node_endpoints(Some([].into()))
            .responses(Some(responses)))
    }
}

fn unknown(topic: &FetchTopic) -> ErrorCode {
    if topic.topic.is_some() { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::UnknownTopicId }
}

fn missing(partition: i32, error: Error) -> Result<PartitionData, Error> {
    if let Error::Api(code) = error { Ok(failed(partition, code)) } else { Err(error) }
}

fn failed(partition: i32, error: ErrorCode) -> PartitionData {
    let stage = OffsetStage { last_stable: UNKNOWN, high_watermark: UNKNOWN, log_start: UNKNOWN };
    data(partition, &stage, Vec::new()).error_code(error.into())
}

fn data(partition: i32, stage: &OffsetStage, batches: Vec<Batch>) -> PartitionData {
    PartitionData::default()
        .partition_index(partition)
        .error_code(ErrorCode::None.into())
        .high_watermark(stage.high_watermark())
        .last_stable_offset(Some(stage.last_stable()))
        .log_start_offset(Some(stage.log_start()))
        .diverging_epoch(None)
        .current_leader(None)
        .snapshot_id(None)
        .aborted_transactions(Some([].into()))
        .preferred_read_replica(Some(-1))
        .records((!batches.is_empty()).then_some(Frame { batches }))
}
