//! Blocked terms: all words of all rules in one automaton, in any case.

use std::borrow::Cow;

use aho_corasick::AhoCorasick;

use crate::RulesError;
use crate::definition::{TermRule, refuse};

/// All words of a rule set.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    automaton: AhoCorasick,
    /// Of each word in the automaton: the index of its rule.
    owners: Vec<usize>,
    /// Of each rule: whether only whole words count.
    whole_words: Vec<bool>,
}

impl Terms {
    /// None when there are no rules.
    pub fn new(rules: &[TermRule]) -> Result<Option<Self>, RulesError> {
        if rules.is_empty() {
            return Ok(None);
        }
        let mut owners = Vec::new();
        let mut words = Vec::new();
        for (owner, rule) in rules.iter().enumerate() {
            for word in &rule.words {
                owners.push(owner);
                words.push(Folded::new(word.trim()).text.into_owned());
            }
        }
        // ASCII text is searched as it is, other text folded; the option serves the former.
        match AhoCorasick::builder().ascii_case_insensitive(true).build(&words) {
            Ok(automaton) => {
                Ok(Some(Self { automaton, owners, whole_words: rules.iter().map(|rule| rule.whole_words).collect() }))
            }
            Err(error) => refuse("terms", format!("the word lists are too large: {error}")),
        }
    }

    /// The places of each rule's words, overlapping ones merged, by the index of the rule.
    pub fn find(&self, text: &str) -> Vec<(usize, Vec<(usize, usize)>)> {
        let folded = Folded::new(text);
        let mut found: Vec<Vec<(usize, usize)>> = vec![Vec::new(); self.whole_words.len()];
        for hit in self.automaton.find_overlapping_iter(folded.text.as_ref()) {
            let owner = self.owners[hit.pattern().as_usize()];
            let (start, end) = (folded.start(hit.start()), folded.end(hit.end()));
            if self.whole_words[owner] && !is_whole(text, start, end) {
                continue;
            }
            merge(&mut found[owner], start, end);
        }
        found.into_iter().enumerate().filter(|(_, spans)| !spans.is_empty()).collect()
    }
}

/// Adds a span to a list of disjoint ones. Spans come by their end.
fn merge(spans: &mut Vec<(usize, usize)>, mut start: usize, end: usize) {
    while let Some((last_start, _)) = spans.pop_if(|(_, last_end)| *last_end > start) {
        start = start.min(last_start);
    }
    spans.push((start, end));
}

/// Whether no word character continues the term on either side. An end of the term that is no word
/// character itself needs no boundary.
fn is_whole(text: &str, start: usize, end: usize) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let (term, before, after) = (&text[start..end], &text[..start], &text[end..]);
    let goes_on_before = is_word(term.chars().next()) && is_word(before.chars().next_back());
    let goes_on_behind = is_word(term.chars().next_back()) && is_word(after.chars().next());
    !goes_on_before && !goes_on_behind
}

/// Text without differences of case, and the way back to the original's places.
struct Folded<'a> {
    text: Cow<'a, str>,
    /// Where the lengths of the two begin to differ anew, by place in `text`.
    segments: Vec<Segment>,
}

struct Segment {
    folded: usize,
    original: usize,
    /// The original length of the one character this is, when its length changed.
    changed: Option<usize>,
}

impl<'a> Folded<'a> {
    fn new(original: &'a str) -> Self {
        let mut segments = vec![Segment { folded: 0, original: 0, changed: None }];
        if original.is_ascii() {
            return Self { text: Cow::Borrowed(original), segments };
        }
        let mut text = String::with_capacity(original.len());
        for (place, c) in original.char_indices() {
            let folded = text.len();
            match c {
                // Letters of other shape but the same meaning, which lowercasing leaves alone.
                'ς' => text.push('σ'),
                'ſ' => text.push('s'),
                _ => text.extend(c.to_lowercase()),
            }
            if text.len() - folded != c.len_utf8() {
                segments.push(Segment { folded, original: place, changed: Some(c.len_utf8()) });
                segments.push(Segment { folded: text.len(), original: place + c.len_utf8(), changed: None });
            }
        }
        Self { text: Cow::Owned(text), segments }
    }

    fn segment(&self, place: usize) -> &Segment {
        &self.segments[self.segments.partition_point(|segment| segment.folded <= place) - 1]
    }

    /// The original place of a match's first byte.
    fn start(&self, place: usize) -> usize {
        let segment = self.segment(place);
        match segment.changed {
            Some(_) => segment.original,
            None => segment.original + (place - segment.folded),
        }
    }

    /// The original place behind a match's last byte; a character that became several counts whole.
    fn end(&self, place: usize) -> usize {
        let segment = self.segment(place - 1);
        match segment.changed {
            Some(length) => segment.original + length,
            None => segment.original + (place - segment.folded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Action;

    fn check(words: &[&str], whole_words: bool, text: &str, expected: &[&str]) {
        let rule = TermRule {
            name: "t".to_owned(),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            action: Action::Block,
            whole_words,
        };
        let terms = Terms::new(&[rule]).expect("a rule").expect("rules");
        let found: Vec<&str> = terms
            .find(text)
            .into_iter()
            .flat_map(|(_, spans)| spans)
            .map(|(start, end)| text.get(start..end).expect("whole characters"))
            .collect();
        assert_eq!(found, expected, "{words:?} in {text:?}");
    }

    #[test]
    fn finds_words_in_any_case() {
        check(&["foo"], true, "Foo, fOO and foobar; _foo", &["Foo", "fOO"]);
        check(&["foo"], false, "foobar afoo", &["foo", "foo"]);
        check(&["FOO bar"], true, "foo Bar foo barn", &["foo Bar"]);
        check(&["foo bar", "foo"], true, "foo barn", &["foo"]);
        check(&["c++"], true, "C++ c++x xc++", &["C++", "c++"]);
        check(&[" foo "], true, "foo", &["foo"]);
        check(&["foo"], true, "", &[]);
    }

    #[test]
    fn overlapping_words_are_one_place() {
        check(&["aba"], false, "ababa", &["ababa"]);
        check(&["b", "c", "abcd"], false, "abcd b", &["abcd", "b"]);
        check(&["ab", "bc"], false, "abc", &["abc"]);
        check(&["ab"], false, "abab", &["ab", "ab"]);
    }

    #[test]
    fn folds_beyond_ascii_and_finds_the_way_back() {
        check(&["straße"], true, "Die STRAßE, straße", &["STRAßE", "straße"]);
        check(&["ÄRGER"], true, "kein ärger!", &["ärger"]);
        check(&["σοφός"], true, "ΣΟΦΌΣ σοφός", &["ΣΟΦΌΣ", "σοφός"]);
        // Characters whose lowercase has another length, before, in and at the end of a match.
        check(&["foo"], true, "İİİ foo", &["foo"]);
        check(&["i\u{307}x"], true, "ẞ İX", &["İX"]);
        check(&["ai"], false, "aİ.", &["aİ"]);
        check(&["kelvin"], true, "Ⱥ \u{212a}elvin", &["\u{212a}elvin"]);
        check(&["secret"], true, "ſecret", &["ſecret"]);
        check(&["foo"], true, "äfoo fooé foo", &["foo"]);
        check(&["禁止"], false, "这是禁止的", &["禁止"]);
    }
}
