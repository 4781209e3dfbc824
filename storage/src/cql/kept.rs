//! Kept requests over CQL. Timestamps are fixed: forgetting is later than any keeping.

use async_trait::async_trait;
use futures::{TryStreamExt, try_join};
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use tokio::sync::mpsc::Sender;

use crate::backup::Row;
use crate::cql::Cql;
use crate::cql::error::Doing;
use crate::cql::statements::idempotent;
use crate::kept::KeptRequests;
use crate::port::StorageError;

/// Prepared once, when the store is opened.
pub(super) struct Statements {
    keep: PreparedStatement,
    forget: PreparedStatement,
    kept: PreparedStatement,
    all: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(session: &Session) -> Result<Self, StorageError> {
        const KEEP: &str = "INSERT INTO kept_requests (tenant, request_id, request) VALUES (?, ?, ?) USING TIMESTAMP 1";
        const FORGET: &str =
            "INSERT INTO kept_requests (tenant, request_id, request) VALUES (?, ?, 0x) USING TIMESTAMP 2";
        let (keep, forget, kept, all) = try_join!(
            idempotent(session, KEEP),
            idempotent(session, FORGET),
            idempotent(session, "SELECT request FROM kept_requests WHERE tenant = ? AND request_id = ?"),
            idempotent(session, "SELECT tenant, request_id, request FROM kept_requests"),
        )?;
        Ok(Self { keep, forget, kept, all })
    }
}

#[async_trait]
impl KeptRequests for Cql {
    async fn keep(&self, tenant: &str, request_id: &str, request: Vec<u8>) -> Result<(), StorageError> {
        self.execute("keep a request", &self.kept.keep, (tenant, request_id, request)).await.map(|_| ())
    }

    async fn kept(&self, tenant: &str, request_id: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let what = "read a kept request";
        let answer = self.execute(what, &self.kept.kept, (tenant, request_id)).await?;
        let row = answer.into_rows_result().doing(what)?.maybe_first_row::<(Vec<u8>,)>().doing(what)?;
        Ok(row.map(|(request,)| request))
    }

    async fn forget(&self, tenant: &str, request_id: &str) -> Result<(), StorageError> {
        self.execute("forget a request", &self.kept.forget, (tenant, request_id)).await.map(|_| ())
    }
}

impl Cql {
    pub(super) async fn export_kept(&self, rows: &Sender<Row>) -> Result<(), StorageError> {
        let what = "read the whole store";
        let pages = self.pages(what, &self.kept.all, ()).await?;
        let mut found = pages.rows_stream::<(String, String, Vec<u8>)>().doing(what)?;
        while let Some((tenant, request_id, request)) = found.try_next().await.doing(what)? {
            if rows.send(Row::Kept { tenant, request_id, request }).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
