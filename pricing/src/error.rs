//! Why a price is not to be had.

use thiserror::Error;

/// Why a price table was refused, or has no price for a call.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PricingError {
    /// The file cannot be read.
    #[error("cannot read the price table {path}: {reason}; check `pricing.file`")]
    Unreadable {
        /// The file.
        path: String,
        /// What the operating system said.
        reason: String,
    },
    /// The file is not a price table.
    #[error("{path}, line {line}: not a price table: {reason}")]
    Syntax {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// A value that no price table can have.
    #[error("{path}: {place}: {reason}")]
    Invalid {
        /// The file.
        path: String,
        /// The row or key.
        place: String,
        /// What is wrong, and the fix.
        reason: String,
    },
    /// No row for this model at that time.
    #[error(
        "no price for the model `{model}` of provider `{provider}` at {at} in {path}; \
         add a [[price]] row for it that is effective by then"
    )]
    NoPrice {
        /// The file.
        path: String,
        /// The provider's name in the configuration.
        provider: String,
        /// The model's name at the provider.
        model: String,
        /// The time asked for, RFC 3339.
        at: String,
    },
}
