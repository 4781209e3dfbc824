//! Cutting a text into chunks of so many tokens. Pure.
//!
//! A chunk ends where the text has a border: after a paragraph rather than a sentence, after a
//! sentence rather than a word, and only within a word when nothing else fits. The next one begins
//! a little before that, so that what lies across the border is found too.

use std::ops::Range;

use millrace_admission::tokens;

/// Words are taken apart into pieces of this many bytes, so that text without blanks can be cut.
const LONGEST_PIECE: usize = 32;

/// How large chunks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// The most tokens in one chunk; at least 1.
    pub tokens: u32,
    /// Tokens that it shares with the chunk before, about. Never more than half of that chunk.
    pub overlap: u32,
}

/// What the text has behind a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Border {
    WithinWord,
    Word,
    Sentence,
    Paragraph,
}

/// A word with the white space before it, or a part of one.
#[derive(Debug)]
struct Piece {
    range: Range<usize>,
    tokens: u32,
    border: Border,
}

/// The chunks of a text, in its order, without white space around them: together they hold every
/// other character. None for a text of white space. A single character is never cut, whatever its
/// number of tokens.
pub(crate) fn chunks(text: &str, size: Size) -> Vec<&str> {
    let pieces = pieces(text, size.tokens);
    let mut chunks = Vec::new();
    let mut start = 0;
    while start < pieces.len() {
        if text[pieces[start].range.clone()].trim().is_empty() {
            start += 1;
            continue;
        }
        let end = cut(text, &pieces, start, size.tokens);
        chunks.push(slice(text, &pieces, start..end));
        start = if end == pieces.len() { end } else { back(&pieces, start..end, size.overlap) };
    }
    chunks
}

fn slice<'a>(text: &'a str, pieces: &[Piece], range: Range<usize>) -> &'a str {
    text[pieces[range.start].range.start..pieces[range.end - 1].range.end].trim()
}

/// Where the chunk that begins with piece `start` ends.
fn cut(text: &str, pieces: &[Piece], start: usize, limit: u32) -> usize {
    let mut sum = 0_u32;
    let mut half = start + 1;
    let mut end = start;
    while end < pieces.len() && (end == start || sum.saturating_add(pieces[end].tokens) <= limit) {
        sum = sum.saturating_add(pieces[end].tokens);
        end += 1;
        if sum <= limit / 2 {
            half = end;
        }
    }
    // Pieces count alone what they count together, but for a few odd texts.
    while end > start + 1 && tokens::count(slice(text, pieces, start..end)) > limit {
        end -= 1;
    }
    if end == pieces.len() {
        return end;
    }
    // The last best border of the second half: the first half alone would waste the call.
    let candidates = half.min(end)..=end;
    candidates.max_by_key(|candidate| (pieces[candidate - 1].border, *candidate)).unwrap_or(end)
}

/// Where the next chunk begins: within the last `overlap` tokens of this one, at its best border.
fn back(pieces: &[Piece], chunk: Range<usize>, overlap: u32) -> usize {
    let whole: u64 = pieces[chunk.clone()].iter().map(|piece| u64::from(piece.tokens)).sum();
    let mut left = u64::from(overlap).min(whole / 2);
    let mut earliest = chunk.end;
    while earliest > chunk.start + 1 && u64::from(pieces[earliest - 1].tokens) <= left {
        earliest -= 1;
        left -= u64::from(pieces[earliest].tokens);
    }
    let candidates = earliest..chunk.end;
    // The first of the best: as much of the overlap as there is.
    let best = candidates.rev().max_by_key(|candidate| pieces[candidate - 1].border);
    best.filter(|best| pieces[best - 1].border > Border::WithinWord).unwrap_or(earliest)
}

fn pieces(text: &str, limit: u32) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let end = word_end(text, start);
        let word_border = border(text, start, end);
        while start < end {
            let piece_end = piece_end(text, start, end, limit);
            let border = if piece_end == end { word_border } else { inner_border(&text[start..piece_end]) };
            pieces.push(Piece { range: start..piece_end, tokens: tokens::count(&text[start..piece_end]), border });
            start = piece_end;
        }
    }
    pieces
}

/// The end of the white space at `start` and of the word behind it.
fn word_end(text: &str, start: usize) -> usize {
    let rest = &text[start..];
    let word = rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len());
    start + rest[word..].find(char::is_whitespace).map_or(rest.len(), |length| word + length)
}

/// The end of the piece at `start` of a word that ends at `end`: as long as it may be, and not more
/// tokens than a chunk may have.
fn piece_end(text: &str, start: usize, end: usize, limit: u32) -> usize {
    // White space costs nothing much, and belongs to what follows it.
    let blank = text[start..end].len() - text[start..end].trim_start().len();
    let mut piece_end = if end - start - blank <= LONGEST_PIECE && blank <= LONGEST_PIECE {
        end
    } else {
        let longest = text.floor_char_boundary(start + LONGEST_PIECE);
        text[start..longest].rfind(is_wide_border).map_or(longest, |at| text.ceil_char_boundary(start + at + 1))
    };
    // In front of a chunk the white space is taken away, which may cost a token.
    let fits = |piece: &str| tokens::count(piece) <= limit && tokens::count(piece.trim_start()) <= limit;
    while tokens::upper_bound(piece_end - start) > limit && !fits(&text[start..piece_end]) {
        let shorter = text.floor_char_boundary(start + (piece_end - start) / 2);
        if shorter == start {
            return text.ceil_char_boundary(start + 1);
        }
        piece_end = shorter;
    }
    piece_end
}

/// What lies behind the word that ends at `end`.
fn border(text: &str, start: usize, end: usize) -> Border {
    let rest = &text[end..];
    let blank = &rest[..rest.len() - rest.trim_start().len()];
    let ends_sentence = |c: char| matches!(c, '.' | '!' | '?' | '…' | ':' | ';') || ends_wide_sentence(c);
    let closes = |c: char| matches!(c, '"' | '\'' | ')' | ']' | '}' | '”' | '’' | '»' | '」' | '』' | '）');
    let word = text[start..end].trim_end_matches(closes);
    match blank.bytes().filter(|byte| *byte == b'\n').count() {
        2.. => Border::Paragraph,
        1 => Border::Sentence,
        0 if word.ends_with(ends_sentence) => Border::Sentence,
        0 => Border::Word,
    }
}

/// What lies behind a part of a word: scripts without blanks still have punctuation.
fn inner_border(piece: &str) -> Border {
    match piece.chars().next_back() {
        Some(c) if ends_wide_sentence(c) => Border::Sentence,
        Some(c) if is_wide_border(c) => Border::Word,
        Some(_) | None => Border::WithinWord,
    }
}

fn is_wide_border(c: char) -> bool {
    ends_wide_sentence(c) || matches!(c, '、' | '，' | '；' | '：')
}

fn ends_wide_sentence(c: char) -> bool {
    matches!(c, '。' | '！' | '？' | '．')
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn check(text: &str, tokens: u32, overlap: u32, expected: &[&str]) {
        assert_eq!(chunks(text, Size { tokens, overlap }), expected, "{text:?} {tokens} {overlap}");
    }

    #[test]
    fn texts_are_cut_at_their_best_border() {
        check("", 8, 2, &[]);
        check(" \n\t ", 8, 2, &[]);
        check("  one two  ", 8, 2, &["one two"]);
        check("one two three four five", 3, 0, &["one two three", "four five"]);
        // A sentence ends before the limit is reached.
        check(
            "One two three four. Five six seven eight nine.",
            8,
            0,
            &["One two three four.", "Five six seven eight nine."],
        );
        // A paragraph rather than a sentence.
        check("One two.\n\nThree. Four five six.", 7, 0, &["One two.", "Three. Four five six."]);
        check("One two three.\n\nFour. Five six.", 7, 0, &["One two three.", "Four. Five six."]);
        // A line is as good as a sentence.
        check("one two three\nfour five six seven", 6, 0, &["one two three", "four five six seven"]);
        // One that ends too early is not taken: the chunk would be nearly empty.
        check("Hi. one two three four five six seven", 6, 0, &["Hi. one two three four", "five six seven"]);
    }

    #[test]
    fn chunks_share_what_lies_across_their_border() {
        check("one two three four five six seven", 4, 1, &["one two three four", "four five six seven"]);
        check(
            "one two three four five six seven",
            4,
            2,
            &["one two three four", "three four five six", "five six seven"],
        );
        // Not more than half, or there would be no end of it.
        check("one two three four five six", 4, 99, &["one two three four", "three four five six"]);
    }

    #[test]
    fn text_without_blanks_is_cut_too() {
        let text = "A".repeat(1_000);
        let cut = chunks(&text, Size { tokens: 10, overlap: 0 });
        assert!(cut.len() > 1 && cut.concat() == text);
        let wide = "猫が好きです。犬も好きです。鳥は飛びます。魚は泳ぎます。".repeat(20);
        let cut = chunks(&wide, Size { tokens: 40, overlap: 0 });
        assert_eq!(cut.concat(), wide);
        assert!(cut.iter().all(|chunk| tokens::count(chunk) <= 40));
        // A character is never cut, even if it is more than one token.
        check("\u{10FFFF}\u{10FFFF}", 1, 0, &["\u{10FFFF}", "\u{10FFFF}"]);
    }

    #[test]
    fn a_long_text_takes_no_more_than_its_share() {
        let prose = "The quick brown fox jumps over the lazy dog, again and again. ".repeat(2_000);
        let cut = chunks(&prose, Size { tokens: 256, overlap: 32 });
        let whole = tokens::count(&prose) as usize;
        assert!((whole / 256..whole / 190).contains(&cut.len()), "{} chunks of {whole} tokens", cut.len());
        assert!(cut.iter().all(|chunk| tokens::count(chunk) <= 256 && chunk.ends_with("again.")));
    }

    #[test]
    fn any_text_is_covered_within_the_limit() {
        const PARTS: [&str; 24] = [
            "word",
            "a",
            "Supercalifragilisticexpialidocious",
            " ",
            "  ",
            "\n",
            "\n\n",
            "\r\n",
            "\t",
            ".",
            "!?",
            "…\"",
            "🦀",
            "e\u{301}",
            "\u{200d}",
            "\u{a0}",
            "猫。",
            "الكتاب",
            "12345678",
            "<|endoftext|>",
            "\0",
            "\u{10FFFF}",
            "/",
            "don't",
        ];
        for seed in 0..2_000 {
            let mut random = StdRng::seed_from_u64(seed);
            let length = random.random_range(0..300);
            let text: String = (0..length).filter_map(|_| PARTS.choose(&mut random).copied()).collect();
            // Below four tokens a single character may be over the limit.
            let size = Size { tokens: random.random_range(4..60), overlap: random.random_range(0..60) };
            let cut = chunks(&text, size);
            let mut reached = 0;
            let mut last_start = None;
            for chunk in &cut {
                let start = chunk.as_ptr() as usize - text.as_ptr() as usize;
                assert!(last_start.is_none_or(|last| last < start), "{seed}: no progress");
                assert!(start <= reached || text[reached..start].trim().is_empty(), "{seed}: a gap");
                assert!(!chunk.is_empty() && chunk.trim() == *chunk, "{seed}: {chunk:?}");
                let counted = tokens::count(chunk);
                assert!(counted <= size.tokens, "{seed}: {counted} of {} tokens: {chunk:?}", size.tokens);
                last_start = Some(start);
                reached = start + chunk.len();
            }
            assert!(text[reached..].trim().is_empty(), "{seed}: the end is missing");
            let bound = 8 * (tokens::count(&text) as usize / size.tokens as usize) + 8;
            assert!(cut.len() <= bound, "{seed}: {} chunks, at most {bound}", cut.len());
        }
    }
}
