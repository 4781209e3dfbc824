//! `millrace plans`, `tenants`, `users`, `keys` and `endpoints`: the administrative API from the command line.

use anyhow::{Context, bail};
use comfy_table::Table;
use millrace_config::Config;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::cli::{AdminArgs, EndpointAction, EntryAction, KeyAction};
use crate::door::Door;
use crate::waiting::Waiting;

/// Members whose values are lists.
const LISTS: [&str; 5] = ["models", "lanes", "reply_topics", "json_reply_topics", "events"];
/// What is shown once, at the end.
const SHOWN_ONCE: [&str; 2] = ["key", "secret"];

/// One call of the API.
struct Ask {
    method: Method,
    /// Behind the path of the collection.
    path: String,
    body: Option<Value>,
    is_list: bool,
}

impl Ask {
    fn of(method: Method, path: String, body: Option<Value>) -> Self {
        Self { method, path, body, is_list: false }
    }

    fn list() -> Self {
        Self { is_list: true, ..Self::of(Method::GET, String::new(), None) }
    }

    /// One that is given a key or a secret.
    fn new_one(id: String, members: &[String]) -> anyhow::Result<Self> {
        let mut body = object(members)?;
        body["id"] = id.into();
        Ok(Self::of(Method::POST, String::new(), Some(body)))
    }

    fn rotate(id: &str, overlap_seconds: u64) -> Self {
        let body = json!({ "overlap_seconds": overlap_seconds });
        Self::of(Method::POST, format!("{}/rotate", segment(id)), Some(body))
    }
}

/// What `millrace plans`, `tenants` or `users` asks of a collection.
pub async fn entries(
    admin: AdminArgs,
    collection: &str,
    action: EntryAction,
    config: Config,
    json: bool,
) -> anyhow::Result<()> {
    let ask = match action {
        EntryAction::List => Ask::list(),
        EntryAction::Show { id } => Ask::of(Method::GET, segment(&id), None),
        EntryAction::Create { id, members } => Ask::of(Method::PUT, segment(&id), Some(object(&members)?)),
        EntryAction::Change { id, members } => Ask::of(Method::PATCH, segment(&id), Some(object(&members)?)),
        EntryAction::Delete { id } => Ask::of(Method::DELETE, segment(&id), None),
    };
    run(admin, collection, ask, &config, json).await
}

/// What `millrace keys` asks.
pub async fn keys(admin: AdminArgs, tenant: &str, action: KeyAction, config: Config, json: bool) -> anyhow::Result<()> {
    let ask = match action {
        KeyAction::List => Ask::list(),
        KeyAction::Show { id } => Ask::of(Method::GET, segment(&id), None),
        KeyAction::Create { id, members } => Ask::new_one(id, &members)?,
        KeyAction::Change { id, members } => Ask::of(Method::PATCH, segment(&id), Some(object(&members)?)),
        KeyAction::Rotate { id, overlap_seconds } => Ask::rotate(&id, overlap_seconds),
        KeyAction::Revoke { id } => Ask::of(Method::DELETE, segment(&id), None),
    };
    run(admin, &of_tenant(tenant, "keys")?, ask, &config, json).await
}

/// What `millrace endpoints` asks.
pub async fn endpoints(
    admin: AdminArgs,
    tenant: &str,
    action: EndpointAction,
    config: Config,
    json: bool,
) -> anyhow::Result<()> {
    let ask = match action {
        EndpointAction::List => Ask::list(),
        EndpointAction::Show { id } => Ask::of(Method::GET, segment(&id), None),
        EndpointAction::Create { id, members } => Ask::new_one(id, &members)?,
        EndpointAction::Change { id, members } => Ask::of(Method::PATCH, segment(&id), Some(object(&members)?)),
        EndpointAction::Rotate { id, overlap_seconds } => Ask::rotate(&id, overlap_seconds),
        EndpointAction::Delete { id } => Ask::of(Method::DELETE, segment(&id), None),
    };
    run(admin, &of_tenant(tenant, "webhooks")?, ask, &config, json).await
}

/// The path of what belongs to a tenant.
pub fn of_tenant(tenant: &str, what: &str) -> anyhow::Result<String> {
    if tenant.is_empty() {
        bail!("name the tenant with --tenant, or MILLRACE_TENANT");
    }
    Ok(format!("tenants{}/{what}", segment(tenant)))
}

/// An id as a segment of a path.
fn segment(id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let escaped =
        id.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") });
    format!("/{}", escaped.collect::<String>())
}

async fn run(admin: AdminArgs, collection: &str, ask: Ask, config: &Config, json: bool) -> anyhow::Result<()> {
    let key = admin.admin_key.or(admin.key);
    let key = key.context("set MILLRACE_ADMIN_KEY, or MILLRACE_API_KEY to a key of the tenant's that is `admin`")?;
    let door = Door::open(admin.url, key, config)?;
    let waiting = Waiting::new("asking ingress");
    let path = format!("/admin/v1/{collection}{}", ask.path);
    let mut answer = call(&door, &ask, &path, None).await?;
    while ask.is_list && answer["has_more"] == true {
        let last =
            answer["data"].as_array().and_then(|data| data.last()?["id"].as_str()).unwrap_or_default().to_owned();
        let mut next = call(&door, &ask, &path, Some(&last)).await?;
        let more = next["data"].as_array_mut().map(std::mem::take).unwrap_or_default();
        answer["has_more"] = next["has_more"].clone();
        answer["data"].as_array_mut().context("the answer is no list")?.extend(more);
    }
    drop(waiting);
    if json {
        println!("{answer}");
    } else if ask.is_list {
        println!("{}", table(&answer["data"]));
    } else {
        show(&answer);
    }
    Ok(())
}

async fn call(door: &Door, ask: &Ask, path: &str, after: Option<&str>) -> anyhow::Result<Value> {
    let mut request = door.request(ask.method.clone(), path);
    if ask.method == Method::PUT {
        // It is to be made; what is there is changed.
        request = request.header("if-none-match", "*");
    }
    if let Some(after) = after {
        request = request.query(&[("after", after)]);
    }
    if let Some(body) = &ask.body {
        request = request.json(body);
    }
    door.ask(request).await
}

/// The members that were typed as `member=value`.
fn object(members: &[String]) -> anyhow::Result<Value> {
    let mut body = Value::Object(Map::new());
    for member in members {
        let (name, text) = member.split_once('=').with_context(|| format!("`{member}` is not MEMBER=VALUE"))?;
        let mut place = &mut body;
        for part in name.split('.') {
            place = &mut place[part];
        }
        *place = value(name, text);
    }
    Ok(body)
}

fn value(name: &str, text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    if LISTS.contains(&name) {
        return text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    }
    match serde_json::from_str(text) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) if name != "name" && !name.ends_with(".amount") => value,
        Ok(_) | Err(_) => text.into(),
    }
}

fn table(data: &Value) -> Table {
    let mut table = Table::new();
    table.set_header(["id", "what it is", "from", "changed"]);
    for entry in data.as_array().into_iter().flatten() {
        let text = |member: &str| entry[member].as_str().unwrap_or_default().to_owned();
        table.add_row([text("id"), members(entry), text("source"), text("changed_at")]);
    }
    table
}

/// Everything of an entry that has no column of its own.
fn members(entry: &Value) -> String {
    let shown = entry.as_object().into_iter().flatten().filter(|(name, value)| {
        let is_empty = value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
        !is_empty && !["object", "id", "tenant", "source", "changed_at"].contains(&name.as_str()) && **value != false
    });
    shown.map(|(name, value)| format!("{name}={}", short(value))).collect::<Vec<_>>().join(" ")
}

fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(short).collect::<Vec<_>>().join(","),
        Value::Object(members) => {
            let members = members.iter().filter(|(_, value)| !value.is_null());
            members.map(|(name, value)| format!("{name}:{}", short(value))).collect::<Vec<_>>().join(",")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn show(entry: &Value) {
    for (name, value) in
        entry.as_object().into_iter().flatten().filter(|(name, _)| !SHOWN_ONCE.contains(&name.as_str()))
    {
        println!("{name}: {}", short(value));
    }
    for name in SHOWN_ONCE {
        if let Some(value) = entry[name].as_str() {
            println!("{name}: {value}\n\nThis is the only time that the {name} is shown.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_as_they_are_typed() {
        let url = "url=https://h.example/?a=b";
        let endpoint = json!({ "url": "https://h.example/?a=b", "events": ["batch.failed"] });
        assert_eq!(object(&[url, "events=batch.failed"].map(str::to_owned)).expect("members"), endpoint);
        let typed = ["name=7", "models=a, b", "limits.requests_per_minute=60", "admin=true", "plan=", "user=web"];
        let expected = json!({
            "name": "7", "models": ["a", "b"], "limits": {"requests_per_minute": 60}, "admin": true, "plan": null, "user": "web",
        });
        assert_eq!(object(&typed.map(str::to_owned)).expect("members"), expected);
        assert!(object(&["name".to_owned()]).is_err());
        assert_eq!(segment("a b/ä"), "/a%20b%2F%C3%A4");
    }
}
