//! Contents of files: written and read part by part, so that no file is ever in memory as a whole.

use futures::stream::{self, Stream, StreamExt};
use millrace_storage::{MAX_PART_BYTES, PartId, Storage, StorageError};
use serde::{Deserialize, Serialize};

/// Parts of one file that are fetched or deleted at once.
const AT_ONCE: usize = 4;
/// Parts that a writer may have left behind the last one that counts, when it was ended between two steps.
const LEFT_BEHIND: u32 = 16;

/// Parts that one writer wrote, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Which of the file's writers, one after the other.
    pub epoch: u32,
    /// How many.
    pub parts: u32,
}

/// What a file consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Its length.
    pub bytes: u64,
    /// Its parts, in their order.
    pub segments: Vec<Segment>,
}

impl Content {
    fn parts(&self, tenant: &str, file_id: &str, more: u32) -> Vec<PartId> {
        let of = |segment: &Segment| {
            let (tenant, file_id, epoch) = (tenant.to_owned(), file_id.to_owned(), segment.epoch);
            (0..segment.parts + more).map(move |part| PartId {
                tenant: tenant.clone(),
                file_id: file_id.clone(),
                epoch,
                part,
            })
        };
        self.segments.iter().flat_map(of).collect()
    }

    /// The parts' bytes, in their order; an error where one is missing.
    pub fn read(
        &self,
        storage: &Storage,
        tenant: &str,
        file_id: &str,
    ) -> impl Stream<Item = Result<Vec<u8>, StorageError>> + Send + use<> {
        let storage = storage.clone();
        let fetch = move |id: PartId| {
            let parts = storage.parts.clone();
            async move {
                let missing = || StorageError::Refused(format!("the file {} was deleted", id.file_id));
                parts.part(&id).await?.ok_or_else(missing)
            }
        };
        stream::iter(self.parts(tenant, file_id, 0)).map(fetch).buffered(AT_ONCE)
    }

    /// All of its bytes; `None` where a part is missing. For what is known to fit into memory.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn whole(&self, storage: &Storage, tenant: &str, file_id: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let fetch = |id: PartId| async move { storage.parts.part(&id).await };
        let mut parts = stream::iter(self.parts(tenant, file_id, 0)).map(fetch).buffered(AT_ONCE);
        let mut whole = Vec::with_capacity(usize::try_from(self.bytes).unwrap_or_default());
        while let Some(part) = parts.next().await {
            let Some(part) = part? else { return Ok(None) };
            whole.extend_from_slice(&part);
        }
        Ok(Some(whole))
    }

    /// Forgets all of it, and what a writer may have left behind it.
    ///
    /// # Errors
    /// [`StorageError`]; some of it may be gone.
    pub async fn delete(&self, storage: &Storage, tenant: &str, file_id: &str) -> Result<(), StorageError> {
        let delete = |id: PartId| async move { storage.parts.delete_part(&id).await };
        let deleted = stream::iter(self.parts(tenant, file_id, LEFT_BEHIND)).map(delete).buffer_unordered(AT_ONCE);
        deleted.fold(Ok(()), |all, one| std::future::ready(all.and(one))).await
    }
}

/// Writes a file. What was written counts once [`content`](Self::content) is stored in the file's description.
pub struct Writer {
    tenant: String,
    file_id: String,
    epoch: u32,
    content: Content,
    buffer: Vec<u8>,
}

impl Writer {
    /// Goes on behind `content`; no other writer ever has the same `epoch`.
    #[must_use]
    pub fn new(tenant: &str, file_id: &str, epoch: u32, content: Content) -> Self {
        Self { tenant: tenant.to_owned(), file_id: file_id.to_owned(), epoch, content, buffer: Vec::new() }
    }

    /// Takes bytes without storing them.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether there is a part or more to store.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.buffer.len() >= MAX_PART_BYTES
    }

    /// Stores the parts that are full.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn store_full(&mut self, storage: &Storage) -> Result<(), StorageError> {
        while self.is_full() {
            let rest = self.buffer.split_off(MAX_PART_BYTES);
            let part = std::mem::replace(&mut self.buffer, rest);
            self.store(storage, part).await?;
        }
        Ok(())
    }

    /// Stores all that was taken.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn flush(&mut self, storage: &Storage) -> Result<&Content, StorageError> {
        self.store_full(storage).await?;
        if !self.buffer.is_empty() {
            let part = std::mem::take(&mut self.buffer);
            self.store(storage, part).await?;
        }
        Ok(&self.content)
    }

    async fn store(&mut self, storage: &Storage, part: Vec<u8>) -> Result<(), StorageError> {
        let last = self.content.segments.last_mut().filter(|segment| segment.epoch == self.epoch);
        let number = last.as_ref().map_or(0, |segment| segment.parts);
        let (tenant, file_id) = (self.tenant.clone(), self.file_id.clone());
        let id = PartId { tenant, file_id, epoch: self.epoch, part: number };
        let bytes = part.len() as u64;
        storage.parts.put_part(&id, part, None).await?;
        match last {
            Some(segment) => segment.parts += 1,
            None => self.content.segments.push(Segment { epoch: self.epoch, parts: 1 }),
        }
        self.content.bytes += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use millrace_config::StorageConfig;

    use super::*;

    async fn read(storage: &Storage, content: &Content) -> Option<Vec<u8>> {
        content.read(storage, "acme", "file-1").try_concat().await.ok()
    }

    #[tokio::test]
    async fn a_successor_goes_on_behind_what_was_stored_last() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(&StorageConfig::Embedded { path: folder.path().join("store") }).await.unwrap();
        let half = vec![b'a'; MAX_PART_BYTES / 2];
        let mut first = Writer::new("acme", "file-1", 1, Content::default());
        for _ in 0..3 {
            first.push(&half);
            first.store_full(&storage).await.unwrap();
        }
        let stored = first.flush(&storage).await.unwrap().clone();
        assert_eq!(stored.segments, [Segment { epoch: 1, parts: 2 }]);

        // Written and never stored in the description: its successor does not know of it, nor does a reader.
        first.push(b"lost");
        first.flush(&storage).await.unwrap();
        let mut second = Writer::new("acme", "file-1", 2, stored);
        second.push(b"bc");
        let content = second.flush(&storage).await.unwrap().clone();
        first.push(b"late");
        first.flush(&storage).await.unwrap();
        let expected = [&vec![b'a'; MAX_PART_BYTES / 2 * 3][..], b"bc"].concat();
        assert_eq!((content.bytes, content.segments.len()), (expected.len() as u64, 2));
        assert_eq!(read(&storage, &content).await, Some(expected));

        content.delete(&storage, "acme", "file-1").await.unwrap();
        assert_eq!(read(&storage, &content).await, None, "a part is missing");
        assert_eq!(read(&storage, first.flush(&storage).await.unwrap()).await, None, "all of them are");
    }
}
