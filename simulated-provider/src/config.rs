//! What can be set, and what a valid setting is.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::dice::Dice;
use crate::faults::FaultRule;

/// Settings of a simulated provider. Every field has a default, so `{}` is a whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimulatedProviderConfig {
    /// Time from a request's arrival to the first byte of its answer.
    pub latency: Latency,
    /// Pace of a streamed answer in tokens per second; absent: all chunks at once.
    pub tokens_per_second: Option<f64>,
    /// How many tokens an answer has when the request sets no lower limit.
    pub completion_tokens: TokenRange,
    /// Names of the chat models served.
    pub models: Vec<String>,
    /// Names of the embedding models served.
    pub embedding_models: Vec<String>,
    /// Length of an embedding, in numbers.
    pub embedding_dimensions: usize,
    /// Answers, latencies and probabilities are functions of this and of the request.
    pub seed: u64,
    /// Accepted keys; absent: any key, or none, is accepted.
    pub api_keys: Option<Vec<ApiKey>>,
    /// Tokens that prompt and answer may have together in a chat; beyond it a 400
    /// `context_length_exceeded`.
    pub context_tokens: u32,
    /// Longest request body in bytes; beyond it a 413.
    pub max_body_bytes: usize,
    /// Requests kept for `GET /calls`; the oldest are forgotten first.
    pub kept_calls: usize,
    /// The fault script; the first rule that fires decides.
    pub faults: Vec<FaultRule>,
}

impl Default for SimulatedProviderConfig {
    fn default() -> Self {
        Self {
            latency: Latency::Constant { ms: 20.0 },
            tokens_per_second: None,
            completion_tokens: TokenRange { min: 24, max: 96 },
            models: vec!["sim-small".to_owned(), "sim-large".to_owned()],
            embedding_models: vec!["sim-embed".to_owned()],
            embedding_dimensions: 384,
            seed: 0,
            api_keys: None,
            context_tokens: 128_000,
            max_body_bytes: 32 << 20,
            kept_calls: 1_000_000,
            faults: Vec::new(),
        }
    }
}

impl SimulatedProviderConfig {
    /// One line that says what to change, if something must be.
    pub(crate) fn problem(&self) -> Option<String> {
        let TokenRange { min, max } = self.completion_tokens;
        if min == 0 || min > max {
            return Some(format!("completion_tokens is {min} to {max}: set 1 <= min <= max"));
        }
        if let Some(problem) = problem_of_pace(self.tokens_per_second) {
            return Some(problem);
        }
        if self.embedding_dimensions == 0 || self.embedding_dimensions > 8_192 {
            return Some(format!("embedding_dimensions is {}: set 1 to 8192", self.embedding_dimensions));
        }
        if let Some(twice) = self.models.iter().find(|model| self.embedding_models.contains(model)) {
            return Some(format!("model '{twice}' is in both models and embedding_models: keep it in one"));
        }
        self.latency.problem().or_else(|| crate::faults::problem(&self.faults))
    }
}

/// One line that says what to change in `tokens_per_second`, if something must be.
pub(crate) fn problem_of_pace(pace: Option<f64>) -> Option<String> {
    let pace = pace.filter(|pace| !(pace.is_finite() && *pace > 0.0))?;
    Some(format!("tokens_per_second is {pace}: set a positive number or leave it out"))
}

/// How many tokens an answer has, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRange {
    /// Fewest tokens.
    pub min: u32,
    /// Most tokens.
    pub max: u32,
}

impl TokenRange {
    pub(crate) fn sample(self, dice: &mut Dice) -> u32 {
        self.min + dice.below((self.max - self.min) as usize + 1) as u32
    }
}

/// A distribution of latencies in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Latency {
    /// Always the same.
    Constant {
        /// Milliseconds.
        ms: f64,
    },
    /// Every value between the two ends is as likely as any other.
    Uniform {
        /// Shortest, in milliseconds.
        min_ms: f64,
        /// Longest, in milliseconds.
        max_ms: f64,
    },
    /// Most answers near the median, few very late, as from a real provider.
    Lognormal {
        /// Half of the answers come sooner than this many milliseconds.
        median_ms: f64,
        /// Spread of the logarithm; 0.5 puts the 99th percentile at 3.2 times the median.
        sigma: f64,
    },
}

/// No answer takes longer than this, however unlucky the draw.
const LONGEST_LATENCY_MS: f64 = 600_000.0;

impl Latency {
    pub(crate) fn sample(self, dice: &mut Dice) -> Duration {
        let ms = match self {
            Self::Constant { ms } => ms,
            Self::Uniform { min_ms, max_ms } => min_ms + (max_ms - min_ms) * dice.unit(),
            Self::Lognormal { median_ms, sigma } => median_ms * (sigma * dice.normal()).exp(),
        };
        Duration::from_secs_f64(ms.clamp(0.0, LONGEST_LATENCY_MS) / 1_000.0)
    }

    pub(crate) fn problem(self) -> Option<String> {
        let valid = |value: f64| (0.0..=LONGEST_LATENCY_MS).contains(&value);
        let fine = match self {
            Self::Constant { ms } => valid(ms),
            Self::Uniform { min_ms, max_ms } => valid(min_ms) && valid(max_ms) && min_ms <= max_ms,
            Self::Lognormal { median_ms, sigma } => valid(median_ms) && (0.0..=10.0).contains(&sigma),
        };
        (!fine).then(|| {
            format!("latency {self:?} is not possible: use 0 to {LONGEST_LATENCY_MS} ms, min <= max, sigma 0 to 10")
        })
    }
}

/// A key that clients must send. It is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ApiKey(String);

impl ApiKey {
    /// Wraps a key.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    pub(crate) fn is(&self, presented: &str) -> bool {
        self.0 == presented
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey(hidden)")
    }
}

impl Serialize for ApiKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("hidden")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Digester;

    #[test]
    fn an_empty_table_is_the_default_and_the_default_is_valid() {
        let config: SimulatedProviderConfig = toml::from_str("").unwrap();
        assert_eq!(config, SimulatedProviderConfig::default());
        assert_eq!(config.problem(), None);
    }

    #[test]
    fn a_full_file_is_read_and_a_misspelt_key_is_refused() {
        let text = r#"
            latency = { kind = "lognormal", median_ms = 300, sigma = 0.5 }
            tokens_per_second = 120
            completion_tokens = { min = 5, max = 9 }
            api_keys = ["secret-key"]
            [[faults]]
            when = { model = "sim-small", every = 10, until_s = 30 }
            then = { kind = "rate_limited", retry_after_ms = 1500 }
            [[faults]]
            then = { kind = "cut" }
        "#;
        let config: SimulatedProviderConfig = toml::from_str(text).unwrap();
        assert_eq!(config.faults.len(), 2);
        assert!(!format!("{config:?}").contains("secret-key"));
        assert!(!serde_json::to_string(&config).unwrap().contains("secret-key"));
        for wrong in [
            text.replace("tokens_per_second", "token_per_second"),
            text.replace("every", "evry"),
            text.replace("\"cut\"", "\"cut\", after = 3"),
            text.replace("median_ms", "median"),
        ] {
            assert!(toml::from_str::<SimulatedProviderConfig>(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn impossible_settings_are_named() {
        let check = |change: fn(&mut SimulatedProviderConfig), names: &str| {
            let mut config = SimulatedProviderConfig::default();
            change(&mut config);
            let problem = config.problem().unwrap();
            assert!(problem.contains(names), "{problem}");
        };
        check(|c| c.completion_tokens = TokenRange { min: 9, max: 3 }, "completion_tokens");
        check(|c| c.tokens_per_second = Some(0.0), "tokens_per_second");
        check(|c| c.latency = Latency::Constant { ms: -1.0 }, "latency");
        check(|c| c.embedding_models.push("sim-small".to_owned()), "sim-small");
    }

    #[test]
    fn the_lognormal_median_is_the_median() {
        let latency = Latency::Lognormal { median_ms: 100.0, sigma: 0.5 };
        let mut dice = Digester::new(3).finish().dice();
        let below = (0..10_000).filter(|_| latency.sample(&mut dice) < Duration::from_millis(100)).count();
        assert!((4_700..5_300).contains(&below), "{below}");
    }
}
