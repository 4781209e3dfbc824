//! Bodies of requests and prompts that are too large for their records.
//!
//! A body is written in parts before the record that names it, and forgotten by the store when its time is over:
//! nothing lists bodies, and nothing has to find what a crash leaves behind. Its name says how long it is and what is
//! in it, so one that lacks something, or has changed, is never taken for the body that was meant.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use millrace_schemas::body_hash;
use millrace_storage::{MAX_PART_BYTES, PartId, Storage, StorageError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::content::{Content, Segment};
use crate::file;

/// How names of bodies begin; those of files do not.
const PREFIX: &str = millrace_storage::BODY_PREFIX;
/// Digits of a SHA-256.
const HASH_DIGITS: usize = 64;
/// Parts that are written at once.
const AT_ONCE: usize = 4;
/// What a body takes while it is worked on, in its own lengths: as it was read, parsed, and written again.
const COPIES: u64 = 3;
/// Room is given out in pieces of so many bytes.
const PIECE: u64 = 1_024;

/// The name of a body; no other one has the same `id`, unless it is written again.
#[must_use]
pub fn name(id: Uuid, body: &[u8]) -> String {
    format!("{PREFIX}{}-{}-{}", id.simple(), body.len(), body_hash(body))
}

/// Whether the body that is named is this one.
#[must_use]
pub fn is_named(name: &str, body: &[u8]) -> bool {
    parse(name).is_some_and(|(bytes, hash)| bytes == body.len() as u64 && hash == body_hash(body))
}

/// Length and hash. Whatever is not written as [`name`] writes it is no name: it may come from anybody, and have any length.
fn parse(name: &str) -> Option<(u64, &str)> {
    let (id, rest) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let (length, hash) = rest.split_once('-')?;
    let (id, bytes) = (Uuid::try_parse(id).ok()?, length.parse().ok()?);
    let is_ours = name == format!("{PREFIX}{}-{bytes}-{hash}", id.simple());
    let is_hash = hash.len() == HASH_DIGITS && hash.bytes().all(|b| b.is_ascii_hexdigit());
    (is_ours && is_hash).then_some((bytes, hash))
}

fn content(bytes: u64) -> Content {
    let parts = u32::try_from(bytes.div_ceil(MAX_PART_BYTES as u64)).unwrap_or(u32::MAX);
    Content { bytes, segments: vec![Segment { epoch: 0, parts }] }
}

/// Writes a body, which is there for `kept`. Writing it again changes nothing but the time.
///
/// # Errors
/// [`StorageError`]; what was written of it goes when its time is over.
pub async fn keep(
    storage: &Storage,
    tenant: &str,
    name: &str,
    body: &[u8],
    kept: Duration,
) -> Result<(), StorageError> {
    let writes = (0..).zip(body.chunks(MAX_PART_BYTES)).map(|(part, bytes)| {
        let id = PartId { tenant: tenant.to_owned(), file_id: name.to_owned(), epoch: 0, part };
        async move { storage.parts.put_part(&id, bytes.to_vec(), Some(kept)).await }
    });
    let writes: Vec<_> = writes.collect();
    stream::iter(writes).buffer_unordered(AT_ONCE).try_collect().await
}

/// What a record names: a body, or a file of its tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    name: String,
    content: Content,
}

impl Beside {
    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.content.bytes
    }
}

/// A place for a body in memory. Dropping it gives the place back.
#[must_use]
#[derive(Debug)]
pub struct Room {
    _permit: OwnedSemaphorePermit,
}

/// Reads what records name. Cheap to clone; clones share their room.
#[derive(Clone)]
pub struct Bodies {
    storage: Storage,
    room: Arc<Semaphore>,
    pieces: u32,
}

impl Bodies {
    /// Bodies in a store, which take at most `bytes` of memory at a time.
    #[must_use]
    pub fn new(storage: Storage, bytes: usize) -> Self {
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let pieces = u32::try_from(bytes as u64 / PIECE).unwrap_or(most).clamp(1, most);
        Self { storage, room: Arc::new(Semaphore::new(pieces as usize)), pieces }
    }

    /// Writes a body: see [`keep`].
    ///
    /// # Errors
    /// As [`keep`].
    pub async fn keep(&self, tenant: &str, name: &str, body: &[u8], kept: Duration) -> Result<(), StorageError> {
        keep(&self.storage, tenant, name, body, kept).await
    }

    /// What a record of this tenant names; `None` when there is no such file.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn find(&self, tenant: &str, name: &str) -> Result<Option<Beside>, StorageError> {
        let content = match parse(name) {
            Some((bytes, _)) => Some(content(bytes)),
            None if file::is_id(name) => file::find(&self.storage, tenant, name).await?.and_then(|file| file.content),
            None => None,
        };
        Ok(content.map(|content| Beside { name: name.to_owned(), content }))
    }

    /// Waits for as much room as it takes to work on a body of so many bytes: all there is, for one that takes more.
    pub async fn room(&self, bytes: u64) -> Option<Room> {
        let pieces = (bytes.saturating_mul(COPIES) / PIECE).clamp(1, self.pieces.into());
        let pieces = u32::try_from(pieces).unwrap_or(self.pieces);
        Arc::clone(&self.room).acquire_many_owned(pieces).await.ok().map(|permit| Room { _permit: permit })
    }

    /// Reads it; `None` where it is not there any more, or not what it was.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn read(&self, tenant: &str, beside: &Beside) -> Result<Option<Vec<u8>>, StorageError> {
        let Beside { name, content } = beside;
        let read = content.whole(&self.storage, tenant, name).await?;
        Ok(read.filter(|body| parse(name).is_none() || is_named(name, body)))
    }
}

#[cfg(test)]
mod tests {
    use millrace_config::StorageConfig;

    use super::*;
    use crate::stored::{self, At};
    use crate::{File, Writer, now_seconds};

    const HOUR: Duration = Duration::from_secs(3_600);

    async fn open(folder: &tempfile::TempDir) -> Storage {
        Storage::open(&StorageConfig::Embedded { path: folder.path().join("store") }).await.unwrap()
    }

    async fn read(bodies: &Bodies, tenant: &str, name: &str) -> Option<Vec<u8>> {
        let beside = bodies.find(tenant, name).await.unwrap()?;
        bodies.read(tenant, &beside).await.unwrap()
    }

    #[tokio::test]
    async fn a_body_is_read_by_its_tenant_as_it_was_written_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(&folder).await;
        let bodies = Bodies::new(storage.clone(), 1 << 30);
        let body: Vec<u8> = (0..MAX_PART_BYTES * 2 + 7).map(|n| (n % 251) as u8).collect();
        let name = name(Uuid::now_v7(), &body);
        assert_eq!(read(&bodies, "acme", &name).await, None, "not written");
        for _ in 0..2 {
            bodies.keep("acme", &name, &body, HOUR).await.unwrap();
        }
        assert_eq!(read(&bodies, "acme", &name).await.as_deref(), Some(&body[..]));
        assert_eq!(read(&bodies, "rival", &name).await, None, "another tenant's");

        let part = |part| PartId { tenant: "acme".to_owned(), file_id: name.clone(), epoch: 0, part };
        let last = body[MAX_PART_BYTES * 2..].to_vec();
        storage.parts.put_part(&part(2), [&last[..6], b"?"].concat(), None).await.unwrap();
        assert_eq!(read(&bodies, "acme", &name).await, None, "changed");
        storage.parts.put_part(&part(2), last, None).await.unwrap();
        assert_eq!(read(&bodies, "acme", &name).await, Some(body));
        storage.parts.delete_part(&part(1)).await.unwrap();
        assert_eq!(read(&bodies, "acme", &name).await, None, "incomplete");
    }

    #[tokio::test]
    async fn a_file_is_read_by_its_id_while_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(&folder).await;
        let bodies = Bodies::new(storage.clone(), 1 << 30);
        let at = At { tenant: "acme", id: "file-1" };
        let mut writer = Writer::new(at.tenant, at.id, 3, Content::default());
        writer.push(b"{}");
        let file = File {
            id: at.id.to_owned(),
            filename: "body.json".to_owned(),
            purpose: "user_data".to_owned(),
            created_at: 0,
            expires_at: Some(now_seconds() + 1_000),
            content: Some(writer.flush(&storage).await.unwrap().clone()),
        };
        stored::create(&storage, at, &file).await.unwrap();
        assert_eq!(read(&bodies, "acme", "file-1").await, Some(b"{}".to_vec()));
        assert_eq!(bodies.find("acme", "file-1").await.unwrap().map(|beside| beside.bytes()), Some(2));
        for (tenant, name) in [("rival", "file-1"), ("acme", "file-2"), ("acme", ""), ("acme", "body-1")] {
            assert_eq!(bodies.find(tenant, name).await.unwrap(), None, "{tenant} {name}");
        }
        let mut over = stored::read::<File>(&storage, at).await.unwrap().unwrap();
        over.value.expires_at = Some(now_seconds() - 1);
        assert!(stored::replace(&storage, "acme", &mut over).await.unwrap());
        assert_eq!(bodies.find("acme", "file-1").await.unwrap(), None, "its time is over");
    }

    #[tokio::test]
    async fn a_body_that_is_larger_than_all_room_goes_alone() {
        let folder = tempfile::tempdir().unwrap();
        let bodies = Bodies::new(open(&folder).await, 1_000);
        let body = vec![b'x'; 50_000];
        let name = name(Uuid::now_v7(), &body);
        bodies.keep("acme", &name, &body, HOUR).await.unwrap();
        let beside = bodies.find("acme", &name).await.unwrap().unwrap();
        let room = bodies.room(beside.bytes()).await;
        assert!(room.is_some() && futures::FutureExt::now_or_never(bodies.room(1)).is_none(), "nobody beside it");
        assert_eq!(bodies.read("acme", &beside).await.unwrap(), Some(body));
        drop(room);
        assert!(bodies.room(1).await.is_some());
    }

    #[test]
    fn a_name_is_of_one_body() {
        let of = name(Uuid::nil(), b"body");
        assert!(is_named(&of, b"body") && !is_named(&of, b"bodY") && !is_named(&of, b"body "));
        let (long, padded) = (format!("{of}{}", "0".repeat(70_000)), of.replace("-4-", "-0000004-"));
        for other in
            ["", "file-1", "body-", "body-1-4-x", &of[..of.len() - 70], &of.replace("-4-", "-four-"), &long, &padded]
        {
            assert_eq!(parse(other), None, "{other:.200}");
        }
    }

    #[tokio::test]
    async fn no_more_is_read_at_a_time_than_there_is_room_for() {
        let folder = tempfile::tempdir().unwrap();
        let bodies = Bodies::new(open(&folder).await, 6 * 1_024);
        let (first, second) = (bodies.room(1_024).await, bodies.room(1_000).await);
        let more = |bytes| futures::FutureExt::now_or_never(bodies.room(bytes)).flatten();
        assert!(more(1_024).is_none());
        drop(first);
        assert!(more(1_024).is_some());
        assert!(more(1 << 40).is_none(), "all of it is taken by the largest");
        drop(second);
        assert!(more(1 << 40).is_some());
    }
}
