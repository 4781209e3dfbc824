//! Rule sets as people write them.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::injection::{InjectionRule, MOST};
use crate::placeholders::numbered;
use crate::prompt::OfPrompts;
use crate::verdict::Action;
use crate::{Compiled, RulesError};

/// What a text is checked for. The default checks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuleSet {
    /// Lists of words that must not appear.
    pub terms: Vec<TermRule>,
    /// Regular expressions that must not match.
    pub patterns: Vec<PatternRule>,
    /// Kinds of personal data.
    pub pii: PiiRules,
    /// How long a text may be.
    pub max_chars: Option<LengthRule>,
    /// What prompts are held to, before a model sees them; all of the above is for answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptRules>,
}

/// What a prompt is checked for. Its length is bounded by the model's `context_tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptRules {
    /// Lists of words that must not appear.
    pub terms: Vec<TermRule>,
    /// Regular expressions that must not match.
    pub patterns: Vec<PatternRule>,
    /// Kinds of personal data.
    pub pii: PiiRules,
    /// Signs that a text tries to give the model orders of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub injection: Option<InjectionRule>,
    /// Whether what is redacted in a prompt is put back into its answer, before that is held to the rules for answers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restore: bool,
}

impl PromptRules {
    /// Makes the rules ready for use.
    pub(crate) fn compile(&self) -> Result<OfPrompts, RulesError> {
        if let Some(threshold) =
            self.injection.as_ref().map(|rule| rule.threshold).filter(|it| !(1..=MOST).contains(it))
        {
            return refuse("injection", format!("the threshold is {threshold}; set it to 1 to {MOST}"));
        }
        let PiiRules { email, phone, iban, credit_card, ipv4, us_ssn } = &self.pii;
        let pii = [email, phone, iban, credit_card, ipv4, us_ssn].into_iter().flatten();
        let named = self.terms.iter().map(|rule| &rule.action).chain(self.patterns.iter().map(|rule| &rule.action));
        if self.restore && !named.chain(pii).any(|action| *action == Action::Redact) {
            return refuse("restore", "no rule for prompts redacts, so there is nothing to put back; leave it out");
        }
        let Self { terms, patterns, pii, injection, restore } = self.clone();
        let rules = RuleSet { terms, patterns, pii, ..RuleSet::default() }.compile()?;
        rules.refuse_labels_that_are_hit(|rule| numbered(rule, 1))?;
        Ok(OfPrompts { rules, injection, restores: restore })
    }
}

/// Words or phrases, in any case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermRule {
    /// Unique in the set: lowercase letters, digits, `_` and `-`. Its capitals are the label.
    pub name: String,
    /// The words.
    pub words: Vec<String>,
    /// What to do with them.
    pub action: Action,
    /// Whether they count only as whole words (default), not as parts of longer ones. Set it to
    /// false for languages written without spaces.
    #[serde(default = "yes")]
    pub whole_words: bool,
}

/// A regular expression, in the syntax of the `regex` crate (no look-around, no back-references:
/// its time is linear).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatternRule {
    /// Unique in the set: lowercase letters, digits, `_` and `-`. Its capitals are the label.
    pub name: String,
    /// The expression.
    pub regex: String,
    /// What to do with what it matches.
    pub action: Action,
}

/// Personal data to look for. None: not looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PiiRules {
    /// E-mail addresses.
    pub email: Option<Action>,
    /// Telephone numbers: international with `+` or `00`, North American, or with a leading 0; the
    /// last two only with separators.
    pub phone: Option<Action>,
    /// Bank account numbers (IBAN) of a known country's length and with a valid checksum.
    pub iban: Option<Action>,
    /// Payment card numbers with a valid checksum.
    pub credit_card: Option<Action>,
    /// IPv4 addresses.
    pub ipv4: Option<Action>,
    /// US social security numbers with separators.
    pub us_ssn: Option<Action>,
}

/// A bound on the length of a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthRule {
    /// The most characters (Unicode scalar values).
    pub limit: usize,
    /// What to do with more; `redact` cuts the text.
    pub action: Action,
}

fn yes() -> bool {
    true
}

/// The names of the built-in rules, which no other rule may have.
pub(crate) const RESERVED: [&str; 9] =
    ["email", "phone", "iban", "credit_card", "ipv4", "us_ssn", "max_chars", "unreadable", "injection"];

const MAX_RULES: usize = 1_000;
const MAX_WORDS: usize = 100_000;
const MAX_WORD_BYTES: usize = 256;
const MAX_REGEX_BYTES: usize = 4_096;
const MAX_NAME: usize = 64;

impl FromStr for RuleSet {
    type Err = RulesError;

    /// Reads a rule set from TOML.
    fn from_str(text: &str) -> Result<Self, RulesError> {
        toml::from_str(text).map_err(|error| syntax("rules", error.message()))
    }
}

impl RuleSet {
    /// Reads a rule set from a TOML table; `place` names it in errors.
    ///
    /// # Errors
    /// When the table has another shape.
    pub fn from_toml(value: toml::Value, place: &str) -> Result<Self, RulesError> {
        value.try_into().map_err(|error: toml::de::Error| syntax(place, error.message()))
    }

    /// Makes the rules ready for use.
    ///
    /// # Errors
    /// The first rule that cannot be used, and why.
    pub fn compile(&self) -> Result<Compiled, RulesError> {
        self.validate()?;
        Compiled::new(self)
    }

    fn validate(&self) -> Result<(), RulesError> {
        if self.terms.len() + self.patterns.len() > MAX_RULES {
            return refuse("terms", format!("there are more than {MAX_RULES} rules; join word lists of one action"));
        }
        let names = self.terms.iter().map(|rule| &rule.name).chain(self.patterns.iter().map(|rule| &rule.name));
        let mut seen = BTreeSet::new();
        for name in names {
            let is_name = !name.is_empty()
                && name.len() <= MAX_NAME
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'));
            if !is_name {
                return refuse(
                    name,
                    format!("is no name; use at most {MAX_NAME} lowercase letters, digits, underscores and hyphens"),
                );
            }
            if RESERVED.contains(&name.as_str()) {
                return refuse(name, "is the name of a built-in rule; choose another");
            }
            if !seen.insert(name) {
                return refuse(name, "there are two of this name; give each its own");
            }
        }
        if self.terms.iter().map(|rule| rule.words.len()).sum::<usize>() > MAX_WORDS {
            return refuse("terms", format!("there are more than {MAX_WORDS} words; remove some"));
        }
        for rule in &self.terms {
            if rule.words.is_empty() {
                return refuse(&rule.name, "has no words; add some or remove the rule");
            }
            if let Some(word) = rule.words.iter().find(|word| word.trim().is_empty() || word.len() > MAX_WORD_BYTES) {
                return refuse(
                    &rule.name,
                    format!("the word `{}` is blank or longer than {MAX_WORD_BYTES} bytes", word.escape_debug()),
                );
            }
        }
        for rule in &self.patterns {
            if rule.regex.len() > MAX_REGEX_BYTES {
                return refuse(&rule.name, format!("the expression is longer than {MAX_REGEX_BYTES} bytes; split it"));
            }
        }
        match &self.max_chars {
            Some(LengthRule { limit: 0, .. }) => refuse("max_chars", "the limit is 0; set it to at least 1"),
            Some(_) | None => Ok(()),
        }
    }
}

pub(crate) fn refuse<T>(rule: &str, reason: impl Into<String>) -> Result<T, RulesError> {
    Err(RulesError::Rule { rule: rule.to_owned(), reason: reason.into() })
}

pub(crate) fn syntax(place: &str, message: &str) -> RulesError {
    RulesError::Syntax { place: place.to_owned(), reason: message.lines().collect::<Vec<_>>().join(" ") }
}
