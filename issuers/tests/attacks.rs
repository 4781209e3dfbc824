//! Every way in which somebody may try to be somebody else.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use millrace_config::IssuerConfig;
use millrace_issuers::{Issuers, KeySet, Proven, TokenRefusal, is_token};
use millrace_test_issuer::{Signer, base64url};
use serde_json::{Value, json};

const ISS: &str = "https://login.example";
/// When the tokens are used, seconds and milliseconds since the epoch.
const NOW: i64 = 1_900_000_000;
const AT: i64 = NOW * 1_000;
const SKEW: i64 = 30;

static RSA: LazyLock<Signer> = LazyLock::new(|| Signer::rsa("rsa-1"));
static EC: LazyLock<Signer> = LazyLock::new(|| Signer::ec("ec-1"));
static ED: LazyLock<Signer> = LazyLock::new(|| Signer::ed("ed-1"));

fn config() -> IssuerConfig {
    IssuerConfig {
        issuer: ISS.to_owned(),
        audience: vec!["millrace".to_owned()],
        tenant_claim: Some("tenant".to_owned()),
        tenants: vec!["acme".to_owned(), "other".to_owned()],
        ..IssuerConfig::default()
    }
}

/// The issuer `corp` with these keys.
fn issuers_of(config: IssuerConfig, keys: &[Value]) -> Issuers {
    let issuers = Issuers::from_config(&[("corp".to_owned(), config)].into());
    let set = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
    issuers.take("corp", set, AT);
    issuers
}

fn issuers() -> Issuers {
    issuers_of(config(), &[RSA.jwk(), EC.jwk(), ED.jwk()])
}

fn claims() -> Value {
    json!({ "iss": ISS, "aud": "millrace", "sub": "ada", "tenant": "acme", "iat": NOW - 5, "exp": NOW + 300 })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn header(name: &str, value: Value) -> Value {
    let mut header = RSA.header();
    header[name] = value;
    header
}

fn refused(token: &str) -> TokenRefusal {
    issuers().verify(token, AT).expect_err(token)
}

fn algorithm(algorithm: &str) -> TokenRefusal {
    TokenRefusal::Algorithm { issuer: "corp".to_owned(), algorithm: algorithm.to_owned() }
}

fn claim(name: &str) -> TokenRefusal {
    TokenRefusal::Claim(name.to_owned())
}

fn unknown_key(kid: &str) -> TokenRefusal {
    TokenRefusal::UnknownKey { issuer: "corp".to_owned(), kid: kid.to_owned(), read_at: AT, is_awaited: true }
}

#[test]
fn a_token_of_each_kind_proves_its_tenant_and_user() {
    let [corp, ada, acme] = ["corp", "ada", "acme"].map(str::to_owned);
    let proven = Proven { issuer: corp.clone(), subject: ada.clone(), tenant: acme, user: ada, key: corp };
    for signer in [&*RSA, &*EC, &*ED] {
        let token = signer.token(&claims());
        assert!(is_token(&token));
        assert_eq!(issuers().verify(&token, AT), Ok(proven.clone()), "{}", signer.algorithm());
    }
    for aud in [json!(["x", "millrace"]), json!("millrace")] {
        assert!(issuers().verify(&RSA.token(&with("aud", aud)), AT).is_ok());
    }
    for typ in ["at+jwt", "jwt", "application/at+JWT"] {
        assert!(issuers().verify(&RSA.token_with(&header("typ", json!(typ)), &claims()), AT).is_ok(), "{typ}");
    }
}

#[test]
fn no_signature_is_none() {
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let unsigned = format!(
            "{}.{}.",
            base64url(json!({ "alg": alg, "kid": "rsa-1" }).to_string()),
            base64url(claims().to_string())
        );
        assert_eq!(refused(&unsigned), algorithm(alg));
        // A good signature does not help.
        assert_eq!(refused(&RSA.token_with(&header("alg", json!(alg)), &claims())), algorithm(alg));
    }
    let token = RSA.token(&claims());
    let (signed, _) = token.rsplit_once('.').unwrap();
    assert_eq!(refused(&format!("{signed}.")), TokenRefusal::Signature);
    for alg in [json!(null), json!(["RS256"]), json!(1)] {
        let refusal = refused(&RSA.token_with(&header("alg", alg), &claims()));
        assert!(matches!(refusal, TokenRefusal::Malformed(_)), "{refusal}");
    }
}

#[test]
fn a_public_key_is_no_shared_secret() {
    let secrets = [RSA.public(), RSA.jwk().to_string().into_bytes(), EC.public(), ED.public()];
    for (secret, kid) in secrets.iter().zip(["rsa-1", "rsa-1", "ec-1", "ed-1"]) {
        let head = base64url(json!({ "alg": "HS256", "typ": "JWT", "kid": kid }).to_string());
        let signed = format!("{head}.{}", base64url(claims().to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        assert_eq!(refused(&format!("{signed}.{}", base64url(tag))), algorithm("HS256"));
    }
}

#[test]
fn a_key_makes_only_its_own_kind_of_signatures() {
    // Each key with the name of each other kind.
    for (signer, name) in [(&*EC, "RS256"), (&*EC, "EdDSA"), (&*RSA, "ES256"), (&*ED, "ES256"), (&*ED, "RS256")] {
        let mut header = signer.header();
        header["alg"] = json!(name);
        assert_eq!(refused(&signer.token_with(&header, &claims())), algorithm(name));
    }
    // A kind that is known, of a key that is for another one.
    let all = IssuerConfig { algorithms: ["RS256", "RS512", "PS256"].map(str::to_owned).to_vec(), ..config() };
    for name in ["RS512", "PS256"] {
        let token = RSA.token_with(&header("alg", json!(name)), &claims());
        assert_eq!(issuers_of(all.clone(), &[RSA.jwk()]).verify(&token, AT), Err(algorithm(name)));
        let mut any = RSA.jwk();
        any.as_object_mut().unwrap().remove("alg");
        assert_eq!(issuers_of(all.clone(), &[any]).verify(&token, AT), Err(TokenRefusal::Signature));
    }
    // A kind that is not accepted of this issuer.
    let only = IssuerConfig { algorithms: vec!["ES256".to_owned()], ..config() };
    assert_eq!(issuers_of(only, &[RSA.jwk(), EC.jwk()]).verify(&RSA.token(&claims()), AT), Err(algorithm("RS256")));
}

#[test]
fn a_key_that_is_not_known_opens_nothing() {
    let stranger = Signer::rsa("rsa-1");
    assert_eq!(refused(&stranger.token(&claims())), TokenRefusal::Signature);
    assert_eq!(refused(&Signer::rsa("rsa-2").token(&claims())), unknown_key("rsa-2"));
    assert_eq!(refused(&RSA.token_with(&header("kid", json!("rsa-2")), &claims())), unknown_key("rsa-2"));
    assert_eq!(refused(&RSA.token_with(&header("kid", json!("")), &claims())), unknown_key(""));
    // A path or a query is a name like any other.
    let path = "../../../../dev/null' or '1'='1";
    assert_eq!(refused(&RSA.token_with(&header("kid", json!(path)), &claims())), unknown_key(path));
    let refusal = refused(&RSA.token_with(&header("kid", json!(1)), &claims()));
    assert!(matches!(refusal, TokenRefusal::Malformed(_)), "{refusal}");
}

#[test]
fn a_token_without_a_kid_needs_that_one_key_fits() {
    let header = json!({ "alg": "RS256" });
    let token = RSA.token_with(&header, &claims());
    assert!(issuers().verify(&token, AT).is_ok(), "one RSA key");
    let two = issuers_of(config(), &[RSA.jwk(), Signer::rsa("rsa-2").jwk()]);
    assert_eq!(two.verify(&token, AT), Err(unknown_key("")));
    assert_eq!(issuers_of(config(), &[EC.jwk()]).verify(&token, AT), Err(algorithm("RS256")));
}

#[test]
fn what_a_header_brings_along_is_not_looked_at() {
    let mine = Signer::rsa("mine");
    let address = json!("https://evil.example/keys");
    for (name, value) in [("jwk", mine.jwk()), ("jku", address.clone()), ("x5u", address), ("x5c", json!(["MIIB"]))] {
        let mut own = mine.header();
        own[name] = value.clone();
        assert_eq!(refused(&mine.token_with(&own, &claims())), unknown_key("mine"), "{name}");
        own["kid"] = json!("rsa-1");
        assert_eq!(refused(&mine.token_with(&own, &claims())), TokenRefusal::Signature, "{name}");
        // Nor does it spoil a good one.
        assert!(issuers().verify(&RSA.token_with(&header(name, value), &claims()), AT).is_ok(), "{name}");
    }
}

#[test]
fn what_must_be_understood_and_is_not_is_refused() {
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!(null)),
        ("b64", json!(false)),
        ("typ", json!("logout+jwt")),
        ("typ", json!("secevent+jwt")),
        ("typ", json!(1)),
    ] {
        let refusal = refused(&RSA.token_with(&header(name, value.clone()), &claims()));
        assert!(matches!(refusal, TokenRefusal::Malformed(_)), "{name} {value}: {refusal}");
    }
}

#[test]
fn a_token_that_was_changed_is_refused() {
    let token = RSA.token(&claims());
    let parts: Vec<&str> = token.split('.').collect();
    let richer = base64url(with("tenant", json!("other")).to_string());
    assert_eq!(refused(&format!("{}.{richer}.{}", parts[0], parts[2])), TokenRefusal::Signature);
    let relabelled = base64url(header("x", json!(1)).to_string());
    assert_eq!(refused(&format!("{relabelled}.{}.{}", parts[1], parts[2])), TokenRefusal::Signature);
    let mut signature = base64url([0; 256]);
    assert_eq!(refused(&format!("{}.{}.{signature}", parts[0], parts[1])), TokenRefusal::Signature);
    signature.push('=');
    for text in [
        format!("{}.{}.{signature}", parts[0], parts[1]),
        format!("{token}.x"),
        parts[..2].join("."),
        format!("{token}\n"),
    ] {
        let refusal = refused(&text);
        assert!(matches!(refusal, TokenRefusal::Malformed(_)), "{text}: {refusal}");
    }
    // Zero as both halves of an ECDSA signature.
    let zero = base64url([0; 64]);
    let of_curve = EC.token(&claims());
    let (signed, _) = of_curve.rsplit_once('.').unwrap();
    assert_eq!(refused(&format!("{signed}.{zero}")), TokenRefusal::Signature);
}

#[test]
fn a_token_is_of_its_issuer_and_for_its_audience() {
    for iss in
        [json!("https://login.example/"), json!("HTTPS://login.example"), json!("corp"), json!(null), json!([ISS])]
    {
        let refusal = refused(&RSA.token(&with("iss", iss)));
        assert!(matches!(refusal, TokenRefusal::UnknownIssuer(_)), "{refusal}");
    }
    for aud in [json!("Millrace"), json!("millrace "), json!(["x"]), json!([]), json!(null), json!({"millrace": 1})] {
        assert_eq!(refused(&RSA.token(&with("aud", aud))), TokenRefusal::Audience("corp".to_owned()));
    }
    assert_eq!(refused(&RSA.token(&without("aud"))), TokenRefusal::Audience("corp".to_owned()));
    // The key of another issuer.
    let two = Issuers::from_config(
        &[
            ("corp".to_owned(), config()),
            ("rival".to_owned(), IssuerConfig { issuer: "https://r".to_owned(), ..config() }),
        ]
        .into(),
    );
    let rival = Signer::rsa("rsa-1");
    for (name, key) in [("corp", &*RSA), ("rival", &rival)] {
        two.take(name, KeySet::parse(json!({ "keys": [key.jwk()] }).to_string().as_bytes()).unwrap(), AT);
    }
    assert!(two.verify(&RSA.token(&claims()), AT).is_ok());
    assert_eq!(two.verify(&rival.token(&claims()), AT), Err(TokenRefusal::Signature));
}

#[test]
fn time_counts_with_the_skew_and_not_a_second_more() {
    let check = |claims: Value, at: i64, expected: Result<(), TokenRefusal>| {
        let verdict = issuers().verify(&RSA.token(&claims), at).map(|_| ());
        assert_eq!(verdict, expected, "{claims} at {at}");
    };
    let expires = |exp: i64| with("exp", json!(exp));
    check(expires(NOW - SKEW + 1), AT, Ok(()));
    check(expires(NOW - SKEW), AT, Err(TokenRefusal::Expired));
    check(expires(NOW - SKEW), AT - 1, Ok(()));
    check(expires(0), AT, Err(TokenRefusal::Expired));
    check(expires(-1), AT, Err(TokenRefusal::Expired));
    check(with("exp", json!(NOW as f64 + 0.5)), AT, Ok(()));
    for name in ["nbf", "iat"] {
        check(with(name, json!(NOW + SKEW)), AT, Ok(()));
        check(with(name, json!(NOW + SKEW + 1)), AT, Err(TokenRefusal::NotYet));
        check(with(name, json!(NOW + SKEW)), AT - 1, Err(TokenRefusal::NotYet));
        check(with(name, json!("now")), AT, Err(claim(name)));
    }
    for exp in [json!(null), json!("2099"), json!([NOW + 5])] {
        check(with("exp", exp), AT, Err(claim("exp")));
    }
    check(without("exp"), AT, Err(claim("exp")));
    check(with("exp", json!(u64::MAX)), AT, Ok(()));
    // An operator stands for it.
    check(expires(NOW - 1_000), 0, Ok(()));
}

#[test]
fn a_tenant_is_named_only_by_whom_it_was_told_to() {
    let tenant = |tenant: &str| TokenRefusal::Tenant { issuer: "corp".to_owned(), tenant: tenant.to_owned() };
    for name in ["rival", "system", "Acme", "acme/x", "acme "] {
        assert_eq!(refused(&RSA.token(&with("tenant", json!(name)))), tenant(name));
    }
    for bad in [json!(["acme"]), json!(null), json!(1), json!(""), json!("acme\u{0}")] {
        assert_eq!(refused(&RSA.token(&with("tenant", bad))), claim("tenant"));
    }
    assert_eq!(refused(&RSA.token(&without("tenant"))), claim("tenant"));
    // One that is fixed is not changed by a claim.
    let fixed = IssuerConfig { tenant: Some("acme".to_owned()), tenant_claim: None, tenants: Vec::new(), ..config() };
    let proven = issuers_of(fixed, &[RSA.jwk()]).verify(&RSA.token(&with("tenant", json!("other"))), AT);
    assert_eq!(proven.unwrap().tenant, "acme");
    for bad in [json!(null), json!(7), json!(""), json!("a\nb"), json!("u".repeat(256))] {
        assert_eq!(refused(&RSA.token(&with("sub", bad))), claim("sub"));
    }
}

#[test]
fn claims_are_mapped_as_configured() {
    let mapped = IssuerConfig {
        tenant_claim: Some("/acme/tenant".to_owned()),
        user_claim: "https://acme.example/email".to_owned(),
        key: Some("staff".to_owned()),
        key_claim: Some("groups".to_owned()),
        keys: ["ops", "dev"].map(str::to_owned).to_vec(),
        ..config()
    };
    let issuers = issuers_of(mapped, &[RSA.jwk()]);
    let check = |groups: Value, key: &str| {
        let mut claims = with("groups", groups);
        claims["acme"] = json!({ "tenant": "other" });
        claims["https://acme.example/email"] = json!("ada@acme.example");
        let proven = issuers.verify(&RSA.token(&claims), AT).unwrap();
        assert_eq!((proven.tenant.as_str(), proven.user.as_str()), ("other", "ada@acme.example"));
        assert_eq!((proven.subject.as_str(), proven.key.as_str()), ("ada", key));
    };
    check(json!(["dev", "ops", "x"]), "ops");
    check(json!("dev"), "dev");
    for none in [json!(["root"]), json!(null), json!({ "ops": 1 }), json!([["ops"]])] {
        check(none, "staff");
    }
}

#[test]
fn a_token_is_not_read_before_its_length_is_known() {
    let long = RSA.token(&with("x", json!("x".repeat(9_000))));
    assert_eq!(refused(&long), TokenRefusal::Malformed("it is longer than 8 KiB"));
    let deep = format!("{}{}", "[".repeat(3_000), "]".repeat(3_000));
    let claims = base64url(format!(r#"{{"iss":"{ISS}","x":{deep}}}"#));
    let refusal = refused(&format!("{}.{claims}.AA", base64url(RSA.header().to_string())));
    assert!(matches!(refusal, TokenRefusal::Malformed(_)), "{refusal}");
}

#[test]
fn keys_that_are_not_meant_for_this_are_not_used() {
    let check = |change: &dyn Fn(&mut Value), reason: &str| {
        let mut key = RSA.jwk();
        change(&mut key);
        let alone = KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).unwrap_err();
        assert!(alone.contains(reason), "{alone}");
        let set = KeySet::parse(json!({ "keys": [key, EC.jwk()] }).to_string().as_bytes()).unwrap();
        assert_eq!((set.len(), set.skipped()), (1, 1));
    };
    check(&|key| key["use"] = json!("enc"), "`use`");
    check(&|key| key["key_ops"] = json!(["encrypt"]), "`key_ops`");
    check(&|key| key["key_ops"] = json!([]), "`key_ops`");
    check(&|key| key["alg"] = json!("RSA-OAEP"), "`alg`");
    check(&|key| key["alg"] = json!("HS256"), "`alg`");
    check(&|key| key["alg"] = json!("ES256"), "`alg`");
    check(&|key| key["kty"] = json!("oct"), "not supported");
    check(&|key| key["n"] = json!(base64url([0xab; 128])), "2048");
    // Zeros before it make it no longer.
    check(&|key| key["n"] = json!(base64url([[0; 128], [0xab; 128]].concat())), "2048");
    check(&|key| key["n"] = json!(base64url([0xab; 2_048])), "8192");
    check(&|key| key["n"] = json!("?"), "base64url");
    check(&|key| drop(key.as_object_mut().unwrap().remove("e")), "without");
    check(&|key| key["kid"] = json!(7), "can not be read");
    let mut off = EC.jwk();
    off["x"] = off["y"].clone();
    assert!(KeySet::parse(json!({ "keys": [off] }).to_string().as_bytes()).unwrap_err().contains("no point"));
    for (bad, reason) in [("[]", "no JWK set"), (r#"{"keys":[]}"#, "it is empty"), ("<html>", "no JWK set")] {
        assert!(KeySet::parse(bad.as_bytes()).unwrap_err().contains(reason), "{bad}");
    }
    let many = json!({ "keys": vec![json!({}); 65] }).to_string();
    assert!(KeySet::parse(many.as_bytes()).unwrap_err().contains("65 keys"));
}

#[test]
fn without_keys_a_token_is_neither_good_nor_bad() {
    let issuers = Issuers::from_config(&[("corp".to_owned(), config())].into());
    let refusal = issuers.verify(&RSA.token(&claims()), AT).unwrap_err();
    assert_eq!(refusal, TokenRefusal::KeysNotKnown("corp".to_owned()));
    assert!(refusal.may_pass(AT) && !TokenRefusal::KeysAway("corp".to_owned()).may_pass(AT));
    assert!(unknown_key("x").may_pass(AT), "the keys are older than the token's use");
    assert!(!unknown_key("x").may_pass(AT - 1), "they were read after it");
    let given_up =
        TokenRefusal::UnknownKey { issuer: "corp".to_owned(), kid: "x".to_owned(), read_at: AT, is_awaited: false };
    assert!(!given_up.may_pass(AT));
    assert!(!TokenRefusal::Expired.may_pass(AT));
}

#[test]
fn refusals_hold_nothing_that_could_be_used() {
    let token = RSA.token(&with("iss", json!(format!("x\n{}", "y".repeat(500)))));
    let told = refused(&token).to_string();
    assert!(told.len() < 300 && !told.contains('\n'), "{told}");
    for part in token.split('.') {
        assert!(!told.contains(part));
    }
}
