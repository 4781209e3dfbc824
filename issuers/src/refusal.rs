//! Why a token proves nothing. No refusal holds the token or a part of it that could be used.

/// So many characters of what a token says are told.
const SHOWN: usize = 100;

/// Why a token opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// It is no token that is read here.
    #[error("the token can not be used: {0}")]
    Malformed(&'static str),
    /// Its `iss` is nobody's.
    #[error("the token's issuer `{0}` is not configured here: get one of another, or have `[issuers]` name it")]
    UnknownIssuer(String),
    /// It is signed in a way that is not accepted of its issuer, or not made by the key that it names.
    #[error("tokens of the issuer `{issuer}` with `alg` {algorithm} are not accepted with this key")]
    Algorithm {
        /// The issuer's name here.
        issuer: String,
        /// What the token says.
        algorithm: String,
    },
    /// Its `kid` is none of the issuer's keys, or it has none and several fit.
    #[error("the issuer `{issuer}` has no key `{kid}`: get a new token")]
    UnknownKey {
        /// The issuer's name here.
        issuer: String,
        /// What the token says.
        kid: String,
        /// When the keys were read, milliseconds since the epoch.
        read_at: i64,
        /// Whether they are about to be read again.
        is_awaited: bool,
    },
    /// The issuer's keys could not be read yet.
    #[error("the keys of the issuer `{0}` are not known yet: try again")]
    KeysNotKnown(String),
    /// The issuer's keys could not be read for so long that nothing waits for them any more.
    #[error("the keys of the issuer `{0}` can not be read: try again later")]
    KeysAway(String),
    /// It was not signed by the key that it names, or changed afterwards.
    #[error("the token's signature does not fit")]
    Signature,
    /// Its time is over.
    #[error("the token has expired: get a new one")]
    Expired,
    /// Its time is not there.
    #[error("the token is not good yet (`nbf`, `iat`): check the clocks")]
    NotYet,
    /// It is for others.
    #[error("the token is not for this audience: `issuers.{0}.audience` says what `aud` it must have")]
    Audience(String),
    /// A claim that is needed is missing or can not be used.
    #[error("the token's claim `{0}` is missing or can not be used")]
    Claim(String),
    /// The issuer may not speak for this tenant.
    #[error("the issuer `{issuer}` may not name the tenant `{tenant}`: see `issuers.{issuer}.tenants`")]
    Tenant {
        /// The issuer's name here.
        issuer: String,
        /// What the token says.
        tenant: String,
    },
    /// The tenant has users, and not this one.
    #[error("the tenant `{tenant}` has no user `{user}`, whom the issuer `{issuer}` names: make it")]
    NoUser {
        /// The issuer's name here.
        issuer: String,
        /// The tenant.
        tenant: String,
        /// What the token says.
        user: String,
    },
    /// The tenant has no key that the token could stand for.
    #[error("the tenant `{tenant}` has no key `{key}`, which tokens of the issuer `{issuer}` stand for: make it")]
    NoKey {
        /// The issuer's name here.
        issuer: String,
        /// The tenant.
        tenant: String,
        /// The id of the key.
        key: String,
    },
}

impl TokenRefusal {
    /// Whether it may be good when the issuer's keys have been read: none are known yet, or they were read before the token
    /// was used at `used`, milliseconds since the epoch. Nothing waits for that for longer than five minutes.
    #[must_use]
    pub fn may_pass(&self, used: i64) -> bool {
        match self {
            Self::KeysNotKnown(_) => true,
            Self::UnknownKey { read_at, is_awaited, .. } => *is_awaited && *read_at <= used,
            Self::KeysAway(_)
            | Self::Malformed(_)
            | Self::UnknownIssuer(_)
            | Self::Algorithm { .. }
            | Self::Signature
            | Self::Expired
            | Self::NotYet
            | Self::Audience(_)
            | Self::Claim(_)
            | Self::Tenant { .. }
            | Self::NoUser { .. }
            | Self::NoKey { .. } => false,
        }
    }
}

/// What a token says, as it may be told.
pub(crate) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}
