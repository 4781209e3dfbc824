//! One batch in the hands of one worker: validated whole, published line by line, its outcomes collected, its files
//! closed. At any moment all of it can be taken over from what is stored.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use millrace_admission::{BatchLine, MAX_BATCH_BYTES, Principal, batch_operation};
use millrace_files::stored::Stored;
use millrace_files::{Writer, find, now_seconds};
use millrace_limits::Reserved;
use millrace_schemas::{Lane, Operation, Outcome, Request, RequestId, now_micros, now_millis};
use millrace_stage::{Outgoing, To};
use millrace_storage::StorageError;
use millrace_telemetry::TraceContext;
use tokio_util::sync::CancellationToken;

use crate::accept::decode;
use crate::batches::judge::{Judge, of_file};
use crate::batches::output::{self, Written};
use crate::batches::worker::lease;
use crate::batches::{Batch, BatchError, Status};
use crate::error::ApiError;
use crate::lines::{Line, Lines};
use crate::run::Ingress;
use crate::together::partition_of;

/// Beside the body, a line's own members.
const MAX_AROUND_BODY: usize = 16 * 1024;
/// Requests written at once: each waits for its acknowledgement.
const WRITES: usize = 256;
/// Outcomes read at once, and in one go.
const READS: usize = 32;
const GO: usize = 512;
/// Pause between two looks for outcomes: shortest, and longest while few of them are there.
const PACE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// After the broker refused, or did not answer.
const BROKER: Duration = Duration::from_secs(1);
/// How long what was taken back is waited for, in seconds: as OpenAI does.
const GRACE: i64 = 600;

/// Why a run ended before its batch did.
#[derive(Debug)]
pub(crate) enum Ended {
    /// This replica drains; the lease is given back.
    Stopped,
    /// Another replica has the batch.
    Taken,
    /// The store does not answer: it is tried again.
    Store(StorageError),
}

impl From<StorageError> for Ended {
    fn from(error: StorageError) -> Self {
        Self::Store(error)
    }
}

/// A line that was read.
pub(super) struct Item {
    /// Its place among the lines that are not blank.
    index: u32,
    number: u32,
    pub line: BatchLine,
    /// What it took of the day's tokens.
    pub reserved: Option<Reserved>,
}

/// A line without an outcome.
struct Open {
    index: u32,
    number: u32,
    custom_id: String,
    request_id: RequestId,
    /// What this worker took of the day's tokens for it.
    reserved: Option<Reserved>,
}

/// A batch and its worker.
pub(crate) struct Run {
    pub(super) ingress: Arc<Ingress>,
    pub(super) stored: Stored<Batch>,
    stop: CancellationToken,
    pub(super) principal: Principal,
    pub(super) operation: Operation,
    /// False until the batch was taken: see [`Run::store`].
    pub(super) is_ours: bool,
    pub(super) stored_at: Instant,
    pub(super) has_news: bool,
    pub(super) output: Writer,
    pub(super) error: Writer,
    /// What was read of the file and not published yet.
    pub(super) ahead: VecDeque<Item>,
    /// Until when it is not asked whether there are tokens of the day.
    pub(super) no_tokens_until: Option<Instant>,
    /// What is looked for, each in its turn.
    open: VecDeque<Open>,
    /// Lines that were published, and are in neither file.
    pub(super) outstanding: BTreeSet<u32>,
    /// When the open ones were taken back, in seconds since the epoch.
    taken_back: Option<i64>,
}

impl Run {
    /// Begins where the last worker stopped. Nothing is ours before the first [`store`](Self::store).
    pub(crate) fn take(ingress: Arc<Ingress>, mut stored: Stored<Batch>, stop: CancellationToken) -> Self {
        let batch = &mut stored.value;
        batch.epoch += 1;
        batch.lease = Some(lease(&ingress.replica));
        let principal = batch.principal.principal();
        // Refused when the batch was made.
        let operation = batch_operation(&batch.endpoint).unwrap_or(Operation::Chat);
        let writer = |file: &crate::batches::Output| {
            Writer::new(&principal.tenant, &file.file_id, batch.epoch, file.content.clone())
        };
        let (output, error) = (writer(&batch.output), writer(&batch.error));
        let outstanding = batch.outstanding.iter().copied().collect();
        Self {
            ingress,
            stored,
            stop,
            principal,
            operation,
            is_ours: false,
            stored_at: Instant::now(),
            has_news: false,
            output,
            error,
            ahead: VecDeque::new(),
            no_tokens_until: None,
            open: VecDeque::new(),
            outstanding,
            taken_back: None,
        }
    }

    pub(super) fn batch(&mut self) -> &mut Batch {
        &mut self.stored.value
    }

    /// Works until the batch has ended, however often that takes a new worker.
    pub(crate) async fn run(mut self) -> Result<Status, Ended> {
        self.store().await?;
        let worked = self.work().await;
        if let Err(Ended::Stopped) = worked {
            // What was done since the last time is stored, and the next replica need not wait.
            self.batch().lease = None;
            self.store_without_lease().await?;
        }
        worked
    }

    async fn work(&mut self) -> Result<Status, Ended> {
        if self.stored.value.status == Status::Validating {
            self.validate().await?;
        }
        match self.stored.value.status {
            Status::InProgress | Status::Cancelling if self.stored.value.total > 0 => self.answer().await?,
            Status::Validating
            | Status::InProgress
            | Status::Cancelling
            | Status::Finalizing
            | Status::Failed
            | Status::Completed
            | Status::Expired
            | Status::Cancelled => {}
        }
        self.close().await
    }

    /// Judges every line, and pays for none.
    async fn validate(&mut self) -> Result<(), Ended> {
        let mut judge = Judge::new(self.principal.clone(), self.operation);
        match self.lines().await {
            Err(error) => judge.errors.push(error),
            Ok(mut lines) => loop {
                match lines.next().await {
                    Ok(Some(lines)) => judge = judge.lines(Arc::clone(&self.ingress), lines).await,
                    Ok(None) => break,
                    Err(StorageError::Refused(why)) => {
                        judge.errors.push(of_file("input_file_unavailable", why));
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
                self.store_now_and_then().await?;
                if self.stored.value.status == Status::Cancelling {
                    return Ok(());
                }
                if self.stop.is_cancelled() {
                    return Err(Ended::Stopped);
                }
                if judge.is_enough() {
                    break;
                }
            },
        }
        if judge.total == 0 && judge.errors.is_empty() {
            judge.errors.push(of_file("empty_file", "The file has no requests: write one a line.".to_owned()));
        }
        let one_model = judge.one_model();
        let batch = self.batch();
        if judge.errors.is_empty() {
            batch.total = judge.total;
            batch.model = one_model;
            batch.status = Status::InProgress;
            batch.in_progress_at = Some(now_seconds());
        } else {
            batch.errors = judge.errors;
            batch.status = Status::Failed;
            batch.failed_at = Some(now_seconds());
        }
        self.store().await
    }

    async fn lines(&self) -> Result<Lines, BatchError> {
        let (storage, batch) = (&self.ingress.storage, &self.stored.value);
        let gone = |why: String| of_file("input_file_unavailable", why);
        let file = find(storage, &self.principal.tenant, &batch.input_file_id).await;
        let file = file.map_err(|error| gone(error.to_string()))?;
        let file = file.ok_or_else(|| gone(format!("The file {} was deleted.", batch.input_file_id)))?;
        let content = file.content.unwrap_or_default();
        if content.bytes > MAX_BATCH_BYTES {
            return Err(of_file(
                "file_too_large",
                format!("The file has more than {MAX_BATCH_BYTES} bytes: split it."),
            ));
        }
        let parts = content.read(storage, &self.principal.tenant, &batch.input_file_id);
        Ok(Lines::new(parts.boxed(), self.ingress.inline_bytes + MAX_AROUND_BODY))
    }

    async fn answer(&mut self) -> Result<(), Ended> {
        let mut lines = match self.lines().await {
            Ok(lines) => Some(lines),
            Err(error) => {
                self.give_up(error);
                None
            }
        };
        let mut index = 0;
        let mut pace = PACE.0;
        loop {
            if self.stop.is_cancelled() {
                return Err(Ended::Stopped);
            }
            self.read_ahead(&mut lines, &mut index).await?;
            self.judge_the_time().await;
            let published = if self.taken_back.is_some() { self.give_back() } else { self.publish().await? };
            let is_filling = published > 0 && self.open.len() * 2 < self.ingress.batch_in_flight;
            let found = is_filling || self.collect(&mut pace).await?;
            if lines.is_none() && self.ahead.is_empty() && self.open.is_empty() {
                return Ok(());
            }
            self.store_now_and_then().await?;
            if published == 0 && !found {
                let _stopped = self.stop.run_until_cancelled(tokio::time::sleep(pace)).await;
            }
        }
    }

    /// Reads lines to publish; and first, all that the last worker left without an outcome.
    async fn read_ahead(&mut self, lines: &mut Option<Lines>, index: &mut u32) -> Result<(), Ended> {
        while (self.ahead.len() < WRITES || self.open.len() < self.outstanding.len())
            && let Some(file) = lines
        {
            match file.next().await {
                Ok(Some(more)) => {
                    for item in self.items(more, index) {
                        if item.index >= self.stored.value.published {
                            self.ahead.push_back(item);
                        } else if self.outstanding.contains(&item.index) {
                            self.open.push_back(self.opened(&item));
                        }
                    }
                }
                Ok(None) => *lines = None,
                Err(StorageError::Refused(why)) => {
                    self.give_up(of_file("input_file_unavailable", why));
                    *lines = None;
                }
                Err(error) => return Err(error.into()),
            }
            self.store_now_and_then().await?;
        }
        Ok(())
    }

    /// Writes off what was not published, and after a while also what was and has no outcome.
    fn give_back(&mut self) -> usize {
        let count = self.ahead.len();
        while let Some(item) = self.ahead.pop_front() {
            let open = self.opened(&item);
            self.batch().published = item.index + 1;
            self.write_off(&open);
        }
        if self.taken_back.is_some_and(|since| now_seconds() - since >= GRACE) {
            while let Some(open) = self.open.pop_front() {
                self.write_off(&open);
            }
        }
        count
    }

    fn items(&self, lines: Vec<Line>, index: &mut u32) -> Vec<Item> {
        let mut items = Vec::with_capacity(lines.len());
        for Line { number, text } in lines {
            // The file was validated, and never changes.
            let line = text.and_then(|text| BatchLine::read(&text, self.operation).ok());
            items.extend(line.map(|line| Item { index: *index, number, line, reserved: None }));
            *index += 1;
        }
        items
    }

    fn opened(&self, item: &Item) -> Open {
        let request_id = RequestId::of_key(&self.principal.tenant, &self.key(item.number));
        let custom_id = item.line.custom_id.clone();
        Open { index: item.index, number: item.number, custom_id, request_id, reserved: None }
    }

    /// The same line is the same request, however often it is published.
    fn key(&self, number: u32) -> String {
        format!("batch:{}:{number}", self.stored.id)
    }

    /// Cancelled, or too late: what is open is taken back, and nothing more is published.
    async fn judge_the_time(&mut self) {
        if self.taken_back.is_some() {
            return;
        }
        let batch = &self.stored.value;
        let can_sign = self.ingress.directory().may_sign(&self.principal, now_millis());
        if batch.status != Status::Cancelling && !can_sign {
            let message = "The key that the batch was made with is not good any more: make it again with another one.";
            self.give_up(of_file("invalid_api_key", message.to_owned()));
        }
        let batch = &self.stored.value;
        if batch.status != Status::Cancelling && batch.expires_at > now_seconds() {
            return;
        }
        self.taken_back = Some(now_seconds());
        let trace = TraceContext::parse_or_random(None).to_string();
        let (ingress, principal) = (&self.ingress, &self.principal);
        let take_back = |open: &Open| {
            let (id, trace) = (open.request_id.as_str().to_owned(), trace.clone());
            async move {
                // One that is not taken back is answered, and then written as it was answered.
                if ingress.take_back(principal, &id, &trace).await.is_err() {
                    tracing::warn!(request_id = id, "a line of a batch could not be taken back");
                }
            }
        };
        let all: Vec<_> = self.open.iter().map(take_back).collect();
        stream::iter(all).buffer_unordered(WRITES).collect::<Vec<()>>().await;
    }

    /// It can not go on, for a reason that its client is told.
    fn give_up(&mut self, error: BatchError) {
        let batch = self.batch();
        batch.errors = vec![error];
        batch.status = Status::Cancelling;
        batch.cancelling_at.get_or_insert_with(now_seconds);
        self.has_news = true;
    }

    /// Publishes what there is room for. What is not acknowledged is published again, which changes nothing.
    async fn publish(&mut self) -> Result<usize, Ended> {
        let room = self.ingress.batch_in_flight.saturating_sub(self.open.len());
        let count = self.take_tokens(room.min(WRITES).min(self.ahead.len())).await;
        if count == 0 {
            return Ok(0);
        }
        let deadline = self.stored.value.expires_at.saturating_mul(1_000);
        let writes = self.ahead.iter().take(count).map(|item| self.write(item, deadline));
        let written = join_all(writes).await;
        let acknowledged = written.iter().take_while(|written| written.is_ok()).count();
        for _ in 0..acknowledged {
            let Some(mut item) = self.ahead.pop_front() else { break };
            let open = Open { reserved: item.reserved.take(), ..self.opened(&item) };
            self.outstanding.insert(open.index);
            self.open.push_back(open);
            self.batch().published = item.index + 1;
            self.has_news = true;
        }
        if acknowledged < count {
            let _stopped = self.stop.run_until_cancelled(tokio::time::sleep(BROKER)).await;
        }
        Ok(acknowledged)
    }

    async fn write(&self, item: &Item, deadline: i64) -> Result<(), ApiError> {
        let open = self.opened(item);
        let request = Request {
            request_id: Some(open.request_id.as_str().to_owned()),
            idempotency_key: Some(self.key(item.number)),
            operation: self.operation.to_string(),
            received_at: Some(now_micros()),
            deadline: Some(deadline),
            user: self.principal.user.clone(),
            ..Request::new(item.line.body.clone().into_bytes())
        };
        let value = self.ingress.encode(&request)?;
        let (topic, count) = self.ingress.partitions(Lane::Batch).await?;
        let partition = partition_of(open.request_id.as_str(), count);
        let record = Outgoing::new(topic, open.request_id.as_str().as_bytes(), value).to(To::Partition(partition));
        let trace = TraceContext::parse_or_random(None).to_string();
        self.ingress
            .write(&self.principal, record, open.request_id.as_str(), &self.principal.tenant, true, &trace)
            .await
    }

    /// Looks for the outcomes that are not there yet, each in its turn, for as long as most of those looked for are
    /// there. Where few of them are, the next look is later. True when there may be more right now.
    async fn collect(&mut self, pace: &mut Duration) -> Result<bool, Ended> {
        for _ in 0..GO / READS {
            let (asked, there) = self.look().await?;
            if there * 2 < asked || asked == 0 {
                *pace = if there * 8 < asked || asked == 0 { (*pace * 2).min(PACE.1) } else { *pace };
                return Ok(false);
            }
            *pace = PACE.0;
        }
        Ok(true)
    }

    /// How many outcomes were looked for, and how many were there.
    async fn look(&mut self) -> Result<(usize, usize), Ended> {
        let wanted: Vec<Open> = (0..READS).map_while(|_| self.open.pop_front()).collect();
        let (results, tenant) = (&self.ingress.storage.results, &self.principal.tenant);
        let found = join_all(wanted.iter().map(|open| results.get(tenant, open.request_id.as_str()))).await;
        let (asked, mut there) = (wanted.len(), 0);
        for (open, found) in wanted.into_iter().zip(found) {
            let outcome = match found? {
                // The registry may be away.
                Some(bytes) => decode(&self.ingress.codec, &bytes).await.ok(),
                None => None,
            };
            match outcome {
                Some(outcome) => {
                    there += 1;
                    self.answered(open, &outcome);
                }
                None => self.open.push_back(open),
            }
            self.store_full().await?;
        }
        Ok((asked, there))
    }

    fn answered(&mut self, mut open: Open, outcome: &Outcome) {
        let is_late = self.taken_back.is_some() && self.stored.value.status != Status::Cancelling;
        let written = output::answered(&self.stored.id, open.number, &open.custom_id, outcome, is_late);
        self.written(&open, &written);
        if let Some(reserved) = open.reserved.take() {
            reserved.settle(u64::try_from(outcome.input_tokens + outcome.output_tokens).unwrap_or(0));
        }
        let batch = self.batch();
        batch.usage.input += outcome.input_tokens;
        batch.usage.output += outcome.output_tokens;
        batch.usage.cached += outcome.bill.iter().map(|line| line.cached_input_tokens).sum::<i64>();
        batch.usage.reasoning += output::reasoning_tokens(outcome);
    }

    /// A line that was not executed.
    fn write_off(&mut self, open: &Open) {
        let is_late = self.stored.value.status != Status::Cancelling;
        let written = output::not_executed(&self.stored.id, open.number, &open.custom_id, is_late);
        self.written(open, &written);
    }

    fn written(&mut self, open: &Open, written: &Written) {
        self.outstanding.remove(&open.index);
        let (writer, batch) = if written.succeeded {
            (&mut self.output, &mut self.stored.value)
        } else {
            (&mut self.error, &mut self.stored.value)
        };
        writer.push(&written.line);
        *(if written.succeeded { &mut batch.completed } else { &mut batch.failed }) += 1;
        batch.expired += u32::from(written.expired);
        self.has_news = true;
    }
}
