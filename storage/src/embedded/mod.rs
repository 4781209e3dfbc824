//! The database inside the process: a fjall key-value store in one directory.
//!
//! Durable against the death of the process (kill -9): every write is handed to the operating
//! system before it is acknowledged (`PersistMode::Buffer`, fjall's default). It is not durable
//! against a loss of power: nothing waits for the disk.
//!
//! Every call runs on the blocking pool. A write is a few microseconds into a memtable most of the
//! time, but now and then it waits for an fsync of the journal or for compaction to catch up, and
//! an audit reads everything; an async worker must not stand still for either. The hop costs about
//! as much as the write, which at the rates of an embedded stack is nothing.

mod backup;
mod create;
mod kept;
mod key;
mod keys;
mod ledger;
mod locks;
mod objects;
mod results;
mod usage;
mod webhooks;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::{Database, Guard, Keyspace, KeyspaceCreateOptions, KvSeparationOptions};
use millrace_fail_point::{self as fail_point, Side};

use tokio::sync::Mutex;

use crate::embedded::locks::Locks;
use crate::port::StorageError;

/// Layout of keys and values below. A program refuses a directory of a later one.
const FORMAT: u32 = 1;
/// Keyspaces do not share memtables: small ones bound the memory, 13 * 16 MiB at the most.
const MEMTABLE_BYTES: u64 = 16 * 1024 * 1024;
/// The journal's room on disk before fjall writes memtables out to free it.
const JOURNAL_BYTES: u64 = 128 * 1024 * 1024;

/// What the database says after a write to the disk has failed: it takes no more until it is opened again.
const CLOSED: &str = "a write to the disk failed and the store is opened again; check the disk's free space";

/// The embedded adapter.
pub(crate) struct Embedded {
    path: PathBuf,
    /// None from a write that failed until the store is opened again.
    tables: Mutex<Option<Arc<Tables>>>,
}

/// One keyspace per kind of row; `key.rs` says how keys sort.
pub(crate) struct Tables {
    db: Database,
    /// tenant, request, run -> place, outcome
    results: Keyspace,
    /// tenant, key -> claim
    keys: Keyspace,
    /// tenant, request, coordinates -> waiter
    waiters: Keyspace,
    /// tenant, hour, partition, call, generation, offset -> entry
    entries: Keyspace,
    /// tenant, hour, user, generation, partition -> key, rollup
    rollups: Keyspace,
    /// generation, partition -> upto, state
    checkpoints: Keyspace,
    /// tenant, kind, id -> version, object
    objects: Keyspace,
    /// tenant, file, epoch, part -> content
    parts: Keyspace,
    /// See `objects.rs`: when parts end
    part_ends: Keyspace,
    /// tenant, request -> what was asked
    kept: Keyspace,
    /// tenant, id -> delivery
    webhooks: Keyspace,
    /// lane, shard, minute, id -> due
    webhook_due: Keyspace,
    /// lane, shard -> shard, minute
    webhook_marks: Keyspace,
    /// Makes read-compare-write one step.
    locks: Locks,
}

impl Embedded {
    pub(crate) async fn open(path: PathBuf) -> Result<Self, StorageError> {
        let to_open = path.clone();
        let tables = blocking(move || Tables::open(&to_open)).await?;
        Ok(Self { path, tables: Mutex::new(Some(Arc::new(tables))) })
    }

    /// The tables, opened again when they are closed.
    async fn tables(&self) -> Result<Arc<Tables>, StorageError> {
        let mut held = self.tables.lock().await;
        if let Some(tables) = &*held {
            return Ok(Arc::clone(tables));
        }
        let path = self.path.clone();
        // The last user of the old ones may not have let go yet: whatever is said, it is tried again.
        let opened = blocking(move || Tables::open(&path)).await.map_err(|e| StorageError::Outage(e.to_string()))?;
        tracing::info!("the store is open again");
        Ok(Arc::clone(held.insert(Arc::new(opened))))
    }

    /// Lets go of tables that take no more.
    async fn close(&self, tables: &Arc<Tables>) {
        let mut held = self.tables.lock().await;
        if held.as_ref().is_some_and(|now| Arc::ptr_eq(now, tables)) {
            tracing::error!("a write to the disk failed: the store is closed, and opened again when it can be");
            *held = None;
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tables) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let tables = self.tables().await?;
        let used = Arc::clone(&tables);
        let answer = blocking(move || work(&used)).await;
        if matches!(&answer, Err(StorageError::Outage(why)) if why == CLOSED) {
            self.close(&tables).await;
        }
        answer
    }

    /// [`run`](Self::run) for what changes the store, with the fail points of the same step over CQL.
    async fn write<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&Tables) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        fail_point::reach(Side::Before, || what.to_owned());
        let answer = self.run(work).await?;
        fail_point::reach(Side::After, || what.to_owned());
        Ok(answer)
    }
}

impl Tables {
    fn open(path: &Path) -> Result<Self, StorageError> {
        create::unless_present(path)?;
        let tables = Self::open_in_place(path)?;
        create::remove_drafts(path);
        Ok(tables)
    }

    fn open_in_place(path: &Path) -> Result<Self, StorageError> {
        let db =
            Database::builder(path).max_journaling_size(JOURNAL_BYTES).open().map_err(|error| opening(path, error))?;
        let keyspace = |name: &str, options: fn() -> KeyspaceCreateOptions| {
            db.keyspace(name, options).map_err(|error| opening(path, error))
        };
        let meta = keyspace("meta", plain)?;
        check_format(path, &meta)?;
        Ok(Self {
            results: keyspace("results", outcomes)?,
            keys: keyspace("keys", plain)?,
            waiters: keyspace("waiters", plain)?,
            entries: keyspace("entries", plain)?,
            rollups: keyspace("rollups", plain)?,
            checkpoints: keyspace("checkpoints", plain)?,
            objects: keyspace("objects", plain)?,
            parts: keyspace("file_parts", outcomes)?,
            part_ends: keyspace("file_part_ends", plain)?,
            kept: keyspace("kept", outcomes)?,
            webhooks: keyspace("webhooks", plain)?,
            webhook_due: keyspace("webhook_due", plain)?,
            webhook_marks: keyspace("webhook_marks", plain)?,
            locks: Locks::default(),
            db,
        })
    }
}

fn plain() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
}

/// Outcomes are large and written once: kept beside the tree, so that compaction and counting do
/// not move them.
fn outcomes() -> KeyspaceCreateOptions {
    plain().with_kv_separation(Some(KvSeparationOptions::default()))
}

fn check_format(path: &Path, meta: &Keyspace) -> Result<(), StorageError> {
    match meta.get("format").map_err(|error| opening(path, error))? {
        None => meta.insert("format", FORMAT.to_be_bytes()).map_err(|error| opening(path, error)),
        Some(bytes) if bytes[..] == FORMAT.to_be_bytes() => Ok(()),
        Some(bytes) => Err(StorageError::Refused(format!(
            "{} was written by another version of millrace (format {bytes:?}, this one reads {FORMAT}): use that version, or another storage.path",
            path.display()
        ))),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
        Err(_) => Err(StorageError::Outage("this process is shutting down".to_owned())),
    }
}

fn opening(path: &Path, error: fjall::Error) -> StorageError {
    let path = path.display();
    if matches!(error, fjall::Error::Locked) {
        return StorageError::Refused(format!(
            "{path} is in use by another process: stop that one, or choose another storage.path"
        ));
    }
    match classify(error) {
        StorageError::Outage(why) => StorageError::Outage(format!("cannot open {path}: {why}")),
        StorageError::Refused(why) => StorageError::Refused(format!("cannot open {path}: {why}")),
    }
}

/// Errors of the disk may go away; errors of what is on it do not.
fn classify(error: fjall::Error) -> StorageError {
    match error {
        fjall::Error::Io(why) | fjall::Error::Storage(fjall::LsmError::Io(why)) => {
            StorageError::Outage(format!("{why}; check the disk's free space and permissions"))
        }
        fjall::Error::Poisoned => StorageError::Outage(CLOSED.to_owned()),
        fjall::Error::Storage(_)
        | fjall::Error::JournalRecovery(_)
        | fjall::Error::InvalidVersion(_)
        | fjall::Error::Decompress(_)
        | fjall::Error::InvalidTrailer
        | fjall::Error::InvalidTag(_)
        | fjall::Error::Unrecoverable => {
            StorageError::Refused(format!("the files are damaged ({error:?}): restore the directory from a backup"))
        }
        fjall::Error::KeyspaceDeleted | fjall::Error::Locked => StorageError::Refused(format!("{error:?}")),
        _ => StorageError::Outage(format!("{error:?}")),
    }
}

/// The value of an iterator's item.
fn value(item: Guard) -> Result<fjall::UserValue, StorageError> {
    item.value().map_err(classify)
}
