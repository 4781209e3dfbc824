//! Signed tokens at both doors: they stand for a key of their tenant, and speak for their own user only.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::LazyLock;

use millrace_admission::{
    Admission, Arrival, Directory, EntryName, KeyRefusal, Principal, Refusal, TokenRefusal, record,
};
use millrace_config::{Config, IssuerConfig, KeyConfig, ModelConfig, TenantConfig, TopicBinding, UserConfig, hash_key};
use millrace_issuers::KeySet;
use millrace_schemas::{Lane, Request};
use millrace_test_issuer::{Signer, jwks};
use serde_json::{Value, json};

const ISS: &str = "https://login.example";
/// Seconds and milliseconds since the epoch.
const NOW: i64 = 1_900_000_000;
const AT: i64 = NOW * 1_000;

static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::ed("k"));

fn config() -> Config {
    let mut config = Config::default();
    for model in ["m", "n"] {
        config.models.insert(model.to_owned(), ModelConfig::chat("p", 4_000));
    }
    let key = |id: &str, models: &[&str], admin: bool| KeyConfig {
        id: id.to_owned(),
        sha256: Some(hash_key(&format!("{id} of nobody"))),
        user: Some("service".to_owned()),
        models: models.iter().map(|model| (*model).to_owned()).collect(),
        admin,
        ..KeyConfig::default()
    };
    let users = ["ada", "ben", "service"].map(|user| (user.to_owned(), UserConfig::default()));
    let keys = vec![key("corp", &["m"], false), key("ops", &[], true)];
    config.tenants.insert("acme".to_owned(), TenantConfig { keys, users: users.into(), ..TenantConfig::default() });
    config.tenants.insert("keyless".to_owned(), TenantConfig::default());
    config.topic_bindings.insert("acme.requests".to_owned(), TopicBinding::batch("acme"));
    let issuer = IssuerConfig {
        issuer: ISS.to_owned(),
        audience: vec!["millrace".to_owned()],
        jwks_file: Some("keys".into()),
        tenant_claim: Some("tenant".to_owned()),
        tenants: ["acme", "keyless", "later"].map(str::to_owned).to_vec(),
        key_claim: Some("groups".to_owned()),
        keys: vec!["ops".to_owned()],
        ..IssuerConfig::default()
    };
    config.issuers.insert("corp".to_owned(), issuer);
    config
}

fn directory() -> Directory {
    let directory = Directory::from_config(&config()).unwrap();
    directory.issuers().take("corp", KeySet::parse(jwks(&[&SIGNER]).as_bytes()).unwrap(), AT);
    directory
}

fn token(change: impl FnOnce(&mut Value)) -> String {
    let mut claims = json!({ "iss": ISS, "aud": "millrace", "sub": "ada", "tenant": "acme", "exp": NOW + 300 });
    change(&mut claims);
    SIGNER.token(&claims)
}

fn ada() -> Principal {
    let [tenant, ada, corp] = ["acme", "ada", "corp"].map(str::to_owned);
    Principal { tenant, user: Some(ada), key_id: Some(corp), admin: false, token: Some("corp/ada".to_owned()) }
}

#[test]
fn a_token_has_what_its_key_has_and_its_own_user() {
    let directory = directory();
    assert_eq!(directory.verify_key(&token(|_| ()), AT), Ok(ada()));
    assert!(directory.may_use(&ada(), "m") && !directory.may_use(&ada(), "n"));
    assert!(directory.may_sign(&ada(), AT));
    let ops = directory.verify_key(&token(|claims| claims["groups"] = json!(["ops"])), AT).unwrap();
    assert_eq!((ops.key_id.as_deref(), ops.admin), (Some("ops"), true));
    // What is written for it is proven by its key, and never by itself.
    let signature = directory.sign(&ada(), b"value").unwrap();
    let signed = directory.verify_record("requests.batch", Some(&signature), b"value", AT).unwrap();
    assert_eq!((signed.key_id.as_deref(), signed.token), (Some("corp"), None));
}

#[test]
fn a_token_is_never_looked_up_as_a_key() {
    let mut config = config();
    let shaped = token(|claims| claims["sub"] = json!("eve"));
    config.tenants.get_mut("acme").unwrap().keys[0].sha256 = Some(hash_key(&shaped));
    let directory = Directory::from_config(&config).unwrap();
    let refusal = directory.verify_key(&shaped, AT).unwrap_err();
    assert_eq!(refusal, KeyRefusal::Token(TokenRefusal::KeysNotKnown("corp".to_owned())));
    assert_eq!(directory.verify_key("eyJhbGciOiJub25lIn0.e30", AT), Err(KeyRefusal::Unknown), "two parts");
}

#[test]
fn whoever_is_taken_away_is_gone_before_the_token_expires() {
    let directory = directory();
    let told = |name: &str, body: &str| {
        let name: EntryName = name.parse().unwrap();
        let entry = millrace_admission::Entry::read(&name, body).unwrap();
        directory.apply(&name, Some(entry)).unwrap();
    };
    let later = token(|claims| claims["tenant"] = json!("later"));
    let check = |expected: Result<(), KeyRefusal>| {
        assert_eq!(directory.verify_key(&later, AT).map(|_| ()), expected);
    };
    let hash = hash_key("x");
    let [issuer, tenant, key, user] = ["corp", "later", "corp", "ada"].map(str::to_owned);
    check(Err(KeyRefusal::Closed("later".to_owned())));
    told("tenant/later", "{}");
    let no_key = TokenRefusal::NoKey { issuer: issuer.clone(), tenant: tenant.clone(), key };
    check(Err(no_key.into()));
    told("key/later/corp", &format!(r#"{{"sha256":"{hash}"}}"#));
    check(Ok(()));
    told("user/later/ben", "{}");
    check(Err(TokenRefusal::NoUser { issuer, tenant, user }.into()));
    told("user/later/ada", "{}");
    check(Ok(()));
    told("key/later/corp", &format!(r#"{{"sha256":"{hash}","revoked_at":{NOW}}}"#));
    check(Err(KeyRefusal::Revoked("later/corp".to_owned())));
    told("key/later/corp", &format!(r#"{{"sha256":"{hash}","expires_at":{NOW}}}"#));
    check(Err(KeyRefusal::Expired("later/corp".to_owned())));
    told("key/later/corp", &format!(r#"{{"sha256":"{hash}"}}"#));
    told("tenant/later", &format!(r#"{{"closed_at":{NOW}}}"#));
    check(Err(KeyRefusal::Closed("later".to_owned())));
}

#[test]
fn a_record_is_proven_by_the_token_that_was_good_when_it_was_appended() {
    let directory = directory();
    let token = token(|_| ());
    let verify = |topic: &str, proof: Option<&str>, at: i64| directory.verify_record(topic, proof, b"v", at);
    let refusal = |refusal: TokenRefusal| Err(Refusal::Key(KeyRefusal::Token(refusal)));
    let expires = AT + 330_000;
    assert_eq!(verify("requests.batch", Some(&token), AT), Ok(ada()));
    assert_eq!(verify("requests.batch", Some(&token), expires - 1), Ok(ada()));
    assert_eq!(verify("requests.batch", Some(&token), expires), refusal(TokenRefusal::Expired));
    // An operator sends it again.
    assert_eq!(verify("requests.batch", Some(&token), 0), Ok(ada()));
    let claims = json!({ "iss": ISS, "aud": "millrace", "tenant": "acme", "exp": NOW + 9 });
    let forged = Signer::ed("k").token(&claims);
    assert_eq!(verify("requests.batch", Some(&forged), AT), refusal(TokenRefusal::Signature));
    let ended = verify("requests.batch", Some(&forged), AT).unwrap_err().ended();
    assert_eq!((ended.code.as_str(), ended.http_status), ("invalid_token", 401));
    // The topic decides alone.
    assert_eq!(verify("acme.requests", Some(&forged), AT).unwrap().token, None);
    // Cancellations are proven by signatures alone.
    assert!(directory.verify_signature(Some(&token), b"v", AT).is_err());

    // A record that is here before a key that was rotated waits for it; one that came after does not.
    let rotated = verify("requests.batch", Some(&Signer::ed("next").token(&claims)), AT).unwrap_err();
    assert!(rotated.may_pass(AT, AT + 5_000) && !rotated.may_pass(AT - 1, AT + 5_000));
    let fresh = Directory::from_config(&config()).unwrap();
    let early = fresh.verify_record("requests.batch", Some(&token), b"v", AT).unwrap_err();
    assert!(early.may_pass(AT, AT + 3_600_000));
}

#[test]
fn a_token_is_found_in_either_header() {
    let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
    let check = |headers: &[(String, Option<Vec<u8>>)], expected: Option<&str>| {
        assert_eq!(record::proof(headers), expected, "{headers:?}");
    };
    check(&[header("Authorization", "bearer  eyJ.e.s ")], Some("eyJ.e.s"));
    check(&[header("authorization", "Bearer eyJ"), header("millrace-signature", "v1:k:00")], Some("v1:k:00"));
    check(&[header("Millrace-Signature", "eyJ.e.s")], Some("eyJ.e.s"));
    check(&[header("authorization", "Basic eA==")], None);
    check(&[header("authorization", "eyJ.e.s")], None);
    check(&[("authorization".to_owned(), Some(vec![0xff]))], None);
    check(&[], None);
}

#[test]
fn a_token_speaks_for_no_other_user() {
    let admission = Admission::new(&config(), directory());
    let body = br#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    let check = |named: Option<&str>, expected: Result<&str, &str>| {
        let request = Request { user: named.map(str::to_owned), ..Request::new(body.to_vec()) };
        let now = AT * 1_000;
        let arrival = Arrival { lane: Lane::Interactive, at: None, timestamp: None, now, run: 0 };
        let verdict = admission.admit(&ada(), request, &arrival);
        let verdict = verdict.map(|admitted| admitted.meta.user).map_err(|rejected| rejected.ended.code);
        assert_eq!(verdict.as_deref().map_err(String::as_str), expected, "{named:?}");
    };
    check(None, Ok("ada"));
    check(Some("ada"), Ok("ada"));
    check(Some("ben"), Err("user_not_allowed"));
    check(Some("service"), Err("user_not_allowed"));
}
