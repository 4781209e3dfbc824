//! Objects and parts of files over CQL.

use std::time::Duration;

use async_trait::async_trait;
use futures::{TryStreamExt, try_join};
use scylla::client::session::Session;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlValue, Row};

use crate::cql::Cql;
use crate::cql::error::Doing;
use crate::cql::statements::{conditional, idempotent};
use crate::objects::{FileParts, Object, Objects, Order, PartId};
use crate::port::StorageError;

/// Behind every id: no text sorts after it.
const LAST: &str = "\u{10ffff}";

/// The time to live of what stays.
const FOR_GOOD: i32 = 0;
/// The longest time to live that Cassandra takes: 20 years.
const LONGEST: i32 = 20 * 365 * 24 * 3_600;

/// Prepared once, when the store is opened.
pub(super) struct ObjectStatements {
    object: PreparedStatement,
    insert: PreparedStatement,
    update: PreparedStatement,
    delete: PreparedStatement,
    rising: PreparedStatement,
    falling: PreparedStatement,
    part: PreparedStatement,
    put_part: PreparedStatement,
    delete_part: PreparedStatement,
}

impl ObjectStatements {
    pub(super) async fn prepare(session: &Session) -> Result<Self, StorageError> {
        let (object, insert, update, delete, rising, falling, part, put_part, delete_part) = try_join!(
            idempotent(session, "SELECT version, value FROM objects WHERE tenant = ? AND kind = ? AND id = ?"),
            conditional(
                session,
                "INSERT INTO objects (tenant, kind, id, version, value) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS"
            ),
            conditional(
                session,
                "UPDATE objects SET version = ?, value = ? WHERE tenant = ? AND kind = ? AND id = ? IF version = ?"
            ),
            conditional(session, "DELETE FROM objects WHERE tenant = ? AND kind = ? AND id = ? IF version = ?"),
            idempotent(
                session,
                "SELECT id, version, value FROM objects WHERE tenant = ? AND kind = ? AND id > ? ORDER BY id ASC LIMIT ?"
            ),
            idempotent(
                session,
                "SELECT id, version, value FROM objects WHERE tenant = ? AND kind = ? AND id < ? ORDER BY id DESC LIMIT ?"
            ),
            idempotent(
                session,
                "SELECT content FROM file_parts WHERE tenant = ? AND file_id = ? AND epoch = ? AND part = ?"
            ),
            idempotent(
                session,
                "INSERT INTO file_parts (tenant, file_id, epoch, part, content) VALUES (?, ?, ?, ?, ?) USING TTL ?"
            ),
            idempotent(session, "DELETE FROM file_parts WHERE tenant = ? AND file_id = ? AND epoch = ? AND part = ?"),
        )?;
        Ok(Self { object, insert, update, delete, rising, falling, part, put_part, delete_part })
    }
}

#[async_trait]
impl Objects for Cql {
    async fn object(&self, tenant: &str, kind: &str, id: &str) -> Result<Option<Object>, StorageError> {
        let what = "read an object";
        let answer = self.execute(what, &self.of_objects.object, (tenant, kind, id)).await?;
        let row = answer.into_rows_result().doing(what)?.maybe_first_row::<(i64, Vec<u8>)>().doing(what)?;
        Ok(row.map(|(version, value)| Object { id: id.to_owned(), version, value }))
    }

    async fn replace(
        &self,
        tenant: &str,
        kind: &str,
        id: &str,
        expected: i64,
        value: Option<Vec<u8>>,
    ) -> Result<bool, StorageError> {
        match value {
            Some(value) if expected == 0 => self.insert_object(tenant, kind, id, 1, value).await,
            Some(value) => {
                let values = (expected + 1, value, tenant, kind, id, expected);
                self.if_it_holds(&self.of_objects.update, values).await
            }
            None => self.if_it_holds(&self.of_objects.delete, (tenant, kind, id, expected)).await,
        }
    }

    async fn list(
        &self,
        tenant: &str,
        kind: &str,
        after: Option<&str>,
        order: Order,
        limit: u32,
    ) -> Result<Vec<Object>, StorageError> {
        let what = "list objects";
        let (statement, start) = match order {
            Order::Rising => (&self.of_objects.rising, ""),
            Order::Falling => (&self.of_objects.falling, LAST),
        };
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let pages = self.pages(what, statement, (tenant, kind, after.unwrap_or(start), limit)).await?;
        let mut rows = pages.rows_stream::<(String, i64, Vec<u8>)>().doing(what)?;
        let mut found = Vec::new();
        while let Some((id, version, value)) = rows.try_next().await.doing(what)? {
            found.push(Object { id, version, value });
        }
        Ok(found)
    }
}

impl Cql {
    /// True when there was none.
    pub(super) async fn insert_object(
        &self,
        tenant: &str,
        kind: &str,
        id: &str,
        version: i64,
        value: Vec<u8>,
    ) -> Result<bool, StorageError> {
        self.if_it_holds(&self.of_objects.insert, (tenant, kind, id, version, value)).await
    }

    async fn if_it_holds(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<bool, StorageError> {
        let what = "replace an object";
        let answer = self.execute(what, statement, values).await?.into_rows_result().doing(what)?;
        let row: Row = answer.first_row().doing(what)?;
        // The answer to a condition begins with whether it held.
        Ok(matches!(row.columns.first(), Some(Some(CqlValue::Boolean(true)))))
    }
}

/// A time to live.
fn seconds(kept: Duration) -> i32 {
    i32::try_from(kept.as_secs()).unwrap_or(LONGEST).clamp(1, LONGEST)
}

/// The columns that name a part.
fn columns(id: &PartId) -> (&str, &str, i32, i32) {
    (&id.tenant, &id.file_id, id.epoch.cast_signed(), id.part.cast_signed())
}

#[async_trait]
impl FileParts for Cql {
    async fn put_part(&self, id: &PartId, content: Vec<u8>, kept: Option<Duration>) -> Result<(), StorageError> {
        let (tenant, file, epoch, part) = columns(id);
        let values = (tenant, file, epoch, part, content, kept.map_or(FOR_GOOD, seconds));
        self.execute("store a part of a file", &self.of_objects.put_part, values).await.map(|_| ())
    }

    async fn part(&self, id: &PartId) -> Result<Option<Vec<u8>>, StorageError> {
        let what = "read a part of a file";
        let answer = self.execute(what, &self.of_objects.part, columns(id)).await?;
        let row = answer.into_rows_result().doing(what)?.maybe_first_row::<(Vec<u8>,)>().doing(what)?;
        Ok(row.map(|(content,)| content))
    }

    async fn delete_part(&self, id: &PartId) -> Result<(), StorageError> {
        self.execute("delete a part of a file", &self.of_objects.delete_part, columns(id)).await.map(|_| ())
    }
}
