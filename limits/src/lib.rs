//! How much tenants, users, keys and models may use in a minute, in a day and at the same time, over all
//! replicas of the front door.
//!
//! ```text
//! request ── Limiter::take ──> Taken           limits (compacted) <── tell ── Limiter ── news
//!                         └──> Exceeded                           ── follow ──> hear
//! ```
//!
//! Every replica counts what it lets through, and tells the others five times a second what changed, as sums:
//! a word that is lost or read twice does no harm, and one that begins anew finds what was used today.
//!
//! Exactness: with one replica exact. With several, each takes at most its share of what is left until it has
//! told and heard again, so all of them together let through at most one request (or one request's tokens) more
//! for each replica while words take less than a tick, and what was left once more for each tick that they are
//! late. A tick is 200 ms.

mod count;
mod limiter;
mod share;

pub use limiter::{Exceeded, Kind, Left, Limiter, Permit, Reserved, Standing, Taken};
pub use share::{follow, tell};
