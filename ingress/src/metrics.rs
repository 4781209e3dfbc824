//! What the front door shows of itself to Prometheus.

use prometheus::{Histogram, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, histogram_opts};

/// Metrics of one ingress.
#[derive(Clone)]
pub struct IngressMetrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) seconds: HistogramVec,
    pub(crate) first_event_seconds: Histogram,
    pub(crate) waiting: IntGauge,
    pub(crate) held_bytes: IntGauge,
    pub(crate) shed: IntCounterVec,
    pub(crate) lag: IntGaugeVec,
}

impl IngressMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("millrace_http_requests_total", "HTTP requests by route and status."),
                &["route", "status"],
            )?,
            seconds: HistogramVec::new(
                histogram_opts!(
                    "millrace_http_seconds",
                    "From the request's head to the response's, in seconds.",
                    vec![
                        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0
                    ]
                ),
                &["route"],
            )?,
            first_event_seconds: Histogram::with_opts(histogram_opts!(
                "millrace_http_first_event_seconds",
                "From a streamed request's acceptance to its first event, in seconds.",
                vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
            ))?,
            waiting: IntGauge::new("millrace_http_waiting", "Accepted requests whose client waits for the answer.")?,
            held_bytes: IntGauge::new("millrace_http_held_bytes", "Bytes of request bodies that are held.")?,
            shed: IntCounterVec::new(
                Opts::new("millrace_http_shed_total", "Requests sent away unread, by the bound they met."),
                &["reason"],
            )?,
            lag: IntGaugeVec::new(
                Opts::new("millrace_http_lag_records", "Records of the interactive lane that a stage has yet to do."),
                &["stage"],
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.first_event_seconds.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        registry.register(Box::new(metrics.held_bytes.clone()))?;
        registry.register(Box::new(metrics.shed.clone()))?;
        registry.register(Box::new(metrics.lag.clone()))?;
        Ok(metrics)
    }
}
