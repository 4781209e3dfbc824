//! What a stage shows of itself to Prometheus. No tenant and no user is ever a label.

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, histogram_opts};

/// Metrics of all stages of a process, by stage and lane.
#[derive(Clone)]
pub struct StageMetrics {
    pub(crate) records: IntCounterVec,
    pub(crate) seconds: HistogramVec,
    pub(crate) in_flight: IntGaugeVec,
    pub(crate) lag: IntGaugeVec,
    pub(crate) errors: IntCounterVec,
    pub(crate) rebalances: IntCounterVec,
}

impl StageMetrics {
    /// Failures of one class, for a consumer that sees to its own retries.
    #[must_use]
    pub fn errors_of(&self, stage: &str, lane: &str, class: &str) -> IntCounter {
        self.errors.with_label_values(&[stage, lane, class])
    }

    /// Registers the metrics.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            records: IntCounterVec::new(
                Opts::new("millrace_stage_records_total", "Records settled, by what became of them."),
                &["stage", "lane", "outcome"],
            )?,
            seconds: HistogramVec::new(
                histogram_opts!(
                    "millrace_stage_seconds",
                    "From taking a record to its settlement, in seconds.",
                    vec![
                        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0
                    ]
                ),
                &["stage", "lane"],
            )?,
            in_flight: IntGaugeVec::new(
                Opts::new("millrace_stage_in_flight", "Records taken and not settled."),
                &["stage", "lane"],
            )?,
            lag: IntGaugeVec::new(
                Opts::new("millrace_stage_lag", "Records between the settled heads and the ends of the log."),
                &["stage", "lane"],
            )?,
            errors: IntCounterVec::new(
                Opts::new(
                    "millrace_stage_errors_total",
                    "Failures by class: retry, poison, fatal, customer_topic, lost_client.",
                ),
                &["stage", "lane", "class"],
            )?,
            rebalances: IntCounterVec::new(
                Opts::new("millrace_stage_rebalances_total", "Times that partitions came to the process or left it."),
                &["stage", "lane"],
            )?,
        };
        registry.register(Box::new(metrics.records.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        registry.register(Box::new(metrics.lag.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.rebalances.clone()))?;
        Ok(metrics)
    }
}
