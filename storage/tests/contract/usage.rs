//! Usage and audits.

use millrace_storage::{LedgerFlush, LedgerTotals, RollupKey, Storage};

use super::{entry, place, rollup, rollup_key, unique, unique_partition};

async fn keys_of(storage: &Storage, tenant: &str, from: i64, to: i64) -> Vec<RollupKey> {
    let mut keys = Vec::new();
    for (key, stored) in storage.usage.usage(tenant, from, to).await.unwrap() {
        assert_eq!(stored, rollup(stored.upto), "{key:?}");
        keys.push(key);
    }
    keys.sort();
    keys
}

/// Three users in the hours around two midnights, in two partitions.
async fn fill(storage: &Storage, tenant: &str, hours: &[i64]) -> Vec<RollupKey> {
    let mut all = Vec::new();
    for partition in [unique_partition(), unique_partition()] {
        let mut cells = Vec::new();
        for hour in hours {
            for user in ["a", "b", "a/b"] {
                cells.push((rollup_key(tenant, user, *hour, 1, partition), rollup(hour % 7)));
            }
        }
        all.extend(cells.iter().map(|(key, _)| key.clone()));
        let flush = LedgerFlush { generation: 1, partition, upto: 9, rollups: cells, ..LedgerFlush::default() };
        storage.ledger.flush(&flush).await.unwrap();
    }
    all.sort();
    all
}

pub async fn usage_is_of_one_tenant_and_range(storage: &Storage) {
    let (tenant, other) = (unique("t"), unique("t"));
    let midnight = 24 * 20_650;
    let hours: Vec<i64> = (midnight - 2..midnight + 26).collect();
    let all = fill(storage, &tenant, &hours).await;
    fill(storage, &other, &hours).await;

    for (from, to) in [
        (midnight - 2, midnight + 26),
        (midnight - 1, midnight + 1),
        (midnight, midnight + 24),
        (midnight + 3, midnight + 4),
        (midnight - 100, midnight),
        (midnight + 25, midnight + 3_000),
    ] {
        let wanted: Vec<_> = all.iter().filter(|key| (from..to).contains(&key.hour)).cloned().collect();
        assert!(!wanted.is_empty());
        assert_eq!(keys_of(storage, &tenant, from, to).await, wanted, "{from}..{to}");
    }
    assert_eq!(keys_of(storage, &tenant, midnight, midnight).await, []);
    assert_eq!(keys_of(storage, &tenant, midnight + 5, midnight).await, []);
    assert_eq!(keys_of(storage, &unique("t"), midnight, midnight + 24).await, []);
}

pub async fn usage_of_all_times_is_found(storage: &Storage) {
    let (tenant, other) = (unique("t"), unique("t"));
    let all = fill(storage, &tenant, &[0, 24 * 11_000 + 5, 24 * 20_650]).await;
    fill(storage, &other, &[7]).await;
    assert_eq!(keys_of(storage, &tenant, i64::MIN, i64::MAX).await, all);
    let recent: Vec<_> = all.iter().filter(|key| key.hour > 0).cloned().collect();
    assert_eq!(keys_of(storage, &tenant, 1, i64::MAX).await, recent);
}

pub async fn totals_are_the_sums(storage: &Storage) {
    assert_eq!(storage.usage.totals().await.unwrap(), LedgerTotals::default());

    let mut wanted = LedgerTotals::default();
    for partition in 0..2 {
        let mut entries = Vec::new();
        for offset in 0..300 {
            let hour = 495_000 + offset % 3;
            let call = format!("call {partition} {offset}");
            let mut line = entry(if offset % 5 == 0 { "t" } else { "u" }, hour, partition, place(0, offset), &call);
            if offset % 10 == 0 {
                line.kind = "unconfirmed".to_owned();
                let mut adjusted = line.clone();
                adjusted.kind = "adjusted".to_owned();
                adjusted.place.offset += 1_000;
                adjusted.cost_nanos = -500;
                adjusted.input_tokens = 0;
                adjusted.output_tokens = 0;
                entries.push(adjusted);
                wanted.unconfirmed += 1;
            }
            wanted.calls += 1;
            entries.push(line);
        }
        wanted.entries += entries.len() as u64;
        wanted.entries_sum += entries.iter().map(|entry| entry.cost_nanos).sum::<i64>();
        wanted.tokens += entries.iter().map(|entry| entry.input_tokens + entry.output_tokens).sum::<i64>();
        let rollups = vec![
            (rollup_key("t", "user", 495_000, 0, partition), rollup(1_290)),
            (rollup_key("u", "user", 495_001, 0, partition), rollup(40)),
        ];
        let sums = rollups.iter().flat_map(|(_, rollup)| rollup.cost_nanos.values());
        wanted.rollups_sum += sums.sum::<i64>();
        let flush = LedgerFlush { partition, upto: 1_290, entries, rollups, ..LedgerFlush::default() };
        for _ in 0..2 {
            storage.ledger.flush(&flush).await.unwrap();
        }
    }
    assert_eq!(storage.usage.totals().await.unwrap(), wanted);
}
