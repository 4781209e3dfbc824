//! Keys that come and go, in a file and at an address.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use millrace_config::IssuerConfig;
use millrace_issuers::{IssuerMetrics, Issuers, TokenRefusal, keep, read_keys};
use millrace_schemas::now_millis;
use millrace_test_issuer::{Server, Signer, jwks};
use prometheus::{Registry, TextEncoder};
use serde_json::json;
use tokio_util::sync::CancellationToken;

fn config(issuer: &str) -> IssuerConfig {
    IssuerConfig {
        issuer: issuer.to_owned(),
        audience: vec!["millrace".to_owned()],
        tenant: Some("acme".to_owned()),
        ..IssuerConfig::default()
    }
}

fn token(signer: &Signer, issuer: &str) -> String {
    let now = now_millis() / 1_000;
    signer.token(&json!({ "iss": issuer, "aud": "millrace", "sub": "ada", "exp": now + 600 }))
}

/// Whether the token is good within half a minute.
async fn becomes_good(issuers: &Issuers, token: &str) -> bool {
    for _ in 0..300 {
        if issuers.verify(token, now_millis()).is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

fn unread(registry: &Registry) -> bool {
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    text.contains("millrace_issuer_keys_unread{issuer=\"corp\"} 1")
}

struct Kept {
    issuers: Issuers,
    registry: Registry,
    _until: tokio_util::sync::DropGuard,
}

fn kept(config: IssuerConfig) -> Kept {
    let (registry, until) = (Registry::new(), CancellationToken::new());
    let issuers = Issuers::from_config(&[("corp".to_owned(), config)].into());
    keep(&issuers, &IssuerMetrics::register(&registry).unwrap(), &until);
    Kept { issuers, registry, _until: until.drop_guard() }
}

#[tokio::test]
async fn keys_of_a_discovered_issuer_are_rotated_and_the_last_ones_stay_while_it_is_away() {
    let (old, new) = (Signer::rsa("old"), Signer::ec("new"));
    let server = Server::start(jwks(&[&old])).await;
    let kept = kept(IssuerConfig { discovery: true, ..config(&server.issuer) });
    let [first, second] = [&old, &new].map(|signer| token(signer, &server.issuer));
    assert!(becomes_good(&kept.issuers, &first).await);

    // A token of a key that is not known has the keys read again.
    server.has(Some(jwks(&[&old, &new])));
    assert!(becomes_good(&kept.issuers, &second).await);
    assert!(kept.issuers.verify(&first, now_millis()).is_ok());

    // While they can not be read, the last ones are used, and however many ask, it is not asked more often.
    server.has(None);
    let asked = server.asked();
    for _ in 0..50 {
        let stranger = kept.issuers.verify(&token(&Signer::ec("none"), &server.issuer), now_millis());
        assert!(matches!(stranger, Err(TokenRefusal::UnknownKey { .. })), "{stranger:?}");
    }
    for _ in 0..300 {
        if unread(&kept.registry) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(unread(&kept.registry) && server.asked() - asked <= 2);
    assert!(kept.issuers.verify(&second, now_millis()).is_ok());

    // A key that was taken out opens nothing any more.
    server.has(Some(jwks(&[&new])));
    for _ in 0..300 {
        if !unread(&kept.registry) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(matches!(kept.issuers.verify(&first, now_millis()), Err(TokenRefusal::UnknownKey { .. })));
    assert!(kept.issuers.verify(&second, now_millis()).is_ok());
}

#[tokio::test]
async fn keys_of_a_file_are_rotated() {
    const ISS: &str = "https://login.example";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let (old, new) = (Signer::ed("old"), Signer::ed("new"));
    let kept = kept(IssuerConfig { jwks_file: Some(file.clone()), ..config(ISS) });
    let [first, second] = [&old, &new].map(|signer| token(signer, ISS));
    let nothing = kept.issuers.verify(&first, now_millis());
    assert_eq!(nothing, Err(TokenRefusal::KeysNotKnown("corp".to_owned())));
    std::fs::write(&file, jwks(&[&old])).unwrap();
    assert!(becomes_good(&kept.issuers, &first).await);
    std::fs::write(&file, jwks(&[&new])).unwrap();
    assert!(becomes_good(&kept.issuers, &second).await);
    assert!(kept.issuers.verify(&first, now_millis()).is_err());
}

#[tokio::test]
async fn keys_are_taken_only_from_where_they_are_said_to_be() {
    let key = Signer::ec("k");
    let server = Server::start(jwks(&[&key])).await;
    let at = |path: &str| IssuerConfig { jwks_url: Some(format!("{}{path}", server.issuer)), ..config("https://x") };
    assert_eq!(read_keys(&at("/keys")).await.unwrap().len(), 1);
    let check = async |config: IssuerConfig, reason: &str| {
        let problem = read_keys(&config).await.unwrap_err();
        assert!(problem.contains(reason) && !problem.contains('\n'), "{problem}");
    };
    check(at("/elsewhere"), "answers 302").await;
    check(at("/none"), "answers 404").await;
    check(IssuerConfig { jwks_url: Some("http://127.0.0.1:1/".to_owned()), ..config("x") }, "does not answer").await;
    let other = format!("{}/", server.issuer);
    check(IssuerConfig { discovery: true, ..config(&other) }, "of another issuer").await;
    server.has(Some(" ".repeat(600 << 10)));
    check(at("/keys"), "more than 512 KiB").await;
    server.has(Some("{}".to_owned()));
    check(at("/keys"), "is no JWK set").await;
    check(IssuerConfig { jwks_file: Some("/nowhere/keys.json".into()), ..config("x") }, "/nowhere/keys.json").await;
}
