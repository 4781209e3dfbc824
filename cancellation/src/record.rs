//! What a record of `cancellations` must prove. Anybody who may write to the topic could name any
//! request; only a key of its tenant signs its cancellation.

use millrace_admission::{Directory, Refusal};
use millrace_schemas::{Cancellation, Codec, CodecError, RequestId};

/// Why a record cancels nothing.
#[derive(Debug, thiserror::Error)]
pub enum Ignored {
    /// It can not be read.
    #[error(transparent)]
    Unreadable(#[from] CodecError),
    /// It is not signed by a key that is known here.
    #[error(transparent)]
    Unproven(#[from] Refusal),
    /// The key that signed it belongs to another tenant.
    #[error("a key of tenant `{0}` can not cancel a request of another tenant")]
    Foreign(String),
    /// No such id was ever given out to the tenant.
    #[error("the tenant was never given this request id")]
    NoRequest,
}

impl Ignored {
    /// Whether the same record may be read later.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreadable(error) => error.is_outage(),
            Self::Unproven(_) | Self::Foreign(_) | Self::NoRequest => false,
        }
    }

    /// Whether it may be proven in a moment, as requests are; see [`Refusal::may_pass`].
    #[must_use]
    pub fn may_pass(&self, appended: i64, now: i64) -> bool {
        match self {
            Self::Unproven(refusal) => refusal.may_pass(appended, now),
            Self::Unreadable(_) | Self::Foreign(_) | Self::NoRequest => false,
        }
    }
}

/// Reads and proves a record that was appended at this instant, milliseconds since the epoch.
///
/// # Errors
/// [`Ignored`].
pub async fn read(
    directory: &Directory,
    codec: &Codec,
    signature: Option<&str>,
    value: &[u8],
    at: i64,
) -> Result<Cancellation, Ignored> {
    let principal = directory.verify_signature(signature, value, at)?;
    let cancellation: Cancellation = codec.decode(value).await?;
    if cancellation.tenant != principal.tenant {
        return Err(Ignored::Foreign(principal.tenant));
    }
    if RequestId::parse(&cancellation.tenant, &cancellation.request_id).is_none() {
        return Err(Ignored::NoRequest);
    }
    Ok(cancellation)
}

#[cfg(test)]
mod tests {
    use millrace_config::{Config, KeyConfig, TenantConfig, hash_key};

    use super::*;

    #[tokio::test]
    async fn only_a_key_of_the_tenant_cancels_and_only_the_tenants_requests() {
        let mut config = Config::default();
        for tenant in ["acme", "rival"] {
            let key = KeyConfig { id: "k".to_owned(), sha256: Some(hash_key(tenant)), ..KeyConfig::default() };
            config.tenants.insert(tenant.to_owned(), TenantConfig { keys: vec![key], ..TenantConfig::default() });
        }
        let directory = Directory::from_config(&config).expect("valid");
        let codec = Codec::detached().expect("no registry is asked");
        let id = RequestId::fresh("acme").into_string();
        let check = async |signer: &str, tenant: &str, request_id: &str, expected: &str| {
            let cancellation =
                Cancellation { tenant: tenant.to_owned(), request_id: request_id.to_owned(), cancelled_at: 1 };
            let value = codec.encode(&cancellation).expect("fits");
            let principal = directory.verify_key(signer, 0).ok();
            let signature = principal.and_then(|principal| directory.sign(&principal, &value));
            match read(&directory, &codec, signature.as_deref(), &value, 0).await {
                Ok(read) => assert_eq!((read, expected), (cancellation, "")),
                Err(ignored) => {
                    assert!(!expected.is_empty() && ignored.to_string().contains(expected), "{ignored}");
                    assert!(!ignored.is_outage());
                }
            }
        };
        check("acme", "acme", &id, "").await;
        check("rival", "acme", &id, "tenant `rival`").await;
        check("rival", "rival", &id, "never given").await;
        check("acme", "acme", "req_0", "never given").await;
        check("nobody", "acme", &id, "millrace-signature").await;
    }
}
