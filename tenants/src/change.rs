//! The next body of an entry: what somebody asks for, checked and put together with what was there. Pure,
//! but for the bits of a new key.

use millrace_admission::{EntryName, PreviousOrigin, SecretOrigin, nearest};
use millrace_config::{
    BudgetConfig, MAX_ID, MAX_TOPIC, MAX_WEBHOOK_ID, Timestamp, WEBHOOK_EVENTS, check_webhook_url, hash_key, is_id,
    is_topic_name, is_webhook_id,
};
use serde_json::{Map, Value, json};

use crate::catalogue::DELETED_AT;

/// A JSON object.
pub type Body = Map<String, Value>;

/// Members that nobody may see: those of keys sign records. What secrets of endpoints are derived from is nobody's
/// business either.
const SECRET: [&str; 3] = ["sha256", "previous", DERIVED_FROM];
const DERIVED_FROM: &str = "derived_from";
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
    /// Whether events may go to private networks, and over plain HTTP.
    fn allows_private_webhooks(&self) -> bool;
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
    Url,
    Events,
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
        EntryName::Webhook(..) => &[("url", Shape::Url), ("events", Shape::Events)],
    }
}

/// Checks an id that somebody gives.
///
/// # Errors
/// [`Invalid`].
pub fn check_id(name: &EntryName) -> Result<(), Invalid> {
    let (is_one, most) = match name {
        EntryName::Webhook(_, id) => (is_webhook_id(id), MAX_WEBHOOK_ID),
        EntryName::Plan(id) | EntryName::Tenant(id) | EntryName::User(_, id) | EntryName::Key(_, id) => {
            (is_id(id), MAX_ID)
        }
    };
    if is_one {
        return Ok(());
    }
    let message = format!("The id is none: use 1 to {most} letters, digits, dots, underscores and hyphens.");
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
    if matches!(name, EntryName::Webhook(..)) && !body.contains_key("url") {
        return invalid("url", "Give the endpoint a 'url', which events are posted to.");
    }
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
        Shape::Url => {
            let Some(url) = value.as_str() else { return invalid(member, format!("'{member}' must be a URL.")) };
            check_webhook_url(url, world.allows_private_webhooks())
                .or_else(|reason| invalid(member, format!("'{member}' {reason}.")))
        }
        Shape::Events => each(member, value, |event| {
            let known = || format!("There is no event '{}': use {}.", shortened(event), WEBHOOK_EVENTS.join(", "));
            if WEBHOOK_EVENTS.contains(&event) { Ok(()) } else { Err(known()) }
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
            invalid(member, format!("There is no {what} '{}': make it first, or name another.", shortened(name)))
        }
        None => invalid(member, format!("'{member}' must be the name of a {what}.")),
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(100).collect()
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

/// A new endpoint's body with what its secret is derived from.
#[must_use]
pub fn derived(mut body: Body, from: &SecretOrigin) -> Body {
    body.insert(DERIVED_FROM.to_owned(), json!(from));
    body
}

/// The body of an endpoint whose secret another one takes the place of; both sign until `until`.
#[must_use]
pub fn derived_anew(before: &Body, from: &SecretOrigin, until: Timestamp) -> Body {
    let old = before.get(DERIVED_FROM).and_then(|old| serde_json::from_value(old.clone()).ok());
    let mut body = derived(before.clone(), from);
    let previous = PreviousOrigin { derived_from: old.unwrap_or_default(), until: Some(until) };
    body.insert("previous".to_owned(), json!(previous));
    body
}

/// The body of an entry from which on, or on whose behalf, nothing is accepted any more.
#[must_use]
pub fn ended(name: &EntryName, before: &Body, at: Timestamp) -> Option<Body> {
    let member = match name {
        EntryName::Key(..) => "revoked_at",
        EntryName::Tenant(_) => "closed_at",
        // Nothing of it is left but that it is gone: deliveries to it end then, wherever they wait.
        EntryName::Webhook(..) => return Some(Body::from_iter([(DELETED_AT.to_owned(), json!(at))])),
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
    if let Some(key) = body.get(DERIVED_FROM).and_then(|from| from.get("key")) {
        shown.insert("secret_key_id".to_owned(), key.clone());
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
#[path = "change_tests.rs"]
mod tests;
