//! The contract: every event on every topic, its Avro schema and its bytes.
//!
//! `avro/*.avsc` is the source of truth and is what the registry serves to everyone else.
//! The types in [`events`] mirror those files, [`Codec`] turns one into the other in Confluent's
//! wire format, [`Source`] is the header that makes readers drop duplicates exactly, and
//! [`RequestId`] names the work.

mod budget;
mod clock;
mod codec;
mod directory;
pub mod events;
mod ids;
mod json;
mod letters;
mod limit_use;
mod operation;
mod reply_chunk;
mod schema_id;
mod signature;
mod source;
pub mod topics;
mod words;

pub use budget::{Account, Budget, month_of};
pub use clock::{now_micros, now_millis, time_until};
pub use codec::{ALL_EVENTS, Codec, CodecError, Event, EventSchema, RegistryAccess, VALUE_SCHEMA_ID_HEADER};
pub use directory::{AuditRecord, DirectoryEntry};
pub use events::{
    Call, CallKind, CallLine, Cancellation, Completion, DeadLetter, DeadLetterAction, Document, Ended, EndedStatus,
    Fact, Lane, LetterAction, Meta, Moderation, Outcome, OutcomeStatus, Prompt, PromptModeration, RecordHeader,
    Redrive, Request, StageTime,
};
pub use ids::{RequestId, body_hash, call_id, call_started_at, derived_uuid};
pub use json::{JsonView, value_to_json};
pub use letters::{REDRIVE_LETTERS, REDRIVE_OF};
pub use limit_use::LimitUse;
pub use operation::{ANSWER_LIMIT, Operation};
pub use reply_chunk::ReplyChunk;
pub use signature::{SIGNATURE_HEADER, Signature, SignatureError, key_digest};
pub use source::{Coordinates, SOURCE_HEADER, Source, SourceError};
