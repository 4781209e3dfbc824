//! Which documents can be indexed. Pure.

use std::collections::BTreeMap;

use millrace_admission::{Admission, Principal, is_document_id};
use millrace_provider::Who;
use millrace_schemas::{Coordinates, Document, derived_uuid};
use millrace_stage::{Plan, Poison};

use crate::ports::DocumentKey;

/// Lane of the calls that documents cost.
const LANE: &str = "documents";

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
    admission: &Admission,
    at: &Coordinates,
) -> Result<Accepted, Box<Poison>> {
    let tenant = &principal.tenant;
    let user = admission.check_document(principal, &document).map_err(|ended| {
        let request_id = document.document_id.clone().filter(|id| is_document_id(id));
        Box::new(Poison { request_id, ..poison(tenant, &ended.code, ended.message) })
    })?;
    let document_id = document
        .document_id
        .unwrap_or_else(|| format!("doc_{}", derived_uuid(&["document", tenant, &at.to_string()]).simple()));
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
        title: document.title.filter(|title| !title.trim().is_empty()),
        metadata: document.metadata,
    })
}

/// A record of `tenant` that can never be indexed. Nothing travels on: documents have no outcomes.
pub(crate) fn poison(tenant: &str, code: &str, message: String) -> Poison {
    Poison { code: code.to_owned(), message, tenant: Some(tenant.to_owned()), request_id: None, plan: Plan::default() }
}

#[cfg(test)]
mod tests {
    use millrace_config::{Config, TenantConfig};

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
        config.vectors.url = Some("http://127.0.0.1:6334".to_owned());
        config.knowledge.embedding_model = "embed".to_owned();
        let principal = Principal {
            tenant: "acme".to_owned(),
            user: Some("web".to_owned()),
            key_id: Some("k1".to_owned()),
            admin: false,
            token: None,
        };
        let at = Coordinates { topic: "documents".to_owned(), generation: 0, partition: 3, offset: 9 };
        accept(document, &principal, &Admission::from_config(&config).unwrap(), &at)
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
        let poison = accepted(Document { user: Some("bob".to_owned()), ..document() }).unwrap_err();
        assert_eq!((poison.code.as_str(), poison.tenant.as_deref()), ("unknown_user", Some("acme")), "{poison:?}");
        assert_eq!(poison.request_id.as_deref(), Some("d1"));
        assert!(poison.plan.primary.is_none() && poison.plan.then.is_empty());
        let nameless = accepted(Document { document_id: Some("a\nb".to_owned()), ..document() }).unwrap_err();
        assert_eq!((nameless.code.as_str(), nameless.request_id), ("invalid_document_id", None));
    }
}
