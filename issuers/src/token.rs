//! A token's form: three parts in base64url, of which the first two are JSON objects (RFC 7515, RFC 7519).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::refusal::TokenRefusal;

/// The longest token, in bytes. Longer ones are not looked at.
pub const MAX_TOKEN: usize = 8_192;

/// Kinds of tokens that prove who asks (RFC 7519, RFC 9068); others are for other readers.
const TYPES: [&str; 2] = ["jwt", "at+jwt"];

/// Whether this is meant as a token; it is no API key then.
#[must_use]
pub fn is_token(text: &str) -> bool {
    text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// A token as it is written: nothing of it is proven.
pub(crate) struct Token<'a> {
    pub algorithm: String,
    pub kid: Option<String>,
    pub claims: Value,
    /// What is signed.
    pub signed: &'a [u8],
    pub signature: Vec<u8>,
}

impl<'a> Token<'a> {
    pub fn read(text: &'a str) -> Result<Self, TokenRefusal> {
        if text.len() > MAX_TOKEN {
            return Err(TokenRefusal::Malformed("it is longer than 8 KiB"));
        }
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenRefusal::Malformed("it has not three parts"));
        };
        let signed = &text.as_bytes()[..header.len() + 1 + claims.len()];
        let header = object(header).ok_or(TokenRefusal::Malformed("its header is no JSON object in base64url"))?;
        let claims = object(claims).ok_or(TokenRefusal::Malformed("its claims are no JSON object in base64url"))?;
        let signature =
            URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenRefusal::Malformed("its signature is no base64url"))?;
        // Whoever writes `crit` wants it to be refused by those who do not know what is in it.
        if header.get("crit").is_some() || header.get("b64").is_some() {
            return Err(TokenRefusal::Malformed("its header has `crit` or `b64`, of which nothing is supported here"));
        }
        if header.get("typ").is_some_and(|kind| !kind.as_str().is_some_and(is_type)) {
            return Err(TokenRefusal::Malformed("its `typ` is another one than JWT or at+jwt"));
        }
        let kid = match header.get("kid") {
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(TokenRefusal::Malformed("its `kid` is no text")),
            None => None,
        };
        let algorithm = header.get("alg").and_then(Value::as_str);
        let algorithm = algorithm.ok_or(TokenRefusal::Malformed("its header has no `alg`"))?.to_owned();
        Ok(Self { algorithm, kid, claims, signed, signature })
    }
}

fn object(part: &str) -> Option<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok().filter(Value::is_object)
}

fn is_type(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    TYPES.contains(&kind.strip_prefix("application/").unwrap_or(&kind))
}
