//! The next body of an entry: what somebody asks for, checked and put together with what was there. Pure,
//! but for the bits of a new key.

use millrace_admission::{EntryName, nearest};
use millrace_config::{BudgetConfig, MAX_ID, MAX_TOPIC, Timestamp, hash_key, is_id, is_topic_name};
use serde_json::{Map, Value, json};

/// A JSON object.
pub type Body = Map<String, Value>;

/// Members of keys that nobody may see: they sign records.
const SECRET: [&str; 2] = ["sha256", "previous"];
/// So much of a key is shown.
const BEGINNING: usize = 9;
/// More than this, and a number is a mistake.
const MOST: u64 = 1 << 50;

/// What an entry may refer to.
pub trait World {
    /// Whether there is such a model.
    fn has_model(&self, name: &str) -> bool;
    /// Whether there is such a rule set.
    fn has_rule_set(&self, name: &str) -> bool;
    /// The currency that calls are charged in.
    fn currency(&self) -> String;
    /// Whether there is such an entry.
    fn has_entry(&self, name: &EntryName) -> bool;
}

/// What is wrong with what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// The member.
    pub param: Option<String>,
    /// What to do.
    pub message: String,
}

fn invalid<T>(param: &str, message: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid { param: Some(param.to_owned()), message: message.into() })
}

/// How a member is written.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Flag,
    Instant,
    Models,
    Lanes,
    Topics,
    RuleSet,
    Plan,
    User,
    Limits,
    Budget,
}

const LIMITS: [&str; 6] = [
    "requests_per_minute",
    "tokens_per_minute",
    "tokens_per_day",
    "concurrent_requests",
    "prompt_tokens",
    "output_tokens",
];

const BUDGET: [&str; 3] = ["amount", "currency", "period"];

fn members(name: &EntryName) -> &'static [(&'static str, Shape)] {
    match name {
        EntryName::Plan(_) => &[("name", Shape::Text), ("models", Shape::Models), ("limits", Shape::Limits)],
        EntryName::Tenant(_) => &[
            ("name", Shape::Text),
            ("models", Shape::Models),
            ("moderation", Shape::RuleSet),
            ("reply_topics", Shape::Topics),
            ("json_reply_topics", Shape::Topics),
            ("plan", Shape::Plan),
            ("limits", Shape::Limits),
            ("budget", Shape::Budget),
        ],
        EntryName::User(..) => {
            &[("name", Shape::Text), ("service", Shape::Flag), ("limits", Shape::Limits), ("budget", Shape::Budget)]
        }
        EntryName::Key(..) => &[
            ("user", Shape::User),
            ("admin", Shape::Flag),
            ("expires_at", Shape::Instant),
            ("models", Shape::Models),
            ("lanes", Shape::Lanes),
            ("limits", Shape::Limits),
            ("budget", Shape::Budget),
        ],
    }
}

/// Checks an id that somebody gives.
///
/// # Errors
/// [`Invalid`].
pub fn check_id(name: &EntryName) -> Result<(), Invalid> {
    if is_id(name.id()) {
        return Ok(());
    }
    let message = format!("The id is none: use 1 to {MAX_ID} letters, digits, dots, underscores and hyphens.");
    invalid("id", message)
}

/// The body of an entry after a merge patch (RFC 7396) of what was there; after the patch alone where
/// nothing was.
///
/// # Errors
/// [`Invalid`]: nothing changes.
pub fn merged(name: &EntryName, before: Option<&Body>, patch: Body, world: &impl World) -> Result<Body, Invalid> {
    let known = members(name);
    for (member, value) in &patch {
        // A tenant may be opened again; a key that was revoked stays so.
        if matches!(name, EntryName::Tenant(_)) && member == "closed_at" && value.is_null() {
            continue;
        }
        let Some((_, shape)) = known.iter().find(|(known, _)| known == member) else {
            return Err(unknown(member, "", known.iter().map(|(known, _)| *known)));
        };
        if !value.is_null() {
            check(name, member, *shape, value, world)?;
        }
    }
    let mut body = before.cloned().unwrap_or_default();
    merge(&mut body, patch);
    Ok(body)
}

fn merge(body: &mut Body, patch: Body) {
    for (member, value) in patch {
        match (body.get_mut(&member), value) {
            (_, Value::Null) => {
                body.remove(&member);
            }
            (Some(Value::Object(inner)), Value::Object(patch)) => merge(inner, patch),
            (_, Value::Object(patch)) => {
                let mut inner = Body::new();
                merge(&mut inner, patch);
                body.insert(member, Value::Object(inner));
            }
            (_, value) => {
                body.insert(member, value);
            }
        }
    }
}

fn unknown<'a>(member: &str, within: &str, known: impl Iterator<Item = &'a str> + Clone) -> Invalid {
    let shown: String = member.chars().take(64).collect();
    let hint = match nearest(member, known.clone()) {
        Some(meant) => format!("did you mean '{within}{meant}'?"),
        None => format!("use {}.", known.map(|name| format!("'{within}{name}'")).collect::<Vec<_>>().join(", ")),
    };
    Invalid {
        param: Some(format!("{within}{shown}")),
        message: format!("There is no member '{within}{shown}': {hint}"),
    }
}

fn check(name: &EntryName, member: &str, shape: Shape, value: &Value, world: &impl World) -> Result<(), Invalid> {
    match shape {
        Shape::Text => match value.as_str() {
            Some(text) if text.chars().count() <= 200 && !text.chars().any(char::is_control) => Ok(()),
            Some(_) | None => {
                invalid(member, format!("'{member}' must be a text of at most 200 printable characters."))
            }
        },
        Shape::Flag => match value {
            Value::Bool(_) => Ok(()),
            Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                invalid(member, format!("'{member}' must be true or false."))
            }
        },
        Shape::Instant => match serde_json::from_value::<Timestamp>(value.clone()) {
            Ok(at) if at.millis() >= 0 => Ok(()),
            Ok(_) | Err(_) => invalid(
                member,
                format!(
                    "'{member}' must be an instant: RFC 3339 such as 2030-01-31T12:00:00Z, or seconds since the epoch."
                ),
            ),
        },
        Shape::Models => each(member, value, |model| {
            let message = || format!("There is no model '{model}': name models of this installation.");
            if world.has_model(model) { Ok(()) } else { Err(message()) }
        }),
        Shape::Lanes => each(member, value, |lane| match lane {
            "interactive" | "batch" => Ok(()),
            _ => Err("The lanes are 'interactive' and 'batch'.".to_owned()),
        }),
        Shape::Topics => each(member, value, |topic| {
            let message =
                || format!("A topic's name has 1 to {MAX_TOPIC} letters, digits, dots, underscores and hyphens.");
            if is_topic_name(topic) { Ok(()) } else { Err(message()) }
        }),
        Shape::RuleSet => refers(member, value, "rule set", |set| world.has_rule_set(set)),
        Shape::Plan => refers(member, value, "plan", |plan| world.has_entry(&EntryName::Plan(plan.to_owned()))),
        Shape::User => refers(member, value, "user of this tenant", |user| {
            let tenant = name.tenant().unwrap_or_default().to_owned();
            world.has_entry(&EntryName::User(tenant, user.to_owned()))
        }),
        Shape::Limits => limits(member, value),
        Shape::Budget => budget(member, value, &world.currency()),
    }
}

fn each(member: &str, value: &Value, check: impl Fn(&str) -> Result<(), String>) -> Result<(), Invalid> {
    let texts = value.as_array().filter(|items| items.len() <= 1_000 && items.iter().all(Value::is_string));
    let Some(texts) = texts else {
        return invalid(member, format!("'{member}' must be an array of at most 1,000 strings."));
    };
    texts.iter().filter_map(Value::as_str).try_for_each(|text| check(text).or_else(|message| invalid(member, message)))
}

fn refers(member: &str, value: &Value, what: &str, exists: impl Fn(&str) -> bool) -> Result<(), Invalid> {
    match value.as_str() {
        Some(name) if exists(name) => Ok(()),
        Some(name) => {
            let name: String = name.chars().take(100).collect();
            invalid(member, format!("There is no {what} '{name}': make it first, or name another."))
        }
        None => invalid(member, format!("'{member}' must be the name of a {what}.")),
    }
}

fn budget(member: &str, value: &Value, currency: &str) -> Result<(), Invalid> {
    let shape = "{amount: \"25.00\", currency?, period?: \"day\", \"month\" or \"total\"}";
    let Ok(budget) = serde_json::from_value::<BudgetConfig>(value.clone()) else {
        return invalid(member, format!("'{member}' must be {shape}."));
    };
    if let Some(unknown_member) =
        value.as_object().and_then(|given| given.keys().find(|key| !BUDGET.contains(&key.as_str())))
    {
        return Err(unknown(unknown_member, &format!("{member}."), BUDGET.into_iter()));
    }
    if let Err(wrong) = budget.nanos() {
        return invalid(&format!("{member}.amount"), format!("'{member}.amount' {wrong}."));
    }
    if budget.currency != currency {
        let param = format!("{member}.currency");
        return invalid(&param, format!("'{param}' must be {currency}, which calls are charged in."));
    }
    Ok(())
}

fn limits(member: &str, value: &Value) -> Result<(), Invalid> {
    let Some(limits) = value.as_object() else {
        return invalid(member, format!("'{member}' must be an object of limits."));
    };
    for (limit, value) in limits {
        let within = format!("{member}.");
        if !LIMITS.contains(&limit.as_str()) {
            return Err(unknown(limit, &within, LIMITS.into_iter()));
        }
        let most = if limit.ends_with("_tokens") { u64::from(u32::MAX) } else { MOST };
        if !value.is_null() && value.as_u64().is_none_or(|number| number > most) {
            let param = format!("{within}{limit}");
            return invalid(&param, format!("'{param}' must be a whole number from 0 to {most}."));
        }
    }
    Ok(())
}

/// A new key, with what is kept of it.
///
/// The key is shown to whoever asked for it, and to nobody again.
#[must_use]
pub fn with_new_key(mut body: Body) -> (Body, String) {
    let bytes: [u8; 24] = rand::random();
    let key = format!("mr_{}", hex::encode(bytes));
    body.insert("sha256".to_owned(), hash_key(&key).into());
    body.insert("begins".to_owned(), key.chars().take(BEGINNING).collect::<String>().into());
    (body, key)
}

/// The body of a key whose place a new one takes; the old one is good until `until`.
#[must_use]
pub fn rotated(before: &Body, until: Timestamp) -> (Body, String) {
    let (mut body, key) = with_new_key(before.clone());
    let old = before.get("sha256").cloned().unwrap_or_default();
    body.insert("previous".to_owned(), json!({ "sha256": old, "until": until }));
    (body, key)
}

/// The body of an entry from which on, or on whose behalf, nothing is accepted any more.
#[must_use]
pub fn ended(name: &EntryName, before: &Body, at: Timestamp) -> Option<Body> {
    let member = match name {
        EntryName::Key(..) => "revoked_at",
        EntryName::Tenant(_) => "closed_at",
        EntryName::Plan(_) | EntryName::User(..) => return None,
    };
    let mut body = before.clone();
    // Whoever was refused since then stays refused.
    body.entry(member).or_insert_with(|| json!(at));
    Some(body)
}

/// What may be shown of a body.
#[must_use]
pub fn shown(body: &Body) -> Body {
    let mut shown = body.clone();
    let until = body.get("previous").and_then(|previous| previous.get("until")).cloned();
    shown.retain(|member, value| !SECRET.contains(&member.as_str()) && !is_nothing(value));
    if let Some(until) = until {
        shown.insert("previous_until".to_owned(), until);
    }
    shown
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(is_nothing),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
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
        check(
            "tenant/acme",
            json!({"limits": {"request_per_minute": 1}}),
            "did you mean 'limits.requests_per_minute'?",
        );
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
        assert!(
            !shown.contains(&hash_key(&key)) && !shown.contains(&hash_key(&new)) && !shown.contains(&new),
            "{shown}"
        );
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
        for (id, is_plain) in
            [("acme-1.a_B", true), ("", false), ("a/b", false), ("a b", false), (&"x".repeat(101), false)]
        {
            assert_eq!(check_id(&EntryName::Plan(id.to_owned())).is_ok(), is_plain, "{id}");
        }
    }
}
