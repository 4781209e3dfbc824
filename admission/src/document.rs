//! Which documents may be indexed, decided the same way at both doors.

use millrace_schemas::{Document, Ended};

use crate::admit::Admission;
use crate::directory::Principal;
use crate::extension::{MAX_COLLECTION, is_collection};
use crate::meta;

const MAX_TEXT: usize = 1 << 20;
const MAX_TITLE: usize = 1_024;
const MAX_ID: usize = 256;
const MAX_METADATA: usize = 16 * 1024;

impl Admission {
    /// Judges a document of `principal` and tells the user that it is accounted to.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn check_document(&self, principal: &Principal, document: &Document) -> Result<String, Ended> {
        if !self.has_knowledge() {
            let message = "No documents are kept here: the operator has configured neither `vectors.url` nor `knowledge.embedding_model`.";
            return Err(Ended::invalid("no_knowledge", Some("collection"), message));
        }
        if document.document_id.as_deref().is_some_and(|id| !is_document_id(id)) {
            let message = format!("'document_id' is none: use 1 to {MAX_ID} printable bytes.");
            return Err(Ended::invalid("invalid_document_id", Some("document_id"), message));
        }
        if !is_collection(&document.collection) {
            let message = format!(
                "'collection' is no name: use 1 to {MAX_COLLECTION} letters, digits, dots, underscores and hyphens."
            );
            return Err(Ended::invalid("invalid_collection", Some("collection"), message));
        }
        let too_large = |param: &str, message: String| {
            Err(Ended { http_status: 413, ..Ended::invalid("document_too_large", Some(param), message) })
        };
        if document.text.len() > MAX_TEXT {
            let message = format!(
                "'text' has {} bytes, more than {MAX_TEXT}: cut it into several documents.",
                document.text.len()
            );
            return too_large("text", message);
        }
        if document.title.as_ref().is_some_and(|title| title.len() > MAX_TITLE) {
            return too_large("title", format!("'title' has more than {MAX_TITLE} bytes: shorten it."));
        }
        if document.metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_METADATA {
            let message =
                format!("'metadata' has more than {MAX_METADATA} bytes, and is kept with each passage: shorten it.");
            return too_large("metadata", message);
        }
        meta::user(principal, self.directory(), document.user.as_deref())
    }
}

/// Whether a document may have this id.
#[must_use]
pub fn is_document_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && !id.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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

    fn judged(document: &Document) -> Result<String, String> {
        let mut config = Config::default();
        let users = BTreeMap::from([("ann".to_owned(), Default::default())]);
        config.tenants.insert("acme".to_owned(), TenantConfig { users, ..TenantConfig::default() });
        config.vectors.url = Some("http://127.0.0.1:6334".to_owned());
        config.knowledge.embedding_model = "embed".to_owned();
        let admission = Admission::from_config(&config).expect("a directory");
        let principal = Principal {
            tenant: "acme".to_owned(),
            user: Some("web".to_owned()),
            key_id: None,
            admin: false,
            token: None,
        };
        admission.check_document(&principal, document).map_err(|ended| ended.code)
    }

    #[test]
    fn a_document_is_accounted_to_its_user_or_the_keys() {
        assert_eq!(judged(&document()).as_deref(), Ok("web"));
        assert_eq!(judged(&Document { user: Some("ann".to_owned()), ..document() }).as_deref(), Ok("ann"));
        assert_eq!(judged(&Document { document_id: None, ..document() }).as_deref(), Ok("web"));
    }

    #[test]
    fn what_can_not_be_indexed_says_why() {
        let check = |document: Document, code: &str| assert_eq!(judged(&document), Err(code.to_owned()));
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
        check(Document { user: Some("bob".to_owned()), ..document() }, "unknown_user");
        check(Document { user: Some(String::new()), ..document() }, "invalid_user");
    }

    #[test]
    fn without_knowledge_none_is_accepted() {
        let admission = Admission::from_config(&Config::default()).expect("a directory");
        let code = admission.check_document(&Principal::system(), &document()).map_err(|ended| ended.code);
        assert_eq!(code, Err("no_knowledge".to_owned()));
    }
}
