//! Outcomes in the embedded store. A value is the place (12 bytes), then the outcome.

use async_trait::async_trait;

use crate::checks;
use crate::embedded::key::Key;
use crate::embedded::{Embedded, Tables, classify, value};
use crate::port::{LogPlace, Results, StorageError};

const PLACE_BYTES: usize = 12;

#[async_trait]
impl Results for Embedded {
    async fn put(
        &self,
        tenant: &str,
        request_id: &str,
        run: i32,
        place: LogPlace,
        outcome: Vec<u8>,
    ) -> Result<(), StorageError> {
        checks::place(place)?;
        let key = Key::of(tenant).text(request_id).i32(run).finish()?;
        self.write("store an outcome", move |tables| put(tables, key, place, &outcome)).await
    }

    async fn get(&self, tenant: &str, request_id: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let prefix = Key::of(tenant).text(request_id).finish()?;
        self.run(move |tables| {
            let latest_run = tables.results.prefix(&prefix).next_back().map(value).transpose()?;
            latest_run.map(|stored| Ok(split(&stored)?.1.to_vec())).transpose()
        })
        .await
    }

    async fn count(&self) -> Result<u64, StorageError> {
        self.run(|tables| {
            let mut count = 0;
            for item in tables.results.iter() {
                item.key().map_err(classify)?;
                count += 1;
            }
            Ok(count)
        })
        .await
    }
}

pub(super) fn put(tables: &Tables, key: Vec<u8>, place: LogPlace, outcome: &[u8]) -> Result<(), StorageError> {
    let _one_at_a_time = tables.locks.lock(&key);
    if let Some(stored) = tables.results.get(&key).map_err(classify)?
        && split(&stored)?.0 <= place
    {
        return Ok(());
    }
    let mut value = Vec::with_capacity(PLACE_BYTES + outcome.len());
    value.extend(place.generation.to_be_bytes());
    value.extend(place.offset.to_be_bytes());
    value.extend(outcome);
    tables.results.insert(key, value).map_err(classify)
}

pub(super) fn split(stored: &[u8]) -> Result<(LogPlace, &[u8]), StorageError> {
    let Some((generation, rest)) = stored.split_first_chunk::<4>() else { return Err(short()) };
    let Some((offset, outcome)) = rest.split_first_chunk::<8>() else { return Err(short()) };
    let place = LogPlace { generation: u32::from_be_bytes(*generation), offset: i64::from_be_bytes(*offset) };
    Ok((place, outcome))
}

fn short() -> StorageError {
    StorageError::Refused("a stored outcome is too short: restore it from a backup or replay the log".to_owned())
}
