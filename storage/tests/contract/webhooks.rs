//! Webhooks.

use millrace_storage::{DeliveryStatus, Due, INBOX, Row, Storage, WebhookAttempt, WebhookDelivery, delivery_id};

use super::{exported, unique, unique_partition};

/// A pending delivery of an event at `created_at`; `n` tells it from others.
pub fn delivery(tenant: &str, created_at: i64, n: u128) -> WebhookDelivery {
    WebhookDelivery {
        tenant: tenant.to_owned(),
        id: delivery_id(created_at, uuid::Uuid::from_u128(n)),
        endpoint: "main".to_owned(),
        event: "response.completed".to_owned(),
        lane: unique("lane"),
        shard: 3,
        payload: "{\"é\":1}".to_owned(),
        status: DeliveryStatus::Pending,
        attempts: 0,
        round_attempts: 0,
        round_began: created_at,
        next_at: created_at,
        finished_at: None,
        log: Vec::new(),
    }
}

fn due(delivery: &WebhookDelivery) -> Due {
    Due { id: delivery.id.clone(), tenant: delivery.tenant.clone(), endpoint: delivery.endpoint.clone(), again: false }
}

const AT: i64 = 1_700_000_000_000_000;
const HOUR: i64 = 3_600_000_000;

pub async fn a_delivery_is_what_was_written_last(storage: &Storage) {
    let tenant = unique("t");
    let mut delivery = delivery(&tenant, AT, 1);
    assert_eq!(storage.webhooks.delivery(&tenant, &delivery.id).await.unwrap(), None);
    storage.webhooks.put_delivery(&delivery).await.unwrap();
    delivery.attempts = 1;
    delivery.status = DeliveryStatus::Delivered;
    delivery.finished_at = Some(AT + 7);
    let excerpt = Some("thank you".to_owned());
    delivery.log.push(WebhookAttempt { at: AT + 5, took_ms: 2, status: Some(204), error: None, excerpt });
    storage.webhooks.put_delivery(&delivery).await.unwrap();
    assert_eq!(storage.webhooks.delivery(&tenant, &delivery.id).await.unwrap(), Some(delivery.clone()));
    assert_eq!(storage.webhooks.delivery(&unique("t"), &delivery.id).await.unwrap(), None);
    assert_eq!(storage.webhooks.delivery(&tenant, "no id").await.unwrap(), None);
}

pub async fn deliveries_are_listed_from_the_newest_on(storage: &Storage) {
    let tenant = unique("t");
    // Two within an hour, one an hour before, one days before that.
    let mut all = vec![
        delivery(&tenant, AT - 80 * HOUR, 1),
        delivery(&tenant, AT - HOUR, 2),
        delivery(&tenant, AT, 3),
        delivery(&tenant, AT, 4),
    ];
    for delivery in &all {
        storage.webhooks.put_delivery(delivery).await.unwrap();
    }
    storage.webhooks.put_delivery(&delivery(&unique("t"), AT, 5)).await.unwrap();
    all.reverse();
    let list = async |before: &str, since: i64, limit: usize| {
        storage.webhooks.deliveries(&tenant, before, since, limit).await.unwrap()
    };
    let end = delivery_id(AT + 1, uuid::Uuid::nil());
    assert_eq!(list(&end, 0.max(AT - 100 * HOUR), 10).await, all);
    assert_eq!(list(&end, AT - 100 * HOUR, 3).await, all[..3]);
    assert_eq!(list(&all[0].id, AT - 100 * HOUR, 1).await, all[1..2]);
    assert_eq!(list(&all[2].id, AT - 100 * HOUR, 5).await, all[3..]);
    assert_eq!(list(&end, AT - HOUR, 10).await, all[..3], "since is included");
    assert_eq!(list(&end, AT - HOUR + 1, 10).await, all[..2]);
    assert_eq!(list(&all[3].id, AT - 100 * HOUR, 5).await, []);
}

pub async fn what_is_due_is_kept_by_shard_and_minute(storage: &Storage) {
    let (lane, tenant) = (unique("lane"), unique("t"));
    let schedule = &storage.webhook_schedule;
    let notes: Vec<Due> = (0..5).map(|n| due(&delivery(&tenant, AT, n))).collect();
    for _ in 0..2 {
        for note in &notes {
            schedule.put_due(&lane, 1, 28_333_333, note).await.unwrap();
        }
    }
    schedule.put_due(&lane, 1, INBOX, &Due { again: true, ..notes[0].clone() }).await.unwrap();
    let read = async |shard: i32, minute: i64, after: &str, limit: usize| {
        schedule.due(&lane, shard, minute, after, limit).await.unwrap()
    };
    assert_eq!(read(1, 28_333_333, "", 10).await, notes);
    assert_eq!(read(1, 28_333_333, "", 2).await, notes[..2]);
    assert_eq!(read(1, 28_333_333, &notes[1].id, 2).await, notes[2..4]);
    assert_eq!(read(1, 28_333_334, "", 10).await, []);
    assert_eq!(read(2, 28_333_333, "", 10).await, []);
    assert_eq!(read(1, INBOX, "", 10).await, [Due { again: true, ..notes[0].clone() }]);
    for _ in 0..2 {
        schedule.remove_due(&lane, 1, 28_333_333, &notes[2].id).await.unwrap();
    }
    assert_eq!(read(1, 28_333_333, &notes[1].id, 1).await, notes[3..4]);

    assert_eq!(schedule.marks(&lane).await.unwrap(), []);
    for (shard, minute) in [(0, 5), (11, 7), (0, 9)] {
        schedule.put_mark(&lane, shard, minute).await.unwrap();
    }
    let mut marks = schedule.marks(&lane).await.unwrap();
    marks.sort_unstable();
    assert_eq!(marks, [(0, 9), (11, 7)]);
}

pub async fn pending_deliveries_are_due_once_imported(storage: &Storage) {
    let (tenant, shard) = (unique("t"), unique_partition());
    let pending = WebhookDelivery { shard, attempts: 2, ..delivery(&tenant, AT, 1) };
    let done = WebhookDelivery { shard, attempts: 2, status: DeliveryStatus::Delivered, ..delivery(&tenant, AT, 2) };
    let rows = |all: &[&WebhookDelivery]| all.iter().map(|d| Row::Webhook(Box::new((*d).clone()))).collect::<Vec<_>>();
    storage.backup.import(rows(&[&pending, &done])).await.unwrap();
    let inbox = async |lane: &str| storage.webhook_schedule.due(lane, shard, INBOX, "", 10).await.unwrap();
    assert_eq!(inbox(&pending.lane).await, [due(&pending)]);
    assert_eq!(inbox(&done.lane).await, []);
    assert_eq!(storage.webhooks.delivery(&tenant, &done.id).await.unwrap(), Some(done.clone()));

    // What has got further is left as it is.
    let older = WebhookDelivery { attempts: 1, status: DeliveryStatus::Pending, ..done.clone() };
    storage.backup.import(rows(&[&older])).await.unwrap();
    assert_eq!(storage.webhooks.delivery(&tenant, &done.id).await.unwrap(), Some(done.clone()));
    assert_eq!(inbox(&done.lane).await, []);
    let found = exported(storage, |row| matches!(row, Row::Webhook(delivery) if delivery.tenant == tenant)).await;
    assert_eq!(found.len(), 2, "{found:?}");
}
