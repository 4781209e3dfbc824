//! What is shown of each provider to Prometheus, by its name in the configuration.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::CallError;

/// Metrics of all providers of a process.
#[derive(Clone)]
pub(crate) struct Metrics {
    state: IntGaugeVec,
    limit: IntGaugeVec,
    refused: IntCounterVec,
    key_calls: IntCounterVec,
    key_quarantined: IntGaugeVec,
    key_remaining: IntGaugeVec,
    keys_unread: IntGaugeVec,
}

/// Metrics of the keys of one of them, by the keys' names.
pub(crate) struct OfKeys {
    provider: String,
    metrics: Metrics,
    pub unread: IntGauge,
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
            key_calls: IntCounterVec::new(
                Opts::new(
                    "millrace_provider_key_calls_total",
                    "Calls made with a key of a pool, by HTTP status; `not_sent` and `lost` for those without one.",
                ),
                &["provider", "key", "status"],
            )?,
            key_quarantined: IntGaugeVec::new(
                Opts::new(
                    "millrace_provider_key_quarantined",
                    "1 while a key of a pool is not used because the provider refused it.",
                ),
                &["provider", "key"],
            )?,
            key_remaining: IntGaugeVec::new(
                Opts::new(
                    "millrace_provider_key_remaining",
                    "What the last answer says remains of a key's limit: requests or tokens.",
                ),
                &["provider", "key", "what"],
            )?,
            keys_unread: IntGaugeVec::new(
                Opts::new(
                    "millrace_provider_keys_file_unread",
                    "1 while a provider's file of keys can not be read and those before are used.",
                ),
                by_provider,
            )?,
        })
    }

    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.state.clone()))?;
        registry.register(Box::new(self.limit.clone()))?;
        registry.register(Box::new(self.refused.clone()))?;
        registry.register(Box::new(self.key_calls.clone()))?;
        registry.register(Box::new(self.key_quarantined.clone()))?;
        registry.register(Box::new(self.key_remaining.clone()))?;
        registry.register(Box::new(self.keys_unread.clone()))
    }

    pub fn of_keys(&self, provider: &str) -> OfKeys {
        let unread = self.keys_unread.with_label_values(&[provider]);
        OfKeys { provider: provider.to_owned(), metrics: self.clone(), unread }
    }

    /// A provider that is gone has no state; what was counted of it stays.
    pub fn forget(&self, provider: &str) {
        for gauges in [&self.state, &self.limit, &self.keys_unread] {
            // Those that were never set are not there.
            let _absent = gauges.remove_label_values(&[provider]);
        }
    }

    pub fn of(&self, provider: &str) -> OfProvider {
        OfProvider {
            state: self.state.with_label_values(&[provider]),
            limit: self.limit.with_label_values(&[provider]),
            refused: self.refused.with_label_values(&[provider]),
        }
    }
}

impl OfKeys {
    pub fn called<T>(&self, key: &str, result: &Result<T, CallError>) {
        let status = match result {
            Ok(_) => "200".to_owned(),
            Err(CallError::Answered(refusal)) => refusal.status.to_string(),
            Err(CallError::NotSent(_)) => "not_sent".to_owned(),
            Err(CallError::Lost(_)) => "lost".to_owned(),
        };
        self.metrics.key_calls.with_label_values(&[&self.provider, key, &status]).inc();
    }

    pub fn quarantined(&self, key: &str, is_quarantined: bool) {
        self.metrics.key_quarantined.with_label_values(&[&*self.provider, key]).set(i64::from(is_quarantined));
    }

    /// `what` is `requests` or `tokens`.
    pub fn remaining(&self, key: &str, what: &str, count: u64) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.key_remaining.with_label_values(&[&*self.provider, key, what]).set(count);
    }

    /// A key that is gone has no state; what it was called for stays counted.
    pub fn forget(&self, key: &str) {
        // Those that were never set are not there.
        let _absent = self.metrics.key_quarantined.remove_label_values(&[&*self.provider, key]);
        for what in ["requests", "tokens"] {
            let _absent = self.metrics.key_remaining.remove_label_values(&[&*self.provider, key, what]);
        }
    }
}
