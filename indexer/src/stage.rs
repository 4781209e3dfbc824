//! The indexer's steps, in order.

use std::sync::Arc;

use millrace_admission::{Directory, Principal, SYSTEM_TENANT, record};
use millrace_budgets::Budgets;
use millrace_config::Config;
use millrace_prompt_builder::vectors;
use millrace_provider::{CallMetrics, Ledgered};
use millrace_schemas::{Codec, Document, VALUE_SCHEMA_ID_HEADER, now_millis};
use millrace_settings::Current;
use millrace_stage::{Plan, Poison, Producer, Received, Stage, StageError};
use qdrant_client::QdrantError;

use crate::chunk::Size;
use crate::document::{accept, poison};
use crate::embed::PaidEmbedder;
use crate::index::Index;
use crate::locks::Locks;
use crate::place::Place;
use crate::plan::Recipe;
use crate::qdrant::QdrantPassages;

/// Why an indexer can not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The embedding model is none.
    #[error("`knowledge.embedding_model` is `{0}`; name a model that is configured with `embedding` and `dimensions`")]
    Model(String),
    /// The address of the vector store.
    #[error("`vectors.url`: {0}")]
    Vectors(#[from] Box<QdrantError>),
}

/// `documents` -> `calls` + Qdrant. Made by [`stage`].
pub struct Indexer {
    settings: Current,
    codec: Codec,
    index: Index,
}

/// The stage; `None` where no documents are kept: without `vectors.url` or without
/// `knowledge.embedding_model`.
///
/// # Errors
/// [`StartError`].
pub fn stage(
    config: &Config,
    settings: Current,
    producer: Producer,
    codec: Codec,
    metrics: CallMetrics,
    budgets: Budgets,
) -> Result<Option<Indexer>, StartError> {
    let knowledge = &config.knowledge;
    let Some(client) = vectors::client(&config.vectors).map_err(Box::new)? else { return Ok(None) };
    if knowledge.embedding_model.is_empty() {
        return Ok(None);
    }
    let model = config.models.get(&knowledge.embedding_model);
    let dimensions = model.and_then(|model| model.dimensions);
    let (Some(model), Some(dimensions)) = (model, dimensions) else {
        return Err(StartError::Model(knowledge.embedding_model.clone()));
    };
    let name = &knowledge.embedding_model;
    // Some room is left, because the model cuts words into other tokens than are counted here.
    let most = model.context_tokens - model.context_tokens / 8;
    let recipe = Recipe {
        size: Size { tokens: knowledge.chunk_tokens.min(most), overlap: knowledge.chunk_overlap },
        space: format!("{}/{}/{dimensions}", model.provider, model.upstream_name(name)),
    };
    let ledger = Ledgered::new(producer, codec.clone(), settings.now().prices.clone(), metrics);
    let index = Index {
        embedder: Arc::new(PaidEmbedder::new(settings.clone(), name.clone(), ledger, budgets)),
        passages: Arc::new(QdrantPassages::new(client, config.vectors.collection.clone(), dimensions)),
        recipe,
        dimensions: usize::try_from(dimensions).unwrap_or(usize::MAX),
        batch: usize::try_from(knowledge.batch).unwrap_or(usize::MAX).max(1),
        locks: Locks::default(),
    };
    Ok(Some(Indexer { settings, codec, index }))
}

impl Stage for Indexer {
    async fn process(&self, record: &Received) -> Result<Plan, StageError> {
        let settings = self.settings.now();
        let principal = prove(record, settings.admission.directory())?;
        let document = self.read(record, &principal).await?;
        let place = Place::of(record);
        let at = place.on(&record.at.topic);
        let document = accept(document, &principal, &settings.admission, &at).map_err(StageError::Poison)?;
        self.index.update(record, place, document).await?;
        Ok(Plan::default())
    }
}

impl Indexer {
    async fn read(&self, record: &Received, principal: &Principal) -> Result<Document, StageError> {
        let undecodable = |message: String| poisoned(poison(&principal.tenant, "undecodable", message));
        if record.header("content-type").is_some_and(record::is_json) {
            return Err(undecodable(
                "A document is not read as JSON: write it as Avro, millrace.v1.Document.".to_owned(),
            ));
        }
        let schema = record.header_bytes(VALUE_SCHEMA_ID_HEADER);
        match self.codec.decode_record(schema, &record.value).await {
            Ok(document) => Ok(document),
            Err(error) if error.is_outage() => Err(StageError::retry(error.to_string())),
            Err(error) => Err(undecodable(format!("The record can not be read: {error}."))),
        }
    }
}

fn prove(record: &Received, directory: &Directory) -> Result<Principal, StageError> {
    let proof = record::proof(&record.headers);
    let proven = directory.verify_record(&record.at.topic, proof, &record.value, record.timestamp);
    proven.map_err(|refusal| match refusal.may_pass(record.timestamp, now_millis()) {
        true => StageError::retry(refusal.to_string()),
        false => poisoned(poison(SYSTEM_TENANT, refusal.code(), refusal.to_string())),
    })
}

fn poisoned(poison: Poison) -> StageError {
    StageError::Poison(Box::new(poison))
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
