//! The lines of a file, a part's worth of them at a time.

use futures::stream::{BoxStream, StreamExt};
use millrace_storage::StorageError;

/// A line that is not blank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// As an editor counts, from 1.
    pub number: u32,
    /// `None` for a line that is too long to be a request, or is no UTF-8.
    pub text: Option<String>,
}

/// Cuts bytes that come in pieces into lines.
pub(crate) struct Lines {
    parts: BoxStream<'static, Result<Vec<u8>, StorageError>>,
    cut: Cut,
}

impl Lines {
    pub(crate) fn new(parts: BoxStream<'static, Result<Vec<u8>, StorageError>>, longest: usize) -> Self {
        Self { parts, cut: Cut { longest, number: 0, begun: Vec::new(), too_long: false } }
    }

    /// The lines that end in the next part, which may be none; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Line>>, StorageError> {
        match self.parts.next().await {
            Some(part) => Ok(Some(self.cut.feed(&part?))),
            // A file may end without a line break.
            None => Ok(self.cut.end().map(|line| vec![line])),
        }
    }
}

/// What is left of one piece for the next.
struct Cut {
    longest: usize,
    number: u32,
    begun: Vec<u8>,
    too_long: bool,
}

impl Cut {
    fn feed(&mut self, piece: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut rest = piece;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            self.take(&rest[..at]);
            lines.extend(self.end());
            rest = &rest[at + 1..];
        }
        self.take(rest);
        lines
    }

    fn take(&mut self, bytes: &[u8]) {
        self.too_long |= self.begun.len() + bytes.len() > self.longest;
        if self.too_long {
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }

    fn end(&mut self) -> Option<Line> {
        let (bytes, too_long) = (std::mem::take(&mut self.begun), std::mem::take(&mut self.too_long));
        self.number += 1;
        if too_long {
            return Some(Line { number: self.number, text: None });
        }
        // Some editors begin a file with a mark.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.number == 1).unwrap_or(&bytes);
        let bytes = bytes.trim_ascii();
        (!bytes.is_empty()).then(|| Line { number: self.number, text: String::from_utf8(bytes.to_vec()).ok() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&str]) -> Vec<(u32, Option<String>)> {
        let mut cut = Cut { longest: 8, number: 0, begun: Vec::new(), too_long: false };
        let mut found: Vec<Line> = pieces.iter().flat_map(|piece| cut.feed(piece.as_bytes())).collect();
        found.extend(cut.end());
        found.into_iter().map(|line| (line.number, line.text)).collect()
    }

    #[test]
    fn lines_are_the_same_however_they_come() {
        let whole = "\u{feff}one\r\n\n  two \nmuch too long\nthree";
        let text = |text: &str| Some(text.to_owned());
        let expected = vec![(1, text("one")), (3, text("two")), (4, None), (5, text("three"))];
        assert_eq!(lines(&[whole]), expected);
        for at in 1..whole.len() {
            if whole.is_char_boundary(at) {
                assert_eq!(lines(&[&whole[..at], &whole[at..]]), expected, "{at}");
            }
        }
        assert_eq!(lines(&[""]), []);
        assert_eq!(lines(&["one\n"]), [(1, text("one"))]);
    }
}
