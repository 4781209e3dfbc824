//! Dropping duplicates exactly, in S bits a source.
//!
//! A writer takes offset `o` of its source only while `o < committed + S`. So a record derived
//! from `o` proves that everything up to `o - S` was written, acknowledged and committed: whatever
//! comes later from there is a copy, however late. Above that floor a bit per offset decides.

use std::collections::{HashMap, VecDeque};

use millrace_schemas::Source;

/// What a reader does with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The first in log order: it counts.
    First,
    /// A copy: it is dropped.
    Duplicate,
}

/// Source offsets seen of one source partition.
#[derive(Debug, Clone, Default)]
pub struct DuplicateWindow {
    /// Everything below is a duplicate.
    floor: i64,
    /// Whether `floor + i` was seen.
    seen: VecDeque<bool>,
}

impl DuplicateWindow {
    /// Notes a record derived from source `offset` by a writer with window `s`.
    pub fn observe(&mut self, offset: i64, s: u32) -> Seen {
        let floor = offset.saturating_add(1).saturating_sub(i64::from(s)).max(0);
        if floor > self.floor {
            let passed = usize::try_from(floor - self.floor).unwrap_or(usize::MAX).min(self.seen.len());
            self.seen.drain(..passed);
            self.floor = floor;
        }
        let Ok(index) = usize::try_from(offset - self.floor) else { return Seen::Duplicate };
        if index >= self.seen.len() {
            self.seen.resize(index + 1, false);
        }
        if std::mem::replace(&mut self.seen[index], true) { Seen::Duplicate } else { Seen::First }
    }

    /// Offsets held, at most the window of the writer of the newest.
    #[must_use]
    pub fn bits(&self) -> usize {
        self.seen.len()
    }

    /// The largest source offset seen, or -1.
    #[must_use]
    pub fn newest(&self) -> i64 {
        self.floor + self.seen.len() as i64 - 1
    }
}

/// The windows of one partition of a reader: one for each source partition that feeds it.
#[derive(Debug, Clone, Default)]
pub struct Duplicates {
    windows: HashMap<(String, u32, i32), DuplicateWindow>,
}

impl Duplicates {
    /// Notes a record by its source header.
    pub fn observe(&mut self, source: &Source) -> Seen {
        let from = &source.from;
        let key = (from.topic.clone(), from.generation, from.partition);
        self.windows.entry(key).or_default().observe(from.offset, source.window)
    }

    /// Offsets held over all sources.
    #[must_use]
    pub fn bits(&self) -> usize {
        self.windows.values().map(DuplicateWindow::bits).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_or_under_the_floor_everything_is_a_duplicate_and_above_it_the_bit_decides() {
        let mut window = DuplicateWindow::default();
        for (offset, expected) in [
            (0, Seen::First),
            (0, Seen::Duplicate),
            (3, Seen::First),
            (1, Seen::First),
            (1, Seen::Duplicate),
            (6, Seen::First),
            (2, Seen::Duplicate), // never seen, but 6 proves that it was written before
            (4, Seen::First),
            (5, Seen::First),
            (5, Seen::Duplicate),
            (1_000_000, Seen::First),
            (6, Seen::Duplicate),
        ] {
            assert_eq!(window.observe(offset, 4), expected, "{offset}");
        }
        assert_eq!(window.newest(), 1_000_000);
        assert!(window.seen.len() <= 4, "bounded by S");
    }

    /// What other people's readers are told, in several languages, is what ours do.
    #[test]
    fn the_published_cases_hold() {
        let cases = include_str!("../../../examples/clients/duplicates.txt");
        let (mut duplicates, mut name, mut count) = (Duplicates::default(), "", 0);
        for line in cases.lines() {
            if let Some(after) = line.strip_prefix("## ") {
                (duplicates, name) = (Duplicates::default(), after);
            } else if let Some((verdict, header)) = line.split_once('\t').filter(|_| !line.starts_with('#')) {
                let found = header.parse().map_or(Seen::First, |source| duplicates.observe(&source));
                let expected = if verdict == "first" { Seen::First } else { Seen::Duplicate };
                assert_eq!(found, expected, "{name}: {header}");
                count += 1;
            }
        }
        assert!(count > 40, "{count} cases");
    }

    #[test]
    fn a_writer_with_another_window_only_ever_raises_the_floor() {
        let mut window = DuplicateWindow::default();
        assert_eq!(window.observe(100, 4), Seen::First);
        assert_eq!(window.observe(101, 64), Seen::First);
        assert_eq!(window.observe(50, 64), Seen::Duplicate);
    }
}
