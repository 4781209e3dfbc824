//! Between the driver and the workers: one worker per assigned partition.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_stage::{Assignment, Delivery, Handler, StageError};
use millrace_storage::{LedgerStore, StorageError};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::book::Book;
use crate::calls_log::{CallsLog, Trouble};
use crate::failure::Failure;
use crate::metrics::LedgerMetrics;
use crate::spending::Counting;
use crate::start::{self, Start};
use crate::worker::{Settings, Worker};

/// The ledger as the driver sees it.
pub(crate) struct LedgerHandler<L> {
    pub log: Arc<L>,
    pub store: Arc<dyn LedgerStore>,
    /// Of `calls`.
    pub generation: u32,
    pub settings: Settings,
    pub metrics: LedgerMetrics,
    pub counting: Counting,
    pub failure: Arc<Failure>,
    pub workers: Workers,
}

/// Where each partition's deliveries go. The channels have no bound of their own: the driver's
/// window, records and bytes bound what is in them.
#[derive(Default)]
pub(crate) struct Workers(Mutex<HashMap<i32, UnboundedSender<Delivery>>>);

impl Workers {
    fn by_partition(&self) -> MutexGuard<'_, HashMap<i32, UnboundedSender<Delivery>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: CallsLog> LedgerHandler<L> {
    /// The book that goes on where the last flush ended, when it fits the log.
    async fn book(&self, assignment: &Assignment) -> Result<Book, StageError> {
        let partition = assignment.partition.number;
        let counting = self.counting.clone();
        let stored = Book::load(Arc::clone(&self.store), self.generation, partition, counting.clone()).await;
        let stored = stored.map_err(unavailable)?;
        // Asked after the checkpoint was read: another owner may just have written both.
        let bounds = self.log.bounds(partition).await.map_err(|trouble| match trouble {
            Trouble::Outage(error) => StageError::retry(error),
            Trouble::Poison(error) | Trouble::Fatal(error) => StageError::Fatal(error),
        })?;
        let upto = stored.as_ref().map(|book| book.fold().upto());
        match start::check(partition, upto, assignment.committed, bounds) {
            Start::Whole => {}
            Start::Gap(error) => tracing::error!(partition, error, "calls were lost before they were booked"),
            Start::Refused(error) => return Err(StageError::Fatal(error)),
        }
        Ok(stored.unwrap_or_else(|| Book::empty(Arc::clone(&self.store), self.generation, partition, counting)))
    }
}

impl<L: CallsLog> Handler for LedgerHandler<L> {
    async fn assigned(&self, assignment: &Assignment) -> Result<(), StageError> {
        let partition = assignment.partition.number;
        let book = self.book(assignment).await?;
        let (deliveries, jobs) = unbounded_channel();
        let worker = Worker::new(
            partition,
            book,
            Arc::clone(&self.log),
            jobs,
            self.settings,
            self.metrics.clone(),
            Arc::clone(&self.failure),
        );
        self.workers.by_partition().insert(partition, deliveries);
        tokio::spawn(worker.run(assignment.token.clone()));
        Ok(())
    }

    fn deliver(&self, delivery: Delivery) {
        let partition = delivery.record.at.partition;
        let undelivered = match self.workers.by_partition().get(&partition) {
            Some(worker) => worker.send(delivery).err().map(|error| error.0),
            None => Some(delivery),
        };
        if let Some(delivery) = undelivered
            && !delivery.record.assignment.is_cancelled()
        {
            delivery.fatal(format!("the ledger's worker of partition {partition} has ended"));
        }
    }
}

fn unavailable(error: StorageError) -> StageError {
    match error {
        StorageError::Outage(_) => StageError::retry(error.to_string()),
        StorageError::Refused(_) => StageError::Fatal(error.to_string()),
    }
}
