//! How a record on a shared topic proves its tenant: a keyed hash over its bytes.
//!
//! `millrace-signature: v1:<key id>:<hex HMAC-SHA256>`, keyed with the SHA-256 digest of the API
//! key, over the record's value. The digest is what the directory of tenants holds, so neither the
//! key nor anything that opens HTTP travels through Kafka.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// Name of the header.
pub const SIGNATURE_HEADER: &str = "millrace-signature";

/// SHA-256 of an API key: what is stored of it, and what signs records.
#[must_use]
pub fn key_digest(api_key: &str) -> [u8; 32] {
    Sha256::digest(api_key.as_bytes()).into()
}

/// A parsed signature header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Which key signed.
    pub key_id: String,
    mac: Vec<u8>,
}

/// A signature that proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header is not of the form `v1:<key id>:<hex>`.
    #[error("the `millrace-signature` header is not `v1:<key id>:<hex HMAC-SHA256 of the value>`")]
    Malformed,
    /// The hash does not fit the value.
    #[error("the signature of key `{0}` does not fit the record: sign the exact bytes of the value")]
    Mismatch(String),
}

impl Signature {
    /// The header's text for `value`, signed by the key with this digest.
    #[must_use]
    pub fn sign(key_id: &str, digest: &[u8; 32], value: &[u8]) -> String {
        format!("v1:{key_id}:{}", hex::encode(mac(digest, value).finalize().into_bytes()))
    }

    /// Reads the header's text.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        let (key_id, mac) = text
            .strip_prefix("v1:")
            .and_then(|rest| rest.rsplit_once(':'))
            .filter(|(key_id, _)| !key_id.is_empty())
            .ok_or(SignatureError::Malformed)?;
        Ok(Self { key_id: key_id.to_owned(), mac: hex::decode(mac).map_err(|_| SignatureError::Malformed)? })
    }

    /// Checks the signature in constant time.
    ///
    /// # Errors
    /// [`SignatureError::Mismatch`].
    pub fn verify(&self, digest: &[u8; 32], value: &[u8]) -> Result<(), SignatureError> {
        mac(digest, value).verify_slice(&self.mac).map_err(|_| SignatureError::Mismatch(self.key_id.clone()))
    }
}

fn mac(digest: &[u8; 32], value: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(digest).expect("HMAC takes keys of any length");
    mac.update(b"millrace record v1\0");
    mac.update(value);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_and_the_exact_bytes_verify() {
        let digest = key_digest("sk-one");
        let signature = Signature::parse(&Signature::sign("key:1", &digest, b"body")).expect("parses");
        assert_eq!(signature.key_id, "key:1");
        assert_eq!(signature.verify(&digest, b"body"), Ok(()));
        assert!(signature.verify(&digest, b"Body").is_err());
        assert!(signature.verify(&key_digest("sk-two"), b"body").is_err());
        for bad in ["", "v1", "v1:", "v1::aa", "v1:k:zz", "v2:k:aa"] {
            assert_eq!(Signature::parse(bad), Err(SignatureError::Malformed), "{bad}");
        }
    }
}
