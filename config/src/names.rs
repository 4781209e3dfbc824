//! How things may be called.

/// Longest id.
pub const MAX_ID: usize = 100;
/// Longest name of a topic or group that Kafka allows.
pub const MAX_TOPIC: usize = 249;

/// Whether a plan, tenant, user or key may have this id: it is part of the names of keys and topics.
pub fn is_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.chars().all(is_topic_char)
}

/// Whether Kafka lets a topic have this name.
pub fn is_topic_name(name: &str) -> bool {
    (1..=MAX_TOPIC).contains(&name.len()) && !matches!(name, "." | "..") && name.chars().all(is_topic_char)
}

/// Whether it may be in a topic's name.
pub(crate) fn is_topic_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}
