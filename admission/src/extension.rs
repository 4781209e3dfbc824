//! Our own object in a request's body: `"millrace": {"collection": …, "top_k": …, "labels": {…}}`.

use std::collections::BTreeMap;

use millrace_schemas::Ended;

use crate::checks::{integer, wrong_type};
use crate::json::{self, Object};
use crate::meta::cut;
use crate::nearest::nearest;

const KEYS: [&str; 3] = ["collection", "top_k", "labels"];
pub(crate) const MAX_COLLECTION: usize = 64;
const MAX_TOP_K: u32 = 20;

/// The extension as written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extension {
    pub collection: Option<String>,
    pub top_k: Option<u32>,
    pub labels: BTreeMap<String, String>,
}

impl Extension {
    /// Reads the member `millrace`; absent and null are an empty one.
    pub fn read(raw: Option<&str>) -> Result<Self, Ended> {
        let Some(raw) = raw.filter(|raw| *raw != "null") else { return Ok(Self::default()) };
        let object = Object::parse(raw).map_err(|_| wrong_type("millrace", "an object", json::kind(raw)))?;
        if let Some(unknown) = object.keys().find(|key| !KEYS.contains(key)) {
            let hint = nearest(unknown, KEYS).map_or_else(
                || format!("use one of: {}.", KEYS.join(", ")),
                |known| format!("did you mean '{known}'?"),
            );
            let message = format!("Unknown parameter: 'millrace.{}'; {hint}", cut(unknown, 64));
            return Err(Ended::invalid("unknown_parameter", Some("millrace"), message));
        }
        if let Some(key) = object.twice(&KEYS) {
            let param = format!("millrace.{key}");
            let message = format!("'{param}' is given twice: give it once.");
            return Err(Ended::invalid("duplicate_parameter", Some(&param), message));
        }
        let top_k = integer("millrace.top_k", object.get("top_k"), 1..=MAX_TOP_K)?;
        let collection = collection(object.get("collection"))?;
        if top_k.is_some() && collection.is_none() {
            let message = "'millrace.top_k' is for passages of a collection: name one as 'millrace.collection'.";
            return Err(Ended::invalid("missing_required_parameter", Some("millrace.collection"), message));
        }
        Ok(Self { collection, top_k, labels: labels(object.get("labels"))? })
    }
}

fn collection(raw: Option<&str>) -> Result<Option<String>, Ended> {
    const PARAM: &str = "millrace.collection";
    let Some(raw) = raw.filter(|raw| *raw != "null") else { return Ok(None) };
    let name = json::string(raw).ok_or_else(|| wrong_type(PARAM, "a string", json::kind(raw)))?;
    if !is_collection(&name) {
        let message =
            format!("Invalid '{PARAM}': use 1 to {MAX_COLLECTION} letters, digits, dots, underscores and hyphens.");
        return Err(Ended::invalid("invalid_value", Some(PARAM), message));
    }
    Ok(Some(name.into_owned()))
}

/// Whether a collection of documents may have this name.
pub(crate) fn is_collection(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=MAX_COLLECTION).contains(&name.len()) && name.chars().all(is_plain)
}

fn labels(raw: Option<&str>) -> Result<BTreeMap<String, String>, Ended> {
    const PARAM: &str = "millrace.labels";
    let Some(raw) = raw.filter(|raw| *raw != "null") else { return Ok(BTreeMap::new()) };
    let object = Object::parse(raw).map_err(|_| wrong_type(PARAM, "an object of strings", json::kind(raw)))?;
    let mut labels = BTreeMap::new();
    for (name, value) in object.0 {
        let text = json::string(value)
            .ok_or_else(|| wrong_type(&format!("{PARAM}.{}", cut(&name, 64)), "a string", json::kind(value)))?;
        labels.insert(name.into_owned(), text.into_owned());
    }
    Ok(labels)
}
