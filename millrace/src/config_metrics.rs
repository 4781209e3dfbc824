//! Which configuration a process runs with, and what became of those that came after it.

use millrace_schemas::now_millis;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// What became of a configuration that was read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is used.
    Applied,
    /// It says what the one before says.
    Unchanged,
    /// It can not be used.
    Invalid,
    /// It has something that only a start takes up.
    NeedsRestart,
}

impl Taken {
    const ALL: [Taken; 4] = [Self::Applied, Self::Unchanged, Self::Invalid, Self::NeedsRestart];

    fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Invalid => "invalid",
            Self::NeedsRestart => "needs_restart",
        }
    }

    /// Whether the process uses what is in the file.
    pub fn is_good(self) -> bool {
        match self {
            Self::Applied | Self::Unchanged => true,
            Self::Invalid | Self::NeedsRestart => false,
        }
    }
}

/// Registered once per process.
#[derive(Clone)]
pub struct ConfigMetrics {
    info: IntGaugeVec,
    reloads: IntCounterVec,
    is_good: IntGauge,
    last: IntGauge,
}

impl ConfigMetrics {
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let info = IntGaugeVec::new(
            Opts::new("millrace_config_info", "1 for the version of the configuration that is used"),
            &["version"],
        )?;
        let reloads = IntCounterVec::new(
            Opts::new("millrace_config_reloads_total", "Configurations that were read while running, by what became"),
            &["result"],
        )?;
        let is_good = IntGauge::new(
            "millrace_config_last_reload_successful",
            "0 while the configuration as it is on disk can not be used and the one before is",
        )?;
        let last = IntGauge::new(
            "millrace_config_last_reload_success_timestamp_seconds",
            "When the configuration on disk was last found to be used, or taken up",
        )?;
        registry.register(Box::new(info.clone()))?;
        registry.register(Box::new(reloads.clone()))?;
        registry.register(Box::new(is_good.clone()))?;
        registry.register(Box::new(last.clone()))?;
        for taken in Taken::ALL {
            reloads.with_label_values(&[taken.label()]);
        }
        is_good.set(1);
        Ok(Self { info, reloads, is_good, last })
    }

    /// From now on this version is used.
    pub fn uses(&self, version: &str) {
        self.info.reset();
        self.info.with_label_values(&[version]).set(1);
        self.last.set(now_millis() / 1_000);
    }

    /// A configuration was read again.
    pub fn reloaded(&self, taken: Taken) {
        self.reloads.with_label_values(&[taken.label()]).inc();
        self.is_good.set(i64::from(taken.is_good()));
        if taken.is_good() {
            self.last.set(now_millis() / 1_000);
        }
    }
}
