//! `/v1/batches`: what a batch is, and the routes.
//!
//! ```text
//! worker.rs   which replica works on which batch
//! run.rs      a batch in its hands: validated, published, collected
//! day.rs      what it takes of the day's tokens
//! judge.rs    whether its file may be worked on
//! output.rs   the lines of its files
//! end.rs      its files and its end, and how every step is stored
//! tell.rs     its end, told to endpoints
//! ```

mod day;
mod end;
mod judge;
mod output;
mod run;
mod tell;
pub(crate) mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use millrace_admission::{Principal, SYSTEM_TENANT, batch_operation};
use millrace_files::stored::{self, At, Kind, Stored};
use millrace_files::{Content, find, now_seconds};
use millrace_schemas::body_hash;
use millrace_storage::{Claim, Claimed, Order};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::files::{self, KEPT, fresh_id, shown};
use crate::lists::{limit, page_of};
use crate::posted::Posted;
use crate::routes::{authenticate, text};
use crate::run::Ingress;

const MAX_METADATA: usize = 16;
const MAX_METADATA_KEY: usize = 64;
const MAX_METADATA_VALUE: usize = 512;
const LISTED: u32 = 20;
const MAX_LISTED: u32 = 100;

/// Where a batch stands, in OpenAI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// Nothing changes any more.
    pub(crate) fn is_final(self) -> bool {
        match self {
            Self::Failed | Self::Completed | Self::Expired | Self::Cancelled => true,
            Self::Validating | Self::InProgress | Self::Finalizing | Self::Cancelling => false,
        }
    }
}

/// Who works on a batch, until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub owner: String,
    /// Milliseconds since the epoch.
    pub until: i64,
}

/// What is wrong with a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchError {
    pub code: String,
    pub line: Option<u32>,
    pub message: String,
    pub param: Option<String>,
}

/// What the answers used, in tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchUsage {
    pub input: i64,
    pub cached: i64,
    pub output: i64,
    pub reasoning: i64,
}

/// One of the two files that a batch writes. Its name is given at the beginning, and shown at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Output {
    pub file_id: String,
    pub content: Content,
}

/// A batch as it is stored. Everything that a worker must know to go on where another one stopped changes at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub id: String,
    pub principal: Asker,
    pub endpoint: String,
    pub input_file_id: String,
    pub completion_window: String,
    pub metadata: Option<BTreeMap<String, String>>,
    /// Seconds from the end on.
    pub output_kept: Option<i64>,
    pub status: Status,
    /// Seconds since the epoch, all of them.
    pub created_at: i64,
    pub expires_at: i64,
    pub in_progress_at: Option<i64>,
    pub finalizing_at: Option<i64>,
    pub completed_at: Option<i64>,
    pub failed_at: Option<i64>,
    pub expired_at: Option<i64>,
    pub cancelling_at: Option<i64>,
    pub cancelled_at: Option<i64>,
    pub errors: Vec<BatchError>,
    pub total: u32,
    pub completed: u32,
    pub failed: u32,
    /// Of the failed ones, those that were too late.
    pub expired: u32,
    pub usage: BatchUsage,
    pub model: Option<String>,
    pub output: Output,
    pub error: Output,
    pub lease: Option<Lease>,
    /// Counts the workers; the parts that one writes bear it.
    pub epoch: u32,
    /// Lines, by their place among those that are not blank, before this one have been published.
    pub published: u32,
    /// Of those, the ones that are in neither file yet.
    pub outstanding: Vec<u32>,
}

impl Kind for Batch {
    const KIND: &'static str = "batch";
}

/// Whose batch it is: the key that made it pays for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Asker {
    pub tenant: String,
    pub user: Option<String>,
    pub key_id: Option<String>,
}

impl Asker {
    pub(crate) fn principal(&self) -> Principal {
        let Self { tenant, user, key_id } = self.clone();
        Principal { tenant, user, key_id, admin: false, token: None }
    }
}

/// That there is something to do for a batch; of the system tenant, named as the batch.
#[derive(Serialize, Deserialize)]
pub(crate) struct Work {
    pub tenant: String,
}

impl Kind for Work {
    const KIND: &'static str = "batch-work";
}

impl Batch {
    pub(crate) fn to_json(&self) -> Value {
        let is_final = self.status.is_final();
        let file = |output: &Output| (is_final && output.content.bytes > 0).then(|| output.file_id.clone());
        let usage = &self.usage;
        json!({
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": (!self.errors.is_empty()).then(|| json!({ "object": "list", "data": self.errors })),
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status.as_str(),
            "output_file_id": file(&self.output),
            "error_file_id": file(&self.error),
            "created_at": self.created_at,
            "in_progress_at": self.in_progress_at,
            "expires_at": self.expires_at,
            "finalizing_at": self.finalizing_at,
            "completed_at": self.completed_at,
            "failed_at": self.failed_at,
            "expired_at": self.expired_at,
            "cancelling_at": self.cancelling_at,
            "cancelled_at": self.cancelled_at,
            "request_counts": { "total": self.total, "completed": self.completed, "failed": self.failed },
            "usage": {
                "input_tokens": usage.input,
                "input_tokens_details": { "cached_tokens": usage.cached },
                "output_tokens": usage.output,
                "output_tokens_details": { "reasoning_tokens": usage.reasoning },
                "total_tokens": usage.input + usage.output,
            },
            "metadata": self.metadata,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBatch {
    input_file_id: String,
    endpoint: String,
    completion_window: String,
    metadata: Option<BTreeMap<String, String>>,
    output_expires_after: Option<ExpiresAfter>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpiresAfter {
    anchor: String,
    seconds: i64,
}

impl NewBatch {
    fn read(body: &[u8], longest_window: i64) -> Result<(Self, i64), ApiError> {
        let new: Self = serde_json::from_slice(body).map_err(|error| {
            let shape = "{input_file_id, endpoint, completion_window, metadata?, output_expires_after?}";
            ApiError::invalid(None, format!("The body is not {shape}: {error}."))
        })?;
        if batch_operation(&new.endpoint).is_none() {
            let message =
                format!("'{}' takes no batches: use '/v1/chat/completions' or '/v1/embeddings'.", shown(&new.endpoint));
            return Err(ApiError::invalid(Some("endpoint"), message));
        }
        let window = window(&new.completion_window).filter(|seconds| (1..=longest_window).contains(seconds));
        let window = window.ok_or_else(|| {
            let message = format!(
                "'completion_window' is not a time such as '24h' or '30m', of at most {} hours.",
                longest_window / 3_600
            );
            ApiError::invalid(Some("completion_window"), message)
        })?;
        if let Some(ExpiresAfter { anchor, seconds }) = &new.output_expires_after
            && (anchor != "created_at" || !KEPT.contains(seconds))
        {
            let (least, most) = KEPT.into_inner();
            let message =
                format!("'output_expires_after' is not {{anchor: 'created_at', seconds: {least} to {most}}}.");
            return Err(ApiError::invalid(Some("output_expires_after"), message));
        }
        for (key, value) in new.metadata.iter().flatten() {
            if key.chars().count() > MAX_METADATA_KEY || value.chars().count() > MAX_METADATA_VALUE {
                let message = format!(
                    "A key of 'metadata' has at most {MAX_METADATA_KEY} characters, its value {MAX_METADATA_VALUE}."
                );
                return Err(ApiError::invalid(Some("metadata"), message));
            }
        }
        if new.metadata.as_ref().is_some_and(|metadata| metadata.len() > MAX_METADATA) {
            return Err(ApiError::invalid(Some("metadata"), format!("'metadata' has at most {MAX_METADATA} keys.")));
        }
        Ok((new, window))
    }
}

/// Seconds of a time such as `24h`.
fn window(text: &str) -> Option<i64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<i64>().ok()?.checked_mul(seconds))?
}

/// `POST /v1/batches`
pub(crate) async fn create(State(ingress): State<Arc<Ingress>>, request: Request) -> Result<Response, ApiError> {
    let Posted { principal, headers, body, hold: _hold } = ingress.receive_only(request).await?;
    let (new, window) = NewBatch::read(&body, ingress.longest_window)?;
    let storage = &ingress.storage;
    let tenant = principal.tenant.as_str();
    let input = find(storage, tenant, &new.input_file_id).await.map_err(|e| ApiError::store(&e))?;
    let input = input.ok_or_else(|| {
        let message = format!("There is no file '{}': upload one with the purpose 'batch'.", shown(&new.input_file_id));
        ApiError::invalid(Some("input_file_id"), message)
    })?;
    if input.purpose != files::BATCH {
        let message =
            format!("The file's purpose is '{}': upload it again with the purpose 'batch'.", shown(&input.purpose));
        return Err(ApiError::invalid(Some("input_file_id"), message));
    }
    let id = named(&ingress, &principal, &headers, &body).await?;
    let at = At { tenant, id: &id };
    let now = now_seconds();
    let output = || Output { file_id: fresh_id("file-"), content: Content::default() };
    let batch = Batch {
        id: id.clone(),
        principal: Asker { tenant: tenant.to_owned(), user: principal.user.clone(), key_id: principal.key_id.clone() },
        endpoint: new.endpoint,
        input_file_id: input.id,
        completion_window: new.completion_window,
        metadata: new.metadata,
        output_kept: new.output_expires_after.map(|after| after.seconds),
        status: Status::Validating,
        created_at: now,
        expires_at: now + window,
        in_progress_at: None,
        finalizing_at: None,
        completed_at: None,
        failed_at: None,
        expired_at: None,
        cancelling_at: None,
        cancelled_at: None,
        errors: Vec::new(),
        total: 0,
        completed: 0,
        failed: 0,
        expired: 0,
        usage: BatchUsage::default(),
        model: None,
        output: output(),
        error: output(),
        lease: None,
        epoch: 0,
        published: 0,
        outstanding: Vec::new(),
    };
    // First that there is work: a batch that nobody knows of would wait for ever.
    let work = Work { tenant: tenant.to_owned() };
    stored::create(storage, At { tenant: SYSTEM_TENANT, id: &id }, &work).await.map_err(|e| ApiError::store(&e))?;
    if stored::create(storage, at, &batch).await.map_err(|e| ApiError::store(&e))? {
        return Ok(axum::Json(batch.to_json()).into_response());
    }
    let found = stored::read::<Batch>(storage, at).await.map_err(|e| ApiError::store(&e))?;
    Ok(axum::Json(found.map_or(batch, |found| found.value).to_json()).into_response())
}

/// The id of a new batch, or of the one that was made with the same key.
async fn named(ingress: &Ingress, principal: &Principal, headers: &HeaderMap, body: &[u8]) -> Result<String, ApiError> {
    let id = fresh_id("batch_");
    let Some(key) = text(headers, "idempotency-key")? else { return Ok(id) };
    let claim = Claim { request_id: id.clone(), coordinates: id.clone(), body_hash: body_hash(body) };
    // No request's key: those have no blank in front.
    let key = format!(" batch {key}");
    match ingress.storage.keys.claim(&principal.tenant, &key, &claim).await.map_err(|e| ApiError::store(&e))? {
        Claimed::Ours => Ok(id),
        Claimed::Theirs(theirs) if theirs.body_hash == claim.body_hash => Ok(theirs.request_id),
        Claimed::Theirs(theirs) => Err(ApiError::key_reused(&theirs.request_id)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    after: Option<String>,
    limit: Option<u32>,
}

/// `GET /v1/batches`
pub(crate) async fn list(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<axum::Json<Value>, ApiError> {
    let principal = authenticate(&ingress, &headers)?;
    let Query(wanted) = wanted?;
    let limit = limit(wanted.limit, LISTED, MAX_LISTED)?;
    let after = wanted.after.as_deref().filter(|after| !after.is_empty());
    let more = u32::try_from(limit + 1).unwrap_or(MAX_LISTED);
    let found = stored::list::<Batch>(&ingress.storage, &principal.tenant, after, Order::Falling, more).await;
    let found = found.map_err(|e| ApiError::store(&e))?;
    Ok(page_of(found.into_iter().map(|stored| stored.value.to_json()).collect(), limit))
}

/// `GET /v1/batches/{id}`
pub(crate) async fn retrieve(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<axum::Json<Value>, ApiError> {
    let principal = authenticate(&ingress, &headers)?;
    Ok(axum::Json(own(&ingress, &principal.tenant, id).await?.value.to_json()))
}

/// `POST /v1/batches/{id}/cancel`
pub(crate) async fn cancel(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<axum::Json<Value>, ApiError> {
    let principal = authenticate(&ingress, &headers)?;
    let id = id.map(|Path(id)| id);
    loop {
        let id = id.as_ref().map(|id| Path(id.clone())).map_err(|_| no_batch(""))?;
        let mut stored = own(&ingress, &principal.tenant, Ok(id)).await?;
        match stored.value.status {
            Status::Validating | Status::InProgress => {
                stored.value.status = Status::Cancelling;
                stored.value.cancelling_at = Some(now_seconds());
            }
            Status::Cancelling => return Ok(axum::Json(stored.value.to_json())),
            Status::Failed | Status::Finalizing | Status::Completed | Status::Expired | Status::Cancelled => {
                let message = format!("Cannot cancel a batch with status '{}'.", stored.value.status.as_str());
                return Err(ApiError::invalid(None, message));
            }
        }
        // Its worker writes it, too, and reads what was changed meanwhile.
        let replaced = stored::replace(&ingress.storage, &principal.tenant, &mut stored).await;
        if replaced.map_err(|e| ApiError::store(&e))? {
            return Ok(axum::Json(stored.value.to_json()));
        }
    }
}

fn no_batch(id: &str) -> ApiError {
    ApiError::not_found(format!("No batch found with id '{}'.", shown(id)))
}

async fn own(
    ingress: &Ingress,
    tenant: &str,
    id: Result<Path<String>, PathRejection>,
) -> Result<Stored<Batch>, ApiError> {
    let Ok(Path(id)) = id else { return Err(no_batch("")) };
    let found = stored::read::<Batch>(&ingress.storage, At { tenant, id: &id }).await;
    found.map_err(|e| ApiError::store(&e))?.ok_or_else(|| no_batch(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_times() {
        for (text, seconds) in [("24h", Some(86_400)), ("5s", Some(5)), ("7d", Some(604_800)), ("0m", Some(0))] {
            assert_eq!(window(text), seconds, "{text}");
        }
        for text in ["", "h", "24", "-1h", "1.5h", "24 h", "99999999999999999999h", "9223372036854775807d", "1é"] {
            assert_eq!(window(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_batch_is_said() {
        let check = |change: Value, param: Option<&str>| {
            let mut body =
                json!({ "input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h" });
            for (key, value) in change.as_object().into_iter().flatten() {
                body[key] = value.clone();
            }
            let read = NewBatch::read(body.to_string().as_bytes(), 86_400);
            let found = read.map(|(_, window)| window).map_err(|error| error.to_json()["error"]["param"].clone());
            match param {
                None => assert_eq!(found, Ok(86_400), "{change}"),
                Some(param) => assert_eq!(found, Err(json!(param)), "{change}"),
            }
        };
        check(json!({ "metadata": { "a": "b" } }), None);
        check(json!({ "endpoint": "/v1/models" }), Some("endpoint"));
        check(json!({ "completion_window": "25h" }), Some("completion_window"));
        check(json!({ "metadata": { "a": "b".repeat(513) } }), Some("metadata"));
        check(
            json!({ "output_expires_after": { "anchor": "created_at", "seconds": 1 } }),
            Some("output_expires_after"),
        );
    }
}
