//! Why a key or a record is not let in, and a directory can not be built.

use millrace_issuers::TokenRefusal;
use millrace_schemas::{Ended, SignatureError};

use super::SYSTEM_TENANT;

/// A key that was made is known everywhere after this time, milliseconds.
const SPREADS_WITHIN: i64 = 3_000;

/// Why a key or a signed token opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// Nobody has it.
    #[error("the API key is not known")]
    Unknown,
    /// Its time is over.
    #[error("the API key `{0}` has expired: make a new one")]
    Expired(String),
    /// It was taken back.
    #[error("the API key `{0}` was revoked: make a new one")]
    Revoked(String),
    /// Its tenant was closed.
    #[error("the tenant `{0}` is closed")]
    Closed(String),
    /// It is a token that proves nothing.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
}

/// Why a record proves no tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither its topic nor a signature says whose it is.
    #[error(
        "the record names no tenant: write it to a topic that is bound to yours, or sign it with the header \
         `millrace-signature`, or give it a signed token in `authorization`"
    )]
    Unsigned,
    /// Signed by a key that is not in the directory.
    #[error("the record is signed by an unknown key `{0}`: use `<tenant>/<key id>` of a key that is configured")]
    UnknownKey(String),
    /// Several tenants have a key of this id.
    #[error("the record is signed by a key `{0}` that several tenants have: write `<tenant>/<key id>`")]
    AmbiguousKey(String),
    /// The key opened nothing any more when the record was written.
    #[error("{0}; so it was when the record was written")]
    Key(#[from] KeyRefusal),
    /// The signature is malformed or does not fit the value.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

impl Refusal {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsigned => "unknown_tenant",
            Self::Key(KeyRefusal::Token(_)) => "invalid_token",
            Self::UnknownKey(_) | Self::AmbiguousKey(_) | Self::Key(_) | Self::Signature(_) => "invalid_signature",
        }
    }

    /// Whether the same record may be proven in a moment: its key may just have been made, and a record can be
    /// here before word of its key is. Both instants are in milliseconds since the epoch.
    #[must_use]
    pub fn may_pass(&self, appended: i64, now: i64) -> bool {
        let is_young = now.saturating_sub(appended) < SPREADS_WITHIN;
        match self {
            Self::UnknownKey(_) | Self::Key(KeyRefusal::Unknown | KeyRefusal::Closed(_)) => is_young,
            Self::Key(KeyRefusal::Token(TokenRefusal::NoKey { .. } | TokenRefusal::NoUser { .. })) => is_young,
            Self::Key(KeyRefusal::Token(refusal)) => refusal.may_pass(appended),
            Self::Unsigned
            | Self::AmbiguousKey(_)
            | Self::Key(KeyRefusal::Expired(_) | KeyRefusal::Revoked(_))
            | Self::Signature(_) => false,
        }
    }

    /// How the record ends.
    #[must_use]
    pub fn ended(&self) -> Ended {
        Ended {
            kind: "authentication_error".to_owned(),
            http_status: 401,
            ..Ended::invalid(self.code(), None, self.to_string())
        }
    }
}

/// A directory that can not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// The name belongs to us.
    #[error("`tenants.{SYSTEM_TENANT}` is reserved for records that name no tenant; choose another id")]
    Reserved,
    /// A key without a usable hash.
    #[error("key `{key}` of tenant `{tenant}` has no SHA-256 of 64 hexadecimal digits")]
    NoHash {
        /// The tenant.
        tenant: String,
        /// The key's id.
        key: String,
    },
    /// A lane that does not exist.
    #[error("`topic_bindings.\"{topic}\".lane`: {error}")]
    Lane {
        /// The bound topic.
        topic: String,
        /// What is wrong with it.
        error: String,
    },
}
