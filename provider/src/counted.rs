//! What all paid calls of a process show to Prometheus, whoever makes them. Models are labelled by
//! their names in the configuration; no tenant and no user is ever a label.

use millrace_schemas::CallLine;
use prometheus::{IntCounterVec, Opts, Registry};

use crate::CallError;

/// Calls, tokens and costs, over all stages of a process. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct CallMetrics {
    tokens: IntCounterVec,
    cost_nanos: IntCounterVec,
    calls: IntCounterVec,
}

impl CallMetrics {
    /// Registers the metrics; once per process.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            tokens: IntCounterVec::new(
                Opts::new(
                    "millrace_tokens_total",
                    "Tokens of answered calls, chat and embeddings, by direction: input or output.",
                ),
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

    pub(crate) fn answered(&self, model: &str, line: &CallLine) {
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        self.called(&line.provider, "200");
        self.tokens.with_label_values(&["input", model]).inc_by(count(line.input_tokens));
        self.tokens.with_label_values(&["output", model]).inc_by(count(line.output_tokens));
        self.cost_nanos.with_label_values(&[model]).inc_by(count(line.cost_nanos));
    }

    pub(crate) fn failed(&self, provider: &str, error: &CallError) {
        match error {
            CallError::Answered(refusal) => self.called(provider, &refusal.status.to_string()),
            CallError::NotSent(_) => self.called(provider, "not_sent"),
            CallError::Lost(_) => self.called(provider, "lost"),
        }
    }

    pub(crate) fn broken_off(&self, provider: &str) {
        self.called(provider, "cancelled");
    }

    fn called(&self, provider: &str, status: &str) {
        self.calls.with_label_values(&[provider, status]).inc();
    }
}
