//! Which documents can be indexed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use millrace_admission::{DEFAULT_USER, Principal};
use millrace_config::Config;
use millrace_provider::Who;
use millrace_schemas::{Coordinates, Document, derived_uuid};
use millrace_stage::{Plan, Poison};

use crate::ports::DocumentKey;

/// Lane of the calls that documents cost.
const LANE: &str = "documents";

const MAX_TEXT: usize = 1 << 20;
const MAX_TITLE: usize = 1_024;
const MAX_ID: usize = 256;
const MAX_COLLECTION: usize = 64;
const MAX_USER: usize = 128;
const MAX_METADATA: usize = 16 * 1024;

/// The users of each tenant; an empty set: any.
pub(crate) struct Users(BTreeMap<String, BTreeSet<String>>);

impl Users {
    pub fn from_config(config: &Config) -> Self {
        let users = |(id, tenant): (&String, &millrace_config::TenantConfig)| {
            (id.clone(), tenant.users.keys().cloned().collect())
        };
        Self(config.tenants.iter().map(users).collect())
    }

    /// The same rule as for requests.
    fn choose(&self, principal: &Principal, named: Option<&str>) -> Result<String, String> {
        let Some(named) = named else {
            return Ok(principal.user.clone().unwrap_or_else(|| DEFAULT_USER.to_owned()));
        };
        if named.is_empty() || named.chars().count() > MAX_USER || named.chars().any(char::is_control) {
            return Err(format!("The user is no name: use 1 to {MAX_USER} printable characters."));
        }
        let is_known = self.0.get(&principal.tenant).is_none_or(|users| users.is_empty() || users.contains(named));
        if is_known || principal.user.as_deref() == Some(named) {
            return Ok(named.to_owned());
        }
        Err(format!("The tenant has no user '{named}': use one that is configured."))
    }
}

/// A document that can be indexed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub key: DocumentKey,
    /// On whose account its calls are made.
    pub who: Who,
    pub text: String,
    pub title: Option<String>,
    pub metadata: BTreeMap<String, String>,
}

/// Checks a document. One without an id gets one from where it lies.
pub(crate) fn accept(
    document: Document,
    principal: &Principal,
    users: &Users,
    at: &Coordinates,
) -> Result<Accepted, Box<Poison>> {
    let tenant = &principal.tenant;
    let document_id = document
        .document_id
        .unwrap_or_else(|| format!("doc_{}", derived_uuid(&["document", tenant, &at.to_string()]).simple()));
    let is_id = (1..=MAX_ID).contains(&document_id.len()) && !document_id.chars().any(char::is_control);
    let refused = |code: &str, message: String| {
        Err(Box::new(Poison { request_id: is_id.then(|| document_id.clone()), ..poison(tenant, code, message) }))
    };
    if !is_id {
        return refused("invalid_document_id", format!("'document_id' is none: use 1 to {MAX_ID} printable bytes."));
    }
    if !is_collection(&document.collection) {
        let message = format!(
            "'collection' is no name: use 1 to {MAX_COLLECTION} letters, digits, dots, underscores and hyphens."
        );
        return refused("invalid_collection", message);
    }
    if document.text.len() > MAX_TEXT {
        let message =
            format!("'text' has {} bytes, more than {MAX_TEXT}: cut it into several documents.", document.text.len());
        return refused("document_too_large", message);
    }
    let title = document.title.filter(|title| !title.trim().is_empty());
    if title.as_ref().is_some_and(|title| title.len() > MAX_TITLE) {
        return refused("document_too_large", format!("'title' has more than {MAX_TITLE} bytes: shorten it."));
    }
    if document.metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_METADATA {
        let message =
            format!("'metadata' has more than {MAX_METADATA} bytes, and is kept with each passage: shorten it.");
        return refused("document_too_large", message);
    }
    let user = match users.choose(principal, document.user.as_deref()) {
        Ok(user) => user,
        Err(message) => return refused("invalid_user", message),
    };
    Ok(Accepted {
        who: Who {
            tenant: tenant.clone(),
            user,
            key_id: principal.key_id.clone(),
            request_id: document_id.clone(),
            run: 0,
            lane: LANE.to_owned(),
        },
        key: DocumentKey { tenant: tenant.clone(), collection: document.collection, document_id },
        text: document.text,
        title,
        metadata: document.metadata,
    })
}

/// A record of `tenant` that can never be indexed. Nothing travels on: documents have no outcomes.
pub(crate) fn poison(tenant: &str, code: &str, message: String) -> Poison {
    Poison { code: code.to_owned(), message, tenant: Some(tenant.to_owned()), request_id: None, plan: Plan::default() }
}

/// The same rule as for requests, which name it to search there.
fn is_collection(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=MAX_COLLECTION).contains(&name.len()) && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use millrace_config::TenantConfig;

    use super::*;

    fn document() -> Document {
        Document {
            document_id: Some("d1".to_owned()),
            collection: "hand-book.v_1".to_owned(),
            text: "Four hats.".to_owned(),
            title: Some("Hats".to_owned()),
            user: None,
            metadata: BTreeMap::from([("lang".to_owned(), "en".to_owned())]),
        }
    }

    fn accepted(document: Document) -> Result<Accepted, Box<Poison>> {
        let mut config = Config::default();
        let users = BTreeMap::from([("ann".to_owned(), Default::default())]);
        config.tenants.insert("acme".to_owned(), TenantConfig { users, ..TenantConfig::default() });
        let principal = Principal {
            tenant: "acme".to_owned(),
            user: Some("web".to_owned()),
            key_id: Some("k1".to_owned()),
            admin: false,
        };
        let at = Coordinates { topic: "documents".to_owned(), generation: 0, partition: 3, offset: 9 };
        accept(document, &principal, &Users::from_config(&config), &at)
    }

    #[test]
    fn a_document_is_billed_to_its_user_under_its_id() {
        let plain = accepted(document()).unwrap();
        assert_eq!((plain.who.user.as_str(), plain.who.lane.as_str()), ("web", "documents"));
        assert_eq!((plain.who.request_id.as_str(), plain.key.document_id.as_str()), ("d1", "d1"));
        assert_eq!((plain.who.tenant.as_str(), plain.key.tenant.as_str()), ("acme", "acme"));
        let named = accepted(Document { user: Some("ann".to_owned()), ..document() }).unwrap();
        assert_eq!(named.who.user, "ann");
        let untitled = accepted(Document { title: Some(" ".to_owned()), ..document() }).unwrap();
        assert_eq!(untitled.title, None);
    }

    #[test]
    fn a_document_without_an_id_gets_the_same_one_on_every_replay() {
        let nameless = || accepted(Document { document_id: None, ..document() }).unwrap().key.document_id;
        assert_eq!(nameless(), nameless());
        assert!(nameless().starts_with("doc_") && nameless().len() == 36);
    }

    #[test]
    fn what_can_not_be_indexed_says_why() {
        let check = |document: Document, code: &str| {
            let poison = accepted(document).unwrap_err();
            assert_eq!((poison.code.as_str(), poison.tenant.as_deref()), (code, Some("acme")), "{poison:?}");
            assert!(poison.plan.primary.is_none() && poison.plan.then.is_empty());
        };
        check(Document { document_id: Some(String::new()), ..document() }, "invalid_document_id");
        check(Document { document_id: Some("a\nb".to_owned()), ..document() }, "invalid_document_id");
        check(Document { document_id: Some("x".repeat(257)), ..document() }, "invalid_document_id");
        for collection in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
            check(Document { collection: collection.to_owned(), ..document() }, "invalid_collection");
        }
        check(Document { text: "x".repeat(MAX_TEXT + 1), ..document() }, "document_too_large");
        check(Document { title: Some("x".repeat(1_025)), ..document() }, "document_too_large");
        let metadata = BTreeMap::from([("k".to_owned(), "x".repeat(MAX_METADATA))]);
        check(Document { metadata, ..document() }, "document_too_large");
        check(Document { user: Some("bob".to_owned()), ..document() }, "invalid_user");
        check(Document { user: Some(String::new()), ..document() }, "invalid_user");
    }
}
