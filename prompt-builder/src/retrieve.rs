//! Finding passages: is there anything to find, embed the question (paid), search.

use std::sync::Arc;
use std::time::Duration;

use millrace_admission::Retrieval;
use millrace_provider::Who;
use millrace_schemas::{CallLine, Ended, Meta, time_until};
use millrace_stage::core::{Backoff, jitter};
use millrace_stage::{Received, StageError};

use crate::decide::{budget_used_up, retrieval_failed};
use crate::ports::{EmbedError, Embedded, Embedder, Passage, Passages, SearchError};

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// What became of a retrieval, and its bill.
#[derive(Debug)]
pub(crate) struct Retrieved {
    pub passages: Result<Vec<Passage>, Ended>,
    pub bill: Vec<CallLine>,
}

/// Finds passages.
pub(crate) struct Retriever {
    pub embedder: Arc<dyn Embedder>,
    pub passages: Arc<dyn Passages>,
}

impl Retriever {
    /// Before anything is paid an outage is a retry of the whole record. Afterwards the search is
    /// tried on here, so that the question is paid for once.
    pub async fn retrieve(&self, record: &Received, meta: &Meta, wanted: &Retrieval) -> Result<Retrieved, StageError> {
        let mut bill = Vec::new();
        match self.passages.any(&meta.tenant, &wanted.collection).await {
            Ok(true) => {}
            Ok(false) => return Ok(Retrieved { passages: Ok(Vec::new()), bill }),
            Err(error @ SearchError::Outage(_)) => return Err(StageError::retry(error.to_string())),
            Err(error @ SearchError::Refused(_)) => return Ok(refused(&error, bill)),
        }
        let vector = match self.embed(record, meta, &wanted.question, &mut bill).await? {
            Ok(vector) => vector,
            Err(ended) => return Ok(Retrieved { passages: Err(ended), bill }),
        };
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            match self.passages.search(&meta.tenant, &wanted.collection, vector.clone(), wanted.top_k).await {
                Ok(passages) => return Ok(Retrieved { passages: Ok(passages), bill }),
                Err(error @ SearchError::Refused(_)) => return Ok(refused(&error, bill)),
                Err(SearchError::Outage(error)) => {
                    let Some(delay) = within(meta.deadline, backoff.next(jitter(), None)) else {
                        return Ok(Retrieved { passages: Err(too_late()), bill });
                    };
                    tracing::warn!(at = %record.at, error, ?delay, "passages are searched again");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// The question's vector. A lost call may have been charged, so it is repeated here, where it is
    /// counted and billed; what cost nothing is a retry of the record.
    async fn embed(
        &self,
        record: &Received,
        meta: &Meta,
        question: &str,
        bill: &mut Vec<CallLine>,
    ) -> Result<Result<Vec<f32>, Ended>, StageError> {
        let who = Who::of(meta);
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            match self.embedder.embed(record, &who, question).await {
                Ok(Embedded { vector, line }) => {
                    bill.push(line);
                    return Ok(Ok(vector));
                }
                Err(EmbedError::Unrecorded(error)) => return Err(error),
                // With a lost call on the bill the record goes on here: a retry would forget it.
                Err(EmbedError::Later { error, after }) if bill.is_empty() => {
                    return Err(StageError::Retry {
                        error: format!("the question can not be embedded: {error}"),
                        after,
                    });
                }
                Err(EmbedError::Later { error, after }) => {
                    let Some(delay) = within(meta.deadline, backoff.next(jitter(), after)) else {
                        return Ok(Err(too_late()));
                    };
                    tracing::warn!(at = %record.at, error, ?delay, "the question is embedded again");
                    tokio::time::sleep(delay).await;
                }
                Err(EmbedError::UsedUp(error)) => return Ok(Err(budget_used_up(&error))),
                Err(EmbedError::Refused { status, line }) => {
                    bill.extend(line);
                    return Ok(Err(retrieval_failed(&format!("the embedding model answered {status}"))));
                }
                Err(EmbedError::Lost { error, line }) => {
                    bill.extend(line);
                    let delay = within(meta.deadline, backoff.next(jitter(), None));
                    let lost = u32::try_from(bill.len()).unwrap_or(u32::MAX);
                    if lost >= self.embedder.max_attempts() {
                        return Ok(Err(retrieval_failed("the embedding model does not answer in time")));
                    }
                    let Some(delay) = delay else { return Ok(Err(too_late())) };
                    tracing::warn!(at = %record.at, error, ?delay, "the question is embedded again");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }
}

/// The delay, if it ends before the deadline (milliseconds since the epoch).
fn within(deadline: i64, delay: Duration) -> Option<Duration> {
    (delay < time_until(deadline)?).then_some(delay)
}

fn too_late() -> Ended {
    Ended::expired(
        "The deadline passed before the passages of the collection could be had: send it again with a later one.",
    )
}

fn refused(error: &SearchError, bill: Vec<CallLine>) -> Retrieved {
    tracing::error!(%error, "the vector store refuses a search; its collection does not fit the embedding model");
    Retrieved { passages: Err(retrieval_failed("the vector store refuses the search")), bill }
}
