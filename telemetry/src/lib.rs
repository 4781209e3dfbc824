//! What a running process shows of itself: logs, metrics, health, trace context; and how it is
//! asked to stop.
//!
//! Every service starts with [`init`], asks [`shutdown_signal`] when to stop, and, where
//! `telemetry.listen` is set, runs an [`AdminServer`] over its metrics registry and [`Readiness`].

mod admin;
mod logs;
mod readiness;
mod shutdown;
mod trace;

pub use crate::admin::AdminServer;
pub use crate::logs::{Guard, TelemetryError, init};
pub use crate::readiness::{Check, Readiness, ReadyFlag};
pub use crate::shutdown::shutdown_signal;
pub use crate::trace::{TRACEPARENT, TraceContext};
