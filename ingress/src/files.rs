//! `/v1/files`: uploads, streamed into the store part by part; descriptions, contents, and their end.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use millrace_admission::{MAX_BATCH_BYTES, SYSTEM_TENANT};
use millrace_files::stored::{self, At, Kind, Stored};
use millrace_files::{Content, File, Segment, Writer, find, now_seconds};
use millrace_storage::{MAX_PART_BYTES, Order, Storage, StorageError};
use multer::{Constraints, Multipart, SizeLimit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::lists::{limit, page_of};
use crate::routes::authenticate;
use crate::run::Ingress;

/// The purpose of files that batches read, and of those that they write.
pub(crate) const BATCH: &str = "batch";
pub(crate) const BATCH_OUTPUT: &str = "batch_output";
/// What else OpenAI's clients name: kept as it came.
const PURPOSES: [&str; 6] = [BATCH, "user_data", "assistants", "fine-tune", "vision", "evals"];

/// How long a file for a batch is kept that does not say, in seconds: as OpenAI does.
const BATCH_FILES_KEPT: i64 = 30 * 24 * 3_600;
/// What `expires_after` may say, in seconds.
pub(crate) const KEPT: std::ops::RangeInclusive<i64> = 3_600..=30 * 24 * 3_600;
/// An upload that has not ended by then never will, in seconds.
const UPLOAD_WITHIN: i64 = 24 * 3_600;
/// How long a client may send nothing.
const NEXT_PIECE_WITHIN: Duration = Duration::from_secs(60);
/// The most of a form that is not the file, bytes.
const MAX_AROUND_FILE: u64 = 64 * 1_024;
/// A field beside the file, bytes.
const MAX_FIELD: u64 = 1_024;
const MAX_FILENAME: usize = 512;
/// Files in one answer.
const MAX_LISTED: u32 = 10_000;
/// Parts of the largest file.
const MOST_PARTS: u32 = 400;
/// Objects read at once.
const PAGE: u32 = 500;

/// That a file has to be looked at when its time has come; named by the time and the file.
#[derive(Serialize, Deserialize)]
pub(crate) struct Due {
    pub tenant: String,
    pub file_id: String,
}

impl Kind for Due {
    const KIND: &'static str = "file-due";
}

fn to_json(file: &File) -> Value {
    json!({
        "id": file.id,
        "object": "file",
        "bytes": file.content.as_ref().map_or(0, |content| content.bytes),
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    })
}

/// A new id that sorts by time.
pub(crate) fn fresh_id(prefix: &str) -> String {
    format!("{prefix}{}", uuid::Uuid::now_v7().simple())
}

/// Has the file looked at when `at` has passed. Called before there is anything that could be left behind.
pub(crate) async fn note_due(storage: &Storage, tenant: &str, file_id: &str, at: i64) -> Result<(), StorageError> {
    let due = Due { tenant: tenant.to_owned(), file_id: file_id.to_owned() };
    let id = format!("{at:012} {file_id}");
    stored::create(storage, At { tenant: SYSTEM_TENANT, id: &id }, &due).await.map(drop)
}

async fn own(ingress: &Ingress, tenant: &str, id: Result<Path<String>, PathRejection>) -> Result<File, ApiError> {
    let Ok(Path(id)) = id else { return Err(ApiError::not_found("No such File object.")) };
    let found = find(&ingress.storage, tenant, &id).await.map_err(|e| ApiError::store(&e))?;
    found.ok_or_else(|| ApiError::not_found(format!("No such File object: {}.", shown(&id))))
}

/// As much of what a client wrote as belongs in a message.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// What an upload's form says.
#[derive(Default)]
struct Form {
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
    filename: Option<String>,
}

/// `POST /v1/files`
pub(crate) async fn upload(State(ingress): State<Arc<Ingress>>, request: Request) -> Result<Response, ApiError> {
    let principal = authenticate(&ingress, request.headers())?;
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BATCH_BYTES + MAX_AROUND_FILE) {
        return Err(too_large());
    }
    // What is in memory of it at a time.
    let _hold = ingress.hold(2 * MAX_PART_BYTES)?;
    let boundary = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = boundary.and_then(|kind| multer::parse_boundary(kind).ok()).ok_or_else(|| {
        ApiError::invalid(None, "Send the file as `multipart/form-data` with the fields `purpose` and `file`.")
    })?;
    let storage = &ingress.storage;
    let (tenant, id, now) = (principal.tenant.as_str(), fresh_id("file-"), now_seconds());
    let at = At { tenant, id: &id };
    note_due(storage, tenant, &id, now + UPLOAD_WITHIN).await.map_err(|e| ApiError::store(&e))?;
    let mut file = Stored {
        id: id.clone(),
        version: 1,
        value: File {
            id: id.clone(),
            filename: String::new(),
            purpose: String::new(),
            created_at: now,
            expires_at: None,
            content: None,
        },
    };
    stored::create(storage, at, &file.value).await.map_err(|e| ApiError::store(&e))?;
    let mut writer = Writer::new(tenant, &id, 0, Content::default());
    let received = receive(storage, request.into_body(), boundary, &mut writer).await;
    let stored = match received {
        Ok(form) => keep(storage, tenant, &mut file, form, &mut writer).await,
        Err(error) => Err(error),
    };
    if let Err(error) = stored {
        // Nobody ever hears of it. What can not be deleted now is when it is due.
        if let Ok(content) = writer.flush(storage).await {
            let _later = content.delete(storage, tenant, &id).await;
            let _later = stored::delete::<File>(storage, at).await;
        }
        return Err(error);
    }
    Ok(axum::Json(to_json(&file.value)).into_response())
}

/// Reads the form; the file's bytes go to the store as they come.
async fn receive(storage: &Storage, body: Body, boundary: String, writer: &mut Writer) -> Result<Form, ApiError> {
    let fields = SizeLimit::new().per_field(MAX_FIELD).for_field("file", MAX_BATCH_BYTES);
    let constraints = Constraints::new().size_limit(fields);
    let mut parts = Multipart::with_constraints(body.into_data_stream(), boundary, constraints);
    let mut form = Form::default();
    while let Some(mut field) = in_time(parts.next_field()).await? {
        let name = field.name().unwrap_or_default().to_owned();
        let text = match name.as_str() {
            "purpose" => &mut form.purpose,
            "expires_after[anchor]" => &mut form.anchor,
            "expires_after[seconds]" => &mut form.seconds,
            "file" if form.filename.is_none() => {
                form.filename = Some(field.file_name().unwrap_or("file").chars().take(MAX_FILENAME).collect());
                while let Some(piece) = in_time(field.chunk()).await? {
                    writer.push(&piece);
                    writer.store_full(storage).await.map_err(|e| ApiError::store(&e))?;
                }
                continue;
            }
            "file" => return Err(ApiError::invalid(Some("file"), "'file' is given twice: upload one file at a time.")),
            _ => {
                let message = format!("Unknown field '{}': send 'purpose', 'file' and 'expires_after'.", shown(&name));
                return Err(ApiError::invalid(Some(&shown(&name)), message));
            }
        };
        if text.is_some() {
            return Err(ApiError::invalid(Some(&name), format!("'{name}' is given twice: give it once.")));
        }
        *text = Some(in_time(field.text()).await?);
    }
    Ok(form)
}

/// Stores the description of a file that has come whole: from now on it is there.
async fn keep(
    storage: &Storage,
    tenant: &str,
    file: &mut Stored<File>,
    form: Form,
    writer: &mut Writer,
) -> Result<(), ApiError> {
    let missing = |name: &str| ApiError::invalid(Some(name), format!("Missing required field: '{name}'."));
    let purpose = form.purpose.ok_or_else(|| missing("purpose"))?;
    if !PURPOSES.contains(&purpose.as_str()) {
        let message = format!("'{}' is not one of {}.", shown(&purpose), PURPOSES.join(", "));
        return Err(ApiError::invalid(Some("purpose"), message));
    }
    let filename = form.filename.ok_or_else(|| missing("file"))?;
    let by_default = (purpose == BATCH).then_some(BATCH_FILES_KEPT);
    let kept = expires_after(form.anchor.as_deref(), form.seconds.as_deref())?.or(by_default);
    let expires_at = kept.map(|seconds| file.value.created_at + seconds);
    let id = &file.id;
    if let Some(at) = expires_at {
        note_due(storage, tenant, id, at).await.map_err(|e| ApiError::store(&e))?;
    }
    let content = writer.flush(storage).await.map_err(|e| ApiError::store(&e))?.clone();
    file.value = File { filename, purpose, expires_at, content: Some(content), ..file.value.clone() };
    match stored::replace(storage, tenant, file).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(ApiError::busy("The upload took too long; upload the file again.", 1)),
        Err(error) => Err(ApiError::store(&error)),
    }
}

fn expires_after(anchor: Option<&str>, seconds: Option<&str>) -> Result<Option<i64>, ApiError> {
    let wrong = || {
        let (least, most) = KEPT.into_inner();
        let message = format!("'expires_after' is not {{anchor: 'created_at', seconds: {least} to {most}}}.");
        ApiError::invalid(Some("expires_after"), message)
    };
    match (anchor, seconds) {
        (None, None) => Ok(None),
        (Some("created_at"), Some(seconds)) => {
            seconds.parse().ok().filter(|seconds| KEPT.contains(seconds)).map(Some).ok_or_else(wrong)
        }
        (Some(_), _) | (None, Some(_)) => Err(wrong()),
    }
}

/// The next piece of a form.
async fn in_time<T>(next: impl Future<Output = multer::Result<T>>) -> Result<T, ApiError> {
    let next = tokio::time::timeout(NEXT_PIECE_WITHIN, next);
    match next.await.map_err(|_| ApiError::too_slow(NEXT_PIECE_WITHIN))? {
        Ok(piece) => Ok(piece),
        Err(multer::Error::FieldSizeExceeded { field_name: Some(name), .. }) if name != "file" => {
            Err(ApiError::invalid(Some(&name), format!("'{name}' is longer than {MAX_FIELD} bytes: shorten it.")))
        }
        Err(multer::Error::FieldSizeExceeded { .. }) => Err(too_large()),
        Err(error) => Err(ApiError::invalid(None, format!("The form can not be read: {error}."))),
    }
}

fn too_large() -> ApiError {
    ApiError::too_large(usize::try_from(MAX_BATCH_BYTES).unwrap_or(usize::MAX))
}

/// What a list is asked for by.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    after: Option<String>,
    limit: Option<u32>,
    order: Option<String>,
    purpose: Option<String>,
}

/// `GET /v1/files`
pub(crate) async fn list(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<axum::Json<Value>, ApiError> {
    let principal = authenticate(&ingress, &headers)?;
    let Query(wanted) = wanted?;
    let limit = limit(wanted.limit, MAX_LISTED, MAX_LISTED)?;
    let order = match wanted.order.as_deref() {
        None | Some("desc") => Order::Falling,
        Some("asc") => Order::Rising,
        Some(_) => return Err(ApiError::invalid(Some("order"), "'order' is neither 'asc' nor 'desc'.")),
    };
    let is_wanted = |file: &File| file.is_there() && wanted.purpose.as_ref().is_none_or(|p| *p == file.purpose);
    let mut found = Vec::new();
    let mut after = wanted.after.filter(|after| !after.is_empty());
    // One more tells that there are more.
    while found.len() <= limit {
        let page = stored::list::<File>(&ingress.storage, &principal.tenant, after.as_deref(), order, PAGE).await;
        let page = page.map_err(|e| ApiError::store(&e))?;
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        found.extend(page.into_iter().map(|stored| stored.value).filter(is_wanted).map(|file| to_json(&file)));
    }
    Ok(page_of(found, limit))
}

/// `GET /v1/files/{id}`
pub(crate) async fn retrieve(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<axum::Json<Value>, ApiError> {
    let principal = authenticate(&ingress, &headers)?;
    Ok(axum::Json(to_json(&own(&ingress, &principal.tenant, id).await?)))
}

/// `DELETE /v1/files/{id}`
pub(crate) async fn delete(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<axum::Json<Value>, ApiError> {
    let principal = authenticate(&ingress, &headers)?;
    let file = own(&ingress, &principal.tenant, id).await?;
    remove(&ingress.storage, &principal.tenant, &file).await.map_err(|e| ApiError::store(&e))?;
    Ok(axum::Json(json!({ "id": file.id, "object": "file", "deleted": true })))
}

/// The content first: without its description nobody would know of it.
async fn remove(storage: &Storage, tenant: &str, file: &File) -> Result<(), StorageError> {
    if let Some(content) = &file.content {
        content.delete(storage, tenant, &file.id).await?;
    }
    stored::delete::<File>(storage, At { tenant, id: &file.id }).await
}

/// `GET /v1/files/{id}/content`
pub(crate) async fn content(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let principal = authenticate(&ingress, &headers)?;
    let file = own(&ingress, &principal.tenant, id).await?;
    let content = file.content.unwrap_or_default();
    let hold = ingress.hold(2 * MAX_PART_BYTES)?;
    let parts = content.read(&ingress.storage, &principal.tenant, &file.id);
    // The place is kept as long as there is anything to send.
    let parts = parts.map(move |part| {
        let _place = &hold;
        part
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, content.bytes.to_string()),
    ];
    Ok((headers, Body::from_stream(parts)).into_response())
}

/// Deletes files whose time has come. `from` is how far earlier sweeps came: what is deleted still costs who reads
/// over it, for days.
pub(crate) async fn sweep(storage: &Storage, from: &mut Option<String>) -> Result<(), StorageError> {
    let now = format!("{:012}", now_seconds());
    let due = stored::list::<Due>(storage, SYSTEM_TENANT, from.as_deref(), Order::Rising, PAGE).await?;
    for Stored { id, value: Due { tenant, file_id }, .. } in due.into_iter().take_while(|due| due.id < now) {
        let at = At { tenant: &tenant, id: &file_id };
        let found = stored::read::<File>(storage, at).await?.map(|stored| stored.value);
        if let Some(mut file) = found.filter(|file| !file.is_there()) {
            // As much as an upload may have left that did not come to its end.
            file.content
                .get_or_insert_with(|| Content { bytes: 0, segments: vec![Segment { epoch: 0, parts: MOST_PARTS }] });
            remove(storage, &tenant, &file).await?;
        }
        stored::delete::<Due>(storage, At { tenant: SYSTEM_TENANT, id: &id }).await?;
        *from = Some(id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_file_has_so_many_parts() {
        assert_eq!(u64::from(MOST_PARTS), MAX_BATCH_BYTES.div_ceil(MAX_PART_BYTES as u64));
    }

    #[test]
    fn how_long_a_file_is_kept() {
        let check = |anchor, seconds, expected| assert_eq!(expires_after(anchor, seconds).ok(), expected);
        check(None, None, Some(None));
        check(Some("created_at"), Some("3600"), Some(Some(3_600)));
        check(Some("created_at"), Some("2592000"), Some(Some(2_592_000)));
        check(Some("created_at"), Some("3599"), None);
        check(Some("created_at"), Some("1e4"), None);
        check(Some("created_at"), None, None);
        check(Some("last_used"), Some("3600"), None);
        check(None, Some("3600"), None);
    }
}
