//! The secrets of endpoints that are made while Millrace runs: derived, so that they are written nowhere.
//!
//! HKDF-SHA256 (RFC 5869) over a key of the configuration, with the salt of the endpoint's entry, for the endpoint of
//! this tenant and this id.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millrace_admission::SecretOrigin;
use millrace_config::Secret;

/// Bytes of a secret.
const BYTES: usize = 32;
/// Bytes of a salt, and of what names a key.
const SALT: usize = 16;
const NAME: usize = 8;

/// The keys that secrets are derived from. They are printed nowhere.
#[derive(Clone, Default)]
pub struct SecretKeys(Vec<Key>);

#[derive(Clone)]
struct Key {
    name: String,
    secret: Secret,
}

impl fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.name)).finish()
    }
}

impl SecretKeys {
    /// Those of a configuration: the first is for what is made now.
    #[must_use]
    pub fn new(keys: &[Secret]) -> Self {
        let named = |secret: &Secret| Key {
            name: hex::encode(&hkdf(secret, b"millrace webhooks", "key id")[..NAME]),
            secret: secret.clone(),
        };
        Self(keys.iter().map(named).collect())
    }

    /// What the keys are called in entries.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.name.as_str())
    }

    /// What a new secret is derived from; none without a key.
    #[must_use]
    pub fn fresh(&self) -> Option<SecretOrigin> {
        let salt: [u8; SALT] = rand::random();
        Some(SecretOrigin { key: self.0.first()?.name.clone(), salt: hex::encode(salt) })
    }

    /// The secret of an endpoint; none when its key is not here.
    #[must_use]
    pub fn derive(&self, tenant: &str, id: &str, from: &SecretOrigin) -> Option<[u8; BYTES]> {
        let key = self.0.iter().find(|key| key.name == from.key)?;
        // No id has a zero byte.
        let whose = ["millrace webhook secret", tenant, id].join("\0");
        Some(hkdf(&key.secret, from.salt.as_bytes(), &whose))
    }
}

fn hkdf(key: &Secret, salt: &[u8], what_for: &str) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let what_for = [what_for.as_bytes()];
    let key = Salt::new(HKDF_SHA256, salt).extract(key.expose().as_bytes());
    let filled = key.expand(&what_for, HKDF_SHA256).and_then(|derived| derived.fill(&mut bytes));
    #[expect(clippy::expect_used, reason = "SHA-256 has as many bytes as are asked for")]
    filled.expect("32 bytes");
    bytes
}

/// A secret as Standard Webhooks writes it.
#[must_use]
pub fn as_written(secret: &[u8]) -> String {
    format!("whsec_{}", STANDARD.encode(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 2] = ["0123456789abcdef0123456789abcdef", "another key of at least 32 bytes!"];

    fn keys(keys: &[&str]) -> SecretKeys {
        SecretKeys::new(&keys.iter().map(|key| Secret::from(*key)).collect::<Vec<_>>())
    }

    fn origin(key: &str, salt: &str) -> SecretOrigin {
        SecretOrigin { key: key.to_owned(), salt: salt.to_owned() }
    }

    /// Made with Python's hmac by RFC 5869: secrets that were given out must never change.
    #[test]
    fn a_secret_is_the_vectors() {
        let keys = keys(&KEYS[..1]);
        assert_eq!(format!("{keys:?}"), "[\"1771afcdd3a350c2\"]");
        let secret = keys.derive("acme", "main", &origin("1771afcdd3a350c2", "a salt")).expect("a secret");
        assert_eq!(as_written(&secret), "whsec_Ago8/KeAMSzwQ5f6VTWLKj8hXbjemg6nsRvD7/zdxmA=");
    }

    #[test]
    fn every_endpoint_key_and_salt_has_a_secret_of_its_own() {
        let (both, second) = (keys(&KEYS), keys(&KEYS[1..]));
        let (one, two) = (both.fresh().expect("a key"), second.fresh().expect("a key"));
        assert_ne!(one.key, two.key);
        assert_ne!(one.salt, both.fresh().expect("a key").salt);
        let with = |salt: &str| origin(&one.key, salt);
        let secrets = [
            both.derive("acme", "main", &with("x")),
            both.derive("acme", "main", &with("y")),
            both.derive("acme", "other", &with("x")),
            both.derive("rival", "main", &with("x")),
            both.derive("acm", "emain", &with("x")),
            both.derive("acme", "main", &origin(&two.key, "x")),
        ];
        for (index, secret) in secrets.iter().enumerate() {
            assert!(secret.is_some() && !secrets[..index].contains(secret), "{index}");
        }
    }

    #[test]
    fn a_key_is_found_by_its_name_wherever_it_is_in_the_list() {
        let (before, after) = (keys(&KEYS[..1]), keys(&[KEYS[1], KEYS[0]]));
        let from = before.fresh().expect("a key");
        assert_eq!(before.derive("acme", "main", &from), after.derive("acme", "main", &from));
        assert_eq!(keys(&KEYS[1..]).derive("acme", "main", &from), None);
        assert_eq!(SecretKeys::default().fresh(), None);
    }
}
