//! The SQLite file behind the broker.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use nisshi_storage::{
    ArcDynStorage, BrokerRegistrationRequest, Storage as _, StorageFactory as _, StorageFactoryConfiguration,
};
use nisshi_storage_sql::LiteEngineFactory;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::WHAT;
use crate::EmbeddedError;

const FILE: &str = "broker.db";

/// Keeps only the newest record of a key in one statement instead of one per key.
const OPTIONS: &str = "compaction=single";

/// Where the database is, in the form that nisshi takes it.
#[derive(Debug)]
pub(super) struct Database {
    directory: PathBuf,
    url: Url,
    _alias: Option<Alias>,
}

impl Database {
    /// Makes the directory if need be.
    pub(super) fn open(directory: &Path) -> Result<Self, EmbeddedError> {
        crate::make_directory(directory)?;
        let directory = directory.canonicalize().map_err(|source| EmbeddedError::directory(directory, source))?;
        if let Some(url) = url(&directory) {
            return Ok(Self { directory, url, _alias: None });
        }
        // The path goes through a URL that is not decoded again: one with a blank or an umlaut
        // would name another file. An alias without them names the same directory.
        let alias = Alias::new(&directory)?;
        let url = url(&alias.0).ok_or_else(|| {
            EmbeddedError::storage(
                WHAT,
                &directory,
                "its path and the temporary directory's have characters that the database cannot take",
            )
        })?;
        Ok(Self { directory, url, _alias: Some(alias) })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Opens the file, making its tables if it is new, and registers this broker in it.
    pub(super) async fn engine(
        &self,
        cluster: &str,
        node: i32,
        address: SocketAddr,
    ) -> Result<ArcDynStorage, EmbeddedError> {
        let failed = |reason: String| EmbeddedError::storage(WHAT, &self.directory, &reason);
        let advertised = Url::parse(&format!("tcp://{address}")).map_err(|error| failed(error.to_string()))?;
        let storage = LiteEngineFactory
            .build(StorageFactoryConfiguration {
                node_id: node,
                cluster: cluster.into(),
                advertised_listener: advertised,
                storage: self.url.clone(),
                schema_registry: None,
                lake_house: None,
                cancellation: CancellationToken::new(),
            })
            .await
            .map_err(|error| failed(error.to_string()))?;
        storage
            .register_broker(BrokerRegistrationRequest {
                broker_id: node,
                cluster_id: cluster.into(),
                incarnation_id: Uuid::now_v7(),
                rack: None,
            })
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(storage)
    }
}

/// Returns the URL that nisshi reads as this directory's file, or `None` when there is none.
fn url(directory: &Path) -> Option<Url> {
    let file = directory.join(FILE);
    let file = file.to_str()?;
    // nisshi takes one slash off and joins the rest to the working directory, which an absolute
    // path replaces.
    let url = Url::parse(&format!("sqlite:///{file}?{OPTIONS}")).ok()?;
    (url.path() == format!("/{file}")).then_some(url)
}

/// A symbolic link in the temporary directory, removed when dropped.
#[derive(Debug)]
struct Alias(PathBuf);

impl Alias {
    fn new(directory: &Path) -> Result<Self, EmbeddedError> {
        let alias = std::env::temp_dir().join(format!("millrace-broker-{}", Uuid::now_v7().simple()));
        link(directory, &alias).map_err(|source| EmbeddedError::directory(&alias, source))?;
        Ok(Self(alias))
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(%error, alias = %self.0.display(), "embedded broker leaves its alias behind");
        }
    }
}

#[cfg(unix)]
fn link(directory: &Path, alias: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(directory, alias)
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::Error::new(
        std::io::ErrorKind::Unsupported,
        "choose a data directory with plain ASCII letters in its path",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_needs_no_alias() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Database::open(directory.path()).unwrap()._alias.is_none());
    }

    #[test]
    fn a_path_that_a_url_changes_gets_an_alias_to_the_same_directory() {
        for name in ["with blank", "grün", "a?b", "a#b", "a%20b{}"] {
            let parent = tempfile::tempdir().unwrap();
            let directory = parent.path().join(name);
            let database = Database::open(&directory).unwrap();
            let alias = database._alias.as_ref().map(|alias| alias.0.clone());
            let Some(alias) = alias else { panic!("{name}: no alias") };
            assert_eq!(alias.canonicalize().unwrap(), directory.canonicalize().unwrap());
            drop(database);
            assert!(!alias.exists());
        }
    }
}
