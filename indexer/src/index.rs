//! Bringing what is stored of a document up to date.

use std::sync::Arc;
use std::time::Duration;

use millrace_schemas::CallLine;
use millrace_stage::core::{Backoff, jitter};
use millrace_stage::{Received, StageError};

use crate::document::{Accepted, poison};
use crate::locks::Locks;
use crate::place::Place;
use crate::plan::{self, Chunk, Recipe, Steps, Verdict};
use crate::ports::{About, EmbedError, Embedded, Embedder, Passages, Point, StoreError};

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// Between tries of a call that only a person can mend: a wrong key, an empty account.
const MENDING_DELAY: Duration = Duration::from_secs(30);

/// More chunks than a text of the largest size has in any sensible configuration.
const MAX_CHUNKS: usize = 32 * 1024;

/// Keeps passages up to date.
pub(crate) struct Index {
    pub embedder: Arc<dyn Embedder>,
    pub passages: Arc<dyn Passages>,
    pub recipe: Recipe,
    pub dimensions: usize,
    /// Chunks embedded by one call, and points stored by one request.
    pub batch: usize,
    pub locks: Locks,
}

/// A version of a document on its way in.
struct Version<'a> {
    record: &'a Received,
    document: &'a Accepted,
    chunks: &'a [Chunk],
    about: Arc<About>,
}

impl Index {
    /// Stores the version of `place` that `record` brings, unless a later one is stored. May be repeated at any
    /// time: what was paid for and stored is found again.
    pub async fn update(&self, record: &Received, place: Place, document: Accepted) -> Result<(), StageError> {
        let (document, chunks) = self.cut(document).await?;
        let about = Arc::new(About {
            key: document.key.clone(),
            title: document.title.clone(),
            metadata: document.metadata.clone(),
            place,
        });
        let version = Version { record, document: &document, chunks: &chunks, about };
        let _one_at_a_time = self.locks.lock(plan::document_uuid(&document.key)).await;
        let stored = self.passages.stored(&document.key).await.map_err(|e| failed(&version, e))?;
        match plan::verdict(&chunks, place, &stored) {
            Verdict::Stale => tracing::info!(at = %record.at, "a later version of the document is stored already"),
            Verdict::Write(steps) => self.write(&version, steps).await?,
        }
        for bill in plan::own_bills(place, &stored) {
            self.embedder.finished(record, &document.who, &bill).await?;
        }
        Ok(())
    }

    async fn cut(&self, document: Accepted) -> Result<(Accepted, Vec<Chunk>), StageError> {
        let recipe = self.recipe.clone();
        let panicked =
            rejected(&document, "internal_error", "The text can not be cut: report its dead letter.".to_owned());
        // Counting the tokens of a large text takes longer than others should wait.
        let cut = tokio::task::spawn_blocking(move || {
            let chunks = plan::chunks(&document, &recipe);
            (document, chunks)
        });
        let (document, chunks) = match cut.await {
            Ok(cut) => cut,
            Err(error) if error.is_panic() => return Err(panicked),
            Err(_) => return Err(StageError::retry("the process ends")),
        };
        let refused = |code: &str, message: String| Err(rejected(&document, code, message));
        match chunks.len() {
            0 => refused("empty_document", "'text' is empty: there is nothing to find in it.".to_owned()),
            1..=MAX_CHUNKS => Ok((document, chunks)),
            count => refused(
                "document_too_large",
                format!("'text' makes {count} chunks, more than {MAX_CHUNKS}: cut it into several documents."),
            ),
        }
    }

    /// What is moved comes first: paid points are stored over what it is moved from.
    async fn write(&self, version: &Version<'_>, steps: Steps) -> Result<(), StageError> {
        let Steps { move_from, mut embed, delete } = steps;
        let gone = self.move_vectors(version, &move_from).await?;
        embed.extend(gone);
        for batch in embed.chunks(self.batch) {
            self.embed_batch(version, batch).await?;
        }
        if !delete.is_empty() {
            self.passages.delete(&delete).await.map_err(|e| failed(version, e))?;
        }
        Ok(())
    }

    /// Stores chunks whose vectors are there; returns those whose are not any more.
    async fn move_vectors(
        &self,
        version: &Version<'_>,
        move_from: &[(usize, uuid::Uuid)],
    ) -> Result<Vec<usize>, StageError> {
        let mut points = Vec::new();
        let mut gone = Vec::new();
        for batch in move_from.chunks(self.batch) {
            let from: Vec<_> = batch.iter().map(|(_, from)| *from).collect();
            let vectors = self.passages.vectors(&from).await.map_err(|e| failed(version, e))?;
            for (number, from) in batch {
                match vectors.get(from) {
                    Some(vector) => points.push(version.point(*number, vector.clone(), None)),
                    None => gone.push(*number),
                }
            }
        }
        for batch in points.chunks(self.batch) {
            self.passages.upsert(batch).await.map_err(|e| failed(version, e))?;
        }
        Ok(gone)
    }

    /// One paid call, its points, its end.
    async fn embed_batch(&self, version: &Version<'_>, batch: &[usize]) -> Result<(), StageError> {
        let texts: Vec<String> = batch.iter().map(|number| version.chunks[*number].input.clone()).collect();
        let Embedded { vectors, line } = self.embed(version, &texts).await?;
        let stored = if let Some(wrong) = vectors.iter().find(|vector| vector.len() != self.dimensions) {
            Err(self.wrong_dimensions(version, wrong.len()))
        } else {
            let numbered = batch.iter().zip(vectors).enumerate();
            let bill = |first: bool| first.then(|| line.clone());
            let points: Vec<Point> =
                numbered.map(|(place, (number, vector))| version.point(*number, vector, bill(place == 0))).collect();
            self.store_paid(version, &points).await
        };
        self.embedder.finished(version.record, &version.document.who, &line).await?;
        stored
    }

    /// A lost call may have been charged, so it is repeated here, where it is counted; what cost
    /// nothing is a retry of the record, which goes on where this one ended.
    async fn embed(&self, version: &Version<'_>, texts: &[String]) -> Result<Embedded, StageError> {
        let Version { record, document, .. } = version;
        let mut lost = 0;
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            let (error, after) = match self.embedder.embed(record, &document.who, texts).await {
                Ok(embedded) => return Ok(embedded),
                Err(EmbedError::Unrecorded(error)) => return Err(error),
                // It would hold up other tenants' documents for as long as its budget lasts.
                Err(EmbedError::UsedUp(error)) => {
                    let message = format!(
                        "{error}. Have the budget raised, then redrive this letter or publish the document again: what is \
                         stored of it is not paid for again."
                    );
                    return Err(rejected(document, "insufficient_quota", message));
                }
                Err(EmbedError::Refused { status: status @ (400 | 413 | 422) }) => {
                    let message = format!("The embedding model answered {status}: it does not take this text.");
                    return Err(rejected(document, "embedding_refused", message));
                }
                Err(EmbedError::Refused { status }) => {
                    let error =
                        format!("the provider answered {status}: check its key, its account and the model's name");
                    (error, Some(MENDING_DELAY))
                }
                Err(EmbedError::Later { error, after }) => (error, after),
                Err(EmbedError::Lost(error)) => {
                    lost += 1;
                    if lost >= self.embedder.max_attempts() {
                        let message = format!(
                            "The embedding model's answer was lost {lost} times, and each may have been charged: \
                             publish the document again when the provider answers again."
                        );
                        return Err(rejected(document, "embedding_lost", message));
                    }
                    (error, None)
                }
            };
            if lost == 0 {
                return Err(StageError::Retry { error: format!("the document can not be embedded: {error}"), after });
            }
            // A retry of the record would forget how many calls were lost.
            let delay = backoff.next(jitter(), after);
            tracing::warn!(at = %record.at, error, ?delay, "chunks are embedded again");
            tokio::time::sleep(delay).await;
        }
    }

    /// Tried for as long as it takes: the vectors are paid for, and nowhere else.
    async fn store_paid(&self, version: &Version<'_>, points: &[Point]) -> Result<(), StageError> {
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            match self.passages.upsert(points).await {
                Ok(()) => return Ok(()),
                Err(error @ (StoreError::Refused(_) | StoreError::Misfit(_))) => return Err(failed(version, error)),
                Err(error @ StoreError::Outage(_)) => {
                    let delay = backoff.next(jitter(), None);
                    tracing::warn!(at = %version.record.at, %error, ?delay, "passages are stored again");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    fn wrong_dimensions(&self, version: &Version<'_>, found: usize) -> StageError {
        let message = format!(
            "The embedding model gave a vector of {found} numbers, not {}: set the model's `dimensions` to what it gives, \
             then publish the document again.",
            self.dimensions
        );
        rejected(version.document, "embedding_dimensions", message)
    }
}

impl Version<'_> {
    fn point(&self, number: usize, vector: Vec<f32>, bill: Option<CallLine>) -> Point {
        let Chunk { id, text, hash, .. } = &self.chunks[number];
        Point {
            id: *id,
            vector,
            document: Arc::clone(&self.about),
            chunk: number,
            text: text.clone(),
            hash: hash.clone(),
            bill,
        }
    }
}

/// What a failure of the store means for the record.
fn failed(version: &Version<'_>, error: StoreError) -> StageError {
    match error {
        StoreError::Outage(_) => StageError::retry(error.to_string()),
        StoreError::Refused(_) => {
            rejected(version.document, "vector_store_refused", format!("It can not be stored: {error}."))
        }
        StoreError::Misfit(_) => StageError::Fatal(error.to_string()),
    }
}

fn rejected(document: &Accepted, code: &str, message: String) -> StageError {
    let mut poison = poison(&document.key.tenant, code, message);
    poison.request_id = Some(document.key.document_id.clone());
    StageError::Poison(Box::new(poison))
}
