//! What is shown of each provider to Prometheus, by its name in the configuration.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Metrics of all providers of a process.
#[derive(Clone)]
pub(crate) struct Metrics {
    state: IntGaugeVec,
    limit: IntGaugeVec,
    refused: IntCounterVec,
}

/// Metrics of one of them.
pub(crate) struct OfProvider {
    pub state: IntGauge,
    pub limit: IntGauge,
    pub refused: IntCounter,
}

impl Metrics {
    pub fn new() -> Result<Self, prometheus::Error> {
        let by_provider = &["provider"];
        Ok(Self {
            state: IntGaugeVec::new(
                Opts::new(
                    "millrace_provider_breaker_state",
                    "Circuit breaker of a provider: 0 closed, 1 open, 2 probing.",
                ),
                by_provider,
            )?,
            limit: IntGaugeVec::new(
                Opts::new(
                    "millrace_provider_concurrency_limit",
                    "Calls that a provider is given at once: what is configured, or less after rate limits.",
                ),
                by_provider,
            )?,
            refused: IntCounterVec::new(
                Opts::new(
                    "millrace_provider_refused_total",
                    "Attempts that found the circuit breaker open: they waited or went to another provider.",
                ),
                by_provider,
            )?,
        })
    }

    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.state.clone()))?;
        registry.register(Box::new(self.limit.clone()))?;
        registry.register(Box::new(self.refused.clone()))
    }

    pub fn of(&self, provider: &str) -> OfProvider {
        OfProvider {
            state: self.state.with_label_values(&[provider]),
            limit: self.limit.with_label_values(&[provider]),
            refused: self.refused.with_label_values(&[provider]),
        }
    }
}
