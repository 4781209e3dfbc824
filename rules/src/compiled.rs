//! Rules ready for use.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};
use sha2::{Digest, Sha256};

use crate::RulesError;
use crate::definition::{LengthRule, RuleSet, refuse};
use crate::injection::HEURISTICS;
use crate::pii::{Finder, Span};
use crate::prompt::OfPrompts;
use crate::streaming::Reach;
use crate::terms::Terms;
use crate::verdict::{Action, Hit, HitKind, MAX_HITS, Verdict};

/// Raised whenever the same definition would give another verdict than before, so that records
/// which name a version stay true.
const ENGINE: &str = "1";

/// Redacting can bring about a new hit (what stood apart now stands together). So often it is
/// done again; a text that still has one then is blocked.
const MAX_PASSES: usize = 8;

const MAX_PROGRAM_BYTES: usize = 1 << 20;

/// A rule set ready for use. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Compiled {
    version: String,
    terms: Option<Terms>,
    term_rules: Vec<(String, Action)>,
    patterns: Vec<(String, Action, Regex)>,
    finders: Vec<Finder>,
    max_chars: Option<LengthRule>,
    /// What prompts are held to.
    prompt: Option<Box<OfPrompts>>,
    /// How far the rules that redact look, where that is bounded.
    reach: Option<Reach>,
}

/// A hit before anybody has to read it.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub span: Span,
    pub rule: &'a str,
    pub kind: HitKind,
    pub action: Action,
}

impl Compiled {
    pub(crate) fn new(set: &RuleSet) -> Result<Self, RulesError> {
        let patterns = set.patterns.iter().map(|rule| {
            let regex = RegexBuilder::new(&rule.regex)
                .size_limit(MAX_PROGRAM_BYTES)
                .dfa_size_limit(MAX_PROGRAM_BYTES)
                .build()
                .map_err(|error| RulesError::Rule { rule: rule.name.clone(), reason: one_line(&error) })?;
            if regex.is_match("") {
                return refuse(
                    &rule.name,
                    "the expression matches the empty text, so every text; make it ask for more",
                );
            }
            Ok((rule.name.clone(), rule.action, regex))
        });
        let compiled = Self {
            version: version(set),
            terms: Terms::new(&set.terms)?,
            term_rules: set.terms.iter().map(|rule| (rule.name.clone(), rule.action)).collect(),
            patterns: patterns.collect::<Result<_, _>>()?,
            finders: Finder::all(&set.pii)?,
            max_chars: set.max_chars.clone(),
            prompt: set.prompt.as_ref().map(|prompt| prompt.compile().map(Box::new)).transpose()?,
            reach: Reach::of(set),
        };
        compiled.refuse_labels_that_are_hit(label)?;
        Ok(compiled)
    }

    /// Names the definition and the meaning of its rules: the same version, the same verdicts.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether no text can be hit, so that checking can be skipped.
    pub fn is_empty(&self) -> bool {
        self.terms.is_none() && self.patterns.is_empty() && self.finders.is_empty() && self.max_chars.is_none()
    }

    /// The most that any rule does.
    pub(crate) fn most_severe(&self) -> Action {
        let terms = self.term_rules.iter().map(|(_, action)| *action);
        let patterns = self.patterns.iter().map(|(_, action, _)| *action);
        let finders = self.finders.iter().map(|finder| finder.action);
        let length = self.max_chars.iter().map(|rule| rule.action);
        terms.chain(patterns).chain(finders).chain(length).max().unwrap_or_default()
    }

    pub(crate) fn reach(&self) -> Option<Reach> {
        self.reach
    }

    /// What passes of the beginning of `text`, up to where nothing that may follow can change it. None when
    /// that is not known, or something is to be blocked.
    pub(crate) fn settled(&self, text: &str) -> Option<String> {
        let reach = self.reach?;
        let mut redacted = Cow::Borrowed(text);
        let mut stable = text.len();
        for _ in 0..MAX_PASSES {
            let found = self.find(&redacted);
            // Hits that begin before this place are all found, and it is in none of them.
            let place = outside(&found, reach.settled(&redacted, stable));
            match found.iter().map(|found| found.action).max().unwrap_or_default() {
                // What follows may bring about one more pass.
                Action::Allow => return Some(redacted[..reach.settled(&redacted, place)].to_owned()),
                Action::Redact => {
                    let before: Vec<Found<'_>> = found.iter().filter(|found| found.span.1 <= place).copied().collect();
                    stable = replace(&redacted[..place], &before).len();
                    redacted = Cow::Owned(replace(&redacted, &found));
                }
                Action::Block => return None,
            }
        }
        None
    }

    /// Checks a text.
    pub fn check(&self, text: &str) -> Verdict {
        let found = self.find(text);
        let action = found.iter().map(|found| found.action).max().unwrap_or_default();
        let (action, redacted) = match action {
            Action::Redact => match self.redact(text, &found) {
                Some(redacted) => (Action::Redact, Some(redacted)),
                None => (Action::Block, None),
            },
            Action::Allow | Action::Block => (action, None),
        };
        let hits = found.iter().take(MAX_HITS).map(|found| Hit {
            rule: found.rule.to_owned(),
            kind: found.kind,
            action: found.action,
            start: found.span.0,
            end: found.span.1,
        });
        Verdict { action, hits: hits.collect(), total_hits: found.len(), text: redacted }
    }

    /// What prompts are held to.
    pub(crate) fn for_prompts(&self) -> Option<&OfPrompts> {
        self.prompt.as_deref()
    }

    /// All hits, by place; those at one place in the order of the rules.
    pub(crate) fn find(&self, text: &str) -> Vec<Found<'_>> {
        let mut all = Vec::new();
        for (index, spans) in self.terms.as_ref().map(|terms| terms.find(text)).unwrap_or_default() {
            let (rule, action) = &self.term_rules[index];
            all.extend(spans.into_iter().map(|span| Found { span, rule, kind: HitKind::Term, action: *action }));
        }
        for (rule, action, regex) in &self.patterns {
            let spans = regex.find_iter(text).map(|hit| (hit.start(), hit.end())).filter(|(start, end)| start < end);
            all.extend(spans.map(|span| Found { span, rule, kind: HitKind::Pattern, action: *action }));
        }
        for finder in &self.finders {
            let spans = finder.find(text).into_iter();
            all.extend(spans.map(|span| Found { span, rule: finder.rule, kind: finder.kind, action: finder.action }));
        }
        // A text has at most as many characters as bytes, so most need no counting.
        if let Some(LengthRule { limit, action }) = &self.max_chars
            && text.len() > *limit
            && let Some((start, _)) = text.char_indices().nth(*limit)
        {
            let span = (start, text.len());
            all.push(Found { span, rule: "max_chars", kind: HitKind::Length, action: *action });
        }
        all.sort_by_key(|found| found.span.0);
        all
    }

    /// The text without anything to redact. None when that cannot be had, or something to block
    /// came about on the way.
    fn redact(&self, text: &str, found: &[Found<'_>]) -> Option<String> {
        let mut redacted = replace(text, found);
        for _ in 1..MAX_PASSES {
            let again = self.find(&redacted);
            match again.iter().map(|found| found.action).max().unwrap_or_default() {
                Action::Allow => return Some(redacted),
                Action::Redact => redacted = replace(&redacted, &again),
                Action::Block => return None,
            }
        }
        None
    }

    /// A label that is hit itself could never be put in.
    pub(crate) fn refuse_labels_that_are_hit(&self, label: fn(&str) -> String) -> Result<(), RulesError> {
        let terms = self.term_rules.iter().map(|(rule, action)| (rule.as_str(), *action));
        let patterns = self.patterns.iter().map(|(rule, action, _)| (rule.as_str(), *action));
        let finders = self.finders.iter().map(|finder| (finder.rule, finder.action));
        for (rule, _) in terms.chain(patterns).chain(finders).filter(|(_, action)| *action == Action::Redact) {
            let label = label(rule);
            let hit = self
                .find(&label)
                .into_iter()
                .find(|found| found.action > Action::Allow && found.kind != HitKind::Length);
            if let Some(found) = hit {
                return refuse(
                    found.rule,
                    format!(
                        "it hits {label}, the label that rule `{rule}` puts in; rename that rule or narrow this one"
                    ),
                );
            }
        }
        Ok(())
    }
}

fn version(set: &RuleSet) -> String {
    let definition = serde_json::to_vec(set).expect("strings, numbers and lists are JSON");
    let mut digest = Sha256::new().chain_update(ENGINE).chain_update([0]).chain_update(definition);
    if set.prompt.as_ref().is_some_and(|prompt| prompt.injection.is_some()) {
        digest.update([0]);
        digest.update(HEURISTICS);
    }
    let digest = digest.finalize();
    hex::encode(&digest[..16])
}

fn label(rule: &str) -> String {
    format!("[{}]", rule.to_ascii_uppercase())
}

/// The last place up to `place` that is in nothing to be redacted.
fn outside(found: &[Found<'_>], place: usize) -> usize {
    let to_redact = found.iter().rev().filter(|found| found.action == Action::Redact);
    to_redact
        .fold(place, |place, found| if found.span.0 < place && place < found.span.1 { found.span.0 } else { place })
}

/// Puts labels in place of what is to be redacted; what overlaps gets one label, the first's. Only
/// a text without anything else to redact is cut, so that a cut never splits what was hit.
fn replace(text: &str, found: &[Found<'_>]) -> String {
    let mut has_label = false;
    let mut redacted = put_in(text, found, |rule, _| {
        has_label = true;
        label(rule)
    });
    match found.iter().find(|found| found.action == Action::Redact && found.kind == HitKind::Length) {
        Some(found) if !has_label => redacted.truncate(found.span.0),
        Some(_) | None => {}
    }
    redacted
}

/// The text with what `stands_for` says, of a rule and what it found, in the place of each thing to redact; what overlaps is
/// one, of the first's rule. Nothing is cut.
pub(crate) fn put_in<'a>(
    text: &str,
    found: &[Found<'a>],
    mut stands_for: impl FnMut(&'a str, &str) -> String,
) -> String {
    let mut places: Vec<(usize, usize, &str)> = Vec::new();
    for found in found.iter().filter(|found| found.action == Action::Redact && found.kind != HitKind::Length) {
        let (start, end) = found.span;
        match places.last_mut() {
            Some((_, last_end, _)) if start < *last_end => *last_end = end.max(*last_end),
            Some(_) | None => places.push((start, end, found.rule)),
        }
    }
    let mut whole = String::with_capacity(text.len());
    let mut done = 0;
    for (start, end, rule) in places {
        whole.push_str(&text[done..start]);
        whole.push_str(&stands_for(rule, &text[start..end]));
        done = end;
    }
    whole.push_str(&text[done..]);
    whole
}

/// An error of the regex crate is a drawing of many lines; its last says what is wrong.
fn one_line(error: &regex::Error) -> String {
    if let regex::Error::CompiledTooBig(limit) = error {
        return format!("the expression needs more than {limit} bytes; make its repetitions smaller");
    }
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!("the expression is not valid: {}", last.trim_start_matches("error: "))
}
