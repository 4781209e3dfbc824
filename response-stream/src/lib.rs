//! A response of OpenAI's Responses API in events.
//!
//! ```text
//! the provider's event ── Event::parse ──> Event ── Progress::admit ──> its number, or a gap
//! the response ── rest(response, what was sent) ──> the events that are still to be sent
//! ```
//!
//! The events of a response are a function of it ([`script`]), but for how its texts are cut into pieces. So an
//! event is numbered by its **place**: each event counts one, each character of a text counts one, whoever cut it.
//! Whatever a client has seen of a response, its last number says where to go on, without anybody having kept
//! what was sent.

mod event;
mod progress;
mod script;

pub use event::{Event, NotAnEvent};
pub use progress::{Admitted, Progress, RestError, number_of, place_of, rest_after};
pub use script::{Group, Step};
