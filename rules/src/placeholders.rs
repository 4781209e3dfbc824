//! Placeholders that stand for the values of one request, and the way back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::Regex;

use crate::compiled::{Compiled, put_in};
use crate::verdict::{Action, HitKind};

/// The most that a text may become when values are put back, bytes: a model can repeat a placeholder.
pub(crate) const MOST_RESTORED: usize = 1 << 20;

/// What a placeholder looks like. It has no brackets inside, so none begins in a text and ends in a placeholder
/// that was put into it.
#[expect(clippy::expect_used, reason = "a constant expression, which every test that restores compiles")]
static SHAPE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[[A-Z0-9_-]+_[0-9]+\]").expect("an expression"));

/// The values of one request and what stands for them: `[EMAIL_1]`, numbered by rule in the order in which they
/// are met. One value of one rule has one placeholder. Equal texts in the same order always give the same.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Placeholders {
    values: BTreeMap<String, String>,
    labels: BTreeMap<(String, String), String>,
    last: BTreeMap<String, u64>,
    avoided: BTreeSet<String>,
    written: usize,
}

/// Values are personal data: only their number is shown.
impl std::fmt::Debug for Placeholders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Placeholders").field("values", &self.values.len()).finish_non_exhaustive()
    }
}

/// The placeholders of [`Placeholders::into_values`], to be put back only.
impl FromIterator<(String, String)> for Placeholders {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(values: T) -> Self {
        Self { values: values.into_iter().collect(), ..Self::default() }
    }
}

impl Placeholders {
    /// None yet, and never one that is in `texts` already: all texts of the request, so that what its client wrote
    /// is not taken for a placeholder.
    pub fn avoiding<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut placeholders = Self::default();
        texts.into_iter().for_each(|text| placeholders.avoid(text));
        placeholders
    }

    /// From now on none is one that is in `text`.
    pub(crate) fn avoid(&mut self, text: &str) {
        self.avoided.extend(SHAPE.find_iter(text).map(|found| found.as_str().to_owned()));
    }

    /// Whether there is one in `text` already.
    pub(crate) fn are_in(&self, text: &str) -> bool {
        SHAPE.find_iter(text).any(|found| self.values.contains_key(found.as_str()))
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether nothing was replaced.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The bytes of all placeholders that were written into texts.
    pub fn written(&self) -> usize {
        self.written
    }

    /// The values by their placeholders.
    pub fn into_values(self) -> BTreeMap<String, String> {
        self.values
    }

    /// `text` with the values in place of their placeholders. What looks like a placeholder but is none, and
    /// what the values themselves contain, stays.
    pub fn restore(&self, text: &str) -> String {
        SHAPE.replace_all(text, |found: &regex::Captures<'_>| self.value(&found[0]).to_owned()).into_owned()
    }

    /// The same, where that has at most `most` bytes.
    pub(crate) fn restore_within(&self, text: &str, most: usize) -> Option<String> {
        let values = SHAPE.find_iter(text).map(|found| self.value(found.as_str()).len());
        let bound = values.fold(text.len(), usize::saturating_add);
        (bound <= most).then(|| self.restore(text))
    }

    /// What stands for a value, with it, else the placeholder itself.
    fn value<'a>(&'a self, label: &'a str) -> &'a str {
        self.values.get(label).map_or(label, String::as_str)
    }

    /// Whether a placeholder goes on from `text`.
    fn has_beginning(&self, text: &str) -> bool {
        self.values.range(text.to_owned()..).next().is_some_and(|(label, _)| label.starts_with(text))
    }

    fn of(&mut self, rule: &str, value: &str) -> String {
        let key = (rule.to_owned(), value.to_owned());
        let label = match self.labels.get(&key) {
            Some(label) => label.clone(),
            None => self.new_label(key),
        };
        self.written += label.len();
        label
    }

    fn new_label(&mut self, (rule, value): (String, String)) -> String {
        let last = self.last.entry(rule.clone()).or_default();
        let label = loop {
            *last += 1;
            let label = numbered(&rule, *last);
            if !self.avoided.contains(&label) {
                break label;
            }
        };
        self.values.insert(label.clone(), value.clone());
        self.labels.insert((rule, value), label.clone());
        label
    }
}

/// The placeholder of this number of a rule.
pub(crate) fn numbered(rule: &str, number: u64) -> String {
    format!("[{}_{number}]", rule.to_ascii_uppercase())
}

/// Puts values back into a text that comes in pieces. What may be the beginning of a placeholder waits.
#[derive(Clone, Debug)]
pub(crate) struct Restorer {
    placeholders: Placeholders,
    waiting: String,
}

impl Restorer {
    pub fn new(placeholders: &Placeholders) -> Self {
        Self { placeholders: placeholders.clone(), waiting: String::new() }
    }

    /// Adds a piece; what is known now of the text with its values.
    pub fn push(&mut self, piece: &str) -> String {
        self.waiting.push_str(piece);
        // No placeholder has a bracket inside, so that one begins at the last or nowhere.
        let begins = self.waiting.rfind('[').filter(|at| self.placeholders.has_beginning(&self.waiting[*at..]));
        let waits = match begins {
            Some(at) if !self.waiting[at..].contains(']') => self.waiting.split_off(at),
            Some(_) | None => String::new(),
        };
        let known = std::mem::replace(&mut self.waiting, waits);
        self.placeholders.restore(&known)
    }
}

impl Compiled {
    /// Puts placeholders in place of what is to be redacted; what overlaps gets one, of the first's rule. None when
    /// the text must not pass: something is to be blocked, it is to be cut (there is no way back from that), or it
    /// would still be hit afterwards. Then `placeholders` is to be dropped.
    ///
    /// `placeholders` must avoid `text`: then [`Placeholders::restore`] gives it back.
    pub fn redact_into(&self, text: &str, placeholders: &mut Placeholders) -> Option<String> {
        let found = self.find(text);
        let is_cut = found.iter().any(|found| found.kind == HitKind::Length && found.action == Action::Redact);
        if is_cut || found.iter().any(|found| found.action == Action::Block) {
            return None;
        }
        let redacted = put_in(text, &found, |rule, value| placeholders.of(rule, value));
        self.find(&redacted).iter().all(|found| found.action == Action::Allow).then_some(redacted)
    }
}
