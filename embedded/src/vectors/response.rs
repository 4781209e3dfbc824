//! What clients are told: from qdrant-edge's types to the protocol's.

use std::{collections::HashMap, time::Instant};

use qdrant_client::qdrant::{
    CollectionConfig, CollectionInfo, CollectionParams, CollectionStatus, DenseVector, Distance, HnswConfigDiff,
    NamedVectorsOutput, OptimizerStatus, OptimizersConfigDiff, PayloadSchemaInfo, PayloadSchemaType, PointId,
    PointsOperationResponse, RetrievedPoint, ScoredPoint, UpdateResult, UpdateStatus, Value, VectorOutput,
    VectorParams, VectorParamsMap, VectorsConfig, VectorsOutput, point_id::PointIdOptions, vector_output,
    vectors_config, vectors_output::VectorsOptions,
};
use qdrant_edge::{EdgeConfig, EdgeVectorParams, Payload, Record, ShardInfo, VectorInternal, VectorStructInternal};

use super::request::ONLY_VECTOR;

/// Seconds since a call came in.
pub(super) fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// The answer to every change: it is done, and on disk.
pub(super) fn done(since: Instant) -> PointsOperationResponse {
    PointsOperationResponse {
        result: Some(UpdateResult { operation_id: None, status: UpdateStatus::Completed.into() }),
        time: seconds(since),
        usage: None,
    }
}

pub(super) fn id(id: qdrant_edge::PointId) -> PointId {
    let options = match id {
        qdrant_edge::PointId::NumId(number) => PointIdOptions::Num(number),
        qdrant_edge::PointId::Uuid(uuid) => PointIdOptions::Uuid(uuid.to_string()),
    };
    PointId { point_id_options: Some(options) }
}

fn payload(payload: Option<Payload>) -> HashMap<String, Value> {
    let fields = payload.into_iter().flat_map(|payload| payload.0);
    fields.map(|(key, value)| (key, value.into())).collect()
}

#[expect(deprecated, reason = "clients older than 1.16 read the vector from `data`")]
fn vector(data: Vec<f32>) -> VectorOutput {
    VectorOutput {
        data: data.clone(),
        indices: None,
        vectors_count: None,
        vector: Some(vector_output::Vector::Dense(DenseVector { data })),
    }
}

fn vectors(vectors: Option<VectorStructInternal>) -> Option<VectorsOutput> {
    // Collections here have dense vectors only, so there is nothing else to tell.
    let options = match vectors? {
        VectorStructInternal::Single(data) => VectorsOptions::Vector(vector(data)),
        VectorStructInternal::MultiDense(_) => return None,
        VectorStructInternal::Named(named) => {
            let dense = named.into_iter().filter_map(|(name, stored)| match stored {
                VectorInternal::Dense(data) => Some((name, vector(data))),
                VectorInternal::Sparse(_) | VectorInternal::MultiDense(_) => None,
            });
            VectorsOptions::Vectors(NamedVectorsOutput { vectors: dense.collect() })
        }
    };
    Some(VectorsOutput { vectors_options: Some(options) })
}

pub(super) fn scored(point: qdrant_edge::ScoredPoint) -> ScoredPoint {
    ScoredPoint {
        id: Some(id(point.id)),
        payload: payload(point.payload),
        score: point.score,
        version: point.version,
        vectors: vectors(point.vector),
        shard_key: None,
        order_value: None,
    }
}

pub(super) fn retrieved(record: Record) -> RetrievedPoint {
    RetrievedPoint {
        id: Some(id(record.id)),
        payload: payload(record.payload),
        vectors: vectors(record.vector),
        shard_key: None,
        order_value: None,
    }
}

#[expect(deprecated, reason = "the protocol still has the fields, and clients read them")]
pub(super) fn info(config: &EdgeConfig, info: &ShardInfo) -> CollectionInfo {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let vectors = match config.vectors.get(ONLY_VECTOR) {
        Some(params) if config.vectors.len() == 1 => vectors_config::Config::Params(vector_params(params)),
        Some(_) | None => vectors_config::Config::ParamsMap(VectorParamsMap {
            map: config.vectors.iter().map(|(name, params)| (name.clone(), vector_params(params))).collect(),
        }),
    };
    let params = CollectionParams {
        shard_number: 1,
        on_disk_payload: config.on_disk_payload,
        vectors_config: Some(VectorsConfig { config: Some(vectors) }),
        replication_factor: Some(1),
        write_consistency_factor: Some(1),
        ..CollectionParams::default()
    };
    let hnsw = &config.hnsw_config;
    let hnsw = HnswConfigDiff {
        m: Some(count(hnsw.m)),
        ef_construct: Some(count(hnsw.ef_construct)),
        full_scan_threshold: Some(count(hnsw.full_scan_threshold)),
        max_indexing_threads: Some(count(hnsw.max_indexing_threads)),
        payload_m: hnsw.payload_m.map(count),
        ..HnswConfigDiff::default()
    };
    let indexes = info.payload_schema.iter().map(|(field, index)| {
        let described = PayloadSchemaInfo {
            data_type: schema_type(index.data_type).into(),
            params: None,
            points: Some(count(index.points)),
        };
        (field.to_string(), described)
    });
    CollectionInfo {
        status: CollectionStatus::Green.into(),
        optimizer_status: Some(OptimizerStatus { ok: true, error: String::new() }),
        segments_count: count(info.segments_count),
        config: Some(CollectionConfig {
            params: Some(params),
            hnsw_config: Some(hnsw),
            optimizer_config: Some(OptimizersConfigDiff::default()),
            ..CollectionConfig::default()
        }),
        payload_schema: indexes.collect(),
        points_count: Some(count(info.points_count)),
        indexed_vectors_count: Some(count(info.indexed_vectors_count)),
        ..CollectionInfo::default()
    }
}

fn vector_params(params: &EdgeVectorParams) -> VectorParams {
    let distance = match params.distance {
        qdrant_edge::Distance::Cosine => Distance::Cosine,
        qdrant_edge::Distance::Euclid => Distance::Euclid,
        qdrant_edge::Distance::Dot => Distance::Dot,
        qdrant_edge::Distance::Manhattan => Distance::Manhattan,
    };
    let size = u64::try_from(params.size).unwrap_or(u64::MAX);
    VectorParams { size, distance: distance.into(), ..VectorParams::default() }
}

fn schema_type(kind: qdrant_edge::PayloadSchemaType) -> PayloadSchemaType {
    match kind {
        qdrant_edge::PayloadSchemaType::Keyword => PayloadSchemaType::Keyword,
        qdrant_edge::PayloadSchemaType::Integer => PayloadSchemaType::Integer,
        qdrant_edge::PayloadSchemaType::Float => PayloadSchemaType::Float,
        qdrant_edge::PayloadSchemaType::Geo => PayloadSchemaType::Geo,
        qdrant_edge::PayloadSchemaType::Text => PayloadSchemaType::Text,
        qdrant_edge::PayloadSchemaType::Bool => PayloadSchemaType::Bool,
        qdrant_edge::PayloadSchemaType::Datetime => PayloadSchemaType::Datetime,
        qdrant_edge::PayloadSchemaType::Uuid => PayloadSchemaType::Uuid,
    }
}
