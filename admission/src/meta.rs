//! Everything about a request but its body: its id, user, deadline, labels and where answers go.
//!
//! What can not be accepted is left out of the [`Meta`] and told as the first refusal, so that the
//! request still ends as an outcome.

use std::collections::BTreeMap;

use millrace_config::LimitsConfig;
use millrace_schemas::{Coordinates, Ended, Lane, Meta, Operation, Request, RequestId, body_hash};

use crate::directory::{DEFAULT_USER, Directory, Principal, SYSTEM_TENANT};

const MAX_IDEMPOTENCY_KEY: usize = 255;
const MAX_USER: usize = 128;
const MAX_LABELS: usize = 16;
const MAX_LABEL_NAME: usize = 64;
const MAX_LABEL_VALUE: usize = 256;

/// How and when a request came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The lane it travels in.
    pub lane: Lane,
    /// Where the record lies; `None` at the HTTP door, before there is a record.
    pub at: Option<&'a Coordinates>,
    /// The record's timestamp, milliseconds since the epoch; `None` for now.
    pub timestamp: Option<i64>,
    /// Microseconds since the epoch.
    pub now: i64,
    /// 0, or which run it is that an operator asked for: at the time of `timestamp`, from which on the
    /// lane's own deadline counts, whatever the request named when it was new.
    pub run: i32,
}

/// A request that ends here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Who asked, as far as it could be read; always with an id of its own tenant.
    pub meta: Meta,
    /// How it ends.
    pub ended: Ended,
    /// The model that it names, if it names one.
    pub model: String,
    /// The tenant's rule set.
    pub rule_set: String,
    /// False for a sound request whose deadline passed while it waited: that is nobody's mistake
    /// and no dead letter.
    pub dead_letter: bool,
}

/// What [`read`] found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub ended: Ended,
    pub dead_letter: bool,
}

impl From<Ended> for Wrong {
    fn from(ended: Ended) -> Self {
        Self { ended, dead_letter: true }
    }
}

/// Reads the meta of a request and the first thing wrong with it.
pub(crate) fn read(
    principal: &Principal,
    directory: &Directory,
    limits: &LimitsConfig,
    request: &Request,
    arrival: &Arrival<'_>,
) -> (Meta, Option<Wrong>) {
    let mut wrong = None;
    let mut note = |found: Wrong| {
        wrong.get_or_insert(found);
    };
    let key = request.idempotency_key.as_deref().and_then(|key| idempotency_key(key).map_err(|e| note(e.into())).ok());
    let id = identify(&principal.tenant, key, request.request_id.as_deref(), arrival).unwrap_or_else(|ended| {
        note(ended.into());
        own_id(&principal.tenant, arrival)
    });
    let user = user(principal, directory, request.user.as_deref()).unwrap_or_else(|ended| {
        note(ended.into());
        principal.user.clone().unwrap_or_else(|| DEFAULT_USER.to_owned())
    });
    if let Err(ended) = check_labels(&request.labels) {
        note(ended.into());
    }
    let reply_topic = request.reply_topic.clone().filter(|topic| {
        let standing = directory.standing(principal);
        let allowed = standing.is_some_and(|standing| standing.tenant.reply_topics.contains(topic));
        if !allowed {
            let message = format!(
                "The reply topic '{}' is not on the list of this tenant: use one of its `reply_topics`.",
                cut(topic, 249)
            );
            note(Ended::invalid("reply_topic_not_allowed", Some("reply_topic"), message).into());
        }
        allowed
    });
    let received_at = received_at(request, arrival);
    let named = request.deadline.filter(|_| arrival.run == 0);
    let (deadline, late) = deadline(named, received_at, limits, arrival);
    late.into_iter().for_each(&mut note);
    let meta = Meta {
        request_id: id.into_string(),
        run: arrival.run,
        tenant: principal.tenant.clone(),
        user,
        key_id: principal.key_id.clone(),
        lane: arrival.lane,
        operation: cut(&request.operation, 64),
        idempotency_key: key.map(str::to_owned),
        body_hash: key.map(|_| body_hash(&request.body)),
        received_at,
        deadline,
        // Whoever waited for the first run was told how it ended.
        reply_replica: request.reply_replica.clone().filter(|replica| replica.len() <= 255 && arrival.run == 0),
        reply_topic,
        labels: if check_labels(&request.labels).is_ok() { request.labels.clone() } else { BTreeMap::new() },
    };
    (meta, wrong)
}

/// The meta of a record within the arrow that can not be read: what its headers name is all there is.
#[must_use]
pub fn meta_of_unreadable(tenant: Option<&str>, request_id: Option<&str>, arrival: &Arrival<'_>) -> Meta {
    let tenant = tenant.filter(|tenant| !tenant.is_empty());
    let (tenant, user) = tenant.map_or((SYSTEM_TENANT, SYSTEM_TENANT), |tenant| (tenant, DEFAULT_USER));
    let stamped = arrival.timestamp.unwrap_or(arrival.now / 1_000);
    Meta {
        request_id: request_id
            .and_then(|id| RequestId::parse(tenant, id))
            .unwrap_or_else(|| own_id(tenant, arrival))
            .into_string(),
        run: arrival.run,
        tenant: tenant.to_owned(),
        user: user.to_owned(),
        key_id: None,
        lane: arrival.lane,
        operation: Operation::Chat.to_string(),
        idempotency_key: None,
        body_hash: None,
        received_at: stamped.saturating_mul(1_000),
        deadline: stamped,
        reply_replica: None,
        reply_topic: None,
        labels: BTreeMap::new(),
    }
}

/// The id of a request: that of its key, else the one it was given, else that of its place.
fn identify(tenant: &str, key: Option<&str>, given: Option<&str>, arrival: &Arrival<'_>) -> Result<RequestId, Ended> {
    match (key, given) {
        (Some(key), _) => Ok(RequestId::of_key(tenant, key)),
        (None, Some(given)) => RequestId::parse(tenant, given).ok_or_else(|| {
            let message = "The request id was never given out to this tenant: leave it out and Millrace gives one.";
            Ended::invalid("invalid_request_id", Some("request_id"), message)
        }),
        (None, None) => Ok(own_id(tenant, arrival)),
    }
}

/// An id that no other record can have.
pub(crate) fn own_id(tenant: &str, arrival: &Arrival<'_>) -> RequestId {
    arrival.at.map_or_else(|| RequestId::fresh(tenant), |at| RequestId::of_coordinates(tenant, at))
}

fn idempotency_key(key: &str) -> Result<&str, Ended> {
    let length = key.chars().count();
    if (1..=MAX_IDEMPOTENCY_KEY).contains(&length) {
        return Ok(key);
    }
    let message =
        format!("The idempotency key has {length} characters: use 1 to {MAX_IDEMPOTENCY_KEY}, for example a UUID.");
    Err(Ended::invalid("invalid_idempotency_key", Some("idempotency_key"), message))
}

/// The user that a request or document is accounted to.
pub(crate) fn user(principal: &Principal, directory: &Directory, named: Option<&str>) -> Result<String, Ended> {
    let own = principal.user.as_deref();
    let Some(named) = named else { return Ok(own.unwrap_or(DEFAULT_USER).to_owned()) };
    if let Some(own) = own.filter(|own| principal.token.is_some() && *own != named) {
        let message = format!("The token is of the user '{own}' and can name no other: leave the user out.");
        return Err(Ended { http_status: 403, ..Ended::invalid("user_not_allowed", Some("user"), message) });
    }
    if named.is_empty() || named.chars().count() > MAX_USER || named.chars().any(char::is_control) {
        let message = format!("The user is no name: use 1 to {MAX_USER} printable characters.");
        return Err(Ended::invalid("invalid_user", Some("user"), message));
    }
    let is_known = directory.knows_user(&principal.tenant, named);
    if is_known || own == Some(named) {
        return Ok(named.to_owned());
    }
    let message = format!("The tenant has no user '{named}': use one that is configured.");
    Err(Ended::invalid("unknown_user", Some("user"), message))
}

pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Ended> {
    let refused = |message: String| Err(Ended::invalid("invalid_labels", Some("labels"), message));
    if labels.len() > MAX_LABELS {
        return refused(format!("The request has {} labels: use at most {MAX_LABELS}.", labels.len()));
    }
    for (name, value) in labels {
        if name.is_empty() || name.chars().count() > MAX_LABEL_NAME {
            return refused(format!("The name of a label has 1 to {MAX_LABEL_NAME} characters: '{}'.", cut(name, 64)));
        }
        if value.chars().count() > MAX_LABEL_VALUE {
            return refused(format!(
                "The value of label '{name}' is longer than {MAX_LABEL_VALUE} characters: shorten it."
            ));
        }
    }
    Ok(())
}

/// When the request was accepted, microseconds; never in the future, whatever its producer's clock.
fn received_at(request: &Request, arrival: &Arrival<'_>) -> i64 {
    let stamped = arrival.timestamp.map(|millis| millis.saturating_mul(1000));
    let named = request.received_at.filter(|_| arrival.run == 0);
    named.or(stamped).unwrap_or(arrival.now).clamp(0, arrival.now.max(0))
}

fn deadline(
    named: Option<i64>,
    received_at: i64,
    limits: &LimitsConfig,
    arrival: &Arrival<'_>,
) -> (i64, Option<Wrong>) {
    let received = received_at / 1000;
    let after = |millis: u64| received.saturating_add(i64::try_from(millis).unwrap_or(i64::MAX));
    let latest = after(limits.max_deadline_ms);
    let default = match arrival.lane {
        Lane::Interactive => limits.default_deadline_ms,
        Lane::Batch => limits.batch_deadline_ms,
    };
    let deadline = named.unwrap_or_else(|| after(default));
    if deadline > latest {
        let message = format!(
            "The deadline is further away than {} seconds: name an earlier one.",
            limits.max_deadline_ms / 1000
        );
        return (latest, Some(Ended::invalid("deadline_too_late", Some("deadline"), message).into()));
    }
    if deadline <= received {
        let message =
            "The deadline had passed before the request came: name one in the future, in milliseconds since the epoch.";
        let ended = Ended { param: Some("deadline".to_owned()), http_status: 400, ..Ended::expired(message) };
        return (deadline, Some(ended.into()));
    }
    if deadline <= arrival.now / 1000 {
        let ended =
            Ended::expired("The deadline passed before the request was worked on: send it again with a later one.");
        return (deadline, Some(Wrong { ended, dead_letter: false }));
    }
    (deadline, None)
}

/// At most so many characters of what a client wrote.
pub(crate) fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}
