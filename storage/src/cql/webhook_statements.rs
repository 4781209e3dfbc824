//! The statements of webhooks.

use futures::try_join;
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;

use crate::cql::statements::idempotent;
use crate::port::StorageError;

/// Prepared with the others.
pub(super) struct WebhookStatements {
    pub delivery: PreparedStatement,
    pub put_delivery: PreparedStatement,
    pub deliveries: PreparedStatement,
    pub put_due: PreparedStatement,
    pub remove_due: PreparedStatement,
    pub due: PreparedStatement,
    pub marks: PreparedStatement,
    pub put_mark: PreparedStatement,
}

impl WebhookStatements {
    pub(super) async fn prepare(session: &Session) -> Result<Self, StorageError> {
        let of = |statement: &'static str| idempotent(session, statement);
        let (delivery, put_delivery, deliveries, put_due, remove_due, due, marks, put_mark) = try_join!(
            of("SELECT delivery FROM webhook_deliveries WHERE tenant = ? AND hour = ? AND id = ?"),
            of("INSERT INTO webhook_deliveries (tenant, hour, id, delivery) VALUES (?, ?, ?, ?) USING TTL ?"),
            of("SELECT delivery FROM webhook_deliveries WHERE tenant = ? AND hour = ? AND id < ? LIMIT ?"),
            of("INSERT INTO webhook_due (lane, shard, minute, id, due) VALUES (?, ?, ?, ?, ?) USING TTL ?"),
            of("DELETE FROM webhook_due WHERE lane = ? AND shard = ? AND minute = ? AND id = ?"),
            of("SELECT due FROM webhook_due WHERE lane = ? AND shard = ? AND minute = ? AND id > ? LIMIT ?"),
            of("SELECT shard, minute FROM webhook_marks WHERE lane = ?"),
            of("INSERT INTO webhook_marks (lane, shard, minute) VALUES (?, ?, ?)"),
        )?;
        Ok(Self { delivery, put_delivery, deliveries, put_due, remove_due, due, marks, put_mark })
    }
}
