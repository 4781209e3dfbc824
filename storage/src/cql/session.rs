//! Connecting.

use std::time::Duration;

use millrace_config::StorageConfig;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{ConnectionPoolError, MetadataError, NewSessionError};
use scylla::frame::types::{Consistency, SerialConsistency};
use scylla::policies::load_balancing::DefaultPolicy;

use crate::cql::error::{Class, DriverError};
use crate::port::StorageError;

/// Longer than the servers' own time limits, so that their answer, which says more, comes first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);

/// A node that accepts connections and says nothing would hold the driver for a minute.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Settings of the `cql` kind.
pub(super) struct Settings<'a> {
    pub nodes: &'a [String],
    pub keyspace: &'a str,
    pub replication_factor: u32,
    local_datacenter: Option<&'a str>,
    credentials: Option<(&'a str, &'a str)>,
}

impl<'a> Settings<'a> {
    pub(super) fn of(config: &'a StorageConfig) -> Result<Self, StorageError> {
        let StorageConfig::Cql { nodes, keyspace, replication_factor, local_datacenter, username, password } = config
        else {
            return Err(StorageError::Refused("storage.kind is not cql".to_owned()));
        };
        check_name(keyspace)?;
        Ok(Self {
            nodes,
            keyspace,
            replication_factor: *replication_factor,
            local_datacenter: local_datacenter.as_deref(),
            credentials: username.as_deref().zip(password.as_ref().map(|password| password.expose())),
        })
    }
}

/// The name becomes part of statements, in double quotes.
fn check_name(keyspace: &str) -> Result<(), StorageError> {
    let fits = (1..=48).contains(&keyspace.len()) && keyspace.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if fits {
        return Ok(());
    }
    Err(StorageError::Refused(format!(
        "storage.keyspace {keyspace:?} is not a name: use 1 to 48 letters, digits and underscores"
    )))
}

/// A session without a keyspace.
pub(super) async fn connect(settings: &Settings<'_>) -> Result<Session, StorageError> {
    let mut routing = DefaultPolicy::builder().token_aware(true);
    if let Some(datacenter) = settings.local_datacenter {
        routing = routing.prefer_datacenter(datacenter.to_owned()).permit_dc_failover(true);
    }
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::Quorum)
        .serial_consistency(Some(SerialConsistency::Serial))
        .request_timeout(Some(REQUEST_TIMEOUT))
        .load_balancing_policy(routing.build())
        .build();
    let mut builder =
        SessionBuilder::new().known_nodes(settings.nodes).default_execution_profile_handle(profile.into_handle());
    if let Some((username, password)) = settings.credentials {
        builder = builder.user(username, password);
    }
    let (class, why) = match tokio::time::timeout(CONNECT_TIMEOUT, builder.build()).await {
        Ok(Ok(session)) => return Ok(session),
        Ok(Err(error)) => (error.class(), reason(&error)),
        Err(_) => (Class::Outage, format!("no answer within {} seconds", CONNECT_TIMEOUT.as_secs())),
    };
    let nodes = settings.nodes.join(", ");
    Err(class.error(&format!(
        "cannot connect to {nodes}: {why}; check storage.nodes, storage.username and that the database runs"
    )))
}

/// Of the usual failure only its cause: the rest is about the driver.
fn reason(error: &NewSessionError) -> String {
    if let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
        last_connection_error,
    })) = error
    {
        return last_connection_error.to_string();
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyspace_that_is_not_a_name_is_refused() {
        for name in ["", "a b", "x\"; DROP KEYSPACE y", "tenant-1", &"k".repeat(49)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for name in ["millrace", "Millrace_2", &"k".repeat(48)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }
}
