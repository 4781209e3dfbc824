//! Exact token counts at a cost that does not show in a benchmark.
//!
//! Both of OpenAI's patterns end a pre-token before a space that follows a visible character, so
//! a text may be cut there and the parts counted apart: the sum is the count of the whole. The
//! parts are mostly single words, which repeat, and so a small cache answers almost all of them.

use std::cell::RefCell;
use std::collections::HashMap;

use tiktoken_rs::CoreBPE;

/// Parts longer than this are counted but not kept.
const LONGEST_CACHED: usize = 32;
/// Parts kept per encoding and thread; at the bound the cache starts again from nothing.
const CACHED_PARTS: usize = 65_536;
/// A run without a space is counted in windows of this many bytes, because merging byte pairs is
/// quadratic in the run's length. Only such a run's count can differ from the tokenizer's.
const WINDOW: usize = 4_096;

/// Which of OpenAI's vocabularies to count with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// `o200k_base`, of the chat models.
    Chat,
    /// `cl100k_base`, of the embedding models.
    Embedding,
}

thread_local! {
    static CHAT_PARTS: RefCell<HashMap<Box<str>, u32>> = RefCell::default();
    static EMBEDDING_PARTS: RefCell<HashMap<Box<str>, u32>> = RefCell::default();
}

impl Encoding {
    /// The tokenizer itself; the first call loads it (some hundred milliseconds).
    pub(crate) fn tokenizer(self) -> &'static CoreBPE {
        match self {
            Self::Chat => tiktoken_rs::o200k_base_singleton(),
            Self::Embedding => tiktoken_rs::cl100k_base_singleton(),
        }
    }

    /// Tokens in `text`.
    pub(crate) fn count(self, text: &str) -> u32 {
        parts(text).map(|part| self.count_part(part)).sum()
    }

    fn count_part(self, part: &str) -> u32 {
        if part.len() > LONGEST_CACHED {
            return windows(part).map(|window| self.encode(window)).sum();
        }
        let cache = match self {
            Self::Chat => &CHAT_PARTS,
            Self::Embedding => &EMBEDDING_PARTS,
        };
        cache.with_borrow_mut(|cache| {
            if let Some(&count) = cache.get(part) {
                return count;
            }
            let count = self.encode(part);
            if cache.len() >= CACHED_PARTS {
                cache.clear();
            }
            cache.insert(part.into(), count);
            count
        })
    }

    fn encode(self, part: &str) -> u32 {
        self.tokenizer().encode_ordinary(part).len() as u32
    }
}

/// Cuts `text` before every space that follows a visible ASCII character.
pub(crate) fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = rest
            .as_bytes()
            .windows(2)
            .position(|pair| pair[0].is_ascii_graphic() && pair[1] == b' ')
            .map_or(rest.len(), |at| at + 1);
        let (part, after) = rest.split_at(cut);
        rest = after;
        Some(part)
    })
}

fn windows(part: &str) -> impl Iterator<Item = &str> {
    let mut rest = part;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (window, after) = rest.split_at(rest.floor_char_boundary(WINDOW));
        rest = after;
        Some(window)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Digester;

    #[test]
    fn counting_by_parts_is_counting_the_whole() {
        let pieces = [
            "word",
            " ",
            "  ",
            "   ",
            "\n",
            "\r\n",
            "\t",
            ".",
            ",",
            "...",
            "!?",
            "I'm",
            "they'LL",
            "'s",
            "42",
            "1234567",
            "Überfuß",
            "слово",
            "日本語のテキスト",
            "👩‍🚀",
            "e\u{301}",
            "\u{a0}",
            "\u{3000}",
            "a/b//c",
            "/",
            "http://x.y/z?q=1",
            "CamelCaseWord",
            "ALLCAPS",
            "x",
            "<|endoftext|>",
            "{\"key\": [1, 2]}",
            "‘quoted’",
            "—",
            "ⅷ",
            "²",
            " .",
            " -",
            "—\n\n",
            ")\n",
            "\u{200b}",
        ];
        let mut dice = Digester::new(11).finish().dice();
        for _ in 0..20_000 {
            let text: String = (0..dice.below(14)).map(|_| pieces[dice.below(pieces.len())]).collect();
            for encoding in [Encoding::Chat, Encoding::Embedding] {
                let whole = encoding.tokenizer().encode_ordinary(&text).len() as u32;
                assert_eq!(encoding.count(&text), whole, "{encoding:?} {text:?}");
            }
        }
    }

    #[test]
    fn a_run_without_spaces_takes_no_quadratic_time() {
        let run = "ab".repeat(1_000_000);
        let began = std::time::Instant::now();
        assert!(Encoding::Chat.count(&run) > 100_000);
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    }
}
