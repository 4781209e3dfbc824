//! What lies in the store in parts: files that tenants upload, and bodies that are too large for their records.
//!
//! - [`stored`] keeps descriptions, which are replaced as a whole by version; [`Content`] and [`Writer`] are the bytes.
//! - [`File`] is a tenant's file, as [`find`] finds it.
//! - [`bodies`] writes a body beside its record, and [`Bodies`] reads what a record names, as much at a time as there
//!   is room for.
//!
//! Invariant: a record that names a body is written after it, so what was accepted never lacks its body.

pub mod bodies;
mod content;
mod file;
pub mod stored;

pub use bodies::{Beside, Bodies, Room};
pub use content::{Content, Segment, Writer};
pub use file::{File, find, now_seconds};
