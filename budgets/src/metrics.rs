//! What budgets show of themselves to Prometheus. No tenant and no user is ever a label.

use prometheus::{Gauge, IntCounterVec, IntGauge, Opts, Registry};

/// The metrics of one process.
#[derive(Clone)]
pub struct BudgetMetrics {
    refusals: IntCounterVec,
    pub(crate) age: Gauge,
    pub(crate) waiting: IntGauge,
}

impl BudgetMetrics {
    /// Registers them; once per process.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::new()?;
        registry.register(Box::new(metrics.refusals.clone()))?;
        registry.register(Box::new(metrics.age.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        Ok(metrics)
    }

    /// Without a registry.
    ///
    /// # Errors
    /// Never in practice: their names are valid.
    pub fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            refusals: IntCounterVec::new(
                Opts::new(
                    "millrace_budget_refusals_total",
                    "Requests refused: at the door because their budget is used up, before a call likewise, or because what is left was unknown for too long.",
                ),
                &["why"],
            )?,
            age: Gauge::new(
                "millrace_budget_snapshot_age_seconds",
                "How old the router's view of everybody's spending is; 0 while nobody has a budget.",
            )?,
            waiting: IntGauge::new("millrace_budget_waiting", "Requests that wait for room in a budget.")?,
        })
    }

    pub(crate) fn refused(&self, why: &str) {
        self.refusals.with_label_values(&[why]).inc();
    }
}
