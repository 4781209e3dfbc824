//! The end of a batch, told to the endpoints of its tenant.
//!
//! Invariant: the note that there is work for a batch goes after its end was told, so whoever finds the note of a batch
//! that has ended tells it. That may be twice: it is the same event, in the same deliveries.

use millrace_schemas::Lane;
use millrace_storage::StorageError;
use millrace_webhooks::{Event, enqueue};
use serde_json::json;

use crate::batches::{Batch, Status};
use crate::run::Ingress;

/// The partition of outcomes whose owner sends it: the first, which there always is. Batches are few.
const SENDER: (Lane, i32) = (Lane::Batch, 0);

/// Tells the end of a batch; nothing while it goes on.
pub(super) async fn tell(ingress: &Ingress, batch: &Batch) -> Result<(), StorageError> {
    let Some(event) = event(batch) else { return Ok(()) };
    let tenant = &batch.principal.tenant;
    let webhooks = ingress.tenants.webhooks_of(tenant).into_iter();
    let told = webhooks.filter(|webhook| webhook.entry.wants(&event.kind)).map(|webhook| webhook.id);
    enqueue(&ingress.storage, tenant, told, SENDER, &event).await
}

fn event(batch: &Batch) -> Option<Event> {
    let (kind, at) = match batch.status {
        Status::Completed => ("batch.completed", batch.completed_at),
        Status::Failed => ("batch.failed", batch.failed_at),
        Status::Cancelled => ("batch.cancelled", batch.cancelled_at),
        Status::Expired => ("batch.expired", batch.expired_at),
        Status::Validating | Status::InProgress | Status::Finalizing | Status::Cancelling => return None,
    };
    let data = json!({
        "id": batch.id,
        "object": "batch",
        "url": format!("/v1/batches/{}", batch.id),
        "status": batch.status.as_str(),
        "request_counts": { "total": batch.total, "completed": batch.completed, "failed": batch.failed },
    });
    let at = at.unwrap_or(batch.created_at).saturating_mul(1_000_000);
    Some(Event::new(&batch.principal.tenant, kind, &["batch", &batch.id], at, data))
}

#[cfg(test)]
mod tests {
    use millrace_config::WEBHOOK_EVENTS;
    use serde_json::Value;

    use super::*;

    fn batch(status: &str) -> Batch {
        let file = |id: &str| json!({ "file_id": id, "content": millrace_files::Content::default() });
        let stored = json!({
            "id": "batch_1", "principal": { "tenant": "acme", "user": null, "key_id": "k" },
            "endpoint": "/v1/chat/completions", "input_file_id": "file-in", "completion_window": "24h", "metadata": null,
            "output_kept": null, "status": status, "created_at": 1_700_000_000, "expires_at": 1_700_086_400,
            "in_progress_at": null, "finalizing_at": null, "completed_at": 1_700_000_009, "failed_at": 1_700_000_009,
            "expired_at": 1_700_000_009, "cancelling_at": null, "cancelled_at": 1_700_000_009, "errors": [], "total": 3,
            "completed": 2, "failed": 1, "expired": 0,
            "usage": { "input": 0, "cached": 0, "output": 0, "reasoning": 0 }, "model": null,
            "output": file("file-out"), "error": file("file-err"), "lease": null, "epoch": 1, "published": 3,
            "outstanding": [],
        });
        serde_json::from_value(stored).expect("a batch")
    }

    #[test]
    fn every_end_is_one_event_in_openais_shape() {
        for status in ["completed", "failed", "cancelled", "expired"] {
            let told = event(&batch(status)).expect("an event");
            assert_eq!(told.kind, format!("batch.{status}"));
            assert!(WEBHOOK_EVENTS.contains(&told.kind.as_str()), "{status}");
            let payload: Value = serde_json::from_str(&told.payload()).expect("JSON");
            assert_eq!(payload["data"]["id"], "batch_1");
            assert_eq!((&payload["created_at"], &payload["data"]["status"]), (&json!(1_700_000_009), &json!(status)));
            assert_eq!(payload["data"]["request_counts"]["completed"], 2);
            assert_eq!(event(&batch(status)), Some(told), "told again, it is the same");
        }
        for status in ["validating", "in_progress", "finalizing", "cancelling"] {
            assert_eq!(event(&batch(status)), None, "{status}");
        }
    }
}
