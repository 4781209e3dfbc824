//! One collection: a shard of qdrant-edge and the directory that it lives in.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use qdrant_edge::{EdgeConfig, EdgeShard, OperationError, OperationResult, UpdateOperation, WalOptions};
use tonic::Status;

/// The log is written and never read, so it need not be large.
const LOG_SEGMENT_BYTES: usize = 4 * 1024 * 1024;
const LOG_DIRECTORY: &str = "wal";
const CLOSED_LOG: &str = "closed-";

/// Changed points after which the shard indexes them and takes the deleted ones out. Below it a
/// search over everything is as fast.
const OPTIMIZE_AFTER: usize = 20_000;

/// A collection, or what is left of one that was deleted.
#[derive(Debug)]
pub(super) struct Collection {
    directory: PathBuf,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    shard: Option<EdgeShard>,
    changed: usize,
}

impl Collection {
    pub(super) fn create(directory: &Path, mut config: EdgeConfig) -> OperationResult<()> {
        config.wal_options = Some(WalOptions { segment_capacity: LOG_SEGMENT_BYTES, ..WalOptions::default() });
        // Dropping it writes it to disk.
        EdgeShard::new(directory, config).map(drop)
    }

    pub(super) fn open(directory: PathBuf) -> OperationResult<Self> {
        prune_log(&directory)?;
        let shard = EdgeShard::load(&directory, None)?;
        let state = State { shard: Some(shard), changed: 0 };
        Ok(Self { directory, state: RwLock::new(state) })
    }

    /// Reads from the shard; any number of readers at a time.
    pub(super) fn read<T>(&self, read: impl FnOnce(&EdgeShard) -> OperationResult<T>) -> Result<T, Status> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let shard = state.shard.as_ref().ok_or_else(gone)?;
        read(shard).map_err(status)
    }

    /// Changes the shard and returns when the change is on disk.
    pub(super) fn change(&self, points: usize, operation: UpdateOperation) -> Result<(), Status> {
        // The shard's own flush panics if anybody else works on it meanwhile.
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let shard = state.shard.as_ref().ok_or_else(gone)?;
        let updated = shard.update(operation);
        flush(shard)?;
        updated.map_err(status)?;
        state.changed += points;
        if state.changed >= OPTIMIZE_AFTER {
            self.tidy(&mut state)?;
        }
        Ok(())
    }

    fn tidy(&self, state: &mut State) -> Result<(), Status> {
        let shard = state.shard.as_ref().ok_or_else(gone)?;
        shard.optimize().map_err(status)?;
        flush(shard)?;
        prune_log(&self.directory).map_err(|error| status(error.into()))?;
        state.changed = 0;
        Ok(())
    }

    /// Closes the shard, so that its directory can be removed.
    pub(super) fn close(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let shard = state.shard.take();
        // It flushes, and panics where it cannot; nobody waits for that any more.
        if catch_unwind(AssertUnwindSafe(|| drop(shard))).is_err() {
            tracing::warn!(directory = %self.directory.display(), "embedded vector store closed what it could not flush");
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.close();
    }
}

/// Has the shard write what it was told. It panics where it cannot, as on a full disk.
fn flush(shard: &EdgeShard) -> Result<(), Status> {
    let flushed = catch_unwind(AssertUnwindSafe(|| shard.flush()));
    flushed.map_err(|_| Status::internal("Service internal error: the change could not be written to disk"))
}

/// Removes all but the newest closed file of the log. Everything in it has been flushed; the
/// numbering of operations goes on from the newest.
fn prune_log(directory: &Path) -> io::Result<()> {
    let mut closed = Vec::new();
    for entry in fs::read_dir(directory.join(LOG_DIRECTORY))? {
        let entry = entry?;
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix(CLOSED_LOG)).and_then(|number| number.parse::<u64>().ok());
        if let Some(number) = number {
            closed.push((number, entry.path()));
        }
    }
    closed.sort_unstable();
    closed.pop();
    for (_, path) in closed {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn gone() -> Status {
    Status::not_found("the collection was deleted meanwhile")
}

/// Qdrant's status of each error.
pub(super) fn status(error: OperationError) -> Status {
    let message = error.to_string();
    match error {
        OperationError::PointIdError { .. } => Status::not_found(message),
        OperationError::WrongVectorDimension { .. }
        | OperationError::VectorNameNotExists { .. }
        | OperationError::TypeError { .. }
        | OperationError::TypeInferenceError { .. }
        | OperationError::ValidationError { .. }
        | OperationError::WrongSparse
        | OperationError::WrongMulti
        | OperationError::MissingRangeIndexForOrderBy { .. }
        | OperationError::MissingMapIndexForFacet { .. }
        | OperationError::VariableTypeError { .. }
        | OperationError::NonFiniteNumber { .. } => Status::invalid_argument(format!("Wrong input: {message}")),
        OperationError::Cancelled { .. } => Status::cancelled(message),
        OperationError::Timeout { .. } => Status::deadline_exceeded(message),
        OperationError::OutOfMemory { .. } => Status::resource_exhausted(message),
        OperationError::ServiceError { .. } | OperationError::InconsistentStorage { .. } => {
            Status::internal(format!("Service internal error: {message}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use qdrant_client::Payload;
    use qdrant_client::qdrant::{CreateCollectionBuilder, Distance, PointStruct, VectorParamsBuilder};
    use qdrant_edge::{PointInsertOperations, PointOperations};
    use tonic::Code;

    use super::super::request;
    use super::*;

    fn upsert(id: u64) -> UpdateOperation {
        let point = PointStruct::new(id, vec![0.6, 0.8], Payload::new());
        let points = PointInsertOperations::PointsList(vec![request::point(point).expect("a point")]);
        UpdateOperation::PointOperation(PointOperations::UpsertPoints(points))
    }

    #[test]
    fn a_collection_that_can_not_be_written_refuses_changes_and_is_let_go_of() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("passages");
        let params = VectorParamsBuilder::new(2, Distance::Cosine);
        let config = request::config(CreateCollectionBuilder::new("passages").vectors_config(params).build());
        fs::create_dir(&directory).expect("a directory");
        Collection::create(&directory, config.expect("a configuration")).expect("a shard");
        let collection = Collection::open(directory.clone()).expect("a collection");
        collection.change(1, upsert(1)).expect("a point that is written");
        fs::remove_dir_all(&directory).expect("the directory goes");
        let refused = collection.change(1, upsert(2)).expect_err("a point that can not be written");
        assert_eq!(refused.code(), Code::Internal, "{refused}");
        drop(collection);
    }
}
