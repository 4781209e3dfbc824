//! Entries, rollups and checkpoints.

use millrace_storage::{LedgerFlush, Rollup, RollupKey, Storage, StorageError};

use super::{entry, place, rollup, rollup_key, unique, unique_partition};

/// A partition whose fold has come to `upto`, with one call per offset, all in one hour.
struct Fold {
    tenant: String,
    partition: i32,
}

const GENERATION: u32 = 2;
const HOUR: i64 = 495_000;

impl Fold {
    fn new() -> Self {
        Self { tenant: unique("t"), partition: unique_partition() }
    }

    fn cell(&self) -> RollupKey {
        rollup_key(&self.tenant, "user", HOUR, GENERATION, self.partition)
    }

    fn flush(&self, offsets: std::ops::RangeInclusive<i64>) -> LedgerFlush {
        let upto = *offsets.end();
        let entries = offsets.map(|offset| self.entry(offset)).collect();
        LedgerFlush {
            generation: GENERATION,
            partition: self.partition,
            upto,
            checkpoint: format!("open calls at {upto}").into_bytes(),
            entries,
            rollups: vec![(self.cell(), rollup(upto))],
        }
    }

    fn entry(&self, offset: i64) -> millrace_storage::Entry {
        entry(&self.tenant, HOUR, self.partition, place(GENERATION, offset), &format!("call {offset}"))
    }

    /// Everything a fold up to `upto` must have left.
    async fn check(&self, storage: &Storage, upto: i64) {
        let ledger = &storage.ledger;
        let checkpoint = ledger.checkpoint(GENERATION, self.partition).await.unwrap();
        assert_eq!(checkpoint, Some((upto, format!("open calls at {upto}").into_bytes())));
        assert_eq!(ledger.rollups(&[self.cell()]).await.unwrap(), [Some(rollup(upto))]);
        for offset in 0..=upto {
            let call = format!("call {offset}");
            let entries = ledger.entries_of(&self.tenant, HOUR, self.partition, &call).await.unwrap();
            assert_eq!(entries, [self.entry(offset)]);
        }
    }
}

pub async fn a_flush_is_read_back(storage: &Storage) {
    let fold = Fold::new();
    assert_eq!(storage.ledger.checkpoint(GENERATION, fold.partition).await.unwrap(), None);
    assert_eq!(storage.ledger.entries_of(&fold.tenant, HOUR, fold.partition, "call 0").await.unwrap(), []);

    storage.ledger.flush(&fold.flush(0..=4)).await.unwrap();
    fold.check(storage, 4).await;
    assert_eq!(storage.ledger.checkpoint(GENERATION + 1, fold.partition).await.unwrap(), None);

    // Two lines of one call, in log order.
    let mut adjusted = fold.entry(9);
    adjusted.call_id = "call 3".to_owned();
    adjusted.kind = "adjusted".to_owned();
    adjusted.cost_nanos = -1_000_003;
    let flush = LedgerFlush { entries: vec![adjusted.clone()], ..fold.flush(5..=9) };
    storage.ledger.flush(&flush).await.unwrap();
    let entries = storage.ledger.entries_of(&fold.tenant, HOUR, fold.partition, "call 3").await.unwrap();
    assert_eq!(entries, [fold.entry(3), adjusted]);
}

pub async fn a_flush_written_again_changes_nothing(storage: &Storage) {
    let fold = Fold::new();
    for _ in 0..3 {
        storage.ledger.flush(&fold.flush(0..=3)).await.unwrap();
        fold.check(storage, 3).await;
    }
}

pub async fn a_stale_flush_changes_nothing(storage: &Storage) {
    let fold = Fold::new();
    // 8 and 11: as text the older one is the greater one.
    storage.ledger.flush(&fold.flush(0..=8)).await.unwrap();
    storage.ledger.flush(&fold.flush(9..=11)).await.unwrap();
    // A writer that lost its partition writes what it had, after its successor.
    storage.ledger.flush(&fold.flush(0..=8)).await.unwrap();
    storage.ledger.flush(&fold.flush(9..=10)).await.unwrap();
    fold.check(storage, 11).await;
}

pub async fn rollups_come_in_the_order_asked_for(storage: &Storage) {
    let (tenant, partition) = (unique("t"), unique_partition());
    let key = |user: usize, hour: i64| rollup_key(&tenant, &format!("u{user}"), hour, 0, partition);
    let cells: Vec<(RollupKey, Rollup)> =
        (0..150).map(|n| (key(n, HOUR + (n as i64 % 30)), rollup(n as i64))).collect();
    let flush = LedgerFlush { partition, upto: 149, rollups: cells.clone(), ..LedgerFlush::default() };
    storage.ledger.flush(&flush).await.unwrap();

    let mut keys: Vec<RollupKey> = cells.iter().rev().map(|(key, _)| key.clone()).collect();
    keys.insert(50, key(7, HOUR - 1));
    let mut wanted: Vec<Option<Rollup>> = cells.iter().rev().map(|(_, rollup)| Some(rollup.clone())).collect();
    wanted.insert(50, None);
    assert_eq!(storage.ledger.rollups(&keys).await.unwrap(), wanted);
    assert_eq!(storage.ledger.rollups(&[]).await.unwrap(), []);
}

pub async fn a_rollup_of_another_partition_is_refused(storage: &Storage) {
    let fold = Fold::new();
    let flush = LedgerFlush { partition: unique_partition(), ..fold.flush(0..=0) };
    let error = storage.ledger.flush(&flush).await.unwrap_err();
    assert!(matches!(error, StorageError::Refused(_)), "{error}");
    assert_eq!(storage.ledger.rollups(&[fold.cell()]).await.unwrap(), [None]);
}

pub async fn a_flush_out_of_range_is_refused_whole(storage: &Storage) {
    let (tenant, partition) = (unique("t"), unique_partition());
    let flush = LedgerFlush {
        generation: 1_024,
        partition,
        entries: vec![entry(&tenant, HOUR, partition, place(0, 0), "call")],
        rollups: vec![(rollup_key(&tenant, "user", HOUR, 1_024, partition), rollup(0))],
        ..LedgerFlush::default()
    };
    let Err(StorageError::Refused(line)) = storage.ledger.flush(&flush).await else { panic!("stored") };
    assert!(line.contains("generation 1024"), "{line}");
    assert_eq!(storage.ledger.entries_of(&tenant, HOUR, partition, "call").await.unwrap(), []);
}

pub async fn entries_beyond_one_batch_are_all_kept(storage: &Storage) {
    let (tenant, partition) = (unique("t"), unique_partition());
    let wide = "w".repeat(9_000);
    let entries: Vec<_> = (0..450)
        .map(|offset| {
            let mut entry = entry(&tenant, HOUR + offset % 2, partition, place(0, offset), &format!("call {offset}"));
            // Some batches end by their bytes, others by their rows.
            if offset < 40 {
                entry.user.clone_from(&wide);
            }
            entry
        })
        .collect();
    let flush = LedgerFlush { partition, upto: 449, entries: entries.clone(), ..LedgerFlush::default() };
    storage.ledger.flush(&flush).await.unwrap();
    for entry in entries {
        let stored = storage.ledger.entries_of(&tenant, entry.hour, partition, &entry.call_id).await.unwrap();
        assert_eq!(stored, [entry]);
    }
}

pub async fn an_empty_flush_moves_the_checkpoint(storage: &Storage) {
    let partition = unique_partition();
    let at = |upto| LedgerFlush { partition, upto, ..LedgerFlush::default() };
    storage.ledger.flush(&at(-1)).await.unwrap();
    assert_eq!(storage.ledger.checkpoint(0, partition).await.unwrap(), Some((-1, Vec::new())));
    storage.ledger.flush(&at(5)).await.unwrap();
    storage.ledger.flush(&at(4)).await.unwrap();
    assert_eq!(storage.ledger.checkpoint(0, partition).await.unwrap(), Some((5, Vec::new())));
}
