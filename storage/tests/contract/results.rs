//! Outcomes.

use millrace_storage::{Storage, StorageError};

use super::{place, unique};

pub async fn first_in_the_log_wins_in_any_order_of_writes(storage: &Storage) {
    let tenant = unique("t");
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let request = unique("r");
        for offset in order {
            let outcome = format!("outcome at {offset}").into_bytes();
            storage.results.put(&tenant, &request, 0, place(0, offset), outcome).await.unwrap();
        }
        let kept = storage.results.get(&tenant, &request).await.unwrap();
        assert_eq!(kept.as_deref(), Some(&b"outcome at 0"[..]), "{order:?}");
    }
}

pub async fn first_in_the_log_wins_among_writes_at_once(storage: &Storage, races: usize) {
    let tenant = unique("t");
    for _ in 0..races {
        let request = unique("r");
        let racing: Vec<_> = (0..16)
            .rev()
            .map(|offset| {
                let (storage, tenant, request) = (storage.clone(), tenant.clone(), request.clone());
                let outcome = format!("outcome at {offset}").into_bytes();
                tokio::spawn(async move { storage.results.put(&tenant, &request, 0, place(0, offset), outcome).await })
            })
            .collect();
        for write in racing {
            write.await.unwrap().unwrap();
        }
        assert_eq!(storage.results.get(&tenant, &request).await.unwrap().as_deref(), Some(&b"outcome at 0"[..]));
    }
}

pub async fn an_earlier_generation_is_earlier(storage: &Storage) {
    let tenant = unique("t");
    let first = place(3, 900_000_000_000);
    let later = [place(4, 0), place(4, 12), place(900, 1)];
    for first_is_written_last in [false, true] {
        let request = unique("r");
        let mut writes: Vec<_> = later.into_iter().map(|place| (place, "later")).collect();
        writes.insert(if first_is_written_last { writes.len() } else { 0 }, (first, "first"));
        for (place, outcome) in writes {
            storage.results.put(&tenant, &request, 0, place, outcome.into()).await.unwrap();
        }
        assert_eq!(storage.results.get(&tenant, &request).await.unwrap().as_deref(), Some(&b"first"[..]));
    }
}

pub async fn the_latest_run_is_read(storage: &Storage) {
    let (tenant, request) = (unique("t"), unique("r"));
    for (run, offset) in [(1, 50), (0, 3), (12, 60), (2, 40)] {
        let outcome = format!("run {run}").into_bytes();
        storage.results.put(&tenant, &request, run, place(0, offset), outcome).await.unwrap();
    }
    assert_eq!(storage.results.get(&tenant, &request).await.unwrap().as_deref(), Some(&b"run 12"[..]));
}

pub async fn a_result_written_again_stays(storage: &Storage) {
    let (tenant, request) = (unique("t"), unique("r"));
    for _ in 0..3 {
        storage.results.put(&tenant, &request, 0, place(2, 7), b"outcome".to_vec()).await.unwrap();
        assert_eq!(storage.results.get(&tenant, &request).await.unwrap().as_deref(), Some(&b"outcome"[..]));
    }
}

pub async fn results_of_tenants_are_apart(storage: &Storage) {
    let tenant = unique("t");
    // Put together without their lengths these would be one key.
    storage.results.put(&format!("{tenant}a"), "b", 0, place(0, 0), b"one".to_vec()).await.unwrap();
    assert_eq!(storage.results.get(&tenant, "ab").await.unwrap(), None);
    assert_eq!(storage.results.get(&format!("{tenant}a"), "").await.unwrap(), None);
    assert_eq!(storage.results.get(&format!("{tenant}a"), "b").await.unwrap(), Some(b"one".to_vec()));
}

pub async fn a_megabyte_comes_back_as_it_was(storage: &Storage) {
    let (tenant, request) = (unique("t"), unique("r"));
    let outcome: Vec<u8> = (0..1_048_576_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    storage.results.put(&tenant, &request, 0, place(0, 1), outcome.clone()).await.unwrap();
    assert!(storage.results.get(&tenant, &request).await.unwrap() == Some(outcome), "another megabyte came back");
}

pub async fn what_is_out_of_range_is_refused(storage: &Storage) {
    let long = "x".repeat(70_000);
    for (tenant, place) in [
        (&*long, place(0, 0)),
        ("t", place(0, -1)),
        ("t", place(0, 1 << 40)),
        ("t", place(1_024, 0)),
        ("t", place(u32::MAX, i64::MAX)),
    ] {
        let error = storage.results.put(tenant, "out of range", 0, place, b"outcome".to_vec()).await.unwrap_err();
        assert!(matches!(error, StorageError::Refused(_)), "{place:?}: {error}");
    }
    assert_eq!(storage.results.get("t", "out of range").await.unwrap(), None);
}

pub async fn count_counts_outcomes(storage: &Storage) {
    assert_eq!(storage.results.count().await.unwrap(), 0);
    for request in 0..30 {
        for offset in [5, 4] {
            storage.results.put("t", &format!("r{request}"), 0, place(0, offset), vec![1; 2000]).await.unwrap();
        }
    }
    storage.results.put("t", "r0", 1, place(0, 70), b"another run".to_vec()).await.unwrap();
    assert_eq!(storage.results.count().await.unwrap(), 31);
}
