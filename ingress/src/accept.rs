//! Accepting a request: judge, write, wait for the broker's word; then wait for the outcome.

use std::time::{Duration, Instant};

use millrace_admission::{Admitted, Arrival, EditableBody, Principal, Stream};
use millrace_budgets::{Caller, Standing};
use millrace_files::bodies;
use millrace_schemas::{Codec, Lane, Outcome, Request, SIGNATURE_HEADER, derived_uuid, now_micros, time_until, topics};
use millrace_stage::{Outgoing, ProduceError, To};

use crate::error::ApiError;
use crate::limits::Granted;
use crate::replies::Waiter;
use crate::retry::Retries;
use crate::run::Ingress;
use crate::together::partition_of;
use crate::{limits, outcome};

/// First and longest time between two looks into the store while a client waits.
const STORE_POLL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// What is kept for as long as a request may be answered is kept so much longer.
const AFTER_DEADLINE: Duration = Duration::from_secs(3_600);

/// After its deadline a request ends as soon as somebody looks at it.
const LATE: Duration = Duration::from_secs(30);

/// A request that the broker has acknowledged.
pub(crate) struct Accepted {
    pub waiter: Waiter,
    /// How its answer is to be streamed.
    pub stream: Option<Stream>,
    /// How long its client is held.
    pub patience: Duration,
    /// When its client asked, microseconds since the epoch.
    pub since: i64,
    /// When the store is asked for the first time: at once where the outcome may be there.
    pub first_look: Duration,
    /// What it took of its limits.
    pub granted: Granted,
    /// What was left of its budgets when it came.
    pub budget: Option<Standing>,
}

impl Accepted {
    /// The headers that tell a client what is left of its limits and budgets.
    pub fn left(&self) -> Vec<(&'static str, String)> {
        let budget = self.budget.as_ref().map(|budget| {
            let left = outcome::format_nanos(budget.remaining_nanos, &budget.currency);
            ("x-millrace-budget-remaining", left)
        });
        limits::headers(&self.granted.standing).into_iter().chain(budget).collect()
    }
}

impl Ingress {
    /// Judges and writes a request; the waiter is there before the record is.
    ///
    /// # Errors
    /// [`ApiError`]: not accepted, or unknown.
    pub(crate) async fn accept(
        &self,
        principal: &Principal,
        mut request: Request,
        trace: &str,
    ) -> Result<Accepted, ApiError> {
        let now = now_micros();
        let arrival = Arrival { lane: Lane::Interactive, at: None, timestamp: None, now, run: 0 };
        let body = std::mem::take(&mut request.body);
        // It will lie beside its record, under a name that it gets with its id.
        let is_beside = body.len() > self.inline_bytes;
        request.body_file = is_beside.then(String::new);
        let judged = Request { body: body.clone(), ..request.clone() };
        let settings = self.settings.now();
        let admitted = settings
            .admission
            .admit(principal, judged, &arrival)
            // No record is written, so its id would name nothing.
            .map_err(|rejected| ApiError::from(rejected.ended))?;
        let mut granted = self.grant(principal, &settings.admission, &admitted).await?;
        let Admitted { meta, stream, .. } = admitted;
        let caller = Caller { tenant: &meta.tenant, user: &meta.user, key_id: meta.key_id.as_deref() };
        let budget = self.budgets.tightest(caller);
        // A key may name a request that was answered long ago, which costs nothing: the router decides.
        if request.idempotency_key.is_none() {
            self.is_not_used_up(budget.as_ref())?;
        }
        let left = time_until(meta.deadline).unwrap_or_default();
        let patience = self.wait.min(left);
        self.pressure.let_in(&meta.tenant, patience).map_err(|overload| self.shed(overload))?;
        // The same for each request with the same key and body, so that it is there once.
        let name = || bodies::name(derived_uuid(&["body", &meta.tenant, &meta.request_id]), &body);
        request.body_file = is_beside.then(name);
        let body = match &request.body_file {
            Some(name) => {
                // Whatever becomes of the record, there is none without its body.
                let kept = self.body_kept.max(left + AFTER_DEADLINE);
                let stored = bodies::keep(&self.storage, &meta.tenant, name, &body, kept).await;
                stored.map_err(|error| ApiError::store(&error))?;
                Vec::new()
            }
            None => body,
        };
        let request = Request {
            body,
            request_id: Some(meta.request_id.clone()),
            received_at: Some(meta.received_at),
            deadline: Some(meta.deadline),
            // Where nobody waits the outcome still says what was used; chunks would say nothing to anybody.
            reply_replica: request
                .reply_replica
                .or_else(|| (granted.counts_tokens && stream.is_none()).then(|| self.replica.clone())),
            // The record is signed by a key, which knows nothing of a token's user.
            user: request.user.or_else(|| principal.user.clone()),
            ..request
        };
        let has_key = request.idempotency_key.is_some();
        let value = self.encode(&request)?;
        let waiter = self.waiters.wait(&meta.request_id, stream.is_some());
        let (topic, count) = self.partitions(Lane::Interactive).await?;
        // All with the same key go to one partition.
        let partition = match has_key {
            true => partition_of(&meta.request_id, count),
            false => self.together.partition(&meta.request_id, count, Instant::now()),
        };
        let record = Outgoing::new(topic, meta.request_id.as_bytes(), value).to(To::Partition(partition));
        granted.hand_over(&self.unsettled, &meta);
        let written = self.write(principal, record, &meta.request_id, &meta.tenant, has_key, trace).await;
        if written.as_ref().is_err_and(ApiError::is_certain) {
            self.unsettled.give_back(&meta.request_id, meta.received_at);
        }
        written?;
        // A stream that is open is kept open for as long as there is anything to wait for.
        let patience = if stream.is_some() { left + LATE } else { self.wait };
        Ok(Accepted { waiter, stream, patience, since: meta.received_at, first_look: STORE_POLL.0, granted, budget })
    }

    /// Whether a document's embeddings may be paid for.
    ///
    /// # Errors
    /// [`ApiError`]: a budget is used up.
    pub(crate) fn has_budget_for(&self, principal: &Principal, user: &str) -> Result<(), ApiError> {
        let caller = Caller { tenant: &principal.tenant, user, key_id: principal.key_id.as_deref() };
        self.is_not_used_up(self.budgets.tightest(caller).as_ref())
    }

    fn is_not_used_up(&self, budget: Option<&Standing>) -> Result<(), ApiError> {
        match budget.filter(|standing| standing.is_used_up()) {
            Some(standing) => {
                self.budgets.refused_at_the_door();
                Err(ApiError::budget_used_up(standing))
            }
            None => Ok(()),
        }
    }

    /// The topic of a lane's requests, and how many partitions it has.
    ///
    /// # Errors
    /// [`ApiError`] when the broker does not answer.
    pub(crate) async fn partitions(&self, lane: Lane) -> Result<(String, i32), ApiError> {
        let topic = topics::of(topics::REQUESTS, lane);
        let count = self.producer.partitions(&topic).await.map_err(|error| {
            tracing::warn!(%error, "the broker does not answer");
            ApiError::busy("The broker does not answer; nothing was accepted, try again.", 1)
        })?;
        Ok((topic, count))
    }

    /// [`accept`](Self::accept), unless the request is running already because its client sends it again.
    pub(crate) async fn accept_or_join(
        &self,
        principal: &Principal,
        request: Request,
        retries: &Retries,
        trace: &str,
    ) -> Result<Accepted, ApiError> {
        let Some(running) = self.retried(retries).await else { return self.accept(principal, request, trace).await };
        // It was accepted with this body, so it can be read.
        let body = String::from_utf8(request.body).ok().and_then(EditableBody::parse);
        let stream = body.and_then(|body| Stream::read(&body).ok()).flatten();
        tracing::debug!(request_id = running, "a retry joins the request that is running");
        let waiter = self.waiters.wait(&running, stream.is_some());
        Ok(Accepted {
            waiter,
            stream,
            patience: self.wait,
            since: now_micros(),
            first_look: Duration::ZERO,
            granted: Granted::default(),
            budget: None,
        })
    }

    /// Writes a signed record and waits for the broker's acknowledgement.
    pub(crate) async fn write(
        &self,
        principal: &Principal,
        record: Outgoing,
        request_id: &str,
        tenant: &str,
        has_key: bool,
        trace: &str,
    ) -> Result<(), ApiError> {
        let signature = self.directory().sign(principal, &record.value).ok_or_else(ApiError::unauthorized)?;
        let headers = [
            (SIGNATURE_HEADER, signature.as_str()),
            ("request_id", request_id),
            ("tenant", tenant),
            ("traceparent", trace),
        ];
        match self.producer.send(&record, 0, &headers).await {
            Ok(()) => Ok(()),
            Err(error @ (ProduceError::Unknown | ProduceError::Fatal(_))) => {
                tracing::warn!(%error, request_id, "whether a request was written is not known");
                Err(ApiError::unknown(request_id, has_key))
            }
            Err(error @ ProduceError::Refused { .. }) => {
                tracing::warn!(%error, request_id, "a request could not be written");
                Err(ApiError::busy("The broker refuses the request; nothing was accepted, try again.", 1))
            }
        }
    }

    /// Waits for the outcome: from `replies`, and now and then from the store.
    ///
    /// # Errors
    /// [`ApiError`] when the time is over.
    pub(crate) async fn outcome(&self, accepted: Accepted, tenant: &str, body_hash: &str) -> Result<Outcome, ApiError> {
        let request_id = accepted.waiter.request_id().to_owned();
        let outcome = self.any_outcome(accepted, tenant).await?;
        match &outcome.meta.body_hash {
            Some(theirs) if theirs != body_hash => Err(ApiError::key_reused(&request_id)),
            Some(_) | None => Ok(outcome),
        }
    }

    /// [`outcome`](Self::outcome), whatever was asked.
    pub(crate) async fn any_outcome(&self, accepted: Accepted, tenant: &str) -> Result<Outcome, ApiError> {
        let Accepted { mut waiter, patience, first_look, granted: _granted, .. } = accepted;
        let request_id = waiter.request_id().to_owned();
        let request_id = request_id.as_str();
        self.metrics.waiting.inc();
        let _waiting = Waiting(self);
        let from_replies = async { (&mut waiter.outcome).await.ok() };
        let found = tokio::select! {
            Some(bytes) = from_replies => Some(bytes),
            bytes = self.stored_answer(tenant, request_id, first_look) => Some(bytes),
            () = tokio::time::sleep(patience) => None,
            () = self.draining.cancelled() => None,
        };
        let bytes = found.ok_or_else(|| ApiError::still_running(request_id))?;
        let outcome = decode(&self.codec, &bytes).await?;
        self.unsettled.settle(&outcome);
        Ok(outcome)
    }

    async fn stored_answer(&self, tenant: &str, request_id: &str, first: Duration) -> Vec<u8> {
        let mut pause = first;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).clamp(STORE_POLL.0, STORE_POLL.1);
            match self.storage.results.get(tenant, request_id).await {
                Ok(Some(outcome)) => return outcome,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the result store does not answer"),
            }
        }
    }

    pub(crate) fn encode<E: millrace_schemas::Event>(&self, event: &E) -> Result<Vec<u8>, ApiError> {
        self.codec.encode(event).map_err(|error| {
            tracing::error!(%error, "an event does not fit its schema");
            ApiError::busy("The request can not be written; tell the operator.", 60)
        })
    }
}

/// Reads a stored outcome.
pub(crate) async fn decode(codec: &Codec, bytes: &[u8]) -> Result<Outcome, ApiError> {
    codec.decode(bytes).await.map_err(|error| {
        tracing::error!(%error, "a stored outcome can not be read");
        ApiError::busy("The outcome is stored and can not be read now; ask again.", 5)
    })
}

struct Waiting<'a>(&'a Ingress);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.metrics.waiting.dec();
    }
}
