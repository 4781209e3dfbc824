//! What webhooks need of a database.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::port::StorageError;

/// For how long a delivery is kept after it was last written.
pub const WEBHOOK_DAYS: u32 = 30;
/// The minute of what others than a shard's owner ask for.
pub const INBOX: i64 = 0;

pub(crate) const HOUR_MICROS: i64 = 3_600_000_000;
const PREFIX: &str = "wh_";
const TIME_DIGITS: usize = 14;

/// Id of a delivery: `wh_`, when its event happened (14 hexadecimal digits of microseconds since the
/// epoch), and 32 digits of a UUID. So ids sort by time, and an id says where its row is.
#[must_use]
pub fn delivery_id(created_at: i64, unique: Uuid) -> String {
    format!("{PREFIX}{:0TIME_DIGITS$x}{}", created_at.max(0), unique.simple())
}

/// When the event of a delivery happened; `None` when this is no id of a delivery.
#[must_use]
pub fn delivery_created_at(id: &str) -> Option<i64> {
    let digits = id.strip_prefix(PREFIX)?;
    let plain = digits.len() == TIME_DIGITS + 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| i64::from_str_radix(&digits[..TIME_DIGITS], 16).ok())?
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryStatus {
    /// Not taken by the endpoint yet.
    Pending,
    /// The endpoint answered with a 2xx.
    Delivered,
    /// Given up.
    Failed,
}

/// One attempt, and what the endpoint said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookAttempt {
    /// When, microseconds since the epoch.
    pub at: i64,
    /// How long it took, milliseconds.
    pub took_ms: i64,
    /// HTTP status of the answer.
    pub status: Option<u16>,
    /// Why there was no answer.
    pub error: Option<String>,
    /// The beginning of the answer's body.
    pub excerpt: Option<String>,
}

/// One event for one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookDelivery {
    /// Whose.
    pub tenant: String,
    /// See [`delivery_id`]. Receivers get it as `webhook-id`, the same in every attempt.
    pub id: String,
    /// The endpoint's id in the configuration.
    pub endpoint: String,
    /// The event's type, such as `response.completed`.
    pub event: String,
    /// Lane of its shard.
    pub lane: String,
    /// Shard: the partition of `outcomes` whose owner sends it.
    pub shard: i32,
    /// What is sent, byte for byte.
    pub payload: String,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// Attempts of all rounds.
    pub attempts: u32,
    /// Attempts of this round; sending again begins a new one.
    pub round_attempts: u32,
    /// When this round began, microseconds since the epoch.
    pub round_began: i64,
    /// When the next attempt is due, microseconds since the epoch; of no meaning unless pending.
    pub next_at: i64,
    /// When it was delivered or given up.
    pub finished_at: Option<i64>,
    /// The latest attempts, the newest last.
    pub log: Vec<WebhookAttempt>,
}

impl WebhookDelivery {
    /// When its event happened, microseconds since the epoch.
    #[must_use]
    pub fn created_at(&self) -> i64 {
        delivery_created_at(&self.id).unwrap_or_default()
    }

    pub(crate) fn hour(&self) -> i64 {
        self.created_at().div_euclid(HOUR_MICROS)
    }
}

/// A note that a delivery is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Due {
    /// The delivery's.
    pub id: String,
    /// The delivery's.
    pub tenant: String,
    /// The delivery's.
    pub endpoint: String,
    /// Begin a new round: somebody asked for it.
    #[serde(default)]
    pub again: bool,
}

/// Deliveries by tenant and id.
#[async_trait]
pub trait WebhookDeliveries: Send + Sync {
    /// A delivery; nothing when there is none of this id, or it is not kept any more.
    async fn delivery(&self, tenant: &str, id: &str) -> Result<Option<WebhookDelivery>, StorageError>;
    /// Writes a delivery, in place of what it was; it is kept for [`WEBHOOK_DAYS`] from now.
    async fn put_delivery(&self, delivery: &WebhookDelivery) -> Result<(), StorageError>;
    /// At most so many deliveries with ids less than `before`, the newest first, of events that happened
    /// at `since` (microseconds) or later.
    async fn deliveries(
        &self,
        tenant: &str,
        before: &str,
        since: i64,
        limit: usize,
    ) -> Result<Vec<WebhookDelivery>, StorageError>;
    /// Removes what was created before an instant, where the database does not do so by itself.
    async fn forget_deliveries(&self, before: i64) -> Result<(), StorageError>;
}

/// What is due, by lane, shard and minute since the epoch.
#[async_trait]
pub trait WebhookSchedule: Send + Sync {
    /// Notes that something is due in a minute.
    async fn put_due(&self, lane: &str, shard: i32, minute: i64, due: &Due) -> Result<(), StorageError>;
    /// Removes a note.
    async fn remove_due(&self, lane: &str, shard: i32, minute: i64, id: &str) -> Result<(), StorageError>;
    /// At most so many notes of a minute with ids greater than `after`, by id.
    async fn due(
        &self,
        lane: &str,
        shard: i32,
        minute: i64,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Due>, StorageError>;
    /// Every shard of a lane, and the minute before which nothing of it is due.
    async fn marks(&self, lane: &str) -> Result<Vec<(i32, i64)>, StorageError>;
    /// Sets such a minute.
    async fn put_mark(&self, lane: &str, shard: i32, minute: i64) -> Result<(), StorageError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_when_and_ids_sort_by_time() {
        let unique = Uuid::from_u128(7);
        let times = [0, 1, 1_700_000_000_000_000, 1_700_000_000_000_001, 9_999_999_999_999_999];
        let ids = times.map(|at| delivery_id(at, unique));
        assert!(ids.is_sorted());
        assert_eq!(ids.each_ref().map(|id| delivery_created_at(id).unwrap()), times);
        for id in ["", "wh_", "wh_00", &ids[1].to_uppercase(), &format!("{}0", ids[1]), &ids[1].replace("wh", "hw")] {
            assert_eq!(delivery_created_at(id), None, "{id}");
        }
        assert_eq!(delivery_created_at(&format!("wh_{}", "é".repeat(23))), None);
    }
}
