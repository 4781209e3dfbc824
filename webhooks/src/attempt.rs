//! What an answer makes of a delivery.

use std::time::Duration;

use millrace_storage::{DeliveryStatus, WebhookAttempt, WebhookDelivery};

use crate::pauses;

/// A round has no more of them.
const LOG: usize = pauses::PAUSES.len() + 1;
/// The endpoint says that it is gone for good.
const GONE: u16 = 410;

/// What came of one attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// HTTP status of the answer.
    pub status: Option<u16>,
    /// Why there was none.
    pub error: Option<String>,
    /// Whether its address is not allowed, so that nothing was sent.
    pub blocked: bool,
    /// Whether its endpoint was deleted, so that there is nobody to send it to.
    pub deleted: bool,
    /// The beginning of the answer's body.
    pub excerpt: Option<String>,
    /// What the answer asked to wait.
    pub retry_after: Option<Duration>,
}

impl Heard {
    /// Nothing was sent.
    pub(crate) fn unsent(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..Self::default() }
    }

    /// Whether the endpoint has taken the event.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// In one word, for metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self.status {
            Some(_) if self.is_taken() => "delivered",
            Some(_) => "refused",
            None if self.deleted => "deleted",
            None if self.blocked => "blocked",
            None => "unreachable",
        }
    }
}

/// Notes an attempt that was begun at `at` and had ended by `now` (microseconds).
pub(crate) fn settle(delivery: &mut WebhookDelivery, heard: &Heard, at: i64, now: i64, random: f64) {
    delivery.attempts = delivery.attempts.saturating_add(1);
    delivery.round_attempts = delivery.round_attempts.saturating_add(1);
    delivery.log.push(WebhookAttempt {
        at,
        took_ms: now.saturating_sub(at) / 1_000,
        status: heard.status,
        error: heard.error.clone(),
        excerpt: heard.excerpt.clone(),
    });
    let surplus = delivery.log.len().saturating_sub(LOG);
    delivery.log.drain(..surplus);
    let next = pauses::next(delivery.round_began, delivery.round_attempts, now, heard.retry_after, random);
    (delivery.status, delivery.finished_at) = match next {
        _ if heard.is_taken() => (DeliveryStatus::Delivered, Some(now)),
        Some(at) if heard.status != Some(GONE) && !heard.deleted => {
            delivery.next_at = at;
            (DeliveryStatus::Pending, None)
        }
        Some(_) | None => (DeliveryStatus::Failed, Some(now)),
    };
}

/// Begins a new round: the next attempt is due at once.
pub(crate) fn again(delivery: &mut WebhookDelivery, now: i64) {
    delivery.status = DeliveryStatus::Pending;
    delivery.finished_at = None;
    delivery.round_attempts = 0;
    delivery.round_began = now;
    delivery.next_at = now;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enqueue::new_delivery;
    use crate::event::Event;

    fn delivery() -> WebhookDelivery {
        let event = Event::new("acme", "response.completed", &["x"], 1_000_000, serde_json::json!({}));
        new_delivery("acme", "main", ("batch", 3), &event, 2_000_000)
    }

    fn answered(status: u16) -> Heard {
        Heard { status: Some(status), ..Heard::default() }
    }

    #[test]
    fn two_hundreds_deliver_gone_gives_up_and_everything_else_comes_again() {
        let check = |heard: &Heard, expected: DeliveryStatus| {
            let mut delivery = delivery();
            settle(&mut delivery, heard, 2_000_000, 3_000_000, 0.5);
            assert_eq!(delivery.status, expected, "{heard:?}");
            assert_eq!(delivery.finished_at.is_none(), expected == DeliveryStatus::Pending);
            assert_eq!((delivery.attempts, delivery.log[0].took_ms), (1, 1_000));
        };
        for status in [200, 201, 204, 299] {
            check(&answered(status), DeliveryStatus::Delivered);
        }
        for status in [100, 301, 302, 400, 401, 404, 429, 500, 503] {
            check(&answered(status), DeliveryStatus::Pending);
        }
        check(&answered(410), DeliveryStatus::Failed);
        check(&Heard::unsent("no answer"), DeliveryStatus::Pending);
        check(&Heard { deleted: true, ..Heard::unsent("deleted") }, DeliveryStatus::Failed);
    }

    #[test]
    fn a_round_ends_and_another_begins_with_the_same_id() {
        let mut delivery = delivery();
        let id = delivery.id.clone();
        let mut now = delivery.next_at;
        while delivery.status == DeliveryStatus::Pending {
            settle(&mut delivery, &answered(500), now, now, 0.5);
            now = delivery.next_at;
        }
        assert_eq!((delivery.status, delivery.attempts, delivery.log.len()), (DeliveryStatus::Failed, 11, 11));
        again(&mut delivery, now);
        assert_eq!((delivery.status, delivery.next_at, delivery.round_attempts), (DeliveryStatus::Pending, now, 0));
        settle(&mut delivery, &answered(200), now, now, 0.5);
        assert_eq!((delivery.status, delivery.attempts, delivery.log.len()), (DeliveryStatus::Delivered, 12, LOG));
        assert_eq!(delivery.id, id);
    }
}
