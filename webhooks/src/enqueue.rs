//! Events of other services.

use millrace_schemas::{Lane, derived_uuid, now_micros};
use millrace_storage::{DeliveryStatus, Due, INBOX, Storage, StorageError, WebhookDelivery, delivery_id};

use crate::event::Event;

/// Tells endpoints of a tenant, by their ids. The owner of `partition` of the lane's outcomes, which must exist,
/// sends it within seconds. Doing it again changes nothing.
///
/// # Errors
/// [`StorageError`]; do it again.
pub async fn enqueue(
    storage: &Storage,
    tenant: &str,
    endpoints: impl IntoIterator<Item = String>,
    (lane, partition): (Lane, i32),
    event: &Event,
) -> Result<(), StorageError> {
    for endpoint in endpoints {
        let delivery = new_delivery(tenant, &endpoint, (lane.as_str(), partition), event, now_micros());
        if storage.webhooks.delivery(tenant, &delivery.id).await?.is_none() {
            storage.webhooks.put_delivery(&delivery).await?;
        }
        storage.webhook_schedule.put_due(lane.as_str(), partition, INBOX, &due(&delivery, false)).await?;
    }
    Ok(())
}

pub(crate) fn new_delivery(
    tenant: &str,
    endpoint: &str,
    (lane, shard): (&str, i32),
    event: &Event,
    now: i64,
) -> WebhookDelivery {
    let unique = derived_uuid(&["webhook delivery", tenant, endpoint, &event.id]);
    WebhookDelivery {
        tenant: tenant.to_owned(),
        id: delivery_id(event.created_at, unique),
        endpoint: endpoint.to_owned(),
        event: event.kind.clone(),
        lane: lane.to_owned(),
        shard,
        payload: event.payload(),
        status: DeliveryStatus::Pending,
        attempts: 0,
        round_attempts: 0,
        round_began: now,
        next_at: now,
        finished_at: None,
        log: Vec::new(),
    }
}

pub(crate) fn due(delivery: &WebhookDelivery, again: bool) -> Due {
    Due { id: delivery.id.clone(), tenant: delivery.tenant.clone(), endpoint: delivery.endpoint.clone(), again }
}
