//! Names of work: who gives them out and how they are recognised.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Identity of a request within its tenant: `req_`, 32 hexadecimal digits of a UUID and 8 of a
/// check that binds it to the tenant. The check lets any replica tell an id that was given out to
/// this tenant from a typing error or from another tenant's id without asking a database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(String);

impl RequestId {
    /// A fresh id (UUIDv7: sorts by time).
    #[must_use]
    pub fn fresh(tenant: &str) -> Self {
        Self::seal(tenant, Uuid::now_v7())
    }

    /// The id of every request of `tenant` with this idempotency key.
    #[must_use]
    pub fn of_key(tenant: &str, idempotency_key: &str) -> Self {
        Self::seal(tenant, derived_uuid(&["key", tenant, idempotency_key]))
    }

    /// The id of a record that brought none, from where it lies.
    #[must_use]
    pub fn of_coordinates(tenant: &str, at: &crate::Coordinates) -> Self {
        Self::seal(tenant, derived_uuid(&["coordinates", tenant, &at.to_string()]))
    }

    /// Reads an id that a client sent; `None` when it was never given out to `tenant`.
    #[must_use]
    pub fn parse(tenant: &str, text: &str) -> Option<Self> {
        let digits = text.strip_prefix("req_")?;
        let plain = digits.len() == 40 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let (uuid, _) = plain.then(|| digits.split_at(32))?;
        let sealed = Self::seal(tenant, Uuid::try_parse(uuid).ok()?);
        (sealed.0 == text).then_some(sealed)
    }

    /// The text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text of the id, owned.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }

    fn seal(tenant: &str, uuid: Uuid) -> Self {
        let check = Sha256::new_with_prefix(b"millrace request id\0")
            .chain_update(tenant.as_bytes())
            .chain_update(b"\0")
            .chain_update(uuid.as_bytes())
            .finalize();
        Self(format!("req_{}{}", uuid.simple(), hex::encode(&check[..4])))
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A UUIDv8 that is a pure function of `parts`.
#[must_use]
pub fn derived_uuid(parts: &[&str]) -> Uuid {
    let mut hash = Sha256::new_with_prefix(b"millrace uuid\0");
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    Uuid::new_v8(bytes)
}

/// A fresh call id (UUIDv7). Every attempt is a call of its own, so it is never derived.
#[must_use]
pub fn call_id() -> String {
    format!("call_{}", Uuid::now_v7().simple())
}

/// When a call began, microseconds since the epoch (to the millisecond): read from its id, so that
/// every record of a call names the same instant without asking anybody.
#[must_use]
pub fn call_started_at(call_id: &str) -> Option<i64> {
    let uuid = Uuid::try_parse(call_id.strip_prefix("call_")?).ok()?;
    let (seconds, nanos) = uuid.get_timestamp()?.to_unix();
    i64::try_from(seconds).ok()?.checked_mul(1_000_000)?.checked_add(i64::from(nanos / 1_000_000) * 1000)
}

/// SHA-256 of a request body in hexadecimal: what "the same body" means for an idempotency key.
#[must_use]
pub fn body_hash(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_recognised_by_its_own_tenant_only() {
        let id = RequestId::fresh("acme");
        assert_eq!(RequestId::parse("acme", id.as_str()), Some(id.clone()));
        assert_eq!(RequestId::parse("other", id.as_str()), None);
        assert_eq!(RequestId::parse("acme", &id.as_str().replace('_', "-")), None);
        assert_eq!(RequestId::parse("acme", "req_é"), None);
        assert_eq!(RequestId::parse("acme", &id.as_str().to_uppercase()), None);
    }

    #[test]
    fn a_call_id_tells_when_the_call_began() {
        let before = crate::now_millis();
        let at = call_started_at(&call_id()).expect("a call id holds its time") / 1000;
        assert!((before..=crate::now_millis()).contains(&at));
        assert_eq!(call_started_at("call_x"), None);
    }

    #[test]
    fn the_same_key_is_the_same_request_and_parts_do_not_run_together() {
        assert_eq!(RequestId::of_key("acme", "k"), RequestId::of_key("acme", "k"));
        assert_ne!(RequestId::of_key("acme", "k"), RequestId::of_key("acm", "ek"));
        assert_ne!(derived_uuid(&["a", "bc"]), derived_uuid(&["ab", "c"]));
    }
}
