//! Passages in Qdrant, in the layout of [`millrace_prompt_builder::vectors`].

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use millrace_fail_point::{self as fail_point, Side};
use millrace_prompt_builder::vectors::{CHUNK, COLLECTION, DOCUMENT_ID, TENANT, TEXT, TITLE, scope};
use qdrant_client::qdrant::value::Kind;
use qdrant_client::qdrant::vector_output::Vector;
use qdrant_client::qdrant::{
    Condition, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder, DeletePointsBuilder, Distance, FieldType,
    GetPointsBuilder, KeywordIndexParamsBuilder, PayloadIncludeSelector, PointId, PointStruct, PointsIdsList,
    RetrievedPoint, ScalarQuantizationBuilder, ScrollPointsBuilder, Struct, UpsertPointsBuilder, Value,
    VectorParamsBuilder, VectorsConfig, point_id::PointIdOptions, vectors_config,
};
use qdrant_client::{Payload, Qdrant, QdrantError};
use tonic::Code;
use uuid::Uuid;

use crate::place::Place;
use crate::ports::{DocumentKey, Passages, Point, StoreError, Stored};

/// Payload key of what a vector was made of (SHA-256 of model and input, hexadecimal).
const HASH: &str = "hash";
/// Payload key of where the version lies: `generation/partition/offset/timestamp`.
const PLACE: &str = "place";
/// Payload key of the bill of the call that paid for a batch (JSON), on its first point.
const BILL: &str = "bill";
/// Payload key of the client's own fields, under which they can not shadow ours.
const METADATA: &str = "metadata";

/// Points read at once.
const PAGE: u32 = 512;

/// The collection that all tenants share.
pub(crate) struct QdrantPassages {
    client: Qdrant,
    collection: String,
    dimensions: u32,
    /// Whether the collection was found or made; false again when it went missing.
    ready: AtomicBool,
}

impl QdrantPassages {
    pub fn new(client: Qdrant, collection: String, dimensions: u32) -> Self {
        Self { client, collection, dimensions, ready: AtomicBool::new(false) }
    }

    /// Makes the collection and its indexes. Any number of indexers may do so at once.
    async fn ensure(&self) -> Result<(), StoreError> {
        if self.ready.load(Ordering::Acquire) {
            return Ok(());
        }
        if !self.exists().await? {
            let size = u64::from(self.dimensions);
            let create = CreateCollectionBuilder::new(&self.collection)
                .vectors_config(VectorParamsBuilder::new(size, Distance::Cosine))
                .quantization_config(ScalarQuantizationBuilder::default().always_ram(true));
            match self.client.create_collection(create).await {
                Ok(_) => tracing::info!(collection = self.collection, size, "collection of passages made"),
                // Somebody else was faster: how that is said differs by version.
                Err(error) if !self.exists().await? => return Err(self.failed(&error)),
                Err(_) => {}
            }
        }
        self.check().await?;
        let tenant = KeywordIndexParamsBuilder::default().is_tenant(true);
        let by_tenant = self.index(TENANT).field_index_params(tenant);
        for index in [by_tenant, self.index(COLLECTION), self.index(DOCUMENT_ID)] {
            self.client.create_field_index(index.wait(true)).await.map_err(|e| self.failed(&e))?;
        }
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    async fn exists(&self) -> Result<bool, StoreError> {
        self.client.collection_exists(&self.collection).await.map_err(|e| self.failed(&e))
    }

    fn index(&self, field: &str) -> CreateFieldIndexCollectionBuilder {
        CreateFieldIndexCollectionBuilder::new(&self.collection, field, FieldType::Keyword)
    }

    /// Before anything is paid: whether the collection takes the model's vectors.
    async fn check(&self) -> Result<(), StoreError> {
        let info = self.client.collection_info(&self.collection).await.map_err(|e| self.failed(&e))?.result;
        let params = info.and_then(|info| info.config).and_then(|config| config.params);
        match size_of(params.and_then(|params| params.vectors_config)) {
            Some(size) if size == u64::from(self.dimensions) => Ok(()),
            found => {
                let found = found.map_or_else(|| "several vectors".to_owned(), |size| format!("vectors of {size}"));
                Err(StoreError::Misfit(format!(
                    "the collection `{}` holds {found}, the embedding model gives {}: set `vectors.collection` to a new \
                     name, and send the documents again",
                    self.collection, self.dimensions
                )))
            }
        }
    }

    fn failed(&self, error: &QdrantError) -> StoreError {
        let (error, is_missing) = store_error(error);
        if is_missing {
            self.ready.store(false, Ordering::Release);
        }
        error
    }
}

#[async_trait]
impl Passages for QdrantPassages {
    async fn stored(&self, document: &DocumentKey) -> Result<Vec<Stored>, StoreError> {
        self.ensure().await?;
        let mut filter = scope(&document.tenant, &document.collection);
        filter.must.push(Condition::matches(DOCUMENT_ID, document.document_id.clone()));
        let mut stored = Vec::new();
        let mut next = None;
        loop {
            let mut page = ScrollPointsBuilder::new(&self.collection)
                .filter(filter.clone())
                .limit(PAGE)
                .with_payload(PayloadIncludeSelector { fields: [HASH, PLACE, BILL].map(str::to_owned).to_vec() })
                .with_vectors(false);
            if let Some(offset) = next.take() {
                page = page.offset::<PointId>(offset);
            }
            let answer = self.client.scroll(page).await.map_err(|e| self.failed(&e))?;
            stored.extend(answer.result.into_iter().filter_map(stored_point));
            match answer.next_page_offset {
                Some(offset) => next = Some(offset),
                None => return Ok(stored),
            }
        }
    }

    async fn vectors(&self, points: &[Uuid]) -> Result<BTreeMap<Uuid, Vec<f32>>, StoreError> {
        let get = GetPointsBuilder::new(&self.collection, ids(points)).with_payload(false).with_vectors(true);
        let answer = self.client.get_points(get).await.map_err(|e| self.failed(&e))?;
        Ok(answer.result.into_iter().filter_map(vector_of).collect())
    }

    async fn upsert(&self, points: &[Point]) -> Result<(), StoreError> {
        self.ensure().await?;
        let points: Vec<PointStruct> = points.iter().map(point_of).collect();
        let upsert = UpsertPointsBuilder::new(&self.collection, points).wait(true);
        fail_point::reach(Side::Before, || "upsert".to_owned());
        self.client.upsert_points(upsert).await.map_err(|e| self.failed(&e))?;
        fail_point::reach(Side::After, || "upsert".to_owned());
        Ok(())
    }

    async fn delete(&self, points: &[Uuid]) -> Result<(), StoreError> {
        let delete = DeletePointsBuilder::new(&self.collection).points(PointsIdsList { ids: ids(points) }).wait(true);
        fail_point::reach(Side::Before, || "delete".to_owned());
        self.client.delete_points(delete).await.map_err(|e| self.failed(&e))?;
        fail_point::reach(Side::After, || "delete".to_owned());
        Ok(())
    }
}

fn ids(points: &[Uuid]) -> Vec<PointId> {
    points.iter().map(|id| PointId::from(id.to_string())).collect()
}

fn id_of(id: Option<PointId>) -> Option<Uuid> {
    match id?.point_id_options? {
        PointIdOptions::Uuid(text) => Uuid::try_parse(&text).ok(),
        PointIdOptions::Num(_) => None,
    }
}

fn size_of(config: Option<VectorsConfig>) -> Option<u64> {
    match config?.config? {
        vectors_config::Config::Params(params) => Some(params.size),
        vectors_config::Config::ParamsMap(_) => None,
    }
}

fn point_of(point: &Point) -> PointStruct {
    let Point { id, vector, document, chunk, text, hash, bill } = point;
    let mut payload = Payload::with_capacity(10);
    payload.insert(TENANT, document.key.tenant.as_str());
    payload.insert(COLLECTION, document.key.collection.as_str());
    payload.insert(DOCUMENT_ID, document.key.document_id.as_str());
    payload.insert(CHUNK, i64::try_from(*chunk).unwrap_or(i64::MAX));
    payload.insert(TEXT, text.as_str());
    payload.insert(HASH, hash.as_str());
    payload.insert(PLACE, document.place.to_string());
    if let Some(title) = &document.title {
        payload.insert(TITLE, title.as_str());
    }
    if !document.metadata.is_empty() {
        let fields: HashMap<String, Value> =
            document.metadata.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
        payload.insert(METADATA, Value { kind: Some(Kind::StructValue(Struct { fields })) });
    }
    if let Some(bill) = bill.as_ref().and_then(|bill| serde_json::to_string(bill).ok()) {
        payload.insert(BILL, bill);
    }
    PointStruct::new(id.to_string(), vector.clone(), payload)
}

/// A point without a hash was not written here: it is never taken for one of ours, and makes way.
fn stored_point(point: RetrievedPoint) -> Option<Stored> {
    let text = |key: &str| point.payload.get(key).and_then(|value| value.as_str()).map(String::as_str);
    Some(Stored {
        hash: text(HASH).unwrap_or_default().to_owned(),
        place: text(PLACE).and_then(Place::parse),
        bill: text(BILL).and_then(|bill| serde_json::from_str(bill).ok()),
        id: id_of(point.id)?,
    })
}

fn vector_of(point: RetrievedPoint) -> Option<(Uuid, Vec<f32>)> {
    match point.vectors?.get_vector()? {
        Vector::Dense(dense) => Some((id_of(point.id)?, dense.data)),
        Vector::Sparse(_) | Vector::MultiDense(_) => None,
    }
}

/// What an error of Qdrant means, and whether it says that the collection is missing.
fn store_error(error: &QdrantError) -> (StoreError, bool) {
    let QdrantError::ResponseError { status } = error else { return (StoreError::Outage(error.to_string()), false) };
    let text = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => (StoreError::Refused(text), false),
        // It was deleted under us: the next try makes it again.
        Code::NotFound => (StoreError::Outage(text), true),
        // Also what an operator can mend while the record waits: a key, a permission.
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => (StoreError::Outage(text), false),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_schemas::CallLine;
    use tonic::Status;

    use super::*;
    use crate::ports::About;

    fn point(bill: Option<CallLine>) -> Point {
        let key = DocumentKey { tenant: "t".to_owned(), collection: "c".to_owned(), document_id: "d".to_owned() };
        let place = Place { generation: 0, partition: 1, offset: 2, timestamp: 3 };
        let metadata = BTreeMap::from([("tenant".to_owned(), "forged".to_owned())]);
        let document = Arc::new(About { key, title: Some("T".to_owned()), metadata, place });
        Point {
            id: Uuid::from_u128(7),
            vector: vec![1.0],
            document,
            chunk: 4,
            text: "x".to_owned(),
            hash: "h".to_owned(),
            bill,
        }
    }

    fn line() -> CallLine {
        CallLine {
            call_id: "call_1".to_owned(),
            operation: "embeddings".to_owned(),
            provider: "p".to_owned(),
            model: "m".to_owned(),
            status: "finished".to_owned(),
            input_tokens: 4,
            cached_input_tokens: 0,
            output_tokens: 0,
            estimated: false,
            cost_nanos: i64::MAX,
            charge_nanos: 100,
            currency: "USD".to_owned(),
            price_version: "v1".to_owned(),
        }
    }

    #[test]
    fn what_a_point_says_of_its_version_is_read_again() {
        for bill in [None, Some(line())] {
            let written = point(bill.clone());
            let PointStruct { id, payload, .. } = point_of(&written);
            let read = stored_point(RetrievedPoint { id, payload, ..RetrievedPoint::default() }).unwrap();
            let expected = Stored { id: written.id, hash: "h".to_owned(), place: Some(written.document.place), bill };
            assert_eq!(read, expected);
        }
        let foreign =
            RetrievedPoint { id: Some(PointId::from(Uuid::from_u128(1).to_string())), ..RetrievedPoint::default() };
        assert_eq!(
            stored_point(foreign).map(|point| (point.hash, point.place, point.bill)),
            Some((String::new(), None, None))
        );
    }

    #[test]
    fn the_payload_is_what_searches_read_and_metadata_shadows_nothing() {
        let payload = point_of(&point(None)).payload;
        let text = |key: &str| payload.get(key).and_then(|value| value.as_str()).cloned();
        for (key, value) in [(TENANT, "t"), (COLLECTION, "c"), (DOCUMENT_ID, "d"), (TEXT, "x"), (TITLE, "T")] {
            assert_eq!(text(key).as_deref(), Some(value), "{key}");
        }
        assert_eq!(payload[CHUNK].as_integer(), Some(4));
        assert_eq!(payload[METADATA].get_value("tenant").map(|value| value.to_string()), Some("\"forged\"".to_owned()));
        assert!(!payload.contains_key(BILL));
    }

    #[test]
    fn a_missing_collection_is_made_again_and_an_outage_is_no_refusal() {
        let check = |status: Status, outage: bool, missing: bool| {
            let (error, is_missing) = store_error(&QdrantError::ResponseError { status });
            assert_eq!((matches!(error, StoreError::Outage(_)), is_missing), (outage, missing), "{error}");
        };
        check(Status::not_found("no collection"), true, true);
        check(Status::unavailable("down"), true, false);
        check(Status::unauthenticated("key"), true, false);
        check(Status::invalid_argument("dimension"), false, false);
    }
}
