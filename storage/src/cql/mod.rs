//! The database over CQL: ScyllaDB, or Cassandra 4.1 and later.
//!
//! One session with prepared statements, routed to the replicas that hold the row. Reads and writes
//! need a QUORUM, conditional writes are SERIAL. All statements but the conditional ones are
//! idempotent, so that the driver itself repeats them on another node.

mod backup;
mod error;
mod kept;
mod keys;
mod ledger;
mod migrate;
mod objects;
mod place;
mod results;
mod session;
mod statements;
mod usage;
mod webhook_statements;
mod webhooks;

use millrace_config::StorageConfig;
use millrace_fail_point::{self as fail_point, Side};
use scylla::client::pager::QueryPager;
use scylla::client::session::Session;
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;

use crate::cql::error::Doing;
pub(crate) use crate::cql::migrate::migrate;
use crate::cql::objects::ObjectStatements;
use crate::cql::statements::Statements;
use crate::port::StorageError;

/// Requests of one call that may be on their way at a time.
const IN_FLIGHT: usize = 64;

/// The CQL adapter.
pub(crate) struct Cql {
    session: Session,
    statements: Statements,
    of_objects: ObjectStatements,
    kept: kept::Statements,
}

impl Cql {
    pub(crate) async fn open(config: &StorageConfig) -> Result<Self, StorageError> {
        let settings = session::Settings::of(config)?;
        let session = session::connect(&settings).await?;
        migrate::require(&session, &settings).await?;
        let statements = Statements::prepare(&session).await?;
        let of_objects = ObjectStatements::prepare(&session).await?;
        let kept = kept::Statements::prepare(&session).await?;
        Ok(Self { session, statements, of_objects, kept })
    }

    /// `what` completes "cannot …".
    async fn execute(
        &self,
        what: &str,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryResult, StorageError> {
        fail_point::reach(Side::Before, || what.to_owned());
        let answer = self.session.execute_unpaged(statement, values).await.doing(what)?;
        fail_point::reach(Side::After, || what.to_owned());
        Ok(answer)
    }

    /// For answers of unknown size, which come page by page. `what` completes "cannot …".
    async fn pages(
        &self,
        what: &str,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryPager, StorageError> {
        self.session.execute_iter(statement.clone(), values).await.doing(what)
    }
}
