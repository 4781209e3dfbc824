//! Moderation rules: blocked terms, regular expressions, personal data and length, each with the
//! action allow, redact or block.
//!
//! Pure and deterministic: the same definition ([`Compiled::version`]) and the same text always give
//! the same [`Verdict`], in every service that asks. Time is linear in the text.
//!
//! ```
//! let set: millrace_rules::RuleSet = r#"
//!     pii = { email = "redact" }
//!     terms = [{ name = "secret", words = ["project x"], action = "block" }]
//! "#.parse().unwrap();
//! let rules = set.compile().unwrap();
//! assert_eq!(rules.check("ask bob@example.com").text.as_deref(), Some("ask [EMAIL]"));
//! assert_eq!(rules.check("ask about Project X").action, millrace_rules::Action::Block);
//! ```

mod compiled;
mod completion;
mod definition;
mod error;
mod iban;
mod injection;
mod pii;
mod placeholders;
mod prompt;
mod redaction;
mod response;
mod sets;
mod streaming;
mod terms;
mod texts;
mod verdict;

pub use crate::compiled::Compiled;
pub use crate::completion::{LocatedHit, Moderated};
pub use crate::definition::{LengthRule, PatternRule, PiiRules, PromptRules, RuleSet, TermRule};
pub use crate::error::{CompletionError, RulesError};
pub use crate::injection::{InjectionAction, InjectionRule};
pub use crate::placeholders::Placeholders;
pub use crate::prompt::{PromptHit, PromptVerdict};
pub use crate::sets::{RuleSets, compile_all};
pub use crate::streaming::{Redactor, Streaming};
pub use crate::verdict::{Action, Hit, HitKind, MAX_HITS, Verdict};
