//! What the service shows of itself to Prometheus. No tenant and no endpoint is ever a label.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// The metrics of webhooks.
#[derive(Clone)]
pub struct WebhookMetrics {
    /// Attempts, by what came of them.
    pub(crate) attempts: IntCounterVec,
    /// Deliveries that were made, delivered or given up.
    pub(crate) deliveries: IntCounterVec,
    /// How long attempts take.
    pub(crate) seconds: Histogram,
    /// Deliveries in memory.
    pub(crate) held: IntGaugeVec,
    /// How late the latest is.
    pub(crate) late: IntGaugeVec,
    /// Deliveries put off because their endpoint had too many in memory.
    pub(crate) deferred: IntCounter,
}

impl WebhookMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let buckets = vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let metrics = Self {
            attempts: IntCounterVec::new(
                Opts::new(
                    "millrace_webhook_attempts_total",
                    "Attempts: delivered, refused, unreachable, blocked, deleted.",
                ),
                &["result"],
            )?,
            deliveries: IntCounterVec::new(
                Opts::new("millrace_webhook_deliveries_total", "Deliveries: created, delivered, failed."),
                &["result"],
            )?,
            seconds: Histogram::with_opts(
                HistogramOpts::new("millrace_webhook_attempt_seconds", "How long attempts take.").buckets(buckets),
            )?,
            held: IntGaugeVec::new(
                Opts::new("millrace_webhook_held", "Deliveries that this process holds: due now or soon."),
                &["lane"],
            )?,
            late: IntGaugeVec::new(
                Opts::new("millrace_webhook_oldest_due_seconds", "For how long the oldest held delivery has been due."),
                &["lane"],
            )?,
            deferred: IntCounter::new(
                "millrace_webhook_deferred_total",
                "Times that a delivery was put off because its endpoint had too many at once.",
            )?,
        };
        registry.register(Box::new(metrics.attempts.clone()))?;
        registry.register(Box::new(metrics.deliveries.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.held.clone()))?;
        registry.register(Box::new(metrics.late.clone()))?;
        registry.register(Box::new(metrics.deferred.clone()))?;
        Ok(metrics)
    }
}
