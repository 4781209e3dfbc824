//! Counting tokens, at a cost that an attacker can not choose.

/// Text is counted in pieces of this many bytes: the tokenizer's patterns backtrack, and give up on
/// long runs of blanks. A cut adds a token at most.
const PIECE: usize = 4_096;

/// Tokens of `text` in the vocabulary of OpenAI's current chat models (`o200k_base`). Other models
/// differ by a few percent. The first call loads the vocabulary (some hundred milliseconds).
#[must_use]
pub fn count(text: &str) -> u32 {
    let tokenizer = tiktoken_rs::o200k_base_singleton();
    let counted: usize = pieces(text).map(|piece| tokenizer.count_ordinary(piece)).sum();
    u32::try_from(counted).unwrap_or(u32::MAX)
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
