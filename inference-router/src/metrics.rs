//! What the router shows to Prometheus. Models are labelled by their names in the configuration.

use millrace_provider::{Answer, CallError, Target};
use millrace_schemas::CallLine;
use prometheus::{IntCounterVec, Opts, Registry};

/// Metrics of the router, over all lanes.
#[derive(Clone)]
pub struct Metrics {
    tokens: IntCounterVec,
    cost_nanos: IntCounterVec,
    calls: IntCounterVec,
}

impl Metrics {
    /// Registers the metrics; once per process.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            tokens: IntCounterVec::new(
                Opts::new("millrace_tokens_total", "Tokens of answered calls, by direction: input or output."),
                &["direction", "model"],
            )?,
            cost_nanos: IntCounterVec::new(
                Opts::new("millrace_cost_nanos_total", "Providers' costs of answered calls, in nano-units."),
                &["model"],
            )?,
            calls: IntCounterVec::new(
                Opts::new(
                    "millrace_provider_calls_total",
                    "Calls to providers, by HTTP status; `not_sent`, `lost` and `cancelled` for those without one.",
                ),
                &["provider", "status"],
            )?,
        };
        registry.register(Box::new(metrics.tokens.clone()))?;
        registry.register(Box::new(metrics.cost_nanos.clone()))?;
        registry.register(Box::new(metrics.calls.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn called(&self, target: &Target, result: &Result<Answer, CallError>) {
        let status = match result {
            Ok(_) => "200".to_owned(),
            Err(CallError::Answered(refusal)) => refusal.status.to_string(),
            Err(CallError::NotSent(_)) => "not_sent".to_owned(),
            Err(CallError::Lost(_)) => "lost".to_owned(),
        };
        self.calls.with_label_values(&[target.provider.as_str(), status.as_str()]).inc();
    }

    pub(crate) fn broken_off(&self, target: &Target) {
        self.calls.with_label_values(&[target.provider.as_str(), "cancelled"]).inc();
    }

    pub(crate) fn paid(&self, model: &str, line: &CallLine) {
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        self.tokens.with_label_values(&["input", model]).inc_by(count(line.input_tokens));
        self.tokens.with_label_values(&["output", model]).inc_by(count(line.output_tokens));
        self.cost_nanos.with_label_values(&[model]).inc_by(count(line.cost_nanos));
    }
}
