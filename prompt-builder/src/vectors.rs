//! Where the passages of all tenants lie in Qdrant, and the search in them.
//!
//! One collection (`vectors.collection`), one point per chunk of a document, cosine distance. Its
//! payload is spelled out by the constants here, which the indexer writes by.
//!
//! Invariant: every search is filtered by tenant, see [`scope`].

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use millrace_config::VectorsConfig;
use qdrant_client::qdrant::value::Kind;
use qdrant_client::qdrant::{Condition, Filter, Query, QueryPointsBuilder, ScrollPointsBuilder, Value};
use qdrant_client::{Qdrant, QdrantError};
use tonic::{Code, Status};

use crate::ports::{Passage, Passages, SearchError};

/// Payload key of the tenant (keyword, indexed with `is_tenant`).
pub const TENANT: &str = "tenant";
/// Payload key of the tenant's collection (keyword).
pub const COLLECTION: &str = "collection";
/// Payload key of the document's id (keyword).
pub const DOCUMENT_ID: &str = "document_id";
/// Payload key of the chunk's number within its document (integer, from 0).
pub const CHUNK: &str = "chunk";
/// Payload key of the chunk's text.
pub const TEXT: &str = "text";
/// Payload key of the document's title; absent when it has none.
pub const TITLE: &str = "title";

/// The longest that one search may take.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client for the configured Qdrant; nothing is connected yet. `None` where none is configured.
///
/// # Errors
/// When the address is none.
pub fn client(config: &VectorsConfig) -> Result<Option<Qdrant>, QdrantError> {
    let Some(url) = &config.url else { return Ok(None) };
    let mut builder = Qdrant::from_url(url)
        .timeout(TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        // It would ask the server at once, on this thread, and print to standard output.
        .skip_compatibility_check();
    if let Some(key) = &config.api_key {
        builder = builder.api_key(key.expose());
    }
    builder.build().map(Some)
}

/// What belongs to one collection of one tenant, and to nobody else.
#[must_use]
pub fn scope(tenant: &str, collection: &str) -> Filter {
    Filter::must([Condition::matches(TENANT, tenant.to_owned()), Condition::matches(COLLECTION, collection.to_owned())])
}

/// Passages in Qdrant.
pub(crate) struct QdrantPassages {
    client: Qdrant,
    collection: String,
}

impl QdrantPassages {
    /// In the collection that all tenants share.
    pub fn new(client: Qdrant, collection: String) -> Self {
        Self { client, collection }
    }
}

#[async_trait]
impl Passages for QdrantPassages {
    async fn any(&self, tenant: &str, collection: &str) -> Result<bool, SearchError> {
        let first = ScrollPointsBuilder::new(&self.collection)
            .filter(scope(tenant, collection))
            .limit(1)
            .with_payload(false)
            .with_vectors(false);
        found(self.client.scroll(first).await.map(|answer| !answer.result.is_empty()))
    }

    async fn search(
        &self,
        tenant: &str,
        collection: &str,
        vector: Vec<f32>,
        top_k: u32,
    ) -> Result<Vec<Passage>, SearchError> {
        let nearest = QueryPointsBuilder::new(&self.collection)
            .query(Query::new_nearest(vector))
            .filter(scope(tenant, collection))
            .limit(u64::from(top_k))
            .with_payload(true);
        let answer = found(self.client.query(nearest).await.map(|answer| answer.result))?;
        Ok(answer.into_iter().filter_map(|point| passage(point.payload)).collect())
    }
}

/// A point without a text is none of ours.
fn passage(mut payload: HashMap<String, Value>) -> Option<Passage> {
    let mut text = |key: &str| match payload.remove(key)?.kind? {
        Kind::StringValue(text) if !text.is_empty() => Some(text),
        Kind::StringValue(_)
        | Kind::NullValue(_)
        | Kind::DoubleValue(_)
        | Kind::IntegerValue(_)
        | Kind::BoolValue(_)
        | Kind::StructValue(_)
        | Kind::ListValue(_) => None,
    };
    Some(Passage { text: text(TEXT)?, title: text(TITLE) })
}

/// The collection is made with the first document: before that there is nothing to find.
fn found<T: Default>(result: Result<T, QdrantError>) -> Result<T, SearchError> {
    match result {
        Ok(answer) => Ok(answer),
        Err(QdrantError::ResponseError { status }) if status.code() == Code::NotFound => Ok(T::default()),
        Err(QdrantError::ResponseError { status }) => Err(refused_or_outage(&status)),
        Err(error) => Err(SearchError::Outage(error.to_string())),
    }
}

fn refused_or_outage(status: &Status) -> SearchError {
    let error = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => SearchError::Refused(error),
        // Also what an operator can mend while the request waits: a key, a permission.
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => SearchError::Outage(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_always_within_one_tenant() {
        let filter = scope("acme", "handbook");
        assert_eq!(filter.must.len(), 2);
        let expected =
            [Condition::matches("tenant", "acme".to_owned()), Condition::matches("collection", "handbook".to_owned())];
        assert_eq!(filter.must, expected);
        assert!(filter.should.is_empty() && filter.must_not.is_empty());
    }

    #[test]
    fn points_become_passages() {
        let payload = |fields: &[(&str, Value)]| fields.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        let both = passage(payload(&[("text", "t".into()), ("title", "T".into()), ("chunk", 1.into())]));
        assert_eq!(both, Some(Passage { title: Some("T".to_owned()), text: "t".to_owned() }));
        let bare = passage(payload(&[("text", "t".into()), ("title", 7.into())]));
        assert_eq!(bare, Some(Passage { title: None, text: "t".to_owned() }));
        assert_eq!(passage(payload(&[("title", "T".into())])), None);
        assert_eq!(passage(payload(&[("text", "".into())])), None);
    }

    #[test]
    fn a_missing_collection_is_empty_and_an_outage_is_no_refusal() {
        let failed = |status: Status| found::<Vec<Passage>>(Err(QdrantError::ResponseError { status }));
        assert_eq!(failed(Status::not_found("no collection")), Ok(Vec::new()));
        assert!(matches!(failed(Status::unavailable("down")), Err(SearchError::Outage(_))));
        assert!(matches!(failed(Status::unauthenticated("key")), Err(SearchError::Outage(_))));
        assert!(matches!(failed(Status::invalid_argument("dimension")), Err(SearchError::Refused(_))));
    }
}
