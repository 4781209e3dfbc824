//! What may be asked for, member by member, and what becomes of it.

use super::*;

struct Here;

impl World for Here {
    fn has_model(&self, name: &str) -> bool {
        name == "m"
    }

    fn has_rule_set(&self, name: &str) -> bool {
        name == "strict"
    }

    fn currency(&self) -> String {
        "USD".to_owned()
    }

    fn has_entry(&self, name: &EntryName) -> bool {
        ["plan/gold", "user/acme/web"].contains(&name.to_string().as_str())
    }

    fn allows_private_webhooks(&self) -> bool {
        false
    }
}

fn body(value: Value) -> Body {
    value.as_object().expect("an object").clone()
}

fn check(name: &str, patch: Value, expected: &str) {
    let name = name.parse().expect("a name");
    match merged(&name, None, body(patch.clone()), &Here) {
        Ok(made) => assert_eq!((expected, made), ("", body(patch))),
        Err(invalid) => {
            let text = format!("{}: {}", invalid.param.unwrap_or_default(), invalid.message);
            assert!(!expected.is_empty() && text.contains(expected), "{patch}: {text}");
        }
    }
}

#[test]
fn what_is_asked_for_is_checked_member_by_member() {
    check("tenant/acme", json!({"name": "Acme", "models": ["m"], "moderation": "strict", "plan": "gold"}), "");
    check("tenant/acme", json!({"limits": {"requests_per_minute": 60}, "reply_topics": ["acme.out"]}), "");
    check("key/acme/k", json!({"user": "web", "lanes": ["batch"], "expires_at": "2030-01-31T12:00:00Z"}), "");
    check("user/acme/u", json!({"service": true}), "");
    check("tenant/acme", json!({"modles": []}), "modles: There is no member 'modles': did you mean 'models'?");
    check("tenant/acme", json!({"closed_at": 1}), "There is no member 'closed_at': use 'name'");
    check("tenant/acme", json!({"models": ["n"]}), "no model 'n'");
    check("tenant/acme", json!({"models": "m"}), "array");
    check("tenant/acme", json!({"moderation": "lax"}), "no rule set 'lax'");
    check("tenant/acme", json!({"plan": 7}), "name of a plan");
    check("tenant/acme", json!({"reply_topics": ["a b"]}), "topic's name");
    check("tenant/acme", json!({"limits": {"request_per_minute": 1}}), "did you mean 'limits.requests_per_minute'?");
    check("tenant/acme", json!({"limits": {"requests_per_minute": -1}}), "limits.requests_per_minute: ");
    check("tenant/acme", json!({"limits": {"output_tokens": 1_u64 << 40}}), "to 4294967295");
    check("key/acme/k", json!({"user": "nobody"}), "no user of this tenant 'nobody'");
    check("key/rival/k", json!({"user": "web"}), "no user of this tenant 'web'");
    check("key/acme/k", json!({"sha256": "00"}), "There is no member 'sha256'");
    check("key/acme/k", json!({"lanes": ["fast"]}), "The lanes are");
    check("key/acme/k", json!({"expires_at": "soon"}), "RFC 3339");
    check("key/acme/k", json!({"expires_at": -1}), "RFC 3339");
    check("user/acme/u", json!({"service": "yes"}), "true or false");
    check("user/acme/u", json!({"budget": {"amount": "25.00", "currency": "USD", "period": "day"}}), "");
    check("user/acme/u", json!({"budget": {"amount": 25}}), "budget: 'budget' must be {amount");
    check("user/acme/u", json!({"budget": {"amount": "25,00", "currency": "USD"}}), "budget.amount: ");
    check("user/acme/u", json!({"budget": {"amount": "25", "currency": "EUR"}}), "must be USD");
    check("user/acme/u", json!({"budget": {"amount": "25", "perid": "day"}}), "did you mean 'budget.period'?");
}

#[test]
fn endpoints_are_checked_as_those_of_the_configuration() {
    let url = "https://h.example/x?y=z";
    check("webhook/acme/w", json!({"url": url, "events": ["response.failed"]}), "");
    check("webhook/acme/w", json!({}), "url: Give the endpoint a 'url'");
    check("webhook/acme/w", json!({"url": 7}), "url: 'url' must be a URL");
    check("webhook/acme/w", json!({"url": "http://h.example"}), "use https");
    check("webhook/acme/w", json!({"url": "https://me:pw@h.example"}), "credentials");
    check("webhook/acme/w", json!({"url": "https://[::1"}), "is no URL");
    check("webhook/acme/w", json!({"url": url, "events": ["response.done"]}), "no event 'response.done'");
    check("webhook/acme/w", json!({"url": url, "events": "all"}), "array");
    for member in ["secret", "secrets", "derived_from", "previous", "deleted_at"] {
        check("webhook/acme/w", json!({"url": url, member: "x"}), "There is no member");
    }
    let name: EntryName = "webhook/acme/w".parse().expect("a name");
    let without = body(json!({"url": null}));
    assert!(merged(&name, Some(&body(json!({"url": url}))), without, &Here).is_err());
}

#[test]
fn an_endpoint_keeps_what_signs_while_both_do_and_nothing_once_it_is_deleted() {
    let name: EntryName = "webhook/acme/w".parse().expect("a name");
    let origin = |key: &str, salt: &str| SecretOrigin { key: key.to_owned(), salt: salt.to_owned() };
    let first = derived(body(json!({"url": "https://h.example"})), &origin("one", "salt-1"));
    let second = derived_anew(&first, &origin("two", "salt-2"), Timestamp::from_millis(5_000));
    assert_eq!(second["derived_from"], json!({"key": "two", "salt": "salt-2"}));
    assert_eq!(second["previous"]["derived_from"], json!({"key": "one", "salt": "salt-1"}));
    let shown = shown(&second);
    assert_eq!(shown["secret_key_id"], "two");
    assert!(shown.contains_key("previous_until") && !json!(shown).to_string().contains("salt"), "{shown:?}");
    // A change of something else leaves the secret as it is.
    let patch = body(json!({"events": ["batch.failed"]}));
    let changed = merged(&name, Some(&second), patch, &Here).expect("valid");
    assert_eq!(changed["derived_from"], second["derived_from"]);
    let gone = ended(&name, &changed, Timestamp::from_millis(1_000)).expect("an end");
    assert_eq!(gone, body(json!({"deleted_at": "1970-01-01T00:00:01Z"})));
}

#[test]
fn a_patch_changes_what_it_names_and_keeps_what_nobody_here_knows() {
    let name = EntryName::Tenant("acme".to_owned());
    let before = body(json!({"name": "A", "limits": {"requests_per_minute": 1, "tokens_per_day": 2}, "next": [1]}));
    let patch = body(json!({"name": null, "limits": {"requests_per_minute": null, "tokens_per_minute": 3}}));
    let after = merged(&name, Some(&before), patch, &Here).expect("valid");
    let closed = body(json!({"closed_at": "2030-01-31T12:00:00Z"}));
    let opened = merged(&name, Some(&closed), body(json!({"closed_at": null})), &Here).expect("valid");
    assert!(opened.is_empty());
    assert_eq!(after, body(json!({"limits": {"tokens_per_day": 2, "tokens_per_minute": 3}, "next": [1]})));
}

#[test]
fn a_key_is_shown_once_and_what_signs_never() {
    let (first, key) = with_new_key(body(json!({"user": "web"})));
    assert_eq!(first["sha256"], hash_key(&key));
    let (second, new) = rotated(&first, Timestamp::from_millis(5_000));
    assert_ne!(key, new);
    assert_eq!(second["previous"]["sha256"], hash_key(&key));
    let shown = serde_json::to_string(&shown(&second)).expect("JSON");
    assert!(!shown.contains(&hash_key(&key)) && !shown.contains(&hash_key(&new)) && !shown.contains(&new), "{shown}");
    assert!(shown.contains(&new[..BEGINNING]) && shown.contains("previous_until"), "{shown}");
}

#[test]
fn ends_stay_where_they_were() {
    let name = EntryName::Key("acme".to_owned(), "k".to_owned());
    let first = ended(&name, &Body::new(), Timestamp::from_millis(1_000)).expect("a key");
    let again = ended(&name, &first, Timestamp::from_millis(9_000)).expect("a key");
    assert_eq!((&first, first["revoked_at"].as_str()), (&again, Some("1970-01-01T00:00:01Z")));
    assert_eq!(ended(&EntryName::Plan("p".to_owned()), &Body::new(), Timestamp::from_millis(0)), None);
}

#[test]
fn ids_are_plain() {
    for (id, is_plain) in [("acme-1.a_B", true), ("", false), ("a/b", false), ("a b", false), (&"x".repeat(101), false)]
    {
        assert_eq!(check_id(&EntryName::Plan(id.to_owned())).is_ok(), is_plain, "{id}");
    }
    let webhook = |length: usize| EntryName::Webhook("acme".to_owned(), "x".repeat(length));
    assert!(check_id(&webhook(MAX_WEBHOOK_ID)).is_ok() && check_id(&webhook(MAX_WEBHOOK_ID + 1)).is_err());
}
