//! Objects and parts of files in the embedded store. An object's value is its version (8 bytes), then itself.
//!
//! A part that is stored for a time has its end in `part_ends` twice: by its key, so that storing it again replaces
//! it, and by the time, so that whoever stores another one finds those that have ended.
//!
//! | key | value |
//! |---|---|
//! | `p`, key of the part | end, seconds since the epoch |
//! | `t`, end, key of the part | |

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;

use crate::embedded::key::{Key, Parts};
use crate::embedded::{Embedded, Tables, classify};
use crate::objects::{FileParts, Object, Objects, Order, PartId};
use crate::port::StorageError;

/// Parts that are looked at for each one that is stored.
const ENDED_AT_ONCE: usize = 16;

#[async_trait]
impl Objects for Embedded {
    async fn object(&self, tenant: &str, kind: &str, id: &str) -> Result<Option<Object>, StorageError> {
        let (key, id) = (Key::of(tenant).text(kind).last(id).finish()?, id.to_owned());
        self.run(move |tables| {
            let stored = tables.objects.get(&key).map_err(classify)?;
            stored.map(|stored| split(&stored).map(|(version, value)| Object { id, version, value })).transpose()
        })
        .await
    }

    async fn replace(
        &self,
        tenant: &str,
        kind: &str,
        id: &str,
        expected: i64,
        value: Option<Vec<u8>>,
    ) -> Result<bool, StorageError> {
        let key = Key::of(tenant).text(kind).last(id).finish()?;
        self.write("replace an object", move |tables| replace(tables, &key, expected, expected + 1, value)).await
    }

    async fn list(
        &self,
        tenant: &str,
        kind: &str,
        after: Option<&str>,
        order: Order,
        limit: u32,
    ) -> Result<Vec<Object>, StorageError> {
        let prefix = Key::of(tenant).text(kind).finish()?;
        let after = after.map(|id| Key::of(tenant).text(kind).last(id).finish()).transpose()?;
        self.run(move |tables| {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let object = |item: fjall::Guard| {
                let (key, value) = item.into_inner().map_err(classify)?;
                let id = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
                split(&value).map(|(version, value)| Object { id, version, value })
            };
            match order {
                Order::Rising => {
                    // The next key behind one is itself and a zero.
                    let from = after.map_or_else(|| prefix.clone(), |key| [&key[..], &[0]].concat());
                    tables.objects.range(from..end_of(&prefix)).take(limit).map(object).collect()
                }
                Order::Falling => {
                    let to = after.unwrap_or_else(|| end_of(&prefix));
                    tables.objects.range(prefix.clone()..to).rev().take(limit).map(object).collect()
                }
            }
        })
        .await
    }
}

#[async_trait]
impl FileParts for Embedded {
    async fn put_part(&self, id: &PartId, content: Vec<u8>, kept: Option<Duration>) -> Result<(), StorageError> {
        let id = id.clone();
        self.write("store a part of a file", move |tables| put_part(tables, &id, &content, kept)).await
    }

    async fn part(&self, id: &PartId) -> Result<Option<Vec<u8>>, StorageError> {
        let key = part_key(id)?;
        self.run(move |tables| Ok(tables.parts.get(key).map_err(classify)?.map(|content| content.to_vec()))).await
    }

    async fn delete_part(&self, id: &PartId) -> Result<(), StorageError> {
        let key = part_key(id)?;
        self.write("delete a part of a file", move |tables| tables.parts.remove(key).map_err(classify)).await
    }
}

pub(super) fn put_part(
    tables: &Tables,
    id: &PartId,
    content: &[u8],
    kept: Option<Duration>,
) -> Result<(), StorageError> {
    let key = part_key(id)?;
    let by_part = [b"p", &key[..]].concat();
    match kept {
        Some(kept) => {
            let end = now().saturating_add(kept).as_secs().to_be_bytes();
            // Before the part, which would never end without.
            tables.part_ends.insert([b"t", &end[..], &key[..]].concat(), []).map_err(classify)?;
            tables.part_ends.insert(by_part, end).map_err(classify)?;
            forget_ended(tables)?;
        }
        None => tables.part_ends.remove(by_part).map_err(classify)?,
    }
    tables.parts.insert(key, content).map_err(classify)
}

/// Forgets a few parts whose time is over: more than are stored meanwhile.
fn forget_ended(tables: &Tables) -> Result<(), StorageError> {
    let now = now().as_secs().to_be_bytes();
    let ended = tables.part_ends.range(b"t".to_vec()..[b"t", &now[..]].concat()).take(ENDED_AT_ONCE);
    let ended: Vec<_> = ended.map(|item| item.key().map_err(classify)).collect::<Result<_, _>>()?;
    for note in ended {
        let (end, key) = note.get(1..).and_then(|rest| rest.split_at_checked(now.len())).unwrap_or_default();
        let by_part = [b"p", key].concat();
        // A part that was stored again has another end, or none.
        if tables.part_ends.get(&by_part).map_err(classify)?.is_some_and(|stored| stored[..] == *end) {
            tables.parts.remove(key).map_err(classify)?;
            tables.part_ends.remove(by_part).map_err(classify)?;
        }
        tables.part_ends.remove(note).map_err(classify)?;
    }
    Ok(())
}

fn now() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "the crate does without the schemas' clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(super) fn part_key(id: &PartId) -> Result<Vec<u8>, StorageError> {
    Key::of(&id.tenant).text(&id.file_id).u32(id.epoch).u32(id.part).finish()
}

pub(super) fn part_id(key: &[u8]) -> Result<PartId, StorageError> {
    let mut parts = Parts::of(key);
    Ok(PartId { tenant: parts.text()?, file_id: parts.text()?, epoch: parts.u32()?, part: parts.u32()? })
}

pub(super) fn replace(
    tables: &Tables,
    key: &[u8],
    expected: i64,
    version: i64,
    value: Option<Vec<u8>>,
) -> Result<bool, StorageError> {
    let _one_at_a_time = tables.locks.lock(key);
    let stored = tables.objects.get(key).map_err(classify)?;
    let current = stored.map(|stored| split(&stored)).transpose()?.map_or(0, |(version, _)| version);
    if current != expected {
        return Ok(false);
    }
    match value {
        Some(value) => tables.objects.insert(key, [&version.to_be_bytes()[..], &value].concat()).map_err(classify)?,
        None => tables.objects.remove(key).map_err(classify)?,
    }
    Ok(true)
}

pub(super) fn split(stored: &[u8]) -> Result<(i64, Vec<u8>), StorageError> {
    let (version, value) = stored
        .split_first_chunk::<8>()
        .ok_or_else(|| StorageError::Refused("a stored object is too short: restore it from a backup".to_owned()))?;
    Ok((i64::from_be_bytes(*version), value.to_vec()))
}

/// What sorts behind every key with this beginning: no text has the byte 0xff.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    [prefix, &[0xff]].concat()
}
