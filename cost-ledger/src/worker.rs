//! Works off one partition: folds its records in order, flushes, settles, sweeps.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use millrace_schemas::{Call, now_micros};
use millrace_stage::core::{Backoff, jitter};
use millrace_stage::{Delivery, Received, Settled};
use millrace_storage::StorageError;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::book::{Book, Folded};
use crate::calls_log::{CallsLog, Trouble};
use crate::failure::Failure;
use crate::fold::Ignored;
use crate::metrics::{LedgerMetrics, OpenCalls};
use crate::sweep::{Next, Sweep};

/// Records of one sweep on their way at a time.
const APPENDS: usize = 64;

/// Between two publications of changed spending, and of all of it: a former owner's last words may be the
/// latest of some keys, and are outlived by that.
const PUBLISH: Duration = Duration::from_millis(200);
const PUBLISH_ALL: Duration = Duration::from_secs(300);

/// Bounds and times.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Records folded before a flush.
    pub flush_calls: usize,
    /// The longest that a folded record waits for its flush.
    pub flush_interval: Duration,
    /// How long after its deadline a call is declared unconfirmed.
    pub grace: Duration,
}

/// A record with the duty to settle it; a [`Delivery`] outside of tests.
pub trait Job: Send + 'static {
    /// The record.
    fn record(&self) -> &Received;
    /// Everything that it became is durable.
    fn settle(self, outcome: Settled);
    /// Ends the whole ledger.
    fn fatal(self, error: String);
}

impl Job for Delivery {
    fn record(&self) -> &Received {
        &self.record
    }

    fn settle(self, outcome: Settled) {
        Delivery::settle(self, outcome);
    }

    fn fatal(self, error: String) {
        Delivery::fatal(self, error);
    }
}

/// The worker of one partition and assignment.
pub struct Worker<L, J> {
    partition: i32,
    log: Arc<L>,
    book: Book,
    jobs: UnboundedReceiver<J>,
    settings: Settings,
    metrics: LedgerMetrics,
    failure: Arc<Failure>,
    unsettled: Vec<(J, Settled)>,
    open_calls: OpenCalls,
    sweep: Sweep,
    sweeping: Option<Sweeping>,
    /// What was published last and when all of it was; nothing yet, or not for sure.
    published: Option<(i64, Instant)>,
    publishing: Option<Publishing>,
}

/// Ends with what it published, if it did.
type Publishing = Pin<Box<dyn Future<Output = (Option<(i64, Instant)>, Result<(), Trouble>)> + Send>>;

type Sweeping = Pin<Box<dyn Future<Output = Swept> + Send>>;

/// What came of a step of the sweep.
enum Swept {
    End(Vec<String>, Result<(i64, i64), Trouble>),
    Appended(Vec<(String, Result<(), Trouble>)>),
}

impl<L: CallsLog, J: Job> Worker<L, J> {
    /// A worker that goes on from `book`.
    pub fn new(
        partition: i32,
        book: Book,
        log: Arc<L>,
        jobs: UnboundedReceiver<J>,
        settings: Settings,
        metrics: LedgerMetrics,
        failure: Arc<Failure>,
    ) -> Self {
        let open_calls = metrics.open_calls();
        let grace = i64::try_from(settings.grace.as_millis()).unwrap_or(i64::MAX);
        Self {
            partition,
            log,
            book,
            jobs,
            settings,
            metrics,
            failure,
            unsettled: Vec::new(),
            open_calls,
            sweep: Sweep::new(grace),
            sweeping: None,
            published: None,
            publishing: None,
        }
    }

    /// Works until the partition is taken away. What is unsettled then is the next owner's.
    pub async fn run(mut self, token: CancellationToken) {
        if let Some(Err(error)) = token.run_until_cancelled(self.work()).await {
            match self.unsettled.pop() {
                Some((job, _)) => job.fatal(error),
                None => self.failure.fail(error),
            }
        }
    }

    /// Ends when nobody delivers any more, or with the error that ends the ledger.
    async fn work(&mut self) -> Result<(), String> {
        let mut ticks = tokio::time::interval(self.settings.flush_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut publications = tokio::time::interval(PUBLISH);
        publications.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.open_calls.set(self.book.fold().open().len());
        loop {
            let sweeping = async {
                match &mut self.sweeping {
                    Some(step) => step.await,
                    None => std::future::pending().await,
                }
            };
            let publishing = async {
                match &mut self.publishing {
                    Some(step) => step.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                job = self.jobs.recv() => match job {
                    Some(job) => self.take(job).await?,
                    None => return Ok(()),
                },
                _ = ticks.tick() => {
                    self.flush().await?;
                    self.sweep();
                }
                swept = sweeping => {
                    self.sweeping = None;
                    self.swept(swept)?;
                }
                _ = publications.tick() => self.publish(),
                published = publishing => {
                    self.publishing = None;
                    self.published(published)?;
                }
            }
        }
    }

    /// Folds a record, however long it takes. The job is among the unsettled even after an error, so
    /// that it can tell it.
    async fn take(&mut self, job: J) -> Result<(), String> {
        let folded = self.fold_patiently(job.record()).await;
        let (settled, error) = folded.map_or_else(|error| (Settled::Done, Some(error)), |settled| (settled, None));
        self.unsettled.push((job, settled));
        match error {
            Some(error) => Err(error),
            None if self.unsettled.len() >= self.settings.flush_calls => self.flush().await,
            None => Ok(()),
        }
    }

    async fn fold_patiently(&mut self, record: &Received) -> Result<Settled, String> {
        let mut backoff = patience();
        loop {
            match self.fold(record).await {
                Ok(settled) => return Ok(settled),
                Err(Trouble::Outage(error)) => {
                    // What is folded already must not wait for this record.
                    self.flush().await?;
                    self.metrics.retried();
                    wait(&mut backoff, "a call can not be folded yet, trying again", &error).await;
                }
                Err(Trouble::Poison(error) | Trouble::Fatal(error)) => return Err(error),
            }
        }
    }

    /// Decode, fold, or bury. Nothing has changed after an error.
    async fn fold(&mut self, record: &Received) -> Result<Settled, Trouble> {
        let offset = record.at.offset;
        if offset <= self.book.fold().upto() {
            // The checkpoint was ahead of the commit.
            return Ok(Settled::Recovered);
        }
        let refused = match self.log.decode(record).await {
            Ok(call) => match self.book.take(offset, &call).await.map_err(trouble)? {
                Folded::Taken => return Ok(Settled::Done),
                Folded::Ignored(why) => {
                    self.metrics.ignored(why);
                    if why == Ignored::Unknown {
                        tracing::warn!(at = %record.at, call_id = call.call_id, "the end of a call that never began is ignored");
                    }
                    return Ok(Settled::Done);
                }
                Folded::Refused(error) => error,
            },
            Err(Trouble::Poison(error)) => error,
            Err(other @ (Trouble::Outage(_) | Trouble::Fatal(_))) => return Err(other),
        };
        tracing::warn!(at = %record.at, error = refused, "record is dead-lettered");
        self.log.bury(record, &refused).await?;
        self.book.pass(offset);
        Ok(Settled::DeadLettered)
    }

    /// Makes what is folded durable, then settles it, in the order of the log.
    async fn flush(&mut self) -> Result<(), String> {
        if self.unsettled.is_empty() {
            return Ok(());
        }
        let mut backoff = patience();
        let booked = loop {
            match self.book.flush().await {
                Ok(booked) => break booked,
                Err(StorageError::Outage(error)) => {
                    self.metrics.retried();
                    wait(&mut backoff, "the ledger can not be flushed yet, trying again", &error).await;
                }
                Err(StorageError::Refused(error)) => return Err(error),
            }
        };
        self.metrics.booked(&booked);
        self.open_calls.set(self.book.fold().open().len());
        self.unsettled.drain(..).for_each(|(job, settled)| job.settle(settled));
        Ok(())
    }

    /// Begins to publish what was spent since the last time.
    fn publish(&mut self) {
        let upto = self.book.fold().upto();
        if self.publishing.is_some() || !self.book.is_watched() {
            return;
        }
        let last_whole = self.published.map(|(_, when)| when).filter(|when| when.elapsed() < PUBLISH_ALL);
        if last_whole.is_some() && self.published.is_some_and(|(published, _)| published == upto) {
            return;
        }
        let budgets = self.book.budgets(last_whole.is_none());
        let (log, now) = (Arc::clone(&self.log), last_whole.unwrap_or_else(Instant::now));
        self.publishing = Some(Box::pin(async move {
            let result = log.publish(budgets).await;
            (result.is_ok().then_some((upto, now)), result)
        }));
    }

    fn published(&mut self, (what, result): (Option<(i64, Instant)>, Result<(), Trouble>)) -> Result<(), String> {
        self.published = what;
        match result {
            Ok(()) => Ok(()),
            Err(Trouble::Outage(error)) => {
                tracing::warn!(error, partition = self.partition, "spending can not be published yet, trying again");
                Ok(())
            }
            Err(Trouble::Fatal(error) | Trouble::Poison(error)) => Err(error),
        }
    }

    fn sweep(&mut self) {
        if self.sweeping.is_some() {
            return;
        }
        let (log, partition) = (Arc::clone(&self.log), self.partition);
        self.sweeping = match self.sweep.next(self.book.fold(), now_micros()) {
            Next::Rest => None,
            Next::FetchEnd(calls) => Some(Box::pin(async move {
                let bounds = log.bounds(partition).await;
                Swept::End(calls, bounds)
            })),
            Next::Append(records) => Some(Box::pin(append(log, partition, records))),
        };
    }

    fn swept(&mut self, swept: Swept) -> Result<(), String> {
        let appended = match swept {
            Swept::End(calls, Ok((_, end))) => {
                self.sweep.fenced(calls, end);
                return Ok(());
            }
            Swept::End(_, Err(error)) => vec![(String::new(), Err(error))],
            Swept::Appended(appended) => appended,
        };
        for (call_id, result) in appended {
            match result {
                Ok(()) => {
                    tracing::warn!(call_id, partition = self.partition, "no end of a call was seen, it is unconfirmed");
                    self.sweep.declared(call_id);
                }
                // The next sweep tries again; a second record is ignored by the fold.
                Err(Trouble::Outage(error)) => tracing::warn!(error, "overdue calls can not be declared yet"),
                Err(Trouble::Fatal(error) | Trouble::Poison(error)) => return Err(error),
            }
        }
        Ok(())
    }
}

async fn append<L: CallsLog>(log: Arc<L>, partition: i32, records: Vec<Call>) -> Swept {
    let appends = records.into_iter().map(|call| {
        let log = Arc::clone(&log);
        async move {
            let result = log.append(partition, &call).await;
            (call.call_id, result)
        }
    });
    Swept::Appended(stream::iter(appends).buffer_unordered(APPENDS).collect().await)
}

fn trouble(error: StorageError) -> Trouble {
    match error {
        StorageError::Outage(_) => Trouble::Outage(error.to_string()),
        StorageError::Refused(_) => Trouble::Fatal(error.to_string()),
    }
}

fn patience() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(5))
}

async fn wait(backoff: &mut Backoff, message: &'static str, error: &str) {
    let delay = backoff.next(jitter(), None);
    tracing::warn!(error, ?delay, "{message}");
    tokio::time::sleep(delay).await;
}
