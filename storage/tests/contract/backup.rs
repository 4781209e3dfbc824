//! Whole stores.

use millrace_storage::{Claim, Claimed, LedgerFlush, PartId, Row, Storage, Waiter};

use super::{delivery, entry, place, rollup, rollup_key, unique, unique_partition};

/// Rows of one tenant, or of one partition of the log.
pub async fn exported(storage: &Storage, is_ours: impl Fn(&Row) -> bool) -> Vec<Row> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(8);
    let backup = storage.backup.clone();
    let exporting = tokio::spawn(async move { backup.export(sender).await });
    let mut rows = Vec::new();
    while let Some(row) = receiver.recv().await {
        if is_ours(&row) {
            rows.push(row);
        }
    }
    exporting.await.unwrap().unwrap();
    rows
}

pub async fn every_row_is_exported_and_imported_unchanged(storage: &Storage) {
    let (tenant, partition) = (unique("backup"), unique_partition());
    let claim = |coordinates: &str| Claim {
        request_id: "r".to_owned(),
        coordinates: coordinates.to_owned(),
        body_hash: "hash".to_owned(),
    };
    let waiter =
        Waiter { coordinates: "topic/0/0/2".to_owned(), replica: Some("ingress-1".to_owned()), reply_topic: None };
    let lines = [
        entry(&tenant, 7, partition, place(3, 3), "call-a"),
        entry(&tenant, 7, partition, place(3, 4), "call-a"),
        entry(&tenant, 8, partition, place(3, 5), "call-b"),
    ];
    let cell = rollup_key(&tenant, "user", 7, 3, partition);
    let flush = LedgerFlush {
        generation: 3,
        partition,
        upto: 5,
        checkpoint: b"state".to_vec(),
        entries: lines.to_vec(),
        rollups: vec![(cell.clone(), rollup(5))],
    };
    storage.ledger.flush(&flush).await.unwrap();
    storage.keys.claim(&tenant, "key", &claim("topic/0/0/1")).await.unwrap();
    storage.keys.add_waiter(&tenant, "r", &waiter).await.unwrap();
    storage.results.put(&tenant, "r", 0, place(2, 9), b"first run".to_vec()).await.unwrap();
    storage.results.put(&tenant, "r", 1, place(3, 1), vec![0xff, 0]).await.unwrap();

    let part = PartId { tenant: tenant.clone(), file_id: "file".to_owned(), epoch: 2, part: 3 };
    assert!(storage.objects.replace(&tenant, "kind", "id", 0, Some(b"one".to_vec())).await.unwrap());
    assert!(storage.objects.replace(&tenant, "kind", "id", 1, Some(b"two".to_vec())).await.unwrap());
    storage.parts.put_part(&part, b"content".to_vec(), None).await.unwrap();
    storage.kept.keep(&tenant, "r", b"asked".to_vec()).await.unwrap();
    storage.kept.forget(&tenant, "s").await.unwrap();

    let webhook = delivery(&tenant, 1_700_000_000_000_000, 1);
    storage.webhooks.put_delivery(&webhook).await.unwrap();

    let is_ours = |row: &Row| match row {
        Row::Checkpoint { partition: p, .. } => *p == partition,
        Row::Rollup { key, .. } => key.tenant == tenant,
        Row::Entry(entry) => entry.tenant == tenant,
        Row::FilePart { id, .. } => id.tenant == tenant,
        Row::Webhook(delivery) => delivery.tenant == tenant,
        Row::Object { tenant: t, .. }
        | Row::Key { tenant: t, .. }
        | Row::Waiter { tenant: t, .. }
        | Row::Result { tenant: t, .. }
        | Row::Kept { tenant: t, .. } => *t == tenant,
    };
    let rows = exported(storage, is_ours).await;
    assert!(matches!(rows[0], Row::Checkpoint { upto: 5, .. }), "checkpoints come first: {rows:?}");
    assert_eq!(rows.len(), 14, "{rows:?}");
    assert!(rows.contains(&Row::Webhook(Box::new(webhook))));
    for line in &lines {
        assert!(rows.contains(&Row::Entry(Box::new(line.clone()))), "{line:?}");
    }
    let result = |run: i32, place, outcome: &[u8]| Row::Result {
        tenant: tenant.clone(),
        request_id: "r".to_owned(),
        run,
        place,
        outcome: outcome.to_vec(),
    };
    assert!(rows.contains(&result(0, place(2, 9), b"first run")) && rows.contains(&result(1, place(3, 1), &[0xff, 0])));

    let object = |version, value: &[u8]| Row::Object {
        tenant: tenant.clone(),
        kind: "kind".to_owned(),
        id: "id".to_owned(),
        version,
        value: value.to_vec(),
    };
    assert!(
        rows.contains(&object(2, b"two")) && rows.contains(&Row::FilePart { id: part, content: b"content".to_vec() })
    );

    // As a file keeps them.
    let kept: Vec<String> = rows.iter().map(|row| serde_json::to_string(row).unwrap()).collect();
    let back: Vec<Row> = kept.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(back, rows);
    storage.backup.import(back).await.unwrap();
    assert_eq!(exported(storage, is_ours).await, rows, "imported over itself");

    // What is there already wins by its table's own rule.
    let older = vec![
        object(1, b"one"),
        result(1, place(3, 0), b"earlier in the log"),
        result(0, place(2, 10), b"later in the log"),
        Row::Checkpoint { generation: 3, partition, upto: 4, state: b"old".to_vec() },
        Row::Rollup { key: cell.clone(), rollup: rollup(4) },
        Row::Key { tenant: tenant.clone(), key: "key".to_owned(), claim: claim("topic/0/0/8") },
    ];
    storage.backup.import(older).await.unwrap();
    assert_eq!(storage.results.get(&tenant, "r").await.unwrap(), Some(b"earlier in the log".to_vec()));
    assert!(exported(storage, is_ours).await.contains(&result(0, place(2, 9), b"first run")));
    assert_eq!(storage.objects.object(&tenant, "kind", "id").await.unwrap().unwrap().version, 2);
    assert_eq!(storage.ledger.checkpoint(3, partition).await.unwrap(), Some((5, b"state".to_vec())));
    assert_eq!(storage.ledger.rollups(&[cell]).await.unwrap(), [Some(rollup(5))]);
    let held = storage.keys.claim(&tenant, "key", &claim("topic/0/0/9")).await.unwrap();
    assert_eq!(held, Claimed::Theirs(claim("topic/0/0/1")));
}
