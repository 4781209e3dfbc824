//! The fault script: which calls go wrong, and how.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::dice::Digest;

/// One line of a fault script: when its condition holds, the call goes wrong in its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Which calls; an empty condition means every call.
    #[serde(default)]
    pub when: When,
    /// What goes wrong.
    pub then: Fault,
}

/// A condition on calls. Every part that is present must hold.
///
/// A rule counts the calls that `model`, `prompt_contains` and the window let through; `every` and
/// `first` look at that count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// The request names this model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A message or input contains this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_contains: Option<String>,
    /// Not before this many seconds after the script was installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_s: Option<f64>,
    /// Only before this many seconds after the script was installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_s: Option<f64>,
    /// Every N-th counted call: N, 2N, 3N, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// Only the first N counted calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// Only the first N attempts at the same prompt: a client that retries gets through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_attempts: Option<u32>,
    /// With this probability from 0 to 1, decided by seed, prompt and attempt, and so the same in
    /// every run and in any order of calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
}

/// What can go wrong, as real providers do it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// 429 `rate_limit_exceeded` with `retry-after`, `retry-after-ms` and exhausted
    /// `x-ratelimit-*` headers. Not charged.
    RateLimited {
        /// When to come back, in milliseconds.
        retry_after_ms: u64,
        /// More headers, or other values for the usual ones.
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
    /// 429 `insufficient_quota`: waiting does not help. Not charged.
    InsufficientQuota {},
    /// A status from 500 to 599. Not charged.
    ServerError {
        /// The HTTP status.
        status: u16,
    },
    /// The answer is held back this much longer, with the connection open. Charged.
    Hang {
        /// Milliseconds.
        ms: u64,
    },
    /// Half of the body or of the stream, then the connection closes. Charged.
    Cut {},
    /// 200 whose JSON (one chunk's JSON in a stream) is broken off. Charged.
    MalformedJson {},
    /// No `usage` in the answer. Charged.
    UsageMissing {},
    /// `usage` multiplied by a factor; the own counters keep the truth. Charged.
    WrongUsage {
        /// The factor.
        factor: f64,
    },
    /// The connection is reset (TCP RST) before a byte of the answer. Not charged.
    ConnectionReset {},
    /// 400 `context_length_exceeded`, whatever the length. Not charged.
    ContextLengthExceeded {},
    /// Half of the answer with `finish_reason: "content_filter"` (charged), or a refusal.
    ContentFilter {
        /// Refuse the prompt with a 400 `content_filter` instead; that is not charged.
        #[serde(default)]
        reject: bool,
    },
}

/// What a script decides on.
pub(crate) struct Subject<'a> {
    pub model: &'a str,
    pub texts: &'a [&'a str],
    /// Of seed, model and prompt.
    pub digest: &'a Digest,
    /// 1 for the first call with this prompt.
    pub attempt: u32,
}

/// A script that runs: its rules and how many calls each has counted.
#[derive(Debug)]
pub(crate) struct Script {
    rules: Vec<(FaultRule, u64)>,
}

impl Script {
    pub(crate) fn new(rules: Vec<FaultRule>) -> Self {
        Self { rules: rules.into_iter().map(|rule| (rule, 0)).collect() }
    }

    pub(crate) fn rules(&self) -> impl Iterator<Item = &FaultRule> {
        self.rules.iter().map(|(rule, _)| rule)
    }

    pub(crate) fn restart(&mut self) {
        for (_, counted) in &mut self.rules {
            *counted = 0;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What goes wrong with this call, if anything. `elapsed` is the time since installation.
    pub(crate) fn decide(&mut self, subject: &Subject<'_>, elapsed: Duration) -> Option<Fault> {
        for (index, (rule, counted)) in self.rules.iter_mut().enumerate() {
            if rule.when.counts(subject, elapsed) {
                *counted += 1;
                if rule.when.fires(subject, *counted, index) {
                    return Some(rule.then.clone());
                }
            }
        }
        None
    }
}

impl When {
    fn counts(&self, subject: &Subject<'_>, elapsed: Duration) -> bool {
        let seconds = elapsed.as_secs_f64();
        self.model.as_ref().is_none_or(|model| model == subject.model)
            && self.from_s.is_none_or(|from| seconds >= from)
            && self.until_s.is_none_or(|until| seconds < until)
            && self.prompt_contains.as_ref().is_none_or(|needle| subject.texts.iter().any(|text| text.contains(needle)))
    }

    fn fires(&self, subject: &Subject<'_>, counted: u64, rule: usize) -> bool {
        let draw = || {
            let salt = u64::from(subject.attempt) << 16 | rule as u64;
            subject.digest.with("fault", salt).dice().unit()
        };
        self.every.is_none_or(|every| counted.is_multiple_of(every))
            && self.first.is_none_or(|first| counted <= first)
            && self.first_attempts.is_none_or(|first| subject.attempt <= first)
            && self.probability.is_none_or(|probability| draw() < probability)
    }
}

/// One line that says what to change in a script, if something must be.
pub(crate) fn problem(rules: &[FaultRule]) -> Option<String> {
    rules.iter().enumerate().find_map(|(index, rule)| {
        let when = &rule.when;
        let wrong = if when.every == Some(0) {
            "every is 0: set 1 or more"
        } else if when.probability.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            "probability must be from 0 to 1"
        } else if let (Some(from), Some(until)) = (when.from_s, when.until_s)
            && from >= until
        {
            "from_s must be before until_s"
        } else {
            match &rule.then {
                Fault::ServerError { status } if !(500..=599).contains(status) => "status must be from 500 to 599",
                Fault::WrongUsage { factor } if !(0.0..=1e6).contains(factor) => "factor must be from 0 to 1000000",
                Fault::RateLimited { headers, .. } if !headers.iter().all(is_header) => {
                    "headers must be valid HTTP header names and values"
                }
                Fault::RateLimited { .. }
                | Fault::InsufficientQuota {}
                | Fault::ServerError { .. }
                | Fault::Hang { .. }
                | Fault::Cut {}
                | Fault::MalformedJson {}
                | Fault::UsageMissing {}
                | Fault::WrongUsage { .. }
                | Fault::ConnectionReset {}
                | Fault::ContextLengthExceeded {}
                | Fault::ContentFilter { .. } => return None,
            }
        };
        Some(format!("fault rule {index}: {wrong}"))
    })
}

fn is_header((name, value): (&String, &String)) -> bool {
    axum::http::HeaderName::try_from(name).is_ok() && axum::http::HeaderValue::try_from(value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Digester;

    fn decisions(when: When, calls: u32) -> Vec<u32> {
        let mut script = Script::new(vec![FaultRule { when, then: Fault::Cut {} }]);
        (1..=calls)
            .filter(|&call| {
                let mut digester = Digester::new(1);
                digester.part(&(call / 2).to_le_bytes());
                let subject = Subject {
                    model: if call.is_multiple_of(2) { "even" } else { "odd" },
                    texts: &["say hello"],
                    digest: &digester.finish(),
                    attempt: 1 + call % 2,
                };
                script.decide(&subject, Duration::from_secs(u64::from(call))).is_some()
            })
            .collect()
    }

    #[test]
    fn conditions_choose_the_calls_they_say() {
        let any = When::default;
        assert_eq!(decisions(any(), 3), [1, 2, 3]);
        assert_eq!(decisions(When { model: Some("even".into()), ..any() }, 5), [2, 4]);
        assert_eq!(decisions(When { every: Some(3), ..any() }, 7), [3, 6]);
        assert_eq!(decisions(When { first: Some(2), ..any() }, 7), [1, 2]);
        assert_eq!(decisions(When { first_attempts: Some(1), ..any() }, 5), [2, 4]);
        assert_eq!(decisions(When { from_s: Some(2.0), until_s: Some(4.0), ..any() }, 7), [2, 3]);
        assert_eq!(decisions(When { prompt_contains: Some("bye".into()), ..any() }, 7), [0; 0]);
        // Counting starts where the other conditions hold.
        let late = When { model: Some("even".into()), every: Some(2), ..any() };
        assert_eq!(decisions(late, 8), [4, 8]);
    }

    #[test]
    fn probability_is_about_right_and_the_same_each_time() {
        let when = When { probability: Some(0.25), ..When::default() };
        let first = decisions(when.clone(), 4_000);
        assert!((850..1_150).contains(&first.len()), "{}", first.len());
        assert_eq!(first, decisions(when, 4_000));
    }

    #[test]
    fn a_wrong_script_is_named() {
        let cut = Fault::Cut {};
        let check = |when: When, then: Fault, says: &str| {
            let found = problem(&[FaultRule { when, then }]).unwrap_or_default();
            assert!(found.contains(says), "{found:?} should say {says:?}");
        };
        check(When { every: Some(0), ..When::default() }, cut.clone(), "every");
        check(When { probability: Some(1.5), ..When::default() }, cut, "probability");
        check(When::default(), Fault::ServerError { status: 404 }, "500");
        check(When::default(), Fault::WrongUsage { factor: -1.0 }, "factor");
    }
}
