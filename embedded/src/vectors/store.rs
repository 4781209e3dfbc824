//! All collections and the directory that they live in.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use qdrant_edge::EdgeConfig;
use tonic::Status;

use super::{
    WHAT,
    collection::{Collection, status},
};
use crate::EmbeddedError;

/// What a collection's directory starts with while it is made or deleted. No name may.
const UNFINISHED: char = '.';

/// The characters that Qdrant refuses in a name.
const FORBIDDEN: [char; 11] = ['<', '>', ':', '"', '/', '\\', '|', '?', '*', '\0', '\u{1F}'];
const LONGEST_NAME: usize = 255;

/// The collections; a clone shares them.
#[derive(Clone, Debug)]
pub(super) struct Store {
    directory: PathBuf,
    collections: Arc<RwLock<BTreeMap<String, Arc<Collection>>>>,
}

impl Store {
    pub(super) fn open(directory: &Path) -> Result<Self, EmbeddedError> {
        let failed = |error| EmbeddedError::directory(directory, error);
        let mut collections = BTreeMap::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with(UNFINISHED) {
                remove(&path).map_err(failed)?;
            } else if path.is_dir() {
                let collection = Collection::open(path)
                    .map_err(|error| EmbeddedError::storage(WHAT, directory, &format!("collection {name}: {error}")))?;
                collections.insert(name, Arc::new(collection));
            }
        }
        Ok(Self { directory: directory.into(), collections: Arc::new(RwLock::new(collections)) })
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.collections.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Collection>> {
        self.collections.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Works on a collection on a blocking thread.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Collection) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let collection = self.find(name).ok_or_else(|| missing(name))?;
        blocking(move || work(&collection)).await
    }

    pub(super) async fn create(&self, name: String, config: EdgeConfig) -> Result<(), Status> {
        check(&name)?;
        let store = self.clone();
        blocking(move || {
            let mut collections = store.collections.write().unwrap_or_else(PoisonError::into_inner);
            if collections.contains_key(&name) {
                return Err(Status::already_exists(format!("Wrong input: Collection `{name}` already exists!")));
            }
            let (unfinished, finished) = (store.unfinished(&name), store.directory.join(&name));
            remove(&unfinished).and_then(|()| fs::create_dir(&unfinished)).map_err(internal)?;
            Collection::create(&unfinished, config).map_err(status)?;
            fs::rename(&unfinished, &finished).map_err(internal)?;
            let collection = Collection::open(finished).map_err(status)?;
            collections.insert(name, Arc::new(collection));
            Ok(())
        })
        .await
    }

    /// Returns whether there was such a collection.
    pub(super) async fn delete(&self, name: String) -> Result<bool, Status> {
        let store = self.clone();
        blocking(move || {
            let mut collections = store.collections.write().unwrap_or_else(PoisonError::into_inner);
            let Some(collection) = collections.remove(&name) else { return Ok(false) };
            collection.close();
            let unfinished = store.unfinished(&name);
            remove(&unfinished).map_err(internal)?;
            fs::rename(collection.directory(), &unfinished).map_err(internal)?;
            // If it stays now, the next start removes it.
            if let Err(error) = remove(&unfinished) {
                tracing::warn!(%error, "embedded vector store leaves a deleted collection behind");
            }
            Ok(true)
        })
        .await
    }

    fn unfinished(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{UNFINISHED}{name}"))
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn check(name: &str) -> Result<(), Status> {
    let refused = |reason: &str| Err(Status::invalid_argument(format!("Wrong input: collection name {reason}")));
    if name.is_empty() || name.len() >= LONGEST_NAME {
        return refused("must have 1 to 254 bytes");
    }
    if name.starts_with(UNFINISHED) {
        return refused("cannot start with a dot here");
    }
    if let Some(forbidden) = name.chars().find(|char| FORBIDDEN.contains(char)) {
        return refused(&format!("cannot contain {forbidden:?}"));
    }
    Ok(())
}

pub(super) fn missing(name: &str) -> Status {
    Status::not_found(format!("Not found: Collection `{name}` doesn't exist!"))
}

fn internal(error: io::Error) -> Status {
    Status::internal(format!("Service internal error: {error}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Status> + Send + 'static) -> Result<T, Status> {
    let working = tokio::task::spawn_blocking(work);
    working.await.map_err(|error| Status::internal(format!("Service internal error: {error}")))?
}
