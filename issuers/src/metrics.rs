//! What is shown of issuers to Prometheus, by their names in the configuration.

use prometheus::{IntGaugeVec, Opts, Registry};

/// Metrics of the issuers of a process.
#[derive(Clone)]
pub struct IssuerMetrics {
    keys: IntGaugeVec,
    unread: IntGaugeVec,
}

impl IssuerMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// One of their names is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["issuer"]);
        let metrics = Self {
            keys: gauge("millrace_issuer_keys", "Keys of an issuer of tokens that are known and can be used.")?,
            unread: gauge(
                "millrace_issuer_keys_unread",
                "1 while an issuer's keys could not be read; those before are used.",
            )?,
        };
        registry.register(Box::new(metrics.keys.clone()))?;
        registry.register(Box::new(metrics.unread.clone()))?;
        Ok(metrics)
    }

    /// Its keys were read, and so many can be used; or they could not be read.
    pub(crate) fn read(&self, issuer: &str, keys: Option<usize>) {
        let of = |gauge: &IntGaugeVec| gauge.with_label_values(&[issuer]);
        of(&self.unread).set(i64::from(keys.is_none()));
        if let Some(keys) = keys {
            of(&self.keys).set(i64::try_from(keys).unwrap_or(i64::MAX));
        }
    }
}
