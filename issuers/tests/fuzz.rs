//! Any text as a token and any bytes as keys: a verdict, never a panic, and nothing proven that was not signed.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::LazyLock;

use millrace_config::IssuerConfig;
use millrace_issuers::{Issuers, KeySet};
use millrace_mutate::{bytes, cases, mutated, text};
use millrace_test_issuer::{Signer, base64url, jwks};
use proptest::prelude::*;
use serde_json::json;

static KEY: LazyLock<Signer> = LazyLock::new(|| Signer::ed("k"));
static TOKEN: LazyLock<String> = LazyLock::new(|| {
    KEY.token(&json!({
        "iss": "https://x", "aud": ["m"], "sub": "ada", "exp": 2_000_000_000, "groups": ["a", 1, null]
    }))
});

const HEADERS: &[&str] = &[
    r#"{"alg":"EdDSA","kid":"k"}"#,
    r#"{"alg":"none","typ":"JWT"}"#,
    r#"{"alg":"RS256","kid":"k","crit":["x"],"jwk":{"kty":"oct"}}"#,
];
const CLAIMS: &[&str] = &[
    r#"{"iss":"https://x","aud":"m","sub":"ada","exp":2000000000,"nbf":-1,"iat":1.5e3}"#,
    r#"{"iss":"https://x","aud":["m",1],"exp":1e308,"sub":"a","groups":{"a":[]}}"#,
];
const KEYS: &[&str] = &[
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
    r#"{"keys":[{"kty":"EC","crv":"P-256","use":"sig","x":"AA","y":"AA"},{"kty":"RSA","n":"AQAB","e":"AQAB","key_ops":[]}]}"#,
];

fn issuers() -> Issuers {
    let config = IssuerConfig {
        issuer: "https://x".to_owned(),
        audience: vec!["m".to_owned()],
        tenant: Some("acme".to_owned()),
        key_claim: Some("groups".to_owned()),
        keys: vec!["a".to_owned()],
        ..IssuerConfig::default()
    };
    let issuers = Issuers::from_config(&[("corp".to_owned(), config)].into());
    issuers.take("corp", KeySet::parse(jwks(&[&KEY]).as_bytes()).unwrap(), 0);
    issuers
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn a_token_that_was_changed_proves_nothing(bytes in mutated(TOKEN.clone().into_bytes()), at in any::<i64>()) {
        let text = String::from_utf8_lossy(&bytes);
        if issuers().verify(&text, at).is_ok() {
            prop_assert_eq!(text.as_ref(), TOKEN.as_str());
        }
    }

    #[test]
    fn any_header_and_claims_get_a_verdict(header in text(HEADERS), claims in text(CLAIMS), at in any::<i64>()) {
        let unsigned = format!("{}.{}.AAAA", base64url(&header), base64url(&claims));
        let refusal = issuers().verify(&unsigned, at).unwrap_err().to_string();
        prop_assert!(!refusal.contains('\n') && refusal.len() < 500, "{}", refusal);
        prop_assert!(issuers().verify(&header, at).is_err());
    }

    #[test]
    fn any_bytes_are_keys_or_none(bytes in bytes(KEYS)) {
        if let Ok(set) = KeySet::parse(&bytes) {
            prop_assert!(!set.is_empty());
            let issuers = issuers();
            issuers.take("corp", set, 0);
            let _verdict = issuers.verify(&TOKEN, 0);
        }
    }
}
