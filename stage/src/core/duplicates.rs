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

/// Offsets in a word of the bitmap.
const WORD: i64 = 64;

/// Source offsets seen of one source partition.
#[derive(Debug, Clone)]
pub struct DuplicateWindow {
    /// Everything below is a duplicate.
    floor: i64,
    /// The largest source offset seen, or -1.
    newest: i64,
    /// A bit for each offset, from the floor's word on.
    seen: VecDeque<u64>,
}

impl Default for DuplicateWindow {
    fn default() -> Self {
        Self { floor: 0, newest: -1, seen: VecDeque::new() }
    }
}

impl DuplicateWindow {
    /// Notes a record derived from source `offset` by a writer with window `s`.
    pub fn observe(&mut self, offset: i64, s: u32) -> Seen {
        let floor = offset.saturating_add(1).saturating_sub(i64::from(s)).max(0);
        if floor > self.floor {
            let passed = usize::try_from(floor / WORD - self.floor / WORD).unwrap_or(usize::MAX);
            self.seen.drain(..passed.min(self.seen.len()));
            self.floor = floor;
        }
        let Some(place) = offset.checked_sub(self.floor).filter(|place| *place >= 0) else { return Seen::Duplicate };
        let place = usize::try_from(self.floor % WORD + place).unwrap_or(usize::MAX);
        let (word, bit) = (place / WORD as usize, 1_u64 << (place % WORD as usize));
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        self.newest = self.newest.max(offset);
        let is_new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        if is_new { Seen::First } else { Seen::Duplicate }
    }

    /// Offsets held, at most the window of the writer of the newest.
    #[must_use]
    pub fn bits(&self) -> usize {
        usize::try_from(self.newest.saturating_sub(self.floor).saturating_add(1)).unwrap_or(0)
    }

    /// The largest source offset seen, or -1.
    #[must_use]
    pub fn newest(&self) -> i64 {
        self.newest
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
    use std::collections::HashSet;

    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

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

    /// The bits say what a set of all offsets would.
    #[test]
    fn it_is_a_set_above_a_floor() {
        for seed in 0..200 {
            let mut dice = StdRng::seed_from_u64(seed);
            let (mut window, mut all, mut floor, mut at) = (DuplicateWindow::default(), HashSet::new(), 0, 0_i64);
            for _ in 0..400 {
                at += dice.random_range(0..3);
                let offset = (at + dice.random_range(-200..40)).max(0);
                let s: u32 = dice.random_range(1..300);
                floor = floor.max(offset + 1 - i64::from(s));
                let expected = if offset >= floor && all.insert(offset) { Seen::First } else { Seen::Duplicate };
                assert_eq!(window.observe(offset, s), expected, "{seed}: {offset} {s}");
            }
            assert!(window.seen.len() <= 300 / 64 + 2, "a bit for each offset of the largest window");
        }
    }

    #[test]
    fn a_writer_with_another_window_only_ever_raises_the_floor() {
        let mut window = DuplicateWindow::default();
        assert_eq!(window.observe(100, 4), Seen::First);
        assert_eq!(window.observe(101, 64), Seen::First);
        assert_eq!(window.observe(50, 64), Seen::Duplicate);
    }
}
