//! Where results, ledger entries and vectors are kept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Secret;
use crate::secret;

/// The database of results, keys and ledger. Chosen by `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", try_from = "RawStorage")]
pub enum StorageConfig {
    /// A key-value store inside the process, for `millrace up` and tests.
    Embedded {
        /// The store's directory.
        path: PathBuf,
    },
    /// ScyllaDB or Cassandra, read and written at QUORUM.
    Cql {
        /// Contact points, `host:port` each.
        nodes: Vec<String>,
        /// The keyspace holding Millrace's tables.
        keyspace: String,
        /// Replicas of every row; used when the keyspace is created.
        replication_factor: u32,
        /// The data centre whose nodes are preferred.
        local_datacenter: Option<String>,
        /// For password authentication, together with `password`.
        username: Option<String>,
        /// For password authentication, together with `username`.
        password: Option<Secret>,
    },
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self::Embedded { path: PathBuf::from("millrace-data/store") }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StorageKind {
    #[default]
    Embedded,
    Cql,
}

/// `storage` as written. One flat struct, because a tagged enum would buffer its fields and lose
/// the path and the origin of each, which the error messages need.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawStorage {
    kind: StorageKind,
    path: Option<PathBuf>,
    nodes: Option<Vec<String>>,
    keyspace: Option<String>,
    replication_factor: Option<u32>,
    local_datacenter: Option<String>,
    username: Option<String>,
    #[serde(deserialize_with = "secret::optional")]
    password: Option<Secret>,
}

impl TryFrom<RawStorage> for StorageConfig {
    type Error = String;

    fn try_from(raw: RawStorage) -> Result<Self, String> {
        match raw.kind {
            StorageKind::Embedded => {
                let foreign = [
                    ("nodes", raw.nodes.is_some()),
                    ("keyspace", raw.keyspace.is_some()),
                    ("replication_factor", raw.replication_factor.is_some()),
                    ("local_datacenter", raw.local_datacenter.is_some()),
                    ("username", raw.username.is_some()),
                    ("password", raw.password.is_some()),
                ];
                if let Some((key, _)) = foreign.into_iter().find(|(_, present)| *present) {
                    return Err(format!(
                        "has `{key}`, which belongs to kind = \"cql\"; set kind = \"cql\" or remove `{key}`"
                    ));
                }
                let StorageConfig::Embedded { path } = Self::default() else {
                    return Err("needs `path`".to_owned());
                };
                Ok(Self::Embedded { path: raw.path.unwrap_or(path) })
            }
            StorageKind::Cql => {
                if raw.path.is_some() {
                    return Err(
                        "has `path`, which belongs to kind = \"embedded\"; set kind = \"embedded\" or remove `path`"
                            .to_owned(),
                    );
                }
                Ok(Self::Cql {
                    nodes: raw.nodes.ok_or("needs `nodes`, a list of host:port, for kind = \"cql\"")?,
                    keyspace: raw.keyspace.unwrap_or_else(|| "millrace".to_owned()),
                    replication_factor: raw.replication_factor.unwrap_or(3),
                    local_datacenter: raw.local_datacenter,
                    username: raw.username,
                    password: raw.password,
                })
            }
        }
    }
}

/// The vector store, Qdrant over gRPC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VectorsConfig {
    /// The gRPC address, such as `http://127.0.0.1:6334`. None: no documents, no retrieval.
    pub url: Option<String>,
    /// Sent with every request.
    #[serde(deserialize_with = "secret::optional")]
    pub api_key: Option<Secret>,
    /// The one collection for documents of all tenants. Default `millrace-documents`.
    pub collection: String,
}

impl Default for VectorsConfig {
    fn default() -> Self {
        Self { url: None, api_key: None, collection: "millrace-documents".to_owned() }
    }
}
