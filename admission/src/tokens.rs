//! Counting tokens, at a cost that an attacker can not choose.

/// Text is counted in pieces of this many bytes: the tokenizer's patterns backtrack, and give up on
/// long runs of blanks. A cut adds a token at most.
const PIECE: usize = 4_096;
/// So many bytes are counted exactly, whatever comes of it.
const EXACTLY: usize = 256 * 1024;
/// Beyond them, so many bytes have a token at least: blanks, and hardly anything else, would have fewer.
const BYTES_PER_TOKEN: usize = 16;

/// Tokens of `text` in the vocabulary of OpenAI's current chat models (`o200k_base`). Other models
/// differ by a few percent. The first call loads the vocabulary (some hundred milliseconds).
#[must_use]
pub fn count(text: &str) -> u32 {
    u32::try_from(pieces(text).map(count_piece).sum::<usize>()).unwrap_or(u32::MAX)
}

fn count_piece(piece: &str) -> usize {
    tiktoken_rs::o200k_base_singleton().count_ordinary(piece)
}

/// Counts texts together for as long as there are no more tokens than are allowed.
pub(crate) struct Counter {
    most: usize,
    bytes: usize,
    tokens: usize,
}

impl Counter {
    /// Of which nothing more has to be known once there are more than `most`.
    pub fn new(most: u32) -> Self {
        Self { most: usize::try_from(most).unwrap_or(usize::MAX), bytes: 0, tokens: 0 }
    }

    /// Adds what is counted already.
    pub fn add(&mut self, tokens: u32) {
        self.tokens = self.tokens.saturating_add(usize::try_from(tokens).unwrap_or(usize::MAX));
    }

    /// Adds the tokens of a text.
    pub fn count(&mut self, text: &str) {
        for piece in pieces(text) {
            let is_exact = self.bytes < EXACTLY;
            if !is_exact && self.tokens > self.most {
                return;
            }
            let least = if is_exact { 0 } else { piece.len() / BYTES_PER_TOKEN };
            self.tokens = self.tokens.saturating_add(count_piece(piece).max(least));
            self.bytes += piece.len();
        }
    }

    /// The tokens so far.
    pub fn tokens(&self) -> u32 {
        u32::try_from(self.tokens).unwrap_or(u32::MAX)
    }
}

/// What [`count`] never exceeds, without counting: every token is at least one byte.
#[must_use]
pub fn upper_bound(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The beginning of `text` that has at most `limit` tokens.
#[must_use]
pub fn truncate(text: &str, limit: u32) -> &str {
    if upper_bound(text.len()) <= limit {
        return text;
    }
    let mut left = limit;
    let mut end = 0;
    for piece in pieces(text) {
        let tokens = count(piece);
        if tokens > left {
            let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            return &text[..end + piece.floor_char_boundary(bytes)];
        }
        left -= tokens;
        end += piece.len();
    }
    text
}

/// Cuts where a visible character is followed by a space if there is such a place, because the
/// tokenizer would cut there too.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.floor_char_boundary(PIECE);
        let cut = if end == rest.len() {
            end
        } else {
            let is_seam = |pair: &[u8]| pair[0].is_ascii_graphic() && pair[1] == b' ';
            rest.as_bytes()[..end].windows(2).rposition(is_seam).map_or(end, |at| at + 1)
        };
        let (piece, after) = rest.split_at(cut);
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_count_like_the_whole_and_never_more_than_bytes() {
        let prose = "The quick brown fox jumps over the lazy dog, again and again. ".repeat(500);
        let whole = tiktoken_rs::o200k_base_singleton().count_ordinary(&prose);
        assert_eq!(count(&prose) as usize, whole);
        for text in [" ".repeat(200_000), "a".repeat(50_000), "🦀\u{301}".repeat(9_000), "\u{10FFFF}".repeat(5_000)] {
            let counted = count(&text);
            assert!(counted > 0 && counted <= upper_bound(text.len()), "{counted}");
        }
        assert_eq!(count(""), 0);
    }

    #[test]
    fn counting_ends_soon_after_there_are_too_many() {
        let check = |text: &str, most: u32, expected: u32| {
            let mut counter = Counter::new(most);
            counter.add(7);
            [text, text].iter().for_each(|text| counter.count(text));
            assert_eq!(counter.tokens(), expected);
        };
        let prose = "The quick brown fox jumps over the lazy dog. ".repeat(500);
        check(&prose, 10, 7 + 2 * count(&prose));
        check("", 0, 7);
        let (long, enough) = (prose.repeat(100), prose.repeat(12));
        let mut counter = Counter::new(1_000);
        counter.count(&long);
        assert!((1_000..count(&enough)).contains(&counter.tokens()), "{}", counter.tokens());
        let mut counter = Counter::new(1 << 20);
        counter.count(&long);
        assert_eq!(counter.tokens(), count(&long));
        let mut counter = Counter::new(1 << 20);
        counter.count(&" ".repeat(10 << 20));
        assert!(counter.tokens() > 600_000, "blanks are not for nothing: {}", counter.tokens());
    }

    #[test]
    fn truncation_keeps_the_limit_and_short_texts() {
        let prose = "One two three four five six seven eight nine ten. ".repeat(1_000);
        for limit in [0, 1, 5, 100, 5_000] {
            let cut = truncate(&prose, limit);
            assert!(count(cut) <= limit && prose.starts_with(cut), "{limit}: {}", count(cut));
        }
        assert_eq!(truncate("short", 5), "short");
        assert_eq!(truncate("🦀🦀", 3), "");
    }
}
