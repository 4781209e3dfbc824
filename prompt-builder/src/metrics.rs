//! What the rules for prompts found, for Prometheus.

use millrace_rules::PromptVerdict;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Registered once per process.
#[derive(Clone)]
pub struct PromptMetrics {
    checked: IntCounterVec,
    hits: IntCounterVec,
    missing: IntCounter,
}

impl PromptMetrics {
    /// Registers the metrics; once per process.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::new()?;
        registry.register(Box::new(metrics.checked.clone()))?;
        registry.register(Box::new(metrics.hits.clone()))?;
        registry.register(Box::new(metrics.missing.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            checked: IntCounterVec::new(
                Opts::new(
                    "millrace_prompt_moderation_total",
                    "Prompts held to rules for prompts, by what was done: allow, redact or block.",
                ),
                &["action"],
            )?,
            hits: IntCounterVec::new(
                Opts::new(
                    "millrace_prompt_rule_hits_total",
                    "Rules that prompts hit, each once a prompt, by their kind and what they do.",
                ),
                &["kind", "action"],
            )?,
            missing: IntCounter::new(
                "millrace_prompt_rules_missing_total",
                "Tries of requests whose rule set is not known here: they wait for it until their deadline.",
            )?,
        })
    }

    pub(crate) fn rules_are_missing(&self) {
        self.missing.inc();
    }

    pub(crate) fn count(&self, verdict: &PromptVerdict) {
        self.checked.with_label_values(&[verdict.action.as_str()]).inc();
        for hit in &verdict.hits {
            self.hits.with_label_values(&[hit.kind.as_str(), hit.action.as_str()]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_counts_once_and_so_does_each_rule_that_it_hits() {
        let rules: millrace_rules::RuleSet = r#"
            [prompt]
            pii = { email = "allow", iban = "block" }
            terms = [{ name = "names-are-no-labels", words = ["hats"], action = "block" }]
        "#
        .parse()
        .expect("rules");
        let rules = rules.compile().expect("rules");
        let registry = Registry::new();
        let metrics = PromptMetrics::register(&registry).expect("metrics");
        for text in ["coats", "hats of a@x.org and b@x.org", "c@x.org"] {
            let body = serde_json::json!({ "input": text }).to_string();
            metrics.count(&rules.check_prompt(body.as_bytes()).expect("rules for prompts"));
        }
        let shown = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
        let lines: Vec<&str> = shown.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                r#"millrace_prompt_moderation_total{action="allow"} 2"#,
                r#"millrace_prompt_moderation_total{action="block"} 1"#,
                r#"millrace_prompt_rule_hits_total{action="allow",kind="email"} 2"#,
                r#"millrace_prompt_rule_hits_total{action="block",kind="term"} 1"#,
                "millrace_prompt_rules_missing_total 0",
            ]
        );
    }
}
