//! The contract over CQL, on a real Cassandra or ScyllaDB, and what is particular to it.
//!
//! `MILLRACE_TEST_CQL=host:port` names the server; `./check` starts one. By hand:
//! `MILLRACE_TEST_CQL=127.0.0.1:9042 cargo test --release --ignore-rust-version --workspace --test cql_contract`.

#![expect(clippy::unwrap_used, reason = "tests")]

mod contract;

use millrace_config::StorageConfig;
use millrace_storage::{Storage, StorageError};
use scylla::client::session_builder::SessionBuilder;
use tokio::sync::{OnceCell, Semaphore};

/// What tests share; it stays for the next run, whose tests use other tenants.
const SHARED: &str = "millrace_contract";

fn server() -> String {
    std::env::var("MILLRACE_TEST_CQL")
        .expect("set MILLRACE_TEST_CQL=host:port of a Cassandra or ScyllaDB, or run ./check, which starts one")
}

fn keyspace(name: &str) -> StorageConfig {
    StorageConfig::Cql {
        nodes: vec![server()],
        keyspace: name.to_owned(),
        replication_factor: 1,
        local_datacenter: None,
        username: None,
        password: None,
    }
}

/// A keyspace of one test's own goes when the test ends.
struct Keyspace(Option<String>);

impl Keyspace {
    fn fresh() -> Self {
        Self(Some(contract::unique("millrace_test").replace('-', "_")))
    }

    fn config(&self) -> StorageConfig {
        keyspace(self.0.as_deref().unwrap_or(SHARED))
    }

    async fn close(self) {
        if let Some(name) = self.0 {
            let session = SessionBuilder::new().known_node(server()).build().await.unwrap();
            session.query_unpaged(format!("DROP KEYSPACE IF EXISTS {name}"), ()).await.unwrap();
        }
    }
}

/// One change of the schema at a time: a single small server takes seconds for each.
static SCHEMA: Semaphore = Semaphore::const_new(1);

async fn migrate(config: &StorageConfig) -> Vec<String> {
    let _one_at_a_time = SCHEMA.acquire().await.unwrap();
    Storage::migrate(config).await.unwrap()
}

async fn shared() -> (Storage, Keyspace) {
    static MIGRATED: OnceCell<()> = OnceCell::const_new();
    MIGRATED.get_or_init(async || drop(migrate(&keyspace(SHARED)).await)).await;
    (Storage::open(&keyspace(SHARED)).await.unwrap(), Keyspace(None))
}

async fn fresh() -> (Storage, Keyspace) {
    let keyspace = Keyspace::fresh();
    migrate(&keyspace.config()).await;
    (Storage::open(&keyspace.config()).await.unwrap(), keyspace)
}

contract!(shared, fresh, seeds: 200, races: 5);

#[tokio::test]
async fn two_machines_may_migrate_at_once_and_again() {
    let keyspace = Keyspace::fresh();
    let config = keyspace.config();
    {
        let _one_at_a_time = SCHEMA.acquire().await.unwrap();
        let (one, two) = tokio::join!(Storage::migrate(&config), Storage::migrate(&config));
        let mut applied = [one.unwrap(), two.unwrap()].concat();
        applied.sort();
        assert_eq!(applied, ["0001_tables", "0002_objects", "0003_webhooks", "0004_kept_requests"]);
        assert_eq!(Storage::migrate(&config).await.unwrap(), Vec::<String>::new());
    }
    Storage::open(&config).await.unwrap().ping().await.unwrap();
    keyspace.close().await;
}

#[tokio::test]
async fn a_keyspace_without_our_tables_says_what_to_run() {
    let keyspace = Keyspace::fresh();
    let config = keyspace.config();
    let check = async |part: &str| {
        let Err(StorageError::Refused(line)) = Storage::open(&config).await else { panic!("opened: {part}") };
        assert!(line.contains(part) && line.contains("run `millrace storage migrate`"), "{line}");
    };
    check("does not exist").await;

    let name = keyspace.0.clone().unwrap();
    let session = SessionBuilder::new().known_node(server()).build().await.unwrap();
    {
        let _one_at_a_time = SCHEMA.acquire().await.unwrap();
        let create = format!(
            "CREATE KEYSPACE {name} WITH replication = \
             {{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}}"
        );
        session.query_unpaged(create, ()).await.unwrap();
    }
    check("has no tables").await;

    migrate(&config).await;
    let forget = format!("DELETE FROM {name}.schema_migrations WHERE scope = 'millrace' AND version = 1");
    session.query_unpaged(forget, ()).await.unwrap();
    check("lacks migration 0001_tables").await;
    // As after a migrator's death between the tables and their record.
    assert_eq!(migrate(&config).await, ["0001_tables"]);
    Storage::open(&config).await.unwrap();
    keyspace.close().await;
}

#[tokio::test]
async fn more_replicas_than_nodes_are_refused_before_anything_is_made() {
    let fresh = Keyspace::fresh();
    let StorageConfig::Cql { nodes, keyspace, local_datacenter, username, password, .. } = fresh.config() else {
        unreachable!("the configuration above is of this kind")
    };
    let config = StorageConfig::Cql { nodes, keyspace, replication_factor: 50, local_datacenter, username, password };
    let Err(StorageError::Refused(line)) = Storage::migrate(&config).await else { panic!("migrated") };
    assert!(line.contains("storage.replication_factor is 50"), "{line}");
    let Err(StorageError::Refused(line)) = Storage::open(&config).await else { panic!("opened") };
    assert!(line.contains("does not exist"), "{line}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_outage_in_one_line() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let StorageConfig::Cql { keyspace, replication_factor, local_datacenter, username, password, .. } =
        keyspace(SHARED)
    else {
        unreachable!("the configuration above is of this kind")
    };
    let nodes = vec![nobody.to_string()];
    let config = StorageConfig::Cql { nodes, keyspace, replication_factor, local_datacenter, username, password };
    let Err(StorageError::Outage(line)) = Storage::open(&config).await else { panic!("connected to nobody") };
    assert!(line.contains(&nobody.to_string()) && line.contains("check storage.nodes"), "{line}");
    assert!(!line.contains('\n'), "{line}");
}
