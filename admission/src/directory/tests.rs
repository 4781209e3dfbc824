use super::*;
use millrace_config::{KeyConfig, TenantConfig, Timestamp, TopicBinding, hash_key};
use millrace_schemas::SignatureError;

fn config() -> Config {
    let mut config = Config::default();
    for (tenant, key, secret) in
        [("acme", "k1", "sk-a"), ("acme", "x/k1", "sk-b"), ("x", "k1", "sk-c"), ("x", "k2", "sk-d")]
    {
        let entry = KeyConfig {
            id: key.to_owned(),
            sha256: Some(hash_key(secret)),
            user: (secret == "sk-a").then(|| "web".to_owned()),
            admin: secret == "sk-d",
            ..KeyConfig::default()
        };
        config.tenants.entry(tenant.to_owned()).or_default().keys.push(entry);
    }
    config.topic_bindings.insert("acme.requests".to_owned(), TopicBinding::batch("acme"));
    config
}

fn principal(tenant: &str, key: &str) -> Principal {
    let user = (tenant == "acme" && key == "k1").then(|| "web".to_owned());
    Principal { tenant: tenant.to_owned(), user, key_id: Some(key.to_owned()), admin: key == "k2", token: None }
}

#[test]
fn keys_are_found_by_their_digest() {
    let directory = Directory::from_config(&config()).expect("valid");
    assert_eq!(directory.verify_key("sk-a", 0), Ok(principal("acme", "k1")));
    assert_eq!(directory.verify_key("sk-d", 0), Ok(principal("x", "k2")));
    assert_eq!(directory.verify_key("sk-e", 0), Err(KeyRefusal::Unknown));
    assert_eq!(directory.verify_key("", 0), Err(KeyRefusal::Unknown));
}

#[test]
fn a_topic_may_be_bound_to_a_tenant_that_is_made_later() {
    let mut config = config();
    config.topic_bindings.insert("new.requests".to_owned(), TopicBinding::batch("new"));
    let directory = Directory::from_config(&config).expect("valid");
    let verify = |at: i64| directory.verify_record("new.requests", None, b"v", at);
    assert_eq!(verify(0), Err(Refusal::Key(KeyRefusal::Closed("new".to_owned()))));
    let name = EntryName::Tenant("new".to_owned());
    let told = |closed_at: Option<Timestamp>| Entry::Tenant(TenantEntry { closed_at, ..TenantEntry::default() });
    directory.apply(&name, Some(told(None))).expect("a tenant");
    assert_eq!(verify(0).expect("bound").tenant, "new");
    directory.apply(&name, Some(told(Some(Timestamp::from_millis(5_000))))).expect("a tenant");
    assert!(verify(4_999).is_ok() && verify(5_000).is_err());
}

#[test]
fn endpoints_have_names_of_their_own() {
    let name = EntryName::Webhook("acme".to_owned(), "main".to_owned());
    assert_eq!((name.to_string().as_str(), name.kind(), name.tenant()), ("webhook/acme/main", "webhook", Some("acme")));
    assert_eq!("webhook/acme/main".parse(), Ok(name));
}

#[test]
fn a_record_proves_its_tenant_by_topic_or_signature() {
    let directory = Directory::from_config(&config()).expect("valid");
    let bound = directory.verify_record("acme.requests", Some("rubbish"), b"v", 0).expect("bound");
    assert_eq!((bound.tenant.as_str(), bound.key_id, bound.user), ("acme", None, None));
    assert_eq!(directory.bound_topics(Lane::Batch), ["acme.requests"]);
    assert!(directory.bound_topics(Lane::Interactive).is_empty());

    for (tenant, key) in [("acme", "k1"), ("x", "k1"), ("x", "k2")] {
        let signature = directory.sign(&principal(tenant, key), b"value").expect("a key");
        assert_eq!(
            directory.verify_record("requests.batch", Some(&signature), b"value", 0),
            Ok(principal(tenant, key))
        );
        let other = directory.verify_record("requests.batch", Some(&signature), b"valuf", 0);
        assert!(matches!(other, Err(Refusal::Signature(SignatureError::Mismatch(_)))), "{other:?}");
    }
    assert_eq!(directory.sign(&bound_principal(), b"value"), None);

    let plain = |key: &str, secret: &str| Signature::sign(key, &key_digest(secret), b"value");
    let verify = |signature: &str| directory.verify_record("requests.batch", Some(signature), b"value", 0);
    assert_eq!(verify(&plain("k2", "sk-d")), Ok(principal("x", "k2")));
    assert_eq!(verify(&plain("k1", "sk-a")), Err(Refusal::AmbiguousKey("k1".to_owned())));
    assert_eq!(verify(&plain("k9", "sk-a")), Err(Refusal::UnknownKey("k9".to_owned())));
    assert!(verify(&plain("k2", "sk-a")).is_err(), "another tenant's key");
    assert_eq!(verify("k2"), Err(Refusal::Signature(SignatureError::Malformed)));
    assert_eq!(directory.verify_record("requests.batch", None, b"value", 0), Err(Refusal::Unsigned));
}

fn bound_principal() -> Principal {
    Principal { tenant: "acme".to_owned(), user: None, key_id: None, admin: false, token: None }
}

#[test]
fn the_system_tenant_can_not_be_configured() {
    let mut config = config();
    config.tenants.insert(SYSTEM_TENANT.to_owned(), TenantConfig::default());
    assert_eq!(Directory::from_config(&config).err(), Some(DirectoryError::Reserved));
}

fn entry(name: &EntryName, body: &str) -> Option<Entry> {
    Some(Entry::read(name, body).expect("an entry"))
}

#[test]
fn entries_are_taken_up_in_any_order_and_by_every_clone() {
    let directory = Directory::from_config(&config()).expect("valid");
    let door = directory.clone();
    let key: EntryName = "key/new/k".parse().expect("a name");
    let body = format!(r#"{{"sha256":"{}","models":["m"],"lanes":["batch"],"next_month":1}}"#, hash_key("sk-n"));
    assert_eq!(directory.apply(&key, entry(&key, &body)), Ok(true));
    assert_eq!(door.verify_key("sk-n", 5_000), Err(KeyRefusal::Closed("new".to_owned())), "no tenant yet");
    let tenant = EntryName::Tenant("new".to_owned());
    directory.apply(&tenant, entry(&tenant, r#"{"plan":"p"}"#)).expect("applied");
    let principal = door.verify_key("sk-n", 5_000).expect("known");
    assert!(door.may_use(&principal, "m") && !door.may_use(&principal, "n"));
    let plan = EntryName::Plan("p".to_owned());
    directory.apply(&plan, entry(&plan, r#"{"models":["n"],"limits":{"requests_per_minute":6}}"#)).expect("applied");
    assert!(!door.may_use(&principal, "m"), "the plan has no such model");
    assert_eq!(door.limits(&principal, "u")[0].1.requests_per_minute, Some(6));
    let standing = door.standing(&principal).expect("a tenant");
    assert!(standing.allows_lane(Lane::Batch) && !standing.allows_lane(Lane::Interactive));
    directory.apply(&key, None).expect("applied");
    assert_eq!(door.verify_key("sk-n", 5_000), Err(KeyRefusal::Unknown));
}

#[test]
fn a_key_ends_at_its_instant_and_is_good_for_what_was_written_before() {
    let directory = Directory::from_config(&config()).expect("valid");
    let name: EntryName = "key/acme/n".parse().expect("a name");
    let check = |body: &str, at: i64, expected: Result<(), KeyRefusal>| {
        let body = format!(r#"{{"sha256":"{}"{body}}}"#, hash_key("sk-n"));
        directory.apply(&name, entry(&name, &body)).expect("applied");
        let principal = Principal { key_id: Some("n".to_owned()), ..bound_principal() };
        let signature = directory.sign(&principal, b"v").expect("a key");
        assert_eq!(directory.verify_key("sk-n", at).map(|_| ()), expected, "{body} {at}");
        let record = directory.verify_record("requests.batch", Some(&signature), b"v", at).map(|_| ());
        assert_eq!(record, expected.map_err(Refusal::Key), "{body} {at}");
    };
    check("", 10_000, Ok(()));
    check(r#","expires_at":10"#, 9_999, Ok(()));
    check(r#","expires_at":10"#, 10_000, Err(KeyRefusal::Expired("acme/n".to_owned())));
    check(r#","revoked_at":10"#, 9_999, Ok(()));
    check(r#","revoked_at":10,"expires_at":9"#, 10_000, Err(KeyRefusal::Revoked("acme/n".to_owned())));
}

#[test]
fn what_the_configuration_spells_out_and_a_key_that_somebody_has_stay() {
    let directory = Directory::from_config(&config()).expect("valid");
    let configured = EntryName::Key("acme".to_owned(), "k1".to_owned());
    let stolen = Entry::Key(KeyEntry { sha256: hash_key("sk-b"), ..KeyEntry::default() });
    assert_eq!(directory.apply(&configured, Some(stolen.clone())), Ok(false));
    assert_eq!(directory.apply(&configured, None), Ok(false));
    let other = EntryName::Key("x".to_owned(), "k9".to_owned());
    directory.apply(&other, Some(stolen)).expect("applied");
    assert_eq!(directory.verify_key("sk-b", 0).expect("known").tenant, "acme");
    directory.apply(&other, None).expect("applied");
    assert_eq!(directory.verify_key("sk-b", 0).expect("known").tenant, "acme");
    let system = EntryName::Tenant(SYSTEM_TENANT.to_owned());
    assert_eq!(directory.apply(&system, entry(&system, "{}")), Err(DirectoryError::Reserved));
    let closed = TenantEntry { closed_at: Some(Timestamp::from_millis(5_000)), ..TenantEntry::default() };
    assert!(directory.apply(&EntryName::Tenant("y".to_owned()), Some(Entry::Tenant(closed))).expect("applied"));
}

#[test]
fn limits_are_known_as_long_as_anybody_has_some() {
    let directory = Directory::from_config(&Config::default()).expect("valid");
    let limits = r#""limits":{"requests_per_minute":1}"#;
    let hash = "ab".repeat(32);
    for name in ["plan/p", "tenant/new", "user/new/u", "key/new/k"] {
        let name: EntryName = name.parse().expect("a name");
        let put = |body: &str| directory.apply(&name, entry(&name, body)).expect("applied");
        let of = |limits: &str| match &name {
            EntryName::Key(..) if limits.is_empty() => format!(r#"{{"sha256":"{hash}"}}"#),
            EntryName::Key(..) => format!(r#"{{"sha256":"{hash}",{limits}}}"#),
            EntryName::Plan(_) | EntryName::Tenant(_) | EntryName::User(..) | EntryName::Webhook(..) => {
                format!("{{{limits}}}")
            }
        };
        assert!(!directory.has_limits(), "{name}");
        put(&of(limits));
        assert!(directory.has_limits(), "{name}");
        put(&of(""));
        assert!(!directory.has_limits(), "{name}");
        put(&of(limits));
        directory.apply(&name, None).expect("applied");
    }
}

#[test]
fn budgets_are_known_as_long_as_anybody_has_one() {
    let directory = Directory::from_config(&config()).expect("valid");
    let [tenant, user, key] = ["tenant/new", "user/new/u", "key/new/k"].map(|name| name.parse().expect("a name"));
    let budget = r#"{"budget":{"amount":"1"}}"#;
    let hash = "ab".repeat(32);
    let of_key = format!(r#"{{"sha256":"{hash}","budget":{{"amount":"1"}}}}"#);
    let put = |name: &EntryName, body: &str| directory.apply(name, entry(name, body)).expect("applied");
    assert!(!directory.has_budgets());
    put(&tenant, budget);
    put(&user, budget);
    put(&key, &of_key);
    let accounts = |key_id| directory.budgets_of("new", "u", key_id).into_iter().map(|(account, _)| account);
    let (of_user, of_key) = (Account::User("u".to_owned()), Account::Key("k".to_owned()));
    assert_eq!(accounts(Some("k")).collect::<Vec<_>>(), [Account::Tenant, of_user.clone(), of_key.clone()]);
    assert_eq!(accounts(Some("other")).count(), 2);
    assert_eq!(directory.budgets("new").len(), 3);
    assert!([&Account::Tenant, &of_user, &of_key].iter().all(|account| directory.counts("new", account)));
    assert!(!directory.counts("new", &Account::User("v".to_owned())));
    put(&tenant, "{}");
    put(&key, &format!(r#"{{"sha256":"{hash}"}}"#));
    assert!(directory.has_budgets() && !directory.counts("new", &of_key));
    put(&key, &format!(r#"{{"sha256":"{hash}","budget":{{"amount":"1"}}}}"#));
    directory.apply(&user, None).expect("applied");
    assert!(directory.has_budgets());
    directory.apply(&key, None).expect("applied");
    assert!(!directory.has_budgets());
}

#[test]
fn a_key_that_was_replaced_is_good_for_a_while_longer() {
    let directory = Directory::from_config(&config()).expect("valid");
    let name: EntryName = "key/acme/n".parse().expect("a name");
    let put = |secret: &str, previous: &str| {
        let body = format!(r#"{{"sha256":"{}"{previous}}}"#, hash_key(secret));
        directory.apply(&name, entry(&name, &body)).expect("applied");
    };
    put("sk-old", "");
    let principal = directory.verify_key("sk-old", 0).expect("known");
    let signature = directory.sign(&principal, b"v").expect("a key");
    put("sk-new", &format!(r#","previous":{{"sha256":"{}","until":10}}"#, hash_key("sk-old")));
    for (secret, at, is_good) in [("sk-new", 20_000, true), ("sk-old", 9_999, true), ("sk-old", 10_000, false)] {
        assert_eq!(directory.verify_key(secret, at).is_ok(), is_good, "{secret} {at}");
    }
    let verify = |at: i64| directory.verify_record("requests.batch", Some(&signature), b"v", at);
    assert_eq!(verify(9_999), Ok(principal.clone()));
    assert_eq!(verify(10_000), Err(KeyRefusal::Expired("acme/n".to_owned()).into()));
    put("sk-new", "");
    assert_eq!(directory.verify_key("sk-old", 0), Err(KeyRefusal::Unknown));
}

#[test]
fn names_are_written_and_read() {
    for text in ["plan/p", "tenant/a.b", "user/acme/web shop", "key/acme/x/k1"] {
        assert_eq!(text.parse::<EntryName>().expect("a name").to_string(), text);
    }
    for bad in ["", "plan", "tenant/a/b", "user/acme", "role/x/y"] {
        assert!(bad.parse::<EntryName>().is_err(), "{bad}");
    }
}

/// The configuration without a key, and with another one in the place of `x/k2`.
fn later() -> Config {
    let mut later = config();
    later.tenants.get_mut("acme").expect("acme").keys.retain(|key| key.id != "k1");
    later.tenants.get_mut("x").expect("x").keys[1].sha256 = Some(hash_key("sk-new"));
    later
}

#[test]
fn another_configuration_is_taken_up_and_records_on_their_way_are_proven_for_a_while() {
    const NOW: i64 = 1_000_000_000;
    let directory = Directory::from_config(&config()).expect("valid");
    let clone = directory.clone();
    let [removed, replaced] = [principal("acme", "k1"), principal("x", "k2")];
    let before = [&removed, &replaced].map(|principal| directory.sign(principal, b"v").expect("a key"));
    assert_eq!(directory.replace(&later(), [], NOW), Ok(Vec::new()));

    // At the door they are gone at once.
    assert_eq!(clone.verify_key("sk-a", NOW), Err(KeyRefusal::Unknown));
    assert_eq!(clone.verify_key("sk-d", NOW), Err(KeyRefusal::Unknown));
    assert_eq!(clone.verify_key("sk-new", NOW), Ok(replaced.clone()));
    assert!(!clone.may_sign(&removed, NOW) && clone.may_sign(&replaced, NOW));
    let verify = |signature: &str, at: i64| clone.verify_record("requests.batch", Some(signature), b"v", at);
    for (signature, whose) in before.iter().zip([&removed, &replaced]) {
        assert_eq!(verify(signature, NOW + LINGERS - 1).as_ref(), Ok(whose));
        assert!(verify(signature, NOW + LINGERS).is_err());
    }
    // Who was let in before is still signed for.
    assert_eq!(clone.sign(&removed, b"v").as_ref(), Some(&before[0]));
    let after = clone.sign(&replaced, b"v").expect("a key");
    assert_ne!(after, before[1]);
    assert_eq!(verify(&after, NOW + LINGERS), Ok(replaced));

    // It stays so when yet another one is taken up, and topics stay bound.
    clone.replace(&later(), [], NOW + LINGERS / 2).expect("valid");
    assert_eq!(verify(&before[0], NOW + LINGERS - 1), Ok(removed.clone()));
    assert!(verify(&before[0], NOW + LINGERS).is_err());
    assert!(clone.verify_record("acme.requests", None, b"v", NOW).is_ok());
    // What comes back is as it was.
    clone.replace(&config(), [], NOW + LINGERS).expect("valid");
    assert_eq!(verify(&before[0], NOW + 2 * LINGERS), Ok(removed));
}

#[test]
fn a_tenant_that_left_the_configuration_is_closed_and_what_was_told_counts_when_the_configuration_does_not() {
    const NOW: i64 = 1_000_000_000;
    let directory = Directory::from_config(&config()).expect("valid");
    let signed = directory.sign(&principal("x", "k2"), b"v").expect("a key");
    let mut later = config();
    later.tenants.remove("x");
    let told = |name: &str, body: &str| {
        let name: EntryName = name.parse().expect("a name");
        (name.clone(), Entry::read(&name, body).expect("an entry"))
    };
    let hash = hash_key("sk-told");
    let all = [
        told("key/acme/k1", &format!(r#"{{"sha256":"{hash}"}}"#)),
        told("tenant/told", "{}"),
        told("key/told/k", &format!(r#"{{"sha256":"{hash}"}}"#)),
        told("key/told/none", "{}"),
    ];
    let refused = directory.replace(&later, all, NOW).expect("valid");
    assert_eq!(refused, [EntryName::Key("told".to_owned(), "none".to_owned())]);
    assert_eq!(directory.verify_key("sk-told", NOW), Ok(principal("told", "k")));
    assert_eq!(directory.verify_key("sk-a", NOW), Ok(principal("acme", "k1")), "the configuration's");
    assert_eq!(directory.verify_key("sk-d", NOW), Err(KeyRefusal::Unknown));
    let verify = |at: i64| directory.verify_record("requests.batch", Some(&signed), b"v", at);
    assert_eq!(verify(NOW), Ok(principal("x", "k2")));
    assert!(verify(NOW + LINGERS).is_err());

    // Nothing changes with one that can not be used.
    let mut reserved = config();
    reserved.tenants.insert(SYSTEM_TENANT.to_owned(), TenantConfig::default());
    assert_eq!(directory.replace(&reserved, [], NOW), Err(DirectoryError::Reserved));
    assert_eq!(directory.verify_key("sk-told", NOW), Ok(principal("told", "k")));
}
