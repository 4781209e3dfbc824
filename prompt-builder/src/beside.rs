//! Bodies that are not in their records: those of requests are read, those of prompts are written.

use std::time::Duration;

use millrace_admission::Admission;
use millrace_files::{Bodies, Room, bodies};
use millrace_schemas::{Ended, Prompt, Request, derived_uuid, time_until};
use millrace_stage::core::{Backoff, jitter};
use millrace_stage::{Received, StageError};
use millrace_storage::StorageError;

use crate::stage::stage_error;

/// How much longer than its deadline a prompt's body is kept: nobody asks a model about it then.
const AFTER_DEADLINE: Duration = Duration::from_secs(3_600);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// What lies beside the records that are read and written here.
pub(crate) struct Aside {
    pub bodies: Bodies,
    /// The largest body that is in its record.
    pub inline_bytes: usize,
}

impl Aside {
    /// Puts the body that a request names in its place. The room that it takes is held until the prompt is written.
    ///
    /// # Errors
    /// [`StageError`] while the store does not answer. Inside, how the request ends whose body can not be had.
    pub async fn fetch(
        &self,
        admission: &Admission,
        tenant: &str,
        request: &mut Request,
    ) -> Result<Result<Option<Room>, Ended>, StageError> {
        let Some(name) = request.body_file.clone() else { return Ok(Ok(None)) };
        if !request.body.is_empty() {
            return Ok(Err(two_bodies()));
        }
        // What its key is held to for as long as it is not known what it names.
        request.body = name.clone().into_bytes();
        let Some(beside) = self.bodies.find(tenant, &name).await.map_err(stage_error)? else {
            return Ok(Err(not_there(&name)));
        };
        if let Err(ended) = admission.check_length(request, beside.bytes()) {
            return Ok(Err(ended));
        }
        let room = self.bodies.room(beside.bytes()).await;
        let Some(body) = self.bodies.read(tenant, &beside).await.map_err(stage_error)? else {
            return Ok(Err(not_there(&name)));
        };
        request.body = body;
        Ok(Ok(room))
    }

    /// Puts the body of a prompt beside it that is too large for its record. One that its request named, and that is
    /// still the same, is there already.
    ///
    /// # Errors
    /// [`StageError`] while the store does not answer and nothing was paid for the prompt.
    pub async fn put(&self, record: &Received, mut prompt: Prompt, named: Option<&str>) -> Result<Prompt, StageError> {
        let Some(body) = prompt.body.take_if(|body| body.len() > self.inline_bytes) else { return Ok(prompt) };
        if let Some(named) = named.filter(|named| bodies::is_named(named, &body)) {
            return Ok(Prompt { body_file: Some(named.to_owned()), ..prompt });
        }
        let name = bodies::name(derived_uuid(&["prompt", &record.at.to_string()]), &body);
        let (tenant, deadline) = (prompt.meta.tenant.as_str(), prompt.meta.deadline);
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            let left = time_until(deadline).unwrap_or_default();
            match self.bodies.keep(tenant, &name, &body, left + AFTER_DEADLINE).await {
                Ok(()) => return Ok(Prompt { body_file: Some(name), ..prompt }),
                // A retry of the record would pay again.
                Err(StorageError::Outage(error)) if !prompt.bill.is_empty() => {
                    let delay = backoff.next(jitter(), None);
                    if delay >= left {
                        return Ok(Prompt { ended: Some(Ended::expired(TOO_LATE)), ..prompt });
                    }
                    tracing::warn!(at = %record.at, error, ?delay, "a prompt's body is written again");
                    tokio::time::sleep(delay).await;
                }
                Err(error) => return Err(stage_error(error)),
            }
        }
    }
}

const TOO_LATE: &str = "The deadline passed before the prompt could be kept: send it again with a later one.";

fn two_bodies() -> Ended {
    let message = "The record has a body and names a file with one: leave 'body' empty, or 'body_file' out.";
    Ended::invalid("invalid_body_file", Some("body_file"), message)
}

fn not_there(name: &str) -> Ended {
    let shown: String = name.chars().take(64).collect();
    let message = format!(
        "There is no file '{shown}', or not any more: upload the body to /v1/files as JSON and name the file that is \
         made of it."
    );
    Ended { http_status: 404, ..Ended::invalid("body_file_not_found", Some("body_file"), message) }
}
