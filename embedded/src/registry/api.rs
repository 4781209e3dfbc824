//! The HTTP side: Confluent's paths, bodies and error codes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use apache_avro::Schema as Avro;
use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    compatibility::Level,
    store::{Contents, Reference, Schema, Store},
};

const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
const LATEST: &str = "latest";

type Shared = Arc<Mutex<Store>>;

/// What a handler returns: a body, or Confluent's error.
type Answer = Result<Body, Failure>;

pub(super) struct Body(Value);

impl IntoResponse for Body {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, MEDIA_TYPE)], self.0.to_string()).into_response()
    }
}

/// Confluent's errors, each with its own code.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("Subject '{0}' not found.")]
    NoSubject(String),
    #[error("Version {0} not found.")]
    NoVersion(String),
    #[error("Schema not found")]
    NoSchema,
    #[error("Subject '{0}' does not have subject-level compatibility configured")]
    NoLevel(String),
    #[error("Schema being registered is incompatible with an earlier schema for subject \"{0}\", details: {1}")]
    Incompatible(String, String),
    #[error("Invalid schema: {0}")]
    InvalidSchema(String),
    #[error(
        "The specified version '{0}' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\""
    )]
    InvalidVersion(String),
    #[error(
        "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive"
    )]
    InvalidLevel,
    #[error("The request body is not what is expected here: {0}")]
    InvalidBody(String),
    #[error("HTTP 404 Not Found: this registry answers the part of Confluent's API that serializers use")]
    NoPath,
    #[error("The registry cannot write its file: {0}: check the free space of its disk")]
    Store(String),
}

impl Failure {
    fn code(&self) -> u32 {
        match self {
            Self::NoPath => 404,
            Self::NoSubject(_) => 40401,
            Self::NoVersion(_) => 40402,
            Self::NoSchema => 40403,
            Self::NoLevel(_) => 40408,
            Self::Incompatible(..) => 409,
            Self::InvalidSchema(_) => 42201,
            Self::InvalidVersion(_) => 42202,
            Self::InvalidLevel => 42203,
            Self::InvalidBody(_) => 422,
            Self::Store(_) => 50001,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let code = self.code();
        let status = if code < 1000 { code } else { code / 100 };
        let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        let body = Body(json!({ "error_code": code, "message": self.to_string() }));
        (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body).into_response()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Submitted {
    schema: String,
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Options {
    default_to_global: bool,
    verbose: bool,
    subject_prefix: String,
}

pub(super) fn router(store: Store) -> Router {
    let store: Shared = Arc::new(Mutex::new(store));
    Router::new()
        .route("/", get(async || Body(json!({}))))
        .route("/mode", get(async || Body(json!({ "mode": "READWRITE" }))))
        .route("/schemas/types", get(async || Body(json!(["AVRO"]))))
        .route("/schemas/ids/{id}", get(schema_by_id))
        .route("/schemas/guids/{guid}", get(schema_by_guid))
        .route("/schemas/ids/{id}/versions", get(versions_of_id))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", post(lookup))
        .route("/subjects/{subject}/versions", get(versions).post(register))
        .route("/subjects/{subject}/versions/{version}", get(version))
        .route("/subjects/{subject}/versions/{version}/schema", get(version_text))
        .route("/config", get(global_level).put(set_global_level))
        .route("/config/{subject}", get(subject_level).put(set_subject_level))
        .route("/compatibility/subjects/{subject}/versions", post(check_all))
        .route("/compatibility/subjects/{subject}/versions/{version}", post(check_one))
        .fallback(async || Failure::NoPath)
        .with_state(store)
}

fn lock(store: &Shared) -> MutexGuard<'_, Store> {
    // The contents are replaced in one assignment, so a panic cannot leave them half done.
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Failure> {
    // Read whatever the content type says: clients send three different ones, or none.
    serde_json::from_slice(bytes).map_err(|error| Failure::InvalidBody(error.to_string()))
}

/// Changes the contents and waits until they are on disk, off the runtime's threads.
async fn change<T: Send + 'static>(
    store: Shared,
    change: impl FnOnce(&mut Contents) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let changing = tokio::task::spawn_blocking(move || {
        let mut store = lock(&store);
        let mut contents = store.contents().clone();
        let result = change(&mut contents)?;
        store.replace(contents).map_err(|error| Failure::Store(error.to_string()))?;
        Ok(result)
    });
    changing.await.map_err(|error| Failure::Store(error.to_string()))?
}

async fn subjects(State(store): State<Shared>, Query(options): Query<Options>) -> Body {
    let store = lock(&store);
    let names = store.contents().subjects.keys();
    Body(names.filter(|name| name.starts_with(&options.subject_prefix)).cloned().collect())
}

async fn versions(State(store): State<Shared>, Path(subject): Path<String>) -> Answer {
    let store = lock(&store);
    let ids = store.contents().subjects.get(&subject).ok_or(Failure::NoSubject(subject))?;
    Ok(Body((1..=ids.len()).collect()))
}

async fn version(State(store): State<Shared>, Path((subject, version)): Path<(String, String)>) -> Answer {
    let store = lock(&store);
    let contents = store.contents();
    let number = number(contents, &subject, &version)?;
    let id = contents.version(&subject, number).ok_or(Failure::NoVersion(version))?;
    described(contents, &subject, number, id)
}

async fn version_text(
    State(store): State<Shared>,
    Path((subject, version)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let store = lock(&store);
    let contents = store.contents();
    let number = number(contents, &subject, &version)?;
    let id = contents.version(&subject, number).ok_or(Failure::NoVersion(version))?;
    let schema = contents.schema(id).ok_or(Failure::NoSchema)?;
    Ok(([(CONTENT_TYPE, MEDIA_TYPE)], schema.text.clone()).into_response())
}

async fn schema_by_id(State(store): State<Shared>, Path(id): Path<u32>) -> Answer {
    let store = lock(&store);
    let schema = store.contents().schema(id).ok_or(Failure::NoSchema)?;
    Ok(described_alone(schema))
}

async fn schema_by_guid(State(store): State<Shared>, Path(guid): Path<String>) -> Answer {
    let store = lock(&store);
    let schema = store.contents().schemas.iter().find(|schema| schema.guid().to_string() == guid);
    schema.map(described_alone).ok_or(Failure::NoSchema)
}

fn described_alone(schema: &Schema) -> Body {
    let mut answer = json!({ "schema": schema.text, "guid": schema.guid() });
    if !schema.references.is_empty() {
        answer["references"] = json!(schema.references);
    }
    Body(answer)
}

async fn versions_of_id(State(store): State<Shared>, Path(id): Path<u32>) -> Answer {
    let store = lock(&store);
    let contents = store.contents();
    contents.schema(id).ok_or(Failure::NoSchema)?;
    let uses = contents.subjects.iter().flat_map(|(subject, ids)| {
        let positions = ids.iter().enumerate().filter(move |(_, used)| **used == id);
        positions.map(move |(index, _)| json!({ "subject": subject, "version": index + 1 }))
    });
    Ok(Body(uses.collect()))
}

async fn lookup(State(store): State<Shared>, Path(subject): Path<String>, bytes: Bytes) -> Answer {
    let submitted = body(&bytes)?;
    let store = lock(&store);
    let contents = store.contents();
    let ids = contents.subjects.get(&subject).ok_or_else(|| Failure::NoSubject(subject.clone()))?;
    let (schema, _) = parsed(contents, submitted)?;
    let id = contents.id(&schema).ok_or(Failure::NoSchema)?;
    let index = ids.iter().position(|known| *known == id).ok_or(Failure::NoSchema)?;
    let number = u32::try_from(index + 1).map_err(|_| Failure::NoSchema)?;
    described(contents, &subject, number, id)
}

async fn register(State(store): State<Shared>, Path(subject): Path<String>, bytes: Bytes) -> Answer {
    let submitted = body(&bytes)?;
    let (id, guid) = change(store, move |contents| {
        let (schema, new) = parsed(contents, submitted)?;
        let ids = contents.subjects.get(&subject).cloned().unwrap_or_default();
        if let Some(id) = contents.id(&schema).filter(|id| ids.contains(id)) {
            return Ok((id, contents.schema(id).ok_or(Failure::NoSchema)?.guid()));
        }
        let complaints = contents.level(&subject).complaints(&new, &earlier(contents, &ids)?);
        if !complaints.is_empty() {
            return Err(Failure::Incompatible(subject, complaints.join("; ")));
        }
        let id = contents.add(&subject, schema).ok_or_else(|| Failure::Store("no id is left".into()))?;
        Ok((id, contents.schema(id).ok_or(Failure::NoSchema)?.guid()))
    })
    .await?;
    Ok(Body(json!({ "id": id, "guid": guid })))
}

async fn check_all(
    State(store): State<Shared>,
    Path(subject): Path<String>,
    Query(options): Query<Options>,
    bytes: Bytes,
) -> Answer {
    let store = lock(&store);
    let contents = store.contents();
    let ids = contents.subjects.get(&subject).cloned().unwrap_or_default();
    checked(contents, &subject, &ids, body(&bytes)?, options.verbose)
}

async fn check_one(
    State(store): State<Shared>,
    Path((subject, version)): Path<(String, String)>,
    Query(options): Query<Options>,
    bytes: Bytes,
) -> Answer {
    let store = lock(&store);
    let contents = store.contents();
    let number = number(contents, &subject, &version)?;
    let id = contents.version(&subject, number).ok_or(Failure::NoVersion(version))?;
    checked(contents, &subject, &[id], body(&bytes)?, options.verbose)
}

async fn global_level(State(store): State<Shared>) -> Body {
    Body(json!({ "compatibilityLevel": lock(&store).contents().level.unwrap_or_default() }))
}

async fn subject_level(
    State(store): State<Shared>,
    Path(subject): Path<String>,
    Query(options): Query<Options>,
) -> Answer {
    let store = lock(&store);
    let contents = store.contents();
    if !options.default_to_global && !contents.subject_levels.contains_key(&subject) {
        return Err(Failure::NoLevel(subject));
    }
    Ok(Body(json!({ "compatibilityLevel": contents.level(&subject) })))
}

async fn set_global_level(State(store): State<Shared>, bytes: Bytes) -> Answer {
    let level = level(&bytes)?;
    change(store, move |contents| {
        contents.level = Some(level);
        Ok(Body(json!({ "compatibility": level })))
    })
    .await
}

async fn set_subject_level(State(store): State<Shared>, Path(subject): Path<String>, bytes: Bytes) -> Answer {
    let level = level(&bytes)?;
    change(store, move |contents| {
        contents.subject_levels.insert(subject, level);
        Ok(Body(json!({ "compatibility": level })))
    })
    .await
}

fn level(bytes: &Bytes) -> Result<Level, Failure> {
    #[derive(Deserialize)]
    struct Wanted {
        compatibility: String,
    }
    let wanted: Wanted = body(bytes)?;
    let upper = Value::String(wanted.compatibility.to_ascii_uppercase());
    serde_json::from_value(upper).map_err(|_| Failure::InvalidLevel)
}

/// Reads a version from a path: a number, `latest` or -1.
fn number(contents: &Contents, subject: &str, version: &str) -> Result<u32, Failure> {
    let ids = contents.subjects.get(subject).ok_or_else(|| Failure::NoSubject(subject.to_owned()))?;
    if version == LATEST || version == "-1" {
        return u32::try_from(ids.len()).map_err(|_| Failure::NoVersion(version.to_owned()));
    }
    let number = version.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| Failure::InvalidVersion(version.to_owned()))
}

fn described(contents: &Contents, subject: &str, version: u32, id: u32) -> Answer {
    let schema = contents.schema(id).ok_or(Failure::NoSchema)?;
    let mut answer =
        json!({ "subject": subject, "version": version, "id": id, "guid": schema.guid(), "schema": schema.text });
    if !schema.references.is_empty() {
        answer["references"] = json!(schema.references);
    }
    Ok(Body(answer))
}

fn parsed(contents: &Contents, submitted: Submitted) -> Result<(Schema, Avro), Failure> {
    if let Some(kind) = submitted.schema_type.filter(|kind| kind != "AVRO") {
        return Err(Failure::InvalidSchema(format!("schema type {kind} is not supported here, only AVRO")));
    }
    let schema = Schema { text: submitted.schema, references: submitted.references };
    let avro = avro(contents, &schema)?;
    Ok((schema, avro))
}

/// Parses a schema together with what it refers to.
fn avro(contents: &Contents, schema: &Schema) -> Result<Avro, Failure> {
    let mut texts = Vec::new();
    gather(contents, schema, &mut texts)?;
    let invalid = |error: apache_avro::Error| Failure::InvalidSchema(error.to_string());
    if texts.is_empty() {
        return Avro::parse_str(&schema.text).map_err(invalid);
    }
    Avro::parse_str_with_list(&schema.text, texts).map(|(schema, _)| schema).map_err(invalid)
}

fn gather<'a>(contents: &'a Contents, schema: &'a Schema, texts: &mut Vec<&'a str>) -> Result<(), Failure> {
    for reference in &schema.references {
        let missing = || {
            let Reference { subject, version, .. } = reference;
            Failure::InvalidSchema(format!("it refers to version {version} of subject '{subject}', which is not there"))
        };
        let id = contents.version(&reference.subject, reference.version).ok_or_else(missing)?;
        let referred = contents.schema(id).ok_or_else(missing)?;
        if !texts.contains(&referred.text.as_str()) {
            texts.push(&referred.text);
            gather(contents, referred, texts)?;
        }
    }
    Ok(())
}

fn earlier(contents: &Contents, ids: &[u32]) -> Result<Vec<Avro>, Failure> {
    ids.iter().map(|id| avro(contents, contents.schema(*id).ok_or(Failure::NoSchema)?)).collect()
}

fn checked(contents: &Contents, subject: &str, ids: &[u32], submitted: Submitted, verbose: bool) -> Answer {
    let (_, new) = parsed(contents, submitted)?;
    let complaints = contents.level(subject).complaints(&new, &earlier(contents, ids)?);
    let mut answer = json!({ "is_compatible": complaints.is_empty() });
    if verbose {
        answer["messages"] = json!(complaints);
    }
    Ok(Body(answer))
}
