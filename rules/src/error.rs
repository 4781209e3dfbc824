//! Why rules were refused, and why an answer could not be checked.

use thiserror::Error;

/// Why a rule set was refused: one line that names the rule and the fix.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RulesError {
    /// The text is not a rule set.
    #[error("{place}: not a rule set: {reason}")]
    Syntax {
        /// The file or set.
        place: String,
        /// What the parser said.
        reason: String,
    },
    /// A rule that cannot be used.
    #[error("rule `{rule}`: {reason}")]
    Rule {
        /// The rule's name.
        rule: String,
        /// What is wrong, and the fix.
        reason: String,
    },
    /// A rule set, of several, that cannot be used.
    #[error("rule set `{set}`: {error}")]
    InSet {
        /// The set's name.
        set: String,
        /// What is wrong in it.
        error: Box<RulesError>,
    },
}

/// Why an answer could not be checked. It must not be let through.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompletionError {
    /// It is no chat completion, or no response.
    #[error("the answer is not what was asked for: {0}")]
    Malformed(String),
    /// A string in it is no Unicode text.
    #[error("the answer's {place} is not Unicode text: {reason}")]
    Text {
        /// The path of the string.
        place: String,
        /// What the parser said.
        reason: String,
    },
}
