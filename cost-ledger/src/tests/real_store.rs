//! The same crashes over the embedded store that `millrace up` uses.

use std::sync::Arc;

use millrace_config::StorageConfig;
use millrace_storage::Storage;
use rand::Rng;

use super::logs::random_log;
use super::owners::{self, Owner};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_has_what_the_log_says_after_crashes() {
    for seed in 0..40 {
        let directory = tempfile::tempdir().unwrap();
        let config = StorageConfig::Embedded { path: directory.path().to_path_buf() };
        let mut log = random_log(seed);
        let mut committed = 0;
        for life in 0..4 {
            // Each life opens the files anew, as a process does.
            let storage = Storage::open(&config).await.unwrap();
            let ledger = Arc::clone(&storage.ledger);
            let (records, mut rng) = (log.records.clone(), log.rng.clone());
            (committed, log.rng) = tokio::task::spawn_blocking(move || {
                let mut owner = Owner::new(&ledger, committed, &records);
                let steps = if life == 3 { records.len() } else { rng.random_range(0..30) };
                for _ in 0..steps {
                    owner.step(&records);
                    if rng.random_bool(0.2) {
                        let settled = owner.flush().unwrap();
                        committed = committed.max(rng.random_range(0..=settled));
                    }
                }
                if life == 3 {
                    owner.flush().unwrap();
                }
                (committed, rng)
            })
            .await
            .unwrap();
        }
        let expected = owners::undisturbed(&log.records);
        let storage = Storage::open(&config).await.unwrap();
        let mut found = Vec::new();
        for entry in expected.entries.values() {
            let lines = storage.ledger.entries_of(&entry.tenant, entry.hour, entry.partition, &entry.call_id).await;
            found.extend(lines.unwrap());
        }
        found.sort_by_key(|entry| entry.place);
        found.dedup();
        let mut lines: Vec<_> = expected.entries.into_values().collect();
        lines.sort_by_key(|entry| entry.place);
        assert_eq!(found, lines, "seed {seed}");
        let keys: Vec<_> = expected.rollups.keys().cloned().collect();
        let cells: Vec<_> = expected.rollups.values().cloned().map(Some).collect();
        assert_eq!(storage.ledger.rollups(&keys).await.unwrap(), cells, "seed {seed}");
        let totals = storage.usage.totals().await.unwrap();
        assert_eq!((totals.entries_sum, totals.entries), (totals.rollups_sum, lines.len() as u64), "seed {seed}");
    }
}
