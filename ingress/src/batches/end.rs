//! The end of a batch, and how every step of it is stored.

use std::time::{Duration, Instant};

use millrace_admission::SYSTEM_TENANT;
use millrace_files::stored::{self, At};
use millrace_files::{Content, File, now_seconds};

use crate::batches::run::{Ended, Run};
use crate::batches::tell::tell;
use crate::batches::worker::{adopt, lease};
use crate::batches::{Batch, Status, Work};
use crate::files::{self, BATCH_OUTPUT};

/// How often what was done is stored while there is something new, and while there is nothing.
const STORE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));

impl Run {
    /// Makes files of what was written, and then the end known.
    pub(super) async fn close(&mut self) -> Result<Status, Ended> {
        let batch = self.batch();
        if batch.status == Status::InProgress {
            batch.status = Status::Finalizing;
            batch.finalizing_at = Some(now_seconds());
            self.store().await?;
        }
        for (suffix, is_error) in [("output", false), ("error", true)] {
            self.make_file(suffix, is_error).await?;
        }
        let now = now_seconds();
        let batch = self.batch();
        match batch.status {
            Status::Cancelling => {
                batch.status = Status::Cancelled;
                batch.cancelled_at = Some(now);
            }
            Status::Finalizing if batch.expired > 0 => {
                batch.status = Status::Expired;
                batch.expired_at = Some(now);
            }
            Status::Finalizing => {
                batch.status = Status::Completed;
                batch.completed_at = Some(now);
            }
            Status::Validating
            | Status::Failed
            | Status::InProgress
            | Status::Completed
            | Status::Expired
            | Status::Cancelled => {}
        }
        batch.lease = None;
        self.store_without_lease().await?;
        tell(&self.ingress, &self.stored.value).await?;
        let work = At { tenant: SYSTEM_TENANT, id: &self.stored.id };
        stored::delete::<Work>(&self.ingress.storage, work).await?;
        Ok(self.stored.value.status)
    }

    async fn make_file(&self, suffix: &str, is_error: bool) -> Result<(), Ended> {
        let batch = &self.stored.value;
        let output = if is_error { &batch.error } else { &batch.output };
        if output.content.bytes == 0 {
            return Ok(());
        }
        let (storage, tenant) = (&self.ingress.storage, self.principal.tenant.as_str());
        let now = now_seconds();
        let expires_at = batch.output_kept.map(|seconds| now + seconds);
        if let Some(at) = expires_at {
            files::note_due(storage, tenant, &output.file_id, at).await?;
        }
        let file = File {
            id: output.file_id.clone(),
            filename: format!("{}_{suffix}.jsonl", batch.id),
            purpose: BATCH_OUTPUT.to_owned(),
            created_at: now,
            expires_at,
            content: Some(output.content.clone()),
        };
        // One that is there was made by the worker before.
        stored::create(storage, At { tenant, id: &output.file_id }, &file).await?;
        Ok(())
    }

    pub(super) async fn store_now_and_then(&mut self) -> Result<(), Ended> {
        let after = if self.has_news { STORE.0 } else { STORE.1 };
        if self.stored_at.elapsed() >= after { self.store().await } else { Ok(()) }
    }

    /// A part that is full is stored together with all that led to it.
    pub(super) async fn store_full(&mut self) -> Result<(), Ended> {
        if self.output.is_full() || self.error.is_full() { self.store().await } else { Ok(()) }
    }

    pub(super) async fn store(&mut self) -> Result<(), Ended> {
        self.batch().lease = Some(lease(&self.ingress.replica));
        self.store_without_lease().await
    }

    /// Stores what was written, and then that it was.
    pub(super) async fn store_without_lease(&mut self) -> Result<(), Ended> {
        let storage = &self.ingress.storage;
        let contents: [&Content; 2] = [self.output.flush(storage).await?, self.error.flush(storage).await?];
        let [output, error] = contents.map(Clone::clone);
        let batch = &mut self.stored.value;
        batch.output.content = output;
        batch.error.content = error;
        batch.outstanding = self.outstanding.iter().copied().collect();
        loop {
            let tenant = &self.principal.tenant;
            if stored::replace(&self.ingress.storage, tenant, &mut self.stored).await? {
                self.is_ours = true;
                self.stored_at = Instant::now();
                self.has_news = false;
                return Ok(());
            }
            let at = At { tenant, id: &self.stored.id };
            let found = stored::read::<Batch>(&self.ingress.storage, at).await?.ok_or(Ended::Taken)?;
            // Two that take it at once have the same epoch until one of them has stored it.
            if !self.is_ours || found.value.epoch != self.stored.value.epoch {
                return Err(Ended::Taken);
            }
            adopt(&mut self.stored.value, &found.value);
            self.stored.version = found.version;
        }
    }
}
