//! What clients ask: from the protocol's types to qdrant-edge's.

use std::{collections::HashMap, str::FromStr as _};

use qdrant_client::qdrant::{
    CreateCollection, CreateFieldIndexCollection, DenseVector, Distance, FieldType, HnswConfigDiff, PointId,
    PointStruct, QuantizationConfig, SearchParams, Value, Vector, VectorParams, Vectors, VectorsConfig,
    WithPayloadSelector, WithVectorsSelector, payload_index_params::IndexParams, point_id::PointIdOptions,
    quantization_config::Quantization, vector, vectors::VectorsOptions, vectors_config, with_payload_selector,
    with_vectors_selector,
};
use qdrant_edge::{
    CreateIndex, EdgeConfig, EdgeVectorParams, HnswIndexConfig, JsonPath, Payload, PayloadFieldSchema,
    PointStructPersisted, VectorPersisted, VectorStructPersisted, WithPayloadInterface, WithVector,
};
use serde_json::json;
use tonic::Status;

use super::not_here;

/// The name of the vector of a collection that has only one.
pub(super) const ONLY_VECTOR: &str = qdrant_edge::DEFAULT_VECTOR_NAME;

fn wrong(reason: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("Wrong input: {reason}"))
}

fn number(number: u64) -> Result<usize, Status> {
    usize::try_from(number).map_err(wrong)
}

/// Converts the parameters of a new collection. What only spreads or tunes it is accepted.
pub(super) fn config(request: CreateCollection) -> Result<EdgeConfig, Status> {
    if request.sparse_vectors_config.is_some_and(|config| !config.map.is_empty()) {
        return Err(not_here("sparse vectors"));
    }
    let given = request.vectors_config.and_then(|VectorsConfig { config }| config);
    let vectors = match given.ok_or_else(|| wrong("vectors_config is missing"))? {
        vectors_config::Config::Params(params) => HashMap::from([(ONLY_VECTOR.to_owned(), vector_params(&params)?)]),
        vectors_config::Config::ParamsMap(params) => params
            .map
            .iter()
            .map(|(name, params)| Ok((name.clone(), vector_params(params)?)))
            .collect::<Result<_, Status>>()?,
    };
    let mut config = EdgeConfig::builder().vectors(vectors);
    if let Some(diff) = request.hnsw_config {
        config = config.hnsw_config(hnsw(&diff)?);
    }
    if let Some(quantization) = request.quantization_config {
        config = config.quantization_config(quantize(&quantization)?);
    }
    Ok(config.build())
}

fn vector_params(params: &VectorParams) -> Result<EdgeVectorParams, Status> {
    if params.multivector_config.is_some() {
        return Err(not_here("multivectors"));
    }
    if params.size == 0 {
        return Err(wrong("a vector's size must be at least 1"));
    }
    let distance = match Distance::try_from(params.distance) {
        Ok(Distance::Cosine) => qdrant_edge::Distance::Cosine,
        Ok(Distance::Euclid) => qdrant_edge::Distance::Euclid,
        Ok(Distance::Dot) => qdrant_edge::Distance::Dot,
        Ok(Distance::Manhattan) => qdrant_edge::Distance::Manhattan,
        Ok(Distance::UnknownDistance) | Err(_) => return Err(wrong("a vector's distance is missing")),
    };
    let mut converted = EdgeVectorParams::builder(number(params.size)?, distance);
    if let Some(diff) = &params.hnsw_config {
        converted = converted.hnsw_config(hnsw(diff)?);
    }
    if let Some(quantization) = &params.quantization_config {
        converted = converted.quantization_config(quantize(quantization)?);
    }
    Ok(converted.build())
}

fn hnsw(diff: &HnswConfigDiff) -> Result<HnswIndexConfig, Status> {
    let mut config = HnswIndexConfig::default();
    let set = |target: &mut usize, given: Option<u64>| {
        if let Some(given) = given {
            *target = number(given)?;
        }
        Ok::<_, Status>(())
    };
    set(&mut config.m, diff.m)?;
    set(&mut config.ef_construct, diff.ef_construct)?;
    set(&mut config.full_scan_threshold, diff.full_scan_threshold)?;
    set(&mut config.max_indexing_threads, diff.max_indexing_threads)?;
    config.payload_m = diff.payload_m.map(number).transpose()?;
    Ok(config)
}

fn quantize(config: &QuantizationConfig) -> Result<qdrant_edge::QuantizationConfig, Status> {
    match config.quantization {
        Some(Quantization::Scalar(scalar)) => {
            let json = json!({ "scalar": { "type": "int8", "quantile": scalar.quantile, "always_ram": true } });
            serde_json::from_value(json).map_err(wrong)
        }
        Some(Quantization::Product(_) | Quantization::Binary(_) | Quantization::Turboquant(_)) => {
            Err(not_here("quantization other than scalar"))
        }
        None => Err(wrong("quantization_config is empty")),
    }
}

/// Converts a request for an index of a payload field.
pub(super) fn index(request: CreateFieldIndexCollection) -> Result<CreateIndex, Status> {
    let given = request.field_index_params.and_then(|params| params.index_params);
    let kind = match (&given, request.field_type.map(FieldType::try_from)) {
        (Some(IndexParams::KeywordIndexParams(_)), _) | (None, Some(Ok(FieldType::Keyword))) => "keyword",
        (Some(IndexParams::IntegerIndexParams(_)), _) | (None, Some(Ok(FieldType::Integer))) => "integer",
        (Some(IndexParams::FloatIndexParams(_)), _) | (None, Some(Ok(FieldType::Float))) => "float",
        (Some(IndexParams::GeoIndexParams(_)), _) | (None, Some(Ok(FieldType::Geo))) => "geo",
        (Some(IndexParams::TextIndexParams(_)), _) | (None, Some(Ok(FieldType::Text))) => "text",
        (Some(IndexParams::BoolIndexParams(_)), _) | (None, Some(Ok(FieldType::Bool))) => "bool",
        (Some(IndexParams::DatetimeIndexParams(_)), _) | (None, Some(Ok(FieldType::Datetime))) => "datetime",
        (Some(IndexParams::UuidIndexParams(_)), _) | (None, Some(Ok(FieldType::Uuid))) => "uuid",
        (None, None | Some(Err(_))) => return Err(wrong("field_type is missing")),
    };
    let schema = match given {
        Some(IndexParams::KeywordIndexParams(params)) => json!({ "type": kind, "is_tenant": params.is_tenant }),
        Some(IndexParams::TextIndexParams(_)) => return Err(not_here("parameters of a text index")),
        Some(_) | None => json!(kind),
    };
    let schema: PayloadFieldSchema = serde_json::from_value(schema).map_err(wrong)?;
    Ok(CreateIndex { field_name: path(&request.field_name)?, field_schema: Some(schema) })
}

/// Converts the path of a payload field.
pub(super) fn path(field: &str) -> Result<JsonPath, Status> {
    JsonPath::from_str(field).map_err(|()| wrong(format!("{field:?} is not the path of a payload field")))
}

/// Converts a point's id.
pub(super) fn id(id: Option<PointId>) -> Result<qdrant_edge::PointId, Status> {
    match id.and_then(|id| id.point_id_options) {
        Some(PointIdOptions::Num(number)) => Ok(qdrant_edge::PointId::NumId(number)),
        Some(PointIdOptions::Uuid(uuid)) => {
            uuid.parse().map(qdrant_edge::PointId::Uuid).map_err(|_| wrong(format!("Unable to parse UUID: {uuid}")))
        }
        None => Err(wrong("a point id is empty")),
    }
}

/// Converts a point to be stored.
pub(super) fn point(point: PointStruct) -> Result<PointStructPersisted, Status> {
    let vectors = point.vectors.and_then(|Vectors { vectors_options }| vectors_options);
    let vector = match vectors.ok_or_else(|| wrong("a point has no vector"))? {
        VectorsOptions::Vector(vector) => VectorStructPersisted::Single(dense(vector)?),
        VectorsOptions::Vectors(named) => VectorStructPersisted::Named(
            named
                .vectors
                .into_iter()
                .map(|(name, vector)| Ok((name, VectorPersisted::Dense(dense(vector)?))))
                .collect::<Result<_, Status>>()?,
        ),
    };
    let payload = point.payload.into_iter().map(|(key, value): (String, Value)| (key, value.into()));
    Ok(PointStructPersisted { id: id(point.id)?, vector, payload: Some(Payload(payload.collect())) })
}

#[expect(deprecated, reason = "clients older than 1.16 send the vector in these fields")]
fn dense(vector: Vector) -> Result<Vec<f32>, Status> {
    let Vector { data, indices, vectors_count, vector } = vector;
    match vector {
        Some(vector::Vector::Dense(DenseVector { data })) => Ok(data),
        Some(vector::Vector::Sparse(_)) => Err(not_here("sparse vectors")),
        Some(vector::Vector::MultiDense(_)) => Err(not_here("multivectors")),
        Some(vector::Vector::Document(_) | vector::Vector::Image(_) | vector::Vector::Object(_)) => {
            Err(not_here("inference"))
        }
        None if indices.is_some() => Err(not_here("sparse vectors")),
        None if vectors_count.is_some() => Err(not_here("multivectors")),
        None => Ok(data),
    }
}

/// Converts which payload to return. The default differs by call.
pub(super) fn with_payload(
    selector: Option<WithPayloadSelector>,
    default: bool,
) -> Result<WithPayloadInterface, Status> {
    use with_payload_selector::SelectorOptions;
    let paths = |fields: Vec<String>| fields.iter().map(|field| path(field)).collect::<Result<Vec<_>, _>>();
    Ok(match selector.and_then(|selector| selector.selector_options) {
        None => WithPayloadInterface::Bool(default),
        Some(SelectorOptions::Enable(enable)) => WithPayloadInterface::Bool(enable),
        Some(SelectorOptions::Include(include)) => WithPayloadInterface::Fields(paths(include.fields)?),
        Some(SelectorOptions::Exclude(exclude)) => {
            let exclude = qdrant_edge::PayloadSelectorExclude { exclude: paths(exclude.fields)? };
            WithPayloadInterface::Selector(qdrant_edge::PayloadSelector::Exclude(exclude))
        }
    })
}

/// Converts which vectors to return; none by default.
pub(super) fn with_vectors(selector: Option<WithVectorsSelector>) -> WithVector {
    use with_vectors_selector::SelectorOptions;
    match selector.and_then(|selector| selector.selector_options) {
        None => WithVector::Bool(false),
        Some(SelectorOptions::Enable(enable)) => WithVector::Bool(enable),
        Some(SelectorOptions::Include(include)) => WithVector::Selector(include.names),
    }
}

/// Converts how to search.
pub(super) fn params(params: Option<SearchParams>) -> Result<Option<qdrant_edge::SearchParams>, Status> {
    let Some(params) = params else { return Ok(None) };
    if params.acorn.is_some() || params.idf.is_some() {
        return Err(not_here("search parameters other than hnsw_ef, exact and indexed_only"));
    }
    Ok(Some(qdrant_edge::SearchParams {
        hnsw_ef: params.hnsw_ef.map(number).transpose()?,
        exact: params.exact.unwrap_or_default(),
        indexed_only: params.indexed_only.unwrap_or_default(),
        ..qdrant_edge::SearchParams::default()
    }))
}

/// Converts a count.
pub(super) fn count(given: Option<u64>, default: u64) -> Result<usize, Status> {
    number(given.unwrap_or(default))
}
