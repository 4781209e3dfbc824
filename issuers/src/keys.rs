//! The public keys of an issuer: a JWK set (RFC 7517).

use std::fmt;

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use crate::algorithm::{Algorithm, Curve};

/// So many keys an issuer may have.
const MOST: usize = 64;
/// Shorter RSA keys are not used, and longer ones can not be.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// What is not used of a set, and why, in words without its values.
type Unfit = &'static str;

/// The keys of an issuer that can be used.
pub struct KeySet {
    pub(crate) keys: Vec<Key>,
    /// Those that can not.
    skipped: usize,
}

pub(crate) struct Key {
    pub kid: Option<String>,
    /// The only signatures that it is for, where it says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

enum Material {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Point(Curve, ParsedPublicKey),
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a set. Keys of other kinds, for other uses or too weak ones are left out.
    ///
    /// # Errors
    /// What is wrong with the set, in words that follow its address.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(bytes).map_err(|error| format!("is no JWK set: {error}"))?;
        if set.keys.len() > MOST {
            return Err(format!("has {} keys, more than {MOST}", set.keys.len()));
        }
        let count = set.keys.len();
        let (mut keys, mut unfit) = (Vec::new(), None);
        for key in set.keys {
            match serde_json::from_value(key).map_err(|_| "a key that can not be read").and_then(Key::read) {
                Ok(key) => keys.push(key),
                Err(why) => unfit = unfit.or(Some(why)),
            }
        }
        if keys.is_empty() {
            return Err(format!("has no key that can be used: {}", unfit.unwrap_or("it is empty")));
        }
        let skipped = count - keys.len();
        Ok(Self { keys, skipped })
    }

    /// How many can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none can be used; a set that was read has one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many can not be used: of other kinds, for other uses, or too weak.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.skipped
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys.len()).field("skipped", &self.skipped).finish()
    }
}

impl Key {
    fn read(jwk: Jwk) -> Result<Self, Unfit> {
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err("a key that is not for signatures (`use`)");
        }
        if jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err("a key that verifies nothing (`key_ops`)");
        }
        let algorithm = match jwk.alg.as_deref() {
            Some(name) => Some(Algorithm::named(name).ok_or("a key for other signatures (`alg`)")?),
            None => None,
        };
        let crv = jwk.crv.as_deref().unwrap_or_default();
        let material = match (jwk.kty.as_str(), Curve::named(&jwk.kty, crv)) {
            ("RSA", _) => rsa(&decoded(jwk.n)?, decoded(jwk.e)?)?,
            (_, Some(Curve::Ed25519)) => point(Curve::Ed25519, &coordinate(Curve::Ed25519, jwk.x)?)?,
            (_, Some(curve)) => {
                point(curve, &[vec![4], coordinate(curve, jwk.x)?, coordinate(curve, jwk.y)?].concat())?
            }
            (_, None) => return Err("a key of a kind that is not supported"),
        };
        let key = Self { kid: jwk.kid, algorithm, material };
        if algorithm.is_some_and(|algorithm| !key.fits(algorithm)) {
            return Err("a key whose `alg` is not for its kind");
        }
        Ok(key)
    }

    /// Whether it makes signatures of this kind.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        let is_kind = match &self.material {
            Material::Rsa(_) => algorithm.rsa().is_some(),
            Material::Point(curve, _) => algorithm.curve() == Some(*curve),
        };
        is_kind && self.algorithm.is_none_or(|own| own == algorithm)
    }

    /// Whether it has signed this, in this way.
    pub fn has_signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.fits(algorithm) {
            return false;
        }
        match &self.material {
            Material::Rsa(key) => {
                algorithm.rsa().is_some_and(|parameters| key.verify(parameters, message, signature).is_ok())
            }
            Material::Point(_, key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

fn decoded(text: Option<String>) -> Result<Vec<u8>, Unfit> {
    let text = text.ok_or("a key without one of its members")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a key that is not base64url")
}

fn coordinate(curve: Curve, text: Option<String>) -> Result<Vec<u8>, Unfit> {
    let bytes = decoded(text)?;
    if bytes.len() == curve.length() { Ok(bytes) } else { Err("a key of another length than its curve's") }
}

fn rsa(modulus: &[u8], e: Vec<u8>) -> Result<Material, Unfit> {
    let first = modulus.iter().position(|byte| *byte != 0).unwrap_or(modulus.len());
    let n = modulus[first..].to_vec();
    let bits = n.first().map_or(0, |byte| n.len() * 8 - byte.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err("an RSA key that is shorter than 2048 bits or longer than 8192");
    }
    let key = RsaPublicKeyComponents { n, e };
    key.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).map_err(|_| "an RSA key that is none")?;
    Ok(Material::Rsa(key))
}

fn point(curve: Curve, bytes: &[u8]) -> Result<Material, Unfit> {
    let key = ParsedPublicKey::new(curve.verification(), bytes).map_err(|_| "a key that is no point of its curve")?;
    Ok(Material::Point(curve, key))
}
