//! Dead letters, and what operators do with them.

use serde::{Deserialize, Serialize};

use crate::words::words;

/// Header of a document that is published again at an operator's word: where it first lay, as
/// `generation/partition/offset/timestamp`.
pub const REDRIVE_OF: &str = "redrive-of";

/// Header of such a document: its dead letters, oldest first, as `partition/offset` and blanks.
pub const REDRIVE_LETTERS: &str = "redrive-letters";

/// One header of a dead-lettered record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordHeader {
    /// Name.
    pub name: String,
    /// Value.
    #[serde(with = "apache_avro::serde::bytes_opt")]
    pub value: Option<Vec<u8>>,
}

/// A record that can never succeed, with its original bytes and headers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Stage that gave it up.
    pub stage: String,
    /// Topic it was read from.
    pub topic: String,
    /// Generation of that topic.
    pub generation: i32,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// The record's own timestamp, milliseconds.
    pub timestamp: i64,
    /// Stable code.
    pub code: String,
    /// One sentence.
    pub error: String,
    /// Tenant, where one was proven.
    pub tenant: Option<String>,
    /// Id given to the failed outcome.
    pub request_id: Option<String>,
    /// Original key.
    #[serde(with = "apache_avro::serde::bytes_opt")]
    pub key: Option<Vec<u8>>,
    /// Original value; `None` when beyond the dead-letter limit.
    #[serde(with = "apache_avro::serde::bytes_opt")]
    pub value: Option<Vec<u8>>,
    /// Original headers, in order.
    pub headers: Vec<RecordHeader>,
    /// Microseconds since the epoch.
    pub at: i64,
}

/// A request that is run again at an operator's word: the record that it was first read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redrive {
    /// Which run this is: 1 for the first redrive.
    pub run: i32,
    /// Dead letters of the request, oldest first, as `partition/offset`; the last one is redriven.
    pub letters: Vec<String>,
    /// Topic that the record was first read from.
    pub topic: String,
    /// Generation of that topic.
    pub generation: i32,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// The record's own timestamp, milliseconds.
    pub timestamp: i64,
    /// Original key.
    #[serde(with = "apache_avro::serde::bytes_opt")]
    pub key: Option<Vec<u8>>,
    /// Original value.
    #[serde(with = "apache_avro::serde::bytes")]
    pub value: Vec<u8>,
    /// Original headers, in order.
    pub headers: Vec<RecordHeader>,
    /// When the operator asked for it, microseconds since the epoch.
    pub at: i64,
}

words! {
    /// What an operator did with a dead letter.
    LetterAction {
        /// It runs again.
        Redriven = "redriven",
        /// Nothing more is to be done about it.
        Dropped = "dropped",
    }
}

/// What was done with a dead letter; the latest one counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterAction {
    /// The dead letter, as `partition/offset`.
    pub letter: String,
    /// What was done.
    pub action: LetterAction,
    /// When, microseconds since the epoch.
    pub at: i64,
}
