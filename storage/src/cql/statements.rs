//! Every statement that serving uses.

use futures::try_join;
use scylla::client::session::Session;
use scylla::frame::types::SerialConsistency;
use scylla::statement::prepared::PreparedStatement;

use crate::cql::error::Doing;
use crate::cql::webhook_statements::WebhookStatements;
use crate::port::StorageError;

/// Prepared once, when the store is opened.
pub(super) struct Statements {
    pub put_result: PreparedStatement,
    pub latest_result: PreparedStatement,
    pub all_results: PreparedStatement,
    pub claim_key: PreparedStatement,
    pub holder_of_key: PreparedStatement,
    pub add_waiter: PreparedStatement,
    pub waiters: PreparedStatement,
    pub checkpoint: PreparedStatement,
    pub put_checkpoint: PreparedStatement,
    pub rollup: PreparedStatement,
    pub put_rollup: PreparedStatement,
    pub entries_of: PreparedStatement,
    pub put_entry: PreparedStatement,
    pub rollups_of_day: PreparedStatement,
    pub all_days: PreparedStatement,
    pub all_lines: PreparedStatement,
    pub all_rollups: PreparedStatement,
    pub webhooks: WebhookStatements,
}

impl Statements {
    pub(super) async fn prepare(session: &Session) -> Result<Self, StorageError> {
        let writes = async {
            try_join!(
                idempotent(
                    session,
                    "INSERT INTO results (tenant, request_id, run, outcome) VALUES (?, ?, ?, ?) USING TIMESTAMP ?"
                ),
                conditional(
                    session,
                    "INSERT INTO idempotency_keys (tenant, idempotency_key, request_id, coordinates, body_hash) \
                     VALUES (?, ?, ?, ?, ?) IF NOT EXISTS"
                ),
                idempotent(
                    session,
                    "INSERT INTO waiters (tenant, request_id, coordinates, waiter) VALUES (?, ?, ?, ?)"
                ),
                idempotent(
                    session,
                    "INSERT INTO ledger_checkpoints (generation, log_partition, state) VALUES (?, ?, ?) USING TIMESTAMP ?"
                ),
                idempotent(
                    session,
                    "INSERT INTO ledger_rollups (tenant, day, hour, user_id, generation, log_partition, totals) \
                     VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
                ),
                idempotent(
                    session,
                    "INSERT INTO ledger_entries (tenant, hour, log_partition, call_id, generation, log_offset, kind, user_id, \
                     request_id, operation, provider, model, input_tokens, output_tokens, cost_nanos, charge_nanos, \
                     currency, price_version, estimated, booked_at) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                ),
            )
        };
        let reads = async {
            try_join!(
                // Runs are kept in falling order: the first row is the latest run.
                idempotent(session, "SELECT outcome FROM results WHERE tenant = ? AND request_id = ? LIMIT 1"),
                idempotent(session, "SELECT run FROM results"),
                idempotent(
                    session,
                    "SELECT request_id, coordinates, body_hash FROM idempotency_keys WHERE tenant = ? AND idempotency_key = ?"
                ),
                idempotent(session, "SELECT waiter FROM waiters WHERE tenant = ? AND request_id = ?"),
                idempotent(session, "SELECT state FROM ledger_checkpoints WHERE generation = ? AND log_partition = ?"),
                idempotent(
                    session,
                    "SELECT totals FROM ledger_rollups WHERE tenant = ? AND day = ? AND hour = ? AND user_id = ? \
                     AND generation = ? AND log_partition = ?"
                ),
                idempotent(
                    session,
                    "SELECT tenant, hour, log_partition, call_id, generation, log_offset, kind, user_id, request_id, \
                     operation, provider, model, input_tokens, output_tokens, cost_nanos, charge_nanos, currency, \
                     price_version, estimated, booked_at \
                     FROM ledger_entries WHERE tenant = ? AND hour = ? AND log_partition = ? AND call_id = ?"
                ),
                idempotent(
                    session,
                    "SELECT hour, user_id, generation, log_partition, totals FROM ledger_rollups \
                     WHERE tenant = ? AND day = ? AND hour >= ? AND hour < ?"
                ),
                idempotent(session, "SELECT DISTINCT tenant, day FROM ledger_rollups"),
                idempotent(
                    session,
                    "SELECT tenant, hour, log_partition, call_id, kind, cost_nanos, input_tokens, output_tokens \
                     FROM ledger_entries"
                ),
                idempotent(session, "SELECT totals FROM ledger_rollups"),
            )
        };
        let (
            (put_result, claim_key, add_waiter, put_checkpoint, put_rollup, put_entry),
            (
                latest_result,
                all_results,
                holder_of_key,
                waiters,
                checkpoint,
                rollup,
                entries_of,
                rollups_of_day,
                all_days,
                all_lines,
                all_rollups,
            ),
        ) = try_join!(writes, reads)?;
        let webhooks = WebhookStatements::prepare(session).await?;
        Ok(Self {
            put_result,
            latest_result,
            all_results,
            claim_key,
            holder_of_key,
            add_waiter,
            waiters,
            checkpoint,
            put_checkpoint,
            rollup,
            put_rollup,
            entries_of,
            put_entry,
            rollups_of_day,
            all_days,
            all_lines,
            all_rollups,
            webhooks,
        })
    }
}

/// A statement that the driver may send twice.
pub(super) async fn idempotent(session: &Session, statement: &str) -> Result<PreparedStatement, StorageError> {
    let mut prepared = session.prepare(statement).await.doing("prepare a statement")?;
    prepared.set_is_idempotent(true);
    Ok(prepared)
}

/// A conditional insert. Sending it twice blindly could report its own first attempt as somebody
/// else's, so the caller, who knows its coordinates, repeats it.
pub(super) async fn conditional(session: &Session, statement: &str) -> Result<PreparedStatement, StorageError> {
    let mut prepared = session.prepare(statement).await.doing("prepare a statement")?;
    prepared.set_serial_consistency(Some(SerialConsistency::Serial));
    Ok(prepared)
}
