//! Signed tokens (JWT) of issuers: what one of them proves, and where the issuers' keys come from.
//!
//! ```text
//! JWK set of a file or address ── keep (in the background) ──> Issuers
//! token + instant ── Issuers::verify (no I/O, no clock) ──> Proven: tenant, user, which key of the tenant
//!                                               └──> TokenRefusal
//! ```
//!
//! What a token says of itself is believed of one thing only: which issuer and which of its keys to check it with.
//! Both must be known beforehand, and the key says which signatures it is for. Keys, addresses and certificates
//! in a token's header are not looked at.

mod algorithm;
mod fetch;
mod issuer;
mod keys;
mod metrics;
mod refusal;
mod token;

pub use fetch::{keep, read_keys};
pub use issuer::{Issuers, Proven};
pub use keys::KeySet;
pub use metrics::IssuerMetrics;
pub use refusal::TokenRefusal;
pub use token::{MAX_TOKEN, is_token};
