//! What the ledger shows of itself to Prometheus. No tenant and no user is ever a label.

use millrace_stage::StageMetrics;
use millrace_storage::Entry;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::entry::UNCONFIRMED;
use crate::fold::Ignored;
use crate::{LANE, STAGE};

/// The ledger's metrics.
#[derive(Clone)]
pub struct LedgerMetrics {
    entries: IntCounterVec,
    ignored: IntCounterVec,
    open: IntGauge,
    unconfirmed: IntCounter,
    retries: IntCounter,
}

impl LedgerMetrics {
    /// Registers the metrics, beside those that all stages have.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry, stage: &StageMetrics) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            entries: IntCounterVec::new(
                Opts::new("millrace_ledger_entries_total", "Lines booked and durable, by kind."),
                &["kind"],
            )?,
            ignored: IntCounterVec::new(
                Opts::new(
                    "millrace_ledger_ignored_total",
                    "Records of `calls` that change nothing: duplicate, or unknown (the end of a call that never began).",
                ),
                &["reason"],
            )?,
            open: IntGauge::new("millrace_ledger_open_calls", "Calls announced whose end was not seen yet.")?,
            unconfirmed: IntCounter::new(
                "millrace_ledger_unconfirmed_total",
                "Calls booked at their upper bound because their end was not seen in time.",
            )?,
            retries: stage.errors_of(STAGE, LANE, "retry"),
        };
        registry.register(Box::new(metrics.entries.clone()))?;
        registry.register(Box::new(metrics.ignored.clone()))?;
        registry.register(Box::new(metrics.open.clone()))?;
        registry.register(Box::new(metrics.unconfirmed.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn booked(&self, entries: &[Entry]) {
        for entry in entries {
            self.entries.with_label_values(&[entry.kind.as_str()]).inc();
            if entry.kind == UNCONFIRMED {
                self.unconfirmed.inc();
            }
        }
    }

    pub(crate) fn ignored(&self, why: Ignored) {
        let reason = match why {
            Ignored::Duplicate => "duplicate",
            Ignored::Unknown => "unknown",
        };
        self.ignored.with_label_values(&[reason]).inc();
    }

    pub(crate) fn retried(&self) {
        self.retries.inc();
    }

    /// One partition's share of the open calls.
    pub(crate) fn open_calls(&self) -> OpenCalls {
        OpenCalls { gauge: self.open.clone(), share: 0 }
    }
}

/// Takes its share out of the gauge when the partition is given up.
pub(crate) struct OpenCalls {
    gauge: IntGauge,
    share: i64,
}

impl OpenCalls {
    pub(crate) fn set(&mut self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.gauge.add(count - self.share);
        self.share = count;
    }
}

impl Drop for OpenCalls {
    fn drop(&mut self) {
        self.gauge.sub(self.share);
    }
}
