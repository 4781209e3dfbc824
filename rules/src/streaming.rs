//! Redacting a text that is still being written.

use regex_syntax::hir::Look;

use crate::compiled::Compiled;
use crate::placeholders::{MOST_RESTORED, Placeholders, Restorer};
use crate::verdict::Action;
use crate::{PatternRule, RuleSet};

/// What may be seen of a text before it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streaming {
    /// Every piece as it comes: no rule changes anything.
    Free,
    /// Every piece once nothing that follows can change it: see [`Redactor`].
    HeldBack,
    /// Nothing: a rule blocks, or looks at the whole text.
    Whole,
}

/// How far around a place rules look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The longest hit, bytes, with what has to be seen around it.
    bytes: usize,
    /// Whether there are hits of any length in one run of the characters of an e-mail address.
    in_runs: bool,
}

/// The longest that the built-in expressions can match, with separators of two bytes.
const PII_REACH: usize = 128;
/// A character on each side, which may continue a word.
const AROUND: usize = 8;
/// A character may have three times as many bytes as the one that it is folded to.
const FOLDING: usize = 3;

impl Reach {
    /// How far the rules that redact look; `None` when that is not bounded.
    pub fn of(set: &RuleSet) -> Option<Self> {
        let redacts = |action: Action| action == Action::Redact;
        if set.max_chars.as_ref().is_some_and(|rule| redacts(rule.action)) {
            return None;
        }
        let words = set.terms.iter().filter(|rule| redacts(rule.action)).flat_map(|rule| &rule.words);
        let mut bytes = words.map(|word| word.trim().len() * FOLDING).max().unwrap_or(0);
        for rule in set.patterns.iter().filter(|rule| redacts(rule.action)) {
            bytes = bytes.max(longest(rule)?);
        }
        let pii = &set.pii;
        let bounded = [pii.phone, pii.iban, pii.credit_card, pii.ipv4, pii.us_ssn];
        if bounded.iter().flatten().any(|action| redacts(*action)) {
            bytes = bytes.max(PII_REACH);
        }
        Some(Self { bytes: bytes + AROUND, in_runs: pii.email.is_some_and(redacts) })
    }

    /// Up to where `text`, of which nothing before `stable` will change any more, has all its hits.
    pub fn settled(self, text: &str, stable: usize) -> usize {
        let bounded = text.floor_char_boundary(stable.saturating_sub(self.bytes));
        if !self.in_runs {
            return bounded;
        }
        let is_of_address = |c: char| c.is_alphanumeric() || "._%+'-@".contains(c);
        bounded.min(text[..stable].trim_end_matches(is_of_address).len())
    }
}

/// The longest that an expression can match, bytes; `None` without a bound, or when the end of the text
/// is part of it.
fn longest(rule: &PatternRule) -> Option<usize> {
    let expression = regex_syntax::parse(&rule.regex).ok()?;
    let properties = expression.properties();
    if properties.look_set().contains(Look::End) { None } else { properties.maximum_len() }
}

impl Compiled {
    /// What may be seen of a text before it is whole.
    pub fn streaming(&self) -> Streaming {
        match (self.most_severe(), self.reach()) {
            (Action::Allow, _) => Streaming::Free,
            (Action::Redact, Some(_)) => Streaming::HeldBack,
            (Action::Redact, None) | (Action::Block, _) => Streaming::Whole,
        }
    }
}

/// Takes a text in pieces and gives out what passes, as soon as nothing that follows can change it.
///
/// What was given out is the beginning of what [`Compiled::check`] lets pass of the whole. In theory a
/// text can be made for which it is not, by hits that only come about in redacting others: then its
/// redactor [gives up](Redactor::push), with nothing given out that a rule hits.
#[derive(Clone, Debug)]
pub struct Redactor {
    rules: Compiled,
    restorer: Option<Restorer>,
    text: String,
    given: String,
    /// Bytes at which the text is looked at again: not for each word of a long text.
    next_look: usize,
    gave_up: bool,
}

/// A text is looked at again when it has grown by this part.
const GROWTH: usize = 64;

impl Redactor {
    /// For rules whose texts are [held back](Streaming::HeldBack).
    pub fn new(rules: &Compiled) -> Self {
        let rules = rules.clone();
        Self { rules, restorer: None, text: String::new(), given: String::new(), next_look: 0, gave_up: false }
    }

    /// The same of a text into which values are put back first, for rules under which pieces are seen as they come or are
    /// [held back](Streaming::HeldBack).
    pub fn restoring(rules: &Compiled, placeholders: &Placeholders) -> Self {
        let restorer = (!placeholders.is_empty()).then(|| Restorer::new(placeholders));
        Self { restorer, ..Self::new(rules) }
    }

    /// Adds a piece. What passes now; nothing from the moment on that it gives up.
    pub fn push(&mut self, piece: &str) -> Option<String> {
        match &mut self.restorer {
            Some(restorer) => self.text.push_str(&restorer.push(piece)),
            None => self.text.push_str(piece),
        }
        if self.restorer.is_some() && self.text.len() > MOST_RESTORED {
            // The whole is not restored either.
            self.gave_up = true;
        }
        if self.gave_up || self.text.len() < self.next_look {
            return None;
        }
        self.next_look = self.text.len() + 1 + self.text.len() / GROWTH;
        let Some(passes) = self.rules.settled(&self.text) else {
            self.gave_up = true;
            return None;
        };
        // Less than before: a hit that came about takes some of it back, or will.
        let Some(more) = passes.strip_prefix(self.given.as_str()) else {
            self.gave_up = !self.given.starts_with(&passes);
            return None;
        };
        let more = (!more.is_empty()).then(|| more.to_owned());
        self.given = passes;
        more
    }
}
