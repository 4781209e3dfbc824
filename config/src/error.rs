//! Why a configuration was refused.

use thiserror::Error;

/// Why a configuration was refused: one line that names the key, where it came from and the fix,
/// ending in a stable code.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {reason}; check the path given by --config [C001]")]
    Unreadable {
        /// The file.
        path: String,
        /// What the operating system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{path}, line {line}: not valid TOML: {reason} [C002]")]
    Syntax {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}` in {origin}; {hint} [C003]")]
    UnknownKey {
        /// The key with its sections.
        key: String,
        /// The layer that has it.
        origin: String,
        /// The nearest known key, or all there are.
        hint: String,
    },
    /// A value of the wrong type or out of its range.
    #[error("`{key}` in {origin}: {reason} [C004]")]
    WrongValue {
        /// The key with its sections.
        key: String,
        /// The layer that has it.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A required key that no layer gives.
    #[error("missing key `{key}`; add it to the file or set {variable} [C005]")]
    Missing {
        /// The key with its sections.
        key: String,
        /// The environment variable that would set it.
        variable: String,
    },
    /// A secret that cannot be had.
    #[error("`{key}`: {reason} [C006]")]
    Secret {
        /// The key with its sections.
        key: String,
        /// What is wrong, and the fix.
        reason: String,
    },
    /// A value that makes no sense together with the others.
    #[error("`{key}`: {reason} [C007]")]
    Invalid {
        /// The key with its sections.
        key: String,
        /// What is wrong, and the fix.
        reason: String,
    },
}

impl ConfigError {
    /// The stable code that ends the message.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "C001",
            Self::Syntax { .. } => "C002",
            Self::UnknownKey { .. } => "C003",
            Self::WrongValue { .. } => "C004",
            Self::Missing { .. } => "C005",
            Self::Secret { .. } => "C006",
            Self::Invalid { .. } => "C007",
        }
    }
}
