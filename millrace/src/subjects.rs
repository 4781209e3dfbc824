//! Which event each topic carries: the registry's subjects.

use millrace_config::Config;
use millrace_schemas::{
    AuditRecord, Budget, Call, Cancellation, Completion, DeadLetter, DeadLetterAction, DirectoryEntry, Document, Event,
    Fact, Lane, LimitUse, Outcome, Prompt, Redrive, ReplyChunk, Request, topics,
};

/// Follows the name of a topic whose second event has a subject of its own.
pub const CHUNKS: &str = ".chunks";

/// Topic names on the broker with the name of their event.
pub fn subjects(config: &Config) -> Vec<(String, &'static str)> {
    let mut subjects = Vec::new();
    for lane in Lane::ALL {
        for (base, event) in [
            (topics::REQUESTS, Request::NAME),
            (topics::REDRIVES, Redrive::NAME),
            (topics::PROMPTS, Prompt::NAME),
            (topics::COMPLETIONS, Completion::NAME),
            (topics::OUTCOMES, Outcome::NAME),
        ] {
            subjects.push((config.kafka.topic(&topics::of(base, *lane)), event));
        }
    }
    for (topic, event) in [
        (topics::CALLS, Call::NAME),
        (topics::BUDGETS, Budget::NAME),
        (topics::REPLIES, Outcome::NAME),
        (topics::FACTS, Fact::NAME),
        (topics::DOCUMENTS, Document::NAME),
        (topics::CANCELLATIONS, Cancellation::NAME),
        (topics::TENANTS, DirectoryEntry::NAME),
        (topics::AUDIT, AuditRecord::NAME),
        (topics::LIMITS, LimitUse::NAME),
        (topics::DEAD_LETTERS, DeadLetter::NAME),
        (topics::DEAD_LETTER_ACTIONS, DeadLetterAction::NAME),
    ] {
        subjects.push((config.kafka.topic(topic), event));
    }
    // Beside the outcomes of the topic: a subject of its own, for the two are not each other's versions.
    subjects.push((config.kafka.topic(topics::REPLIES) + CHUNKS, ReplyChunk::NAME));
    subjects.extend(config.topic_bindings.keys().map(|topic| (topic.clone(), Request::NAME)));
    subjects
}
