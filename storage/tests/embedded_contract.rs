//! The contract over the embedded adapter, and what is particular to it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod contract;

use millrace_config::StorageConfig;
use millrace_storage::{LedgerFlush, Storage, StorageError};
use tempfile::TempDir;

/// The directory goes when the test ends.
struct Directory(TempDir);

impl Directory {
    async fn close(self) {
        self.0.close().unwrap();
    }
}

fn at(directory: &TempDir) -> StorageConfig {
    StorageConfig::Embedded { path: directory.path().join("store") }
}

async fn open() -> (Storage, Directory) {
    let directory = TempDir::new().unwrap();
    (Storage::open(&at(&directory)).await.unwrap(), Directory(directory))
}

contract!(open, open, seeds: 200, races: 100);

#[tokio::test]
async fn everything_is_there_after_opening_again() {
    let directory = TempDir::new().unwrap();
    let line = contract::entry("t", 7, 0, contract::place(0, 3), "call");
    let cell = contract::rollup_key("t", "user", 7, 0, 0);
    let claim = millrace_storage::Claim {
        request_id: "r".to_owned(),
        coordinates: "topic/0/0/1".to_owned(),
        body_hash: "hash".to_owned(),
    };
    let waiter = millrace_storage::Waiter {
        coordinates: "topic/0/0/2".to_owned(),
        replica: None,
        reply_topic: Some("outcomes.t".to_owned()),
    };
    {
        let storage = Storage::open(&at(&directory)).await.unwrap();
        storage.results.put("t", "r", 0, contract::place(0, 1), b"outcome".to_vec()).await.unwrap();
        storage.keys.claim("t", "key", &claim).await.unwrap();
        storage.keys.add_waiter("t", "r", &waiter).await.unwrap();
        let flush = LedgerFlush {
            upto: 3,
            checkpoint: b"state".to_vec(),
            entries: vec![line.clone()],
            rollups: vec![(cell.clone(), contract::rollup(3))],
            ..LedgerFlush::default()
        };
        storage.ledger.flush(&flush).await.unwrap();
    }
    let storage = Storage::open(&at(&directory)).await.unwrap();
    assert_eq!(storage.results.get("t", "r").await.unwrap(), Some(b"outcome".to_vec()));
    let other = millrace_storage::Claim { coordinates: "topic/0/0/9".to_owned(), ..claim.clone() };
    assert_eq!(storage.keys.claim("t", "key", &other).await.unwrap(), millrace_storage::Claimed::Theirs(claim));
    assert_eq!(storage.keys.waiters("t", "r").await.unwrap(), [waiter]);
    assert_eq!(storage.ledger.checkpoint(0, 0).await.unwrap(), Some((3, b"state".to_vec())));
    assert_eq!(storage.ledger.rollups(&[cell]).await.unwrap(), [Some(contract::rollup(3))]);
    assert_eq!(storage.ledger.entries_of("t", 7, 0, "call").await.unwrap(), [line]);
}

#[tokio::test]
async fn a_directory_in_use_is_refused_in_one_line() {
    let directory = TempDir::new().unwrap();
    let _first = Storage::open(&at(&directory)).await.unwrap();
    let Err(StorageError::Refused(line)) = Storage::open(&at(&directory)).await else { panic!("opened twice") };
    assert!(line.contains("store is in use by another process: stop that one"), "{line}");
    assert!(!line.contains('\n'), "{line}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("file"), "not a directory").unwrap();
    let config = StorageConfig::Embedded { path: directory.path().join("file") };
    let Err(error) = Storage::open(&config).await else { panic!("opened a file") };
    assert!(error.to_string().contains("file: Not a directory"), "{error}");
}

#[tokio::test]
async fn a_draft_whose_maker_died_is_removed() {
    let directory = TempDir::new().unwrap();
    let draft = directory.path().join("store.making-1");
    std::fs::create_dir_all(draft.join("keyspaces")).unwrap();
    let _storage = Storage::open(&at(&directory)).await.unwrap();
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["store"]);
}

#[tokio::test]
async fn other_files_in_the_directory_stay() {
    let directory = TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("store")).unwrap();
    std::fs::write(directory.path().join("store").join("notes"), "mine").unwrap();
    for _ in 0..2 {
        Storage::open(&at(&directory)).await.unwrap().ping().await.unwrap();
    }
    assert_eq!(std::fs::read_to_string(directory.path().join("store").join("notes")).unwrap(), "mine");
}

#[tokio::test]
async fn there_is_nothing_to_migrate() {
    let directory = TempDir::new().unwrap();
    assert_eq!(Storage::migrate(&at(&directory)).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn old_deliveries_are_forgotten() {
    let directory = TempDir::new().unwrap();
    let storage = Storage::open(&at(&directory)).await.unwrap();
    let all: Vec<_> = (0..2_500_u16).map(|n| contract::delivery("t", 1_000_000 + i64::from(n), n.into())).collect();
    for delivery in &all {
        storage.webhooks.put_delivery(delivery).await.unwrap();
    }
    storage.webhooks.forget_deliveries(1_000_000 + 2_400).await.unwrap();
    let end = millrace_storage::delivery_id(9_000_000, uuid::Uuid::nil());
    assert_eq!(storage.webhooks.deliveries("t", &end, 0, 5_000).await.unwrap().len(), 100);
}
