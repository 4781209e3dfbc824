//! Prompts, held to what a rule set says of them.

use std::collections::BTreeSet;

use crate::Compiled;
use crate::injection::InjectionRule;
use crate::placeholders::Placeholders;
use crate::texts::Seen;
use crate::verdict::{Action, HitKind};

/// A rule that a prompt hits, without what it found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PromptHit {
    /// The rule's name.
    pub rule: String,
    /// The kind of rule.
    pub kind: HitKind,
    /// What the rule says to do.
    pub action: Action,
}

/// What the rules say of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptVerdict {
    /// What is to be done.
    pub action: Action,
    /// The rules that it hits, each once.
    pub hits: BTreeSet<PromptHit>,
    /// Version of the rule set that says so.
    pub rules_version: String,
    /// With [`Action::Redact`], what a model may be given: the body with placeholders, every other byte as it came.
    pub body: Option<Vec<u8>>,
    /// What stands for which value.
    pub placeholders: Placeholders,
    /// Whether answers are to have the values in place of the placeholders.
    pub restores: bool,
}

impl PromptVerdict {
    /// The names of the rules that it hits, sorted, of those that do `least` or more.
    pub fn rules(&self, least: Action) -> Vec<String> {
        let names: BTreeSet<&str> =
            self.hits.iter().filter(|hit| hit.action >= least).map(|hit| hit.rule.as_str()).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn note(&mut self, rule: &str, kind: HitKind, action: Action) {
        self.action = self.action.max(action);
        self.hits.insert(PromptHit { rule: rule.to_owned(), kind, action });
    }

    /// It must not be sent: something of it can not be held to the rules.
    pub fn withhold(&mut self) {
        self.note("unreadable", HitKind::Unreadable, Action::Block);
    }
}

/// What prompts are held to, ready for use.
#[derive(Clone, Debug)]
pub(crate) struct OfPrompts {
    pub rules: Compiled,
    pub injection: Option<InjectionRule>,
    pub restores: bool,
}

impl OfPrompts {
    fn look(&self, seen: &Seen<'_>, verdict: &mut PromptVerdict) {
        seen.each_token(&mut |text| match text {
            Some(text) => {
                self.rules.find(text).iter().for_each(|found| verdict.note(found.rule, found.kind, found.action));
                verdict.placeholders.avoid(text);
            }
            None => verdict.withhold(),
        });
        let Some(injection) = &self.injection else { return };
        let inputs = seen.texts().into_iter().filter(|text| text.is_input);
        let mut read = inputs.filter_map(|text| serde_json::from_str::<String>(text.raw.get()).ok());
        if read.any(|text| injection.hits(&text)) {
            verdict.note("injection", HitKind::Injection, injection.action.into());
        }
    }
}

impl Compiled {
    /// What the rules for prompts say of a request's body, and with [`Action::Redact`] what is to be sent instead; `None`
    /// where there are none. Every string, name and number of what a model would see is checked, and what users and tools
    /// say also for injections. What can not be read is to be blocked, by the rule `unreadable`.
    pub fn check_prompt(&self, body: &[u8]) -> Option<PromptVerdict> {
        let rules = self.for_prompts()?;
        let (rules_version, restores) = (self.version().to_owned(), rules.restores);
        let mut verdict = PromptVerdict { rules_version, restores, ..PromptVerdict::default() };
        let read = std::str::from_utf8(body).ok().and_then(|body| Some((body, Seen::of(body)?)));
        match read {
            Some((body, seen)) => {
                rules.look(&seen, &mut verdict);
                if verdict.action == Action::Redact {
                    rules.redact(body, &seen, &mut verdict);
                }
            }
            None => verdict.withhold(),
        }
        Some(verdict)
    }
}
