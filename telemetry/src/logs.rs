//! Log lines, to stderr.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

use millrace_config::{LogFormat, TelemetryConfig};
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Why logs could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter is not in tracing's syntax.
    #[error("`telemetry.log_filter`: `{filter}` is no log filter ({reason}); write it as info,millrace_stage=debug")]
    Filter {
        /// The filter as configured.
        filter: String,
        /// What the parser said.
        reason: String,
    },
    /// Another subscriber is in place, one that this crate did not install.
    #[error("another log subscriber is already installed in this process ({0}); call init before it")]
    Taken(String),
}

/// Held while the process runs; dropping it writes out what is left.
#[derive(Debug)]
#[must_use = "hold it until the process ends"]
pub struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = std::io::stderr().flush();
    }
}

/// Starts writing log lines (also those of the `log` crate, such as librdkafka's) to stderr.
/// A second call in the same process changes nothing, so that several services can share one.
///
/// # Errors
/// When the filter cannot be read, or another subscriber was installed before.
pub fn init(config: &TelemetryConfig) -> Result<Guard, TelemetryError> {
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();

    let filter = EnvFilter::try_new(&config.log_filter)
        .map_err(|error| TelemetryError::Filter { filter: config.log_filter.clone(), reason: error.to_string() })?;
    let installed = INSTALLED.get_or_init(|| {
        let builder = tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            // Reporting a closed stderr on stderr would panic.
            .log_internal_errors(false)
            .with_env_filter(filter);
        let result = match config.log_format {
            LogFormat::Pretty => {
                let in_colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
                builder.with_ansi(in_colour).finish().try_init()
            }
            LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).finish().try_init(),
        };
        result.map_err(|error| error.to_string())
    });
    match installed {
        Ok(()) => Ok(Guard(())),
        Err(reason) => Err(TelemetryError::Taken(reason.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_changes_nothing_and_a_bad_filter_is_named() {
        let first = init(&TelemetryConfig::default());
        assert!(first.is_ok(), "{first:?}");
        let json = TelemetryConfig { log_format: LogFormat::Json, ..TelemetryConfig::default() };
        assert!(init(&json).is_ok());

        let bad = TelemetryConfig { log_filter: "info,a=b=c".to_owned(), ..TelemetryConfig::default() };
        let message = init(&bad).expect_err("a filter that no parser takes").to_string();
        assert!(message.starts_with("`telemetry.log_filter`: `info,a=b=c`"), "{message}");
    }
}
