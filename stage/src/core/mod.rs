//! The loop's decisions without any I/O: what may be taken, what may be committed, what is a
//! duplicate, when to try again. Everything here is driven by the model tests.

mod backoff;
mod duplicates;
mod lease;
mod readback;
mod tracker;

pub use backoff::{Backoff, jitter};
pub use duplicates::{DuplicateWindow, Duplicates, Seen};
pub use lease::{Lease, Moment};
pub use readback::{Sourced, derived_from, read_back, set_back, worked_off};
pub use tracker::{Limits, Partition, Refused, Room, Ticket, Tracker};
