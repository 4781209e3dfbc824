//! The schema's versions: which one the keyspace has, and bringing it to ours.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use millrace_config::StorageConfig;
use scylla::client::session::Session;
use scylla::serialize::row::SerializeRow;

use crate::cql::error::Doing;
use crate::cql::session::{self, Settings};
use crate::port::StorageError;

/// One file of `migrations/`.
struct Migration {
    version: i32,
    name: &'static str,
    cql: &'static str,
}

/// All of them, in order. A migration that was released is never changed; add another.
const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "0001_tables", cql: include_str!("../../migrations/0001_tables.cql") },
    Migration { version: 2, name: "0002_objects", cql: include_str!("../../migrations/0002_objects.cql") },
    Migration { version: 3, name: "0003_webhooks", cql: include_str!("../../migrations/0003_webhooks.cql") },
    Migration { version: 4, name: "0004_kept_requests", cql: include_str!("../../migrations/0004_kept_requests.cql") },
];

const MIGRATIONS_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations \
                                (scope text, version int, name text, applied_at timestamp, \
                                PRIMARY KEY (scope, version))";
/// A migrator that died is waited for this long.
const LOCK_SECONDS: i32 = 120;
const LOCK_RETRY: Duration = Duration::from_millis(500);
const LOCK_RETRIES: u32 = 300;
/// A keyspace that another machine has just created can take this long to be known everywhere.
const KEYSPACE_RETRIES: u32 = 20;
const KEYSPACE_RETRY: Duration = Duration::from_millis(250);

/// Refuses a keyspace that is missing or older than this program, and makes it the session's.
pub(super) async fn require(session: &Session, settings: &Settings<'_>) -> Result<(), StorageError> {
    let keyspace = settings.keyspace;
    if !exists(session, keyspace).await? {
        return Err(StorageError::Refused(format!(
            "keyspace {keyspace} does not exist: run `millrace storage migrate`"
        )));
    }
    let has_versions = "SELECT table_name FROM system_schema.tables \
                        WHERE keyspace_name = ? AND table_name = 'schema_migrations'";
    if rows(session, has_versions, (keyspace,)).await? == 0 {
        return Err(StorageError::Refused(format!(
            "keyspace {keyspace} has no tables of Millrace: run `millrace storage migrate`"
        )));
    }
    use_keyspace(session, keyspace).await?;
    let applied = applied(session).await?;
    match MIGRATIONS.iter().find(|migration| !applied.contains_key(&migration.version)) {
        None => Ok(()),
        Some(missing) => Err(StorageError::Refused(format!(
            "keyspace {keyspace} lacks migration {}: run `millrace storage migrate`",
            missing.name
        ))),
    }
}

/// Creates what is missing; see [`crate::Storage::migrate`].
pub(crate) async fn migrate(config: &StorageConfig) -> Result<Vec<String>, StorageError> {
    let settings = Settings::of(config)?;
    let session = session::connect(&settings).await?;
    if !exists(&session, settings.keyspace).await? {
        create_keyspace(&session, &settings).await?;
    }
    use_keyspace(&session, settings.keyspace).await?;
    run(&session, &lock_table(settings.keyspace)).await?;
    lock(&session).await?;
    let outcome = apply_missing(&session).await;
    let unlocked = unlock(&session).await;
    let names = outcome?;
    unlocked?;
    Ok(names)
}

async fn apply_missing(session: &Session) -> Result<Vec<String>, StorageError> {
    run(session, MIGRATIONS_TABLE).await?;
    let applied = applied(session).await?;
    let mut names = Vec::new();
    for migration in MIGRATIONS.iter().filter(|migration| !applied.contains_key(&migration.version)) {
        for statement in statements(migration.cql) {
            run(session, &statement).await?;
        }
        let record = "INSERT INTO schema_migrations (scope, version, name, applied_at) \
                      VALUES ('millrace', ?, ?, toTimestamp(now()))";
        session.query_unpaged(record, (migration.version, migration.name)).await.doing("record a migration")?;
        tracing::info!(migration = migration.name, "migration applied");
        names.push(migration.name.to_owned());
    }
    Ok(names)
}

async fn create_keyspace(session: &Session, settings: &Settings<'_>) -> Result<(), StorageError> {
    let wanted = settings.replication_factor as usize;
    let mut nodes: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for node in session.get_cluster_state().get_nodes_info() {
        *nodes.entry(node.datacenter.clone()).or_default() += 1;
    }
    if let Some((datacenter, count)) = nodes.iter().find(|(_, count)| **count < wanted) {
        return Err(StorageError::Refused(format!(
            "storage.replication_factor is {wanted} but datacenter {} has {count} node(s): lower it or add nodes",
            datacenter.as_deref().unwrap_or("(unnamed)")
        )));
    }
    // The name was checked: it has no quotes.
    let statement = format!(
        "CREATE KEYSPACE IF NOT EXISTS \"{}\" WITH replication = \
         {{'class': 'NetworkTopologyStrategy', 'replication_factor': {wanted}}}",
        settings.keyspace
    );
    run(session, &statement).await
}

/// Waits until no other machine migrates.
async fn lock(session: &Session) -> Result<(), StorageError> {
    let what = "lock the schema";
    let statement = "INSERT INTO migration_lock (name, holder) VALUES ('schema', ?) IF NOT EXISTS USING TTL ?";
    for attempt in 0..LOCK_RETRIES {
        let values = (session.session_id().to_string(), LOCK_SECONDS);
        if applied_condition(session, what, statement, values).await? {
            return Ok(());
        }
        if attempt == 0 {
            tracing::info!("waiting for another migration to end");
        }
        tokio::time::sleep(LOCK_RETRY).await;
    }
    Err(StorageError::Outage("another machine is migrating this keyspace: wait for it, then run this again".to_owned()))
}

async fn unlock(session: &Session) -> Result<(), StorageError> {
    let statement = "DELETE FROM migration_lock WHERE name = 'schema' IF holder = ?";
    applied_condition(session, "unlock the schema", statement, (session.session_id().to_string(),)).await.map(|_| ())
}

async fn applied_condition(
    session: &Session,
    what: &str,
    statement: &str,
    values: impl SerializeRow,
) -> Result<bool, StorageError> {
    let answer = session.query_unpaged(statement, values).await.doing(what)?.into_rows_result().doing(what)?;
    let row: scylla::value::Row = answer.first_row().doing(what)?;
    // The answer to a condition begins with whether it held.
    Ok(matches!(row.columns.first(), Some(Some(scylla::value::CqlValue::Boolean(true)))))
}

/// Versions and names recorded in the keyspace.
async fn applied(session: &Session) -> Result<BTreeMap<i32, String>, StorageError> {
    let what = "read the schema's version";
    let statement = "SELECT version, name FROM schema_migrations WHERE scope = 'millrace'";
    let pages = session.query_iter(statement, ()).await.doing(what)?;
    let mut rows = pages.rows_stream::<(i32, String)>().doing(what)?;
    let mut applied = BTreeMap::new();
    while let Some((version, name)) = rows.try_next().await.doing(what)? {
        applied.insert(version, name);
    }
    Ok(applied)
}

async fn exists(session: &Session, keyspace: &str) -> Result<bool, StorageError> {
    let statement = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
    Ok(rows(session, statement, (keyspace,)).await? > 0)
}

async fn rows(session: &Session, statement: &str, values: impl SerializeRow) -> Result<usize, StorageError> {
    let what = "read the schema";
    let answer = session.query_unpaged(statement, values).await.doing(what)?;
    Ok(answer.into_rows_result().doing(what)?.rows_num())
}

async fn use_keyspace(session: &Session, keyspace: &str) -> Result<(), StorageError> {
    let mut retries = KEYSPACE_RETRIES;
    loop {
        match session.use_keyspace(keyspace, true).await.doing("use the keyspace") {
            Err(StorageError::Refused(_)) if retries > 0 => retries -= 1,
            settled => return settled,
        }
        tokio::time::sleep(KEYSPACE_RETRY).await;
    }
}

/// A statement that changes the schema. Returns when all nodes know, also when the change was
/// another machine's and still on its way.
async fn run(session: &Session, statement: &str) -> Result<(), StorageError> {
    session.query_unpaged(statement, ()).await.doing("change the schema")?;
    session.await_schema_agreement().await.doing("bring all nodes to one schema").map(|_| ())
}

/// Two nodes that create a table at the same time may give it two identities, and lose one. The lock
/// keeps everybody from doing that, and its own table has an identity that follows from the keyspace's
/// name (identities are unique in a cluster).
fn lock_table(keyspace: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS migration_lock (name text PRIMARY KEY, holder text) WITH ID = '{}'",
        identity(keyspace)
    )
}

/// A UUID (its version and variant set as in version 1) from the 128-bit FNV-1a hash of a name.
fn identity(name: &str) -> String {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = name.bytes().fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    let bits = hash & !(0xf << 76) & !(0x3 << 62) | (0x1 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The statements of a file: no comments, split at semicolons, which no literal there contains.
fn statements(cql: &str) -> Vec<String> {
    let code: Vec<&str> = cql.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    code.join("\n").split(';').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rise_and_names_say_them() {
        assert!(MIGRATIONS.is_sorted_by(|a, b| a.version < b.version));
        for migration in MIGRATIONS {
            assert!(migration.name.starts_with(&format!("{:04}_", migration.version)), "{}", migration.name);
        }
    }

    #[test]
    fn every_statement_may_be_run_again() {
        for migration in MIGRATIONS {
            let statements = statements(migration.cql);
            assert!(!statements.is_empty(), "{} is empty", migration.name);
            for statement in statements {
                assert!(statement.contains("IF NOT EXISTS"), "{}: {statement}", migration.name);
            }
        }
    }

    #[test]
    fn an_identity_is_a_uuid_that_follows_from_the_name() {
        let identities = ["a", "b", "millrace"].map(identity);
        for uuid in &identities {
            let groups: Vec<usize> = uuid.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12], "{uuid}");
            assert!(uuid[14..].starts_with('1') && "89ab".contains(&uuid[19..20]), "{uuid}");
        }
        // Of these bytes FNV-1a's authors say d228cb69-6f1a-8caf-7891-2b704e4a8964.
        assert_eq!(identities[0], "d228cb69-6f1a-1caf-b891-2b704e4a8964");
        assert_ne!(identities[1], identities[2]);
    }

    #[test]
    fn comments_are_no_statements() {
        assert_eq!(statements("-- a; b\nCREATE x;\n\n  -- c\nCREATE y\n;\n"), ["CREATE x", "CREATE y"]);
    }
}
