//! Values kept as JSON, so that a field can be added without touching what is stored.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::port::StorageError;

/// `what` names the kind of value, for the message.
pub(crate) fn encode<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, StorageError> {
    serde_json::to_vec(value).map_err(|error| StorageError::Refused(format!("cannot encode a {what}: {error}")))
}

/// `what` names the kind of value, for the message.
pub(crate) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StorageError> {
    serde_json::from_slice(bytes).map_err(|error| {
        StorageError::Refused(format!(
            "a stored {what} is corrupt ({error}): restore it from a backup or replay the log"
        ))
    })
}
