//! What a check says.

use serde::{Deserialize, Serialize};

/// How many hits a verdict lists; the rest are only counted. Their list goes into records, which
/// are bounded.
pub const MAX_HITS: usize = 100;

/// What is done with a text. The order is that of severity: the highest of all hits holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It passes as it is; the hit is only reported.
    #[default]
    Allow,
    /// It passes with what was hit replaced by a label.
    Redact,
    /// It does not pass.
    Block,
}

impl Action {
    /// Its name in records and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Redact => "redact",
            Self::Block => "block",
        }
    }
}

/// What kind of rule was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HitKind {
    /// A blocked term.
    Term,
    /// A regular expression.
    Pattern,
    /// An e-mail address.
    Email,
    /// A telephone number.
    Phone,
    /// An international bank account number with a valid checksum.
    Iban,
    /// A payment card number with a valid checksum.
    CreditCard,
    /// An IPv4 address.
    Ipv4,
    /// A US social security number.
    UsSsn,
    /// More characters than allowed.
    Length,
    /// What can not be read can not be held to rules.
    Unreadable,
    /// Signs that a prompt tries to give the model orders of its own.
    Injection,
}

impl HitKind {
    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Term => "term",
            Self::Pattern => "pattern",
            Self::Email => "email",
            Self::Phone => "phone",
            Self::Iban => "iban",
            Self::CreditCard => "credit_card",
            Self::Ipv4 => "ipv4",
            Self::UsSsn => "us_ssn",
            Self::Length => "length",
            Self::Unreadable => "unreadable",
            Self::Injection => "injection",
        }
    }
}

/// A rule that was hit, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// The rule's name.
    pub rule: String,
    /// The kind of rule.
    pub kind: HitKind,
    /// What the rule says to do.
    pub action: Action,
    /// First byte in the checked text.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

/// What a check says about a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What is to be done.
    pub action: Action,
    /// The first [`MAX_HITS`] hits, by place. Overlapping hits of one rule are one.
    pub hits: Vec<Hit>,
    /// How many hits there were.
    pub total_hits: usize,
    /// With [`Action::Redact`], what passes. Checking it again redacts nothing more.
    pub text: Option<String>,
}

impl Verdict {
    /// It passes as it is.
    pub(crate) fn passes() -> Self {
        Self { action: Action::Allow, hits: Vec::new(), total_hits: 0, text: None }
    }

    /// Another text passes.
    pub(crate) fn becomes(text: String) -> Self {
        Self { action: Action::Redact, text: Some(text), ..Self::passes() }
    }

    /// Nothing passes.
    pub(crate) fn withheld() -> Self {
        Self { action: Action::Block, ..Self::passes() }
    }
}
