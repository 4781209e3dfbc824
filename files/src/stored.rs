//! Descriptions of files and batches as they are stored: JSON, replaced as a whole by version.

use millrace_storage::{Order, Storage, StorageError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is kept under a name of its own.
pub trait Kind: Serialize + DeserializeOwned {
    /// Its name in the store.
    const KIND: &'static str;
}

/// An object as it was read, or last written.
#[derive(Clone)]
pub struct Stored<T> {
    /// Its name.
    pub id: String,
    /// Counts its changes, from 1.
    pub version: i64,
    /// What it is.
    pub value: T,
}

/// An object's place: whose it is, and its name.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// The name.
    pub id: &'a str,
}

/// The object as it is now.
///
/// # Errors
/// [`StorageError::Outage`]; [`StorageError::Refused`] when it can not be read, here as below.
pub async fn read<T: Kind>(storage: &Storage, at: At<'_>) -> Result<Option<Stored<T>>, StorageError> {
    storage.objects.object(at.tenant, T::KIND, at.id).await?.map(decode).transpose()
}

/// False when there is one of this name.
///
/// # Errors
/// [`StorageError`].
pub async fn create<T: Kind>(storage: &Storage, at: At<'_>, value: &T) -> Result<bool, StorageError> {
    storage.objects.replace(at.tenant, T::KIND, at.id, 0, Some(encode(value)?)).await
}

/// Stores the value in place of the version that was read. False, and nothing is changed, when that is not there any
/// more.
///
/// # Errors
/// [`StorageError`].
pub async fn replace<T: Kind>(storage: &Storage, tenant: &str, stored: &mut Stored<T>) -> Result<bool, StorageError> {
    let value = encode(&stored.value)?;
    let replaced = storage.objects.replace(tenant, T::KIND, &stored.id, stored.version, Some(value)).await?;
    stored.version += i64::from(replaced);
    Ok(replaced)
}

/// Deletes an object, whichever version it has.
///
/// # Errors
/// [`StorageError`].
pub async fn delete<T: Kind>(storage: &Storage, at: At<'_>) -> Result<(), StorageError> {
    while let Some(found) = storage.objects.object(at.tenant, T::KIND, at.id).await? {
        if storage.objects.replace(at.tenant, T::KIND, at.id, found.version, None).await? {
            break;
        }
    }
    Ok(())
}

/// At most `limit` objects behind the id `after`, or from the beginning.
///
/// # Errors
/// [`StorageError`].
pub async fn list<T: Kind>(
    storage: &Storage,
    tenant: &str,
    after: Option<&str>,
    order: Order,
    limit: u32,
) -> Result<Vec<Stored<T>>, StorageError> {
    storage.objects.list(tenant, T::KIND, after, order, limit).await?.into_iter().map(decode).collect()
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StorageError> {
    serde_json::to_vec(value).map_err(|error| StorageError::Refused(format!("an object is no JSON: {error}")))
}

fn decode<T: Kind>(object: millrace_storage::Object) -> Result<Stored<T>, StorageError> {
    let millrace_storage::Object { id, version, value } = object;
    let value = serde_json::from_slice(&value).map_err(|error| {
        StorageError::Refused(format!("the {} `{id}` can not be read ({error}): restore it from a backup", T::KIND))
    })?;
    Ok(Stored { id, version, value })
}
