//! The calls about points.

use std::time::Instant;

use qdrant_client::qdrant::{
    CountPoints, CountResponse, CountResult, CreateFieldIndexCollection, DeleteFieldIndexCollection, DeletePoints,
    GetPoints, GetResponse, PointsOperationResponse, QueryPoints, QueryResponse, ScrollPoints, ScrollResponse,
    SearchPoints, SearchResponse, UpsertPoints, VectorInput, points_selector::PointsSelectorOneOf,
    points_server::Points, query, vector_input,
};
use qdrant_edge::{
    Condition, CountRequest, EdgeShard, FieldIndexOperations, Filter, HasIdCondition, NamedQuery, PointId,
    PointInsertOperations, PointOperations, QueryEnum, QueryRequest, ScoredPoint, ScoringQuery, ScrollRequest,
    UpdateOperation, VectorInternal, VectorStructInternal, WithPayloadInterface, WithVector,
};
use tonic::{Request, Response, Status};

use super::{
    collection::Collection,
    condition::filter,
    not_here,
    request::{self, ONLY_VECTOR},
    response::{self, done, seconds},
    store::Store,
    unsupported,
};

/// How many points Qdrant returns when the client does not say.
const DEFAULT_LIMIT: u64 = 10;

#[tonic::async_trait]
impl Points for Store {
    async fn upsert(&self, request: Request<UpsertPoints>) -> Result<Response<PointsOperationResponse>, Status> {
        let since = Instant::now();
        let request = request.into_inner();
        if request.update_filter.is_some() || request.update_mode.is_some_and(|mode| mode != 0) {
            return Err(not_here("conditional upserts"));
        }
        let points = request.points.into_iter().map(request::point).collect::<Result<Vec<_>, _>>()?;
        let count = points.len();
        let upsert = PointOperations::UpsertPoints(PointInsertOperations::PointsList(points));
        self.change(&request.collection_name, count, UpdateOperation::PointOperation(upsert)).await?;
        Ok(Response::new(done(since)))
    }

    async fn delete(&self, request: Request<DeletePoints>) -> Result<Response<PointsOperationResponse>, Status> {
        let since = Instant::now();
        let request = request.into_inner();
        let selected = request.points.and_then(|points| points.points_selector_one_of);
        let delete = match selected.ok_or_else(|| Status::invalid_argument("Wrong input: points are missing"))? {
            PointsSelectorOneOf::Points(list) => PointOperations::DeletePoints { ids: ids(list.ids)? },
            PointsSelectorOneOf::Filter(given) => {
                PointOperations::DeletePointsByFilter(filter(Some(given))?.unwrap_or_default())
            }
        };
        let count = if let PointOperations::DeletePoints { ids } = &delete { ids.len() } else { 1 };
        self.change(&request.collection_name, count, UpdateOperation::PointOperation(delete)).await?;
        Ok(Response::new(done(since)))
    }

    async fn create_field_index(
        &self,
        request: Request<CreateFieldIndexCollection>,
    ) -> Result<Response<PointsOperationResponse>, Status> {
        let since = Instant::now();
        let request = request.into_inner();
        let name = request.collection_name.clone();
        let create = FieldIndexOperations::CreateIndex(request::index(request)?);
        self.change(&name, 0, UpdateOperation::FieldIndexOperation(create)).await?;
        Ok(Response::new(done(since)))
    }

    async fn delete_field_index(
        &self,
        request: Request<DeleteFieldIndexCollection>,
    ) -> Result<Response<PointsOperationResponse>, Status> {
        let since = Instant::now();
        let request = request.into_inner();
        let delete = FieldIndexOperations::DeleteIndex(request::path(&request.field_name)?);
        self.change(&request.collection_name, 0, UpdateOperation::FieldIndexOperation(delete)).await?;
        Ok(Response::new(done(since)))
    }

    async fn get(&self, request: Request<GetPoints>) -> Result<Response<GetResponse>, Status> {
        let since = Instant::now();
        let request = request.into_inner();
        let ids = ids(request.ids)?;
        let with_payload = request::with_payload(request.with_payload, true)?;
        let with_vectors = request::with_vectors(request.with_vectors);
        let records = self
            .with(&request.collection_name, move |collection| {
                collection.read(|shard| shard.retrieve(&ids, Some(with_payload), Some(with_vectors)))
            })
            .await?;
        let result = records.into_iter().map(response::retrieved).collect();
        Ok(Response::new(GetResponse { result, time: seconds(since), usage: None }))
    }

    async fn search(&self, request: Request<SearchPoints>) -> Result<Response<SearchResponse>, Status> {
        let since = Instant::now();
        let request = request.into_inner();
        if request.sparse_indices.is_some() {
            return Err(not_here("sparse vectors"));
        }
        let search = QueryRequest {
            prefetches: Vec::new(),
            query: Some(nearest(request.vector, request.vector_name)),
            filter: filter(request.filter)?,
            score_threshold: request.score_threshold.map(Into::into),
            limit: request::count(Some(request.limit), DEFAULT_LIMIT)?,
            offset: request::count(request.offset, 0)?,
            params: request::params(request.params)?,
            with_vector: request::with_vectors(request.with_vectors),
            with_payload: request::with_payload(request.with_payload, false)?,
        };
        let found = self.find_points(&request.collection_name, search, None).await?;
        let result = found.into_iter().map(response::scored).collect();
        Ok(Response::new(SearchResponse { result, time: seconds(since), usage: None }))
    }

    async fn query(&self, request: Request<QueryPoints>) -> Result<Response<QueryResponse>, Status> {
        let since = Instant::now();
        let request = request.into_inner();
        if !request.prefetch.is_empty() {
            return Err(not_here("prefetches"));
        }
        if request.lookup_from.is_some() {
            return Err(not_here("looking a vector up in another collection"));
        }
        let (query, like) = match request.query.and_then(|query| query.variant) {
            None => (None, None),
            Some(query::Variant::Nearest(input)) => input_of(input, request.using.clone())?,
            Some(
                query::Variant::Recommend(_)
                | query::Variant::Discover(_)
                | query::Variant::Context(_)
                | query::Variant::OrderBy(_)
                | query::Variant::Fusion(_)
                | query::Variant::Sample(_)
                | query::Variant::Formula(_)
                | query::Variant::NearestWithMmr(_)
                | query::Variant::Rrf(_)
                | query::Variant::RelevanceFeedback(_)
                | query::Variant::Text(_),
            ) => return Err(not_here("queries other than nearest")),
        };
        let search = QueryRequest {
            prefetches: Vec::new(),
            query,
            filter: filter(request.filter)?,
            score_threshold: request.score_threshold.map(Into::into),
            limit: request::count(request.limit, DEFAULT_LIMIT)?,
            offset: request::count(request.offset, 0)?,
            params: request::params(request.params)?,
            with_vector: request::with_vectors(request.with_vectors),
            with_payload: request::with_payload(request.with_payload, false)?,
        };
        let like = like.map(|id| Like { id, using: request.using });
        let found = self.find_points(&request.collection_name, search, like).await?;
        let result = found.into_iter().map(response::scored).collect();
        Ok(Response::new(QueryResponse { result, time: seconds(since), usage: None }))
    }

    async fn scroll(&self, request: Request<ScrollPoints>) -> Result<Response<ScrollResponse>, Status> {
        let since = Instant::now();
        let request = request.into_inner();
        if request.order_by.is_some() {
            return Err(not_here("scrolling in the order of a field"));
        }
        let limit = request::count(request.limit.map(u64::from), DEFAULT_LIMIT)?;
        if limit == 0 {
            return Err(Status::invalid_argument("Wrong input: limit must be at least 1"));
        }
        let scroll = ScrollRequest {
            offset: request.offset.map(|offset| request::id(Some(offset))).transpose()?,
            limit: Some(limit),
            filter: filter(request.filter)?,
            with_payload: Some(request::with_payload(request.with_payload, true)?),
            with_vector: request::with_vectors(request.with_vectors),
            order_by: None,
        };
        let (records, next) = self
            .with(&request.collection_name, move |collection| collection.read(|shard| shard.scroll(scroll)))
            .await?;
        Ok(Response::new(ScrollResponse {
            next_page_offset: next.map(response::id),
            result: records.into_iter().map(response::retrieved).collect(),
            time: seconds(since),
            usage: None,
        }))
    }

    async fn count(&self, request: Request<CountPoints>) -> Result<Response<CountResponse>, Status> {
        let since = Instant::now();
        let request = request.into_inner();
        // Exact always: the embedded store is small enough.
        let count = CountRequest { filter: filter(request.filter)?, exact: true };
        let count =
            self.with(&request.collection_name, move |collection| collection.read(|shard| shard.count(count))).await?;
        let result = Some(CountResult { count: u64::try_from(count).unwrap_or(u64::MAX) });
        Ok(Response::new(CountResponse { result, time: seconds(since), usage: None }))
    }

    unsupported! {
        update_vectors(UpdatePointVectors) -> PointsOperationResponse;
        delete_vectors(DeletePointVectors) -> PointsOperationResponse;
        set_payload(SetPayloadPoints) -> PointsOperationResponse;
        overwrite_payload(SetPayloadPoints) -> PointsOperationResponse;
        delete_payload(DeletePayloadPoints) -> PointsOperationResponse;
        clear_payload(ClearPayloadPoints) -> PointsOperationResponse;
        create_vector_name(CreateVectorNameRequest) -> PointsOperationResponse;
        delete_vector_name(DeleteVectorNameRequest) -> PointsOperationResponse;
        search_batch(SearchBatchPoints) -> SearchBatchResponse;
        search_groups(SearchPointGroups) -> SearchGroupsResponse;
        recommend(RecommendPoints) -> RecommendResponse;
        recommend_batch(RecommendBatchPoints) -> RecommendBatchResponse;
        recommend_groups(RecommendPointGroups) -> RecommendGroupsResponse;
        discover(DiscoverPoints) -> DiscoverResponse;
        discover_batch(DiscoverBatchPoints) -> DiscoverBatchResponse;
        update_batch(UpdateBatchPoints) -> UpdateBatchResponse;
        query_batch(QueryBatchPoints) -> QueryBatchResponse;
        query_groups(QueryPointGroups) -> QueryGroupsResponse;
        facet(FacetCounts) -> FacetResponse;
        search_matrix_pairs(SearchMatrixPoints) -> SearchMatrixPairsResponse;
        search_matrix_offsets(SearchMatrixPoints) -> SearchMatrixOffsetsResponse;
    }
}

/// A stored point whose vector is searched for. It is not among the results.
struct Like {
    id: PointId,
    using: Option<String>,
}

impl Store {
    async fn change(&self, name: &str, points: usize, operation: UpdateOperation) -> Result<(), Status> {
        self.with(name, move |collection| collection.change(points, operation)).await
    }

    async fn find_points(
        &self,
        name: &str,
        mut search: QueryRequest,
        like: Option<Like>,
    ) -> Result<Vec<ScoredPoint>, Status> {
        self.with(name, move |collection: &Collection| {
            if let Some(like) = like {
                let vector = collection.read(|shard| vector_of(shard, &like))?;
                let vector = vector
                    .ok_or_else(|| Status::not_found(format!("Not found: No point with id {} found", like.id)))?;
                search.query = Some(nearest(vector, like.using));
                let itself = Condition::HasId(HasIdCondition::from_iter([like.id]));
                search.filter.get_or_insert_with(Filter::default).must_not.get_or_insert_default().push(itself);
            }
            // A shard leaves the offset to whoever merges shards.
            let offset = std::mem::take(&mut search.offset);
            search.limit = search.limit.saturating_add(offset);
            let found = collection.read(|shard| shard.query(search))?;
            Ok(found.into_iter().skip(offset).collect())
        })
        .await
    }
}

fn vector_of(shard: &EdgeShard, like: &Like) -> qdrant_edge::OperationResult<Option<Vec<f32>>> {
    let found = shard.retrieve(&[like.id], Some(WithPayloadInterface::Bool(false)), Some(WithVector::Bool(true)))?;
    let stored = found.into_iter().next().and_then(|record| record.vector);
    let using = like.using.as_deref().unwrap_or(ONLY_VECTOR);
    Ok(match stored {
        Some(VectorStructInternal::Single(vector)) => Some(vector),
        Some(VectorStructInternal::Named(mut named)) => match named.remove(using) {
            Some(VectorInternal::Dense(vector)) => Some(vector),
            Some(VectorInternal::Sparse(_) | VectorInternal::MultiDense(_)) | None => None,
        },
        Some(VectorStructInternal::MultiDense(_)) | None => None,
    })
}

fn ids(ids: Vec<qdrant_client::qdrant::PointId>) -> Result<Vec<PointId>, Status> {
    ids.into_iter().map(|id| request::id(Some(id))).collect()
}

fn nearest(vector: Vec<f32>, using: Option<String>) -> ScoringQuery {
    let using = using.filter(|name| !name.is_empty());
    ScoringQuery::Vector(QueryEnum::Nearest(NamedQuery { query: VectorInternal::Dense(vector), using }))
}

fn input_of(input: VectorInput, using: Option<String>) -> Result<(Option<ScoringQuery>, Option<PointId>), Status> {
    match input.variant {
        Some(vector_input::Variant::Dense(dense)) => Ok((Some(nearest(dense.data, using)), None)),
        Some(vector_input::Variant::Id(id)) => Ok((None, Some(request::id(Some(id))?))),
        Some(vector_input::Variant::Sparse(_)) => Err(not_here("sparse vectors")),
        Some(vector_input::Variant::MultiDense(_)) => Err(not_here("multivectors")),
        Some(
            vector_input::Variant::Document(_) | vector_input::Variant::Image(_) | vector_input::Variant::Object(_),
        ) => Err(not_here("inference")),
        None => Err(Status::invalid_argument("Wrong input: the vector to search for is missing")),
    }
}
