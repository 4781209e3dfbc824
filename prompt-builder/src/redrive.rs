//! Requests that run again at an operator's word.

use millrace_schemas::{Coordinates, Lane, Redrive, topics};
use millrace_stage::Received;

/// Whether a record of this topic is one. Only operators may write there.
pub(crate) fn is_redrive(topic: &str, lane: Lane) -> bool {
    topics::lane_of(topics::REDRIVES, topic) == Some(lane)
}

/// The record as it was first read, as if it had come when the operator asked for it: so it proves its
/// tenant, finds its id and holds its key as it did then.
pub(crate) fn original(record: &Received, redrive: Redrive) -> Received {
    Received {
        at: Coordinates {
            topic: redrive.topic,
            generation: u32::try_from(redrive.generation).unwrap_or_default(),
            partition: redrive.partition,
            offset: redrive.offset,
        },
        timestamp: redrive.at / 1000,
        key: redrive.key,
        value: redrive.value,
        headers: redrive.headers.into_iter().map(|header| (header.name, header.value)).collect(),
        source: None,
        as_source: record.as_source.clone(),
        assignment: record.assignment.clone(),
        lease: record.lease.clone(),
    }
}
