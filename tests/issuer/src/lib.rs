//! An issuer of tokens for tests: keys that are made when a test runs, what they sign, well formed or not, and a
//! server that tells of them as OpenID Connect Discovery says.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Bytes as tokens and keys have them.
pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key of an issuer, with its private half.
pub struct Signer {
    kid: String,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    /// RSA of 2048 bits: RS256.
    pub fn rsa(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()) }
    }

    /// P-256: ES256.
    pub fn ec(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()) }
    }

    /// Ed25519: EdDSA.
    pub fn ed(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::Ed(Ed25519KeyPair::generate().unwrap()) }
    }

    /// What its signatures are called.
    pub fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
        }
    }

    /// The public half.
    pub fn public(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ec(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ed(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// The public half as a JWK.
    pub fn jwk(&self) -> Value {
        let (public, kid) = (self.public(), &self.kid);
        match &self.pair {
            Pair::Rsa(_) => {
                let [n, e] = integers(&public);
                json!({ "kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": base64url(n), "e": base64url(e) })
            }
            Pair::Ec(_) => {
                let (x, y) = public[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": base64url(x), "y": base64url(y) })
            }
            Pair::Ed(_) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "x": base64url(public) })
            }
        }
    }

    /// The header that its tokens have.
    pub fn header(&self) -> Value {
        json!({ "typ": "JWT", "alg": self.algorithm(), "kid": self.kid })
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&self.header(), claims)
    }

    /// A token with this header, whatever it says.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", base64url(signature))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

/// The modulus and the exponent of an RSAPublicKey in DER.
fn integers(der: &[u8]) -> [&[u8]; 2] {
    let (sequence, _) = element(der);
    let (n, rest) = element(sequence);
    let (e, _) = element(rest);
    [n, e].map(|integer| integer.strip_prefix(&[0]).unwrap_or(integer))
}

/// What is in the first element, and what comes after it.
fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, at) = match der[1] {
        short if short < 0x80 => (usize::from(short), 2),
        long => {
            let end = 2 + usize::from(long & 0x7f);
            (der[2..end].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), end)
        }
    };
    der[at..].split_at(length)
}

/// A JWK set.
pub fn jwks(keys: &[&Signer]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

/// Tells of an issuer's keys on loopback.
pub struct Server {
    /// The issuer: where it listens.
    pub issuer: String,
    keys: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicU32>,
}

impl Server {
    /// Starts one with this JWK set.
    pub async fn start(keys: String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { issuer, keys: Arc::new(Mutex::new(Some(keys))), asked: Arc::default() };
        let discovered = json!({ "issuer": server.issuer, "jwks_uri": format!("{}/keys", server.issuer) }).to_string();
        let (keys, asked) = (Arc::clone(&server.keys), Arc::clone(&server.asked));
        let told = move || {
            asked.fetch_add(1, Ordering::Relaxed);
            let keys = keys.lock().unwrap().clone();
            async move { keys.ok_or(StatusCode::SERVICE_UNAVAILABLE) }
        };
        let elsewhere = (StatusCode::FOUND, [(header::LOCATION, "/keys")]);
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(|| async { discovered }))
            .route("/keys", get(told))
            .route("/elsewhere", get(|| async move { elsewhere }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    /// From now on it has these keys; none: it fails.
    pub fn has(&self, keys: Option<String>) {
        *self.keys.lock().unwrap() = keys;
    }

    /// How often it was asked for its keys.
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}
