//! Readable English of an exact number of tokens.
//!
//! Every fixed word here is one token of `o200k_base`, with a space before it and, where it begins
//! a sentence, without (a test holds the tables to that). Words of the prompt fill the slots, and
//! their tokens are counted. The count of an answer is therefore known by construction.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::dice::Dice;
use crate::tokens::Encoding;

/// A text with the tokens of each of its parts, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Composition {
    pub text: String,
    /// For every part: where it ends in `text`, and its tokens.
    pub parts: Vec<(usize, u32)>,
    pub tokens: u32,
    /// False when the limit came before the end.
    pub finished: bool,
}

/// A word of the prompt that an answer can mention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    /// With the space before it.
    text: String,
    tokens: u32,
}

const SENTENCES: &[&str] = &[
    "The short answer is that {} depends on {} .",
    "In most cases {} is the first thing to look at , and {} comes after it .",
    "People who work with {} every day often start from {} .",
    "It helps to keep {} and {} apart until the numbers are clear .",
    "There are three parts to this : the plan , the cost , and {} .",
    "When {} changes , the rest of the work has to change with it .",
    "A good example of {} is one that a new reader can follow without help .",
    "This does not mean that {} is wrong , only that it needs more time .",
    "We can also see {} as a small part of a much larger question .",
    "If you have only one hour , use it for {} and leave the rest for later .",
    "Both {} and {} were known long before they had a name .",
    "For a team of ten people , {} is usually enough .",
    "Some of this is simple , but {} takes care and a second look .",
    "The next step is to write down what {} should do , and then to test it .",
    "Most of the value of {} comes from using it the same way every time .",
    "You can change {} later without any risk to the rest .",
    "At the end of the day , {} is about the people who use it .",
    "After that , the only open point is how {} and {} fit together .",
];

/// One closing sentence for every length from 2 tokens on.
const CLOSINGS: &[&str] = &[
    "Yes .",
    "Very good .",
    "That is all .",
    "That is the answer .",
    "That is the full answer .",
    "This is all there is here .",
    "That is the whole of the answer .",
    "You can ask more about this any time .",
    "You can ask more about this at any time .",
    "You can ask me more about this at any time .",
    "If that is not clear , ask me for one more .",
    "If that is not clear to you , ask me for more .",
    "If that is not clear to you , ask me for another one .",
    "If any of that is not clear to you , ask me for more .",
    "If any part of that is not clear to you , ask me for more .",
];

/// What an answer is about when the prompt has no word to take up.
const DEFAULT_TOPIC: &str = " question";
/// Fills the space in front of a limit that the next word would overrun.
const FILLER: &str = " and";

enum Part {
    Fixed(String),
    Slot,
}

static SENTENCE_PARTS: LazyLock<Vec<Vec<Part>>> = LazyLock::new(|| SENTENCES.iter().map(|s| read(s)).collect());
static CLOSING_PARTS: LazyLock<Vec<Vec<Part>>> = LazyLock::new(|| CLOSINGS.iter().map(|s| read(s)).collect());

fn read(sentence: &str) -> Vec<Part> {
    sentence
        .split(' ')
        .map(|word| match word {
            "{}" => Part::Slot,
            "." | "," | ":" => Part::Fixed(word.to_owned()),
            other => Part::Fixed(format!(" {other}")),
        })
        .collect()
}

/// The words of `prompt` that an answer may take up, in the order of the prompt.
pub(crate) fn topics(prompt: &str) -> Vec<Topic> {
    const MOST: usize = 12;
    const SCANNED_WORDS: usize = 400;
    let mut seen = HashSet::new();
    prompt
        .split_whitespace()
        .flat_map(|word| match placeholder(word) {
            Some(placeholder) => vec![placeholder],
            None => word.split(|c: char| !c.is_alphabetic()).collect(),
        })
        .filter(|word| !word.is_empty())
        .take(SCANNED_WORDS)
        .filter(|word| word.starts_with('[') || (4..=16).contains(&word.chars().count()))
        .map(|word| match word.starts_with('[') {
            // What follows must be a token of its own.
            true => format!("{word} too"),
            false => word.to_lowercase(),
        })
        .filter(|word| seen.insert(word.clone()) && COMMON.binary_search(&word.as_str()).is_err())
        .take(MOST)
        .map(|word| topic(format!(" {word}")))
        .collect()
}

/// What stands for something that the model must not see, such as `[EMAIL_1]`: models repeat it as it is.
fn placeholder(word: &str) -> Option<&str> {
    let word = word.trim_end_matches(['.', ',', '?', '!', ':']);
    let name = word.strip_prefix('[')?.strip_suffix(']')?;
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    (name.contains('_') && name.chars().all(is_name)).then_some(word)
}

fn topic(text: String) -> Topic {
    let tokens = Encoding::Chat.count(&text);
    Topic { text, tokens }
}

/// Sorted, to be searched.
const COMMON: &[&str] = &[
    "about", "above", "after", "again", "also", "because", "been", "before", "being", "below", "between", "both",
    "could", "does", "doing", "down", "during", "each", "even", "every", "from", "have", "having", "here", "into",
    "just", "less", "like", "many", "might", "more", "most", "much", "must", "only", "other", "over", "please", "same",
    "should", "some", "such", "tell", "than", "that", "their", "them", "then", "there", "these", "they", "this",
    "those", "through", "under", "until", "very", "were", "what", "when", "where", "which", "while", "will", "with",
    "would", "write", "your", "yours",
];

/// Composes an answer of exactly `length` tokens about `topics`, cut at `limit` tokens if that is
/// less. The cut answer begins as the full one does.
pub(crate) fn compose(dice: &mut Dice, topics: &[Topic], length: u32, limit: Option<u32>) -> Composition {
    let fallback;
    let topics = if topics.is_empty() {
        fallback = [topic(DEFAULT_TOPIC.to_owned())];
        &fallback
    } else {
        topics
    };
    let mut writer = Writer::new(limit.map_or(length, |limit| limit.min(length)));
    let mut remaining = length;
    while remaining > 0 && !writer.full() {
        let sentence = pick(dice, topics.len());
        let chosen: Vec<&Topic> = choose(dice, topics, slots(sentence));
        let cost = sentence.len() as u32 - chosen.len() as u32 + chosen.iter().map(|topic| topic.tokens).sum::<u32>();
        // One token alone is no sentence, so none must be left over.
        if cost == remaining || cost + 2 <= remaining {
            writer.sentence(sentence, &chosen);
            remaining -= cost;
        } else if remaining == 1 {
            writer.word(" Yes", 1);
            remaining = 0;
        } else {
            let longest = CLOSINGS.len() as u32 + 1;
            let cost = if remaining == longest + 1 { longest - 1 } else { remaining.min(longest) };
            writer.sentence(&CLOSING_PARTS[cost as usize - 2], &[]);
            remaining -= cost;
        }
    }
    writer.finish(limit.is_none_or(|limit| length <= limit))
}

/// A sentence that needs no topic twice.
fn pick(dice: &mut Dice, topics: usize) -> &'static [Part] {
    let start = dice.below(SENTENCE_PARTS.len());
    let (before, from) = SENTENCE_PARTS.split_at(start);
    let fitting = from.iter().chain(before).find(|sentence| slots(sentence) <= topics);
    // Most sentences have one slot, and there is always a topic.
    fitting.unwrap_or(&SENTENCE_PARTS[start])
}

fn slots(sentence: &[Part]) -> usize {
    sentence.iter().filter(|part| matches!(part, Part::Slot)).count()
}

/// Different topics where there are enough of them.
fn choose<'a>(dice: &mut Dice, topics: &'a [Topic], count: usize) -> Vec<&'a Topic> {
    let start = dice.below(topics.len());
    (0..count).map(|slot| &topics[(start + slot) % topics.len()]).collect()
}

struct Writer {
    limit: u32,
    composition: Composition,
}

impl Writer {
    fn new(limit: u32) -> Self {
        Self { limit, composition: Composition::default() }
    }

    fn full(&self) -> bool {
        self.composition.tokens >= self.limit
    }

    fn sentence(&mut self, parts: &[Part], topics: &[&Topic]) {
        let mut topics = topics.iter();
        for part in parts {
            match part {
                Part::Fixed(text) => self.word(text, 1),
                Part::Slot => {
                    if let Some(topic) = topics.next() {
                        self.word(&topic.text, topic.tokens);
                    }
                }
            }
        }
    }

    fn word(&mut self, text: &str, tokens: u32) {
        if self.composition.tokens + tokens > self.limit {
            while !self.full() {
                self.push(FILLER, 1);
            }
        } else {
            self.push(text, tokens);
        }
    }

    fn push(&mut self, text: &str, tokens: u32) {
        let composition = &mut self.composition;
        let text = if composition.text.is_empty() { text.trim_start() } else { text };
        composition.text.push_str(text);
        composition.tokens += tokens;
        composition.parts.push((composition.text.len(), tokens));
    }

    fn finish(mut self, finished: bool) -> Composition {
        self.composition.finished = finished;
        self.composition
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Digester;

    fn tiktoken(text: &str) -> u32 {
        Encoding::Chat.tokenizer().encode_ordinary(text).len() as u32
    }

    #[test]
    fn common_words_are_no_topics() {
        assert!(COMMON.is_sorted());
        let topics = topics("Please write about tides, and ABOUT tides only; your moon would like that.");
        let texts: Vec<&str> = topics.iter().map(|topic| topic.text.as_str()).collect();
        assert_eq!(texts, [" tides", " moon"]);
    }

    #[test]
    fn every_fixed_word_is_one_token() {
        for sentence in SENTENCE_PARTS.iter().chain(CLOSING_PARTS.iter()) {
            for (at, part) in sentence.iter().enumerate() {
                if let Part::Fixed(text) = part {
                    assert_eq!(tiktoken(text), 1, "{text:?}");
                    if at == 0 {
                        assert_eq!(tiktoken(text.trim_start()), 1, "{text:?} at the start");
                    }
                } else {
                    assert_ne!(at, 0, "a sentence begins with a fixed word");
                }
            }
        }
        assert_eq!(tiktoken(FILLER), 1);
    }

    #[test]
    fn closings_have_every_length_from_two_on() {
        for (index, closing) in CLOSING_PARTS.iter().enumerate() {
            assert_eq!(closing.len(), index + 2, "{}", CLOSINGS[index]);
            assert_eq!(slots(closing), 0);
        }
    }

    #[test]
    fn an_answer_has_exactly_the_tokens_asked_for_by_the_tokenizers_own_count() {
        let prompts = [
            "",
            "Explain photosynthesis and chlorophyll to a ten-year-old, without equations.",
            "Расскажи мне про железные дороги Сибири",
            "Schreibe über Überschallflugzeuge, Größenordnungen und Straßenbahnen",
            "日本語で説明してください。 お願いします ということ",
            "Write to [EMAIL_1], [IPV4_12] and [not_one]",
            "ⅷⅷⅷⅷ ªºªº Ⅻiphone e\u{301}e\u{301}e\u{301}e\u{301} ﬁﬁﬁﬁ KUBERNETES DON'T İSTANBUL",
        ];
        for (number, prompt) in prompts.into_iter().enumerate() {
            let topics = topics(prompt);
            for length in 1..=150 {
                for limit in [None, Some(1), Some(7), Some(40), Some(length)] {
                    let dice = || Digester::new(u64::from(length) * 31 + number as u64).finish().dice();
                    let answer = compose(&mut dice(), &topics, length, limit);
                    let expected = limit.map_or(length, |limit| limit.min(length));
                    assert_eq!(answer.tokens, expected, "{prompt:?} {length} {limit:?}: {}", answer.text);
                    assert_eq!(tiktoken(&answer.text), expected, "{prompt:?}: {:?}", answer.text);
                    assert_eq!(answer.parts.iter().map(|part| part.1).sum::<u32>(), expected);
                    assert_eq!(answer.parts.last().unwrap().0, answer.text.len());
                    assert_eq!(answer.finished, limit.is_none_or(|limit| length <= limit));
                    assert_eq!(answer, compose(&mut dice(), &topics, length, limit));
                }
            }
        }
    }

    #[test]
    fn an_answer_mentions_the_prompt_and_reads_as_sentences() {
        let topics = topics("How do volcanoes and earthquakes form?");
        let mut dice = Digester::new(5).finish().dice();
        let answer = compose(&mut dice, &topics, 80, None);
        assert!(answer.text.contains("volcanoes") && answer.text.contains("earthquakes"), "{}", answer.text);
        assert!(answer.text.ends_with('.') && !answer.text.contains(" ."), "{}", answer.text);
        let answer = compose(&mut dice, &super::topics("Write to [EMAIL_1]."), 40, None);
        assert!(answer.text.contains("[EMAIL_1]"), "{}", answer.text);
    }
}
