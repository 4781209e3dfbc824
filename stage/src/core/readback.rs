//! How far back the log is read when a partition's state is rebuilt, and what is found there.
//!
//! A writer takes offset `o` only while `o < committed + S`. So once a record derived from `o` is
//! in the log, no later assignment of its source starts at or under `o - S`, and while `o` can still
//! matter (is above the floor) nobody has written `o + S` or more. Behind the record there are then
//! at most 2·S records of every assignment (epoch), be it alive or a zombie, and with `r` epochs in
//! sight `2·S·r` records of one source reach far enough. One epoch is added for good measure.
//!
//! Two things bound what this can prove:
//! - S is the largest window that any writer in question had. The headers in sight tell it, except
//!   when a writer with a larger window lies just out of sight: hence the least window that every
//!   writer is taken to have had.
//! - A source is known by its records. One that shares a partition with busier ones is followed as
//!   far as the reach may be doubled; one without a record in sight is not followed. So a writer
//!   whose output has several sources reads its own output on assignment, too: then only a zombie
//!   writes copies.

use std::collections::{HashMap, HashSet};

use millrace_schemas::Source;

use super::Partition;

/// How often the reach is doubled for a source that is sparse in a busy partition.
const DOUBLINGS: u32 = 7;

/// Something read back that tells what it was derived from.
pub trait Sourced {
    /// What it was derived from, and by whom.
    fn source(&self) -> &Source;
}

impl Sourced for Source {
    fn source(&self) -> &Source {
        self
    }
}

/// Reads back from the end of the range `low..end` until no earlier record can matter. `window` is
/// the least that every writer is taken to have had. `read` reads a range of offsets; the ranges
/// it is asked for lie next to each other, the latest first. The answer is in log order.
///
/// # Errors
/// The first error of `read`.
pub fn read_back<T: Sourced, E>(
    (low, end): (i64, i64),
    window: u32,
    mut read: impl FnMut(i64, i64) -> Result<Vec<T>, E>,
) -> Result<Vec<T>, E> {
    let mut reach = i64::from(window) * 4 + 1;
    let most = reach << DOUBLINGS;
    let mut from = end;
    let mut found = Vec::new();
    loop {
        let start = (end - reach).max(low);
        let mut earlier = read(start, from)?;
        earlier.append(&mut found);
        (from, found) = (start, earlier);
        if start == low || reach >= most {
            return Ok(found);
        }
        match needed(&found, window) {
            None => return Ok(found),
            Some(records) => reach = (reach * 2).max(records),
        }
    }
}

/// How many records some source should have shown but did not, or `None` when every source in
/// sight was read back far enough.
fn needed<T: Sourced>(found: &[T], window: u32) -> Option<i64> {
    let mut sources = HashMap::new();
    for source in found.iter().map(Sourced::source) {
        let from = &source.from;
        let (count, largest, epochs) = sources
            .entry((from.topic.as_str(), from.generation, from.partition))
            .or_insert_with(|| (0, window, HashSet::new()));
        *count += 1;
        *largest = source.window.max(*largest);
        epochs.insert(source.epoch);
    }
    if sources.is_empty() {
        return Some(0);
    }
    sources
        .values()
        .map(|(count, largest, epochs)| (2 * i64::from(*largest) * (1 + epochs.len() as i64) + 1, *count))
        .filter(|(needed, count)| count < needed)
        .map(|(needed, _)| needed)
        .max()
}

/// True when a record of a stage's own output was derived from this partition.
#[must_use]
pub fn derived_from(source: &Source, partition: &Partition, generation: u32) -> bool {
    let from = &source.from;
    *from.topic == *partition.topic && from.generation == generation && from.partition == partition.number
}

/// The least position that the group had when these outputs of its stage were written, if that is beyond
/// `committed`: a writer takes offset `o` only while `o < committed + S`, and commits only grow. Then
/// somebody has set the group back, and what lies between may be further back than is read.
#[must_use]
pub fn set_back<T: Sourced>(outputs: &[T], committed: i64) -> Option<i64> {
    let had = outputs.iter().map(|output| output.source().from.offset + 1 - i64::from(output.source().window));
    had.max().filter(|least| *least > committed)
}

/// Of a stage's own outputs for one partition, in log order, those for records at and beyond its
/// committed offset: the first of each, which is the one that counts.
#[must_use]
pub fn worked_off<T: Sourced>(outputs: Vec<T>, committed: i64) -> Vec<T> {
    let mut seen = HashSet::new();
    outputs
        .into_iter()
        .filter(|output| {
            let offset = output.source().from.offset;
            offset >= committed && seen.insert(offset)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use millrace_schemas::Coordinates;

    use super::*;

    fn source(topic: &str, offset: i64, epoch: u64) -> Source {
        let from = Coordinates { topic: topic.to_owned(), generation: 0, partition: 0, offset };
        Source { from, window: 2, epoch }
    }

    /// Reads back `log` with a least window of 2; tells what was found and the ranges asked for.
    fn back(log: &[Source]) -> (Vec<Source>, Vec<(i64, i64)>) {
        let mut asked = Vec::new();
        let found = read_back((0, log.len() as i64), 2, |start, end| {
            asked.push((start, end));
            Ok::<_, Infallible>(log[start as usize..end as usize].to_vec())
        });
        (found.expect("infallible"), asked)
    }

    #[test]
    fn the_reach_grows_with_the_epochs_in_sight_and_nothing_is_read_twice() {
        let one: Vec<_> = (0..1000).map(|o| source("a", o, 1)).collect();
        let (found, asked) = back(&one);
        assert_eq!((found.as_slice(), asked.as_slice()), (&one[991..], [(991, 1000)].as_slice()));

        let many: Vec<_> = (0..1000).map(|o| source("a", o, o as u64 / 6)).collect();
        let (found, asked) = back(&many);
        assert_eq!(found, many[1000 - found.len()..], "in log order");
        // 18 records show 4 epochs, which need 21; 36 show 7, which need 33.
        assert_eq!(asked, [(991, 1000), (982, 991), (964, 982)]);
    }

    #[test]
    fn a_sparse_source_in_sight_is_followed_to_the_bound_and_one_out_of_sight_is_not() {
        let mut log: Vec<_> = (0..5000).map(|o| source("busy", o, 1)).collect();
        log[4990] = source("sparse", 0, 2);
        assert_eq!(back(&log).0.len(), 9);
        log[4992] = source("sparse", 1, 2);
        assert_eq!(back(&log).0.len(), 9 << DOUBLINGS);
        assert_eq!(back(&[]).0, []);
    }

    #[test]
    fn a_writer_with_a_larger_window_in_sight_is_read_back_further() {
        let mut log: Vec<_> = (0..1000).map(|o| source("a", o, 1)).collect();
        log[995].window = 50;
        assert_eq!(back(&log).0.len(), 201);
    }

    #[test]
    fn a_group_that_was_set_back_is_told_where_it_was() {
        // Windows of 2: what was derived from 7 proves a position of at least 6.
        let outputs = [source("a", 6, 1), source("a", 7, 1), source("a", 5, 2)];
        for (committed, expected) in [(8, None), (7, None), (6, None), (5, Some(6)), (0, Some(6))] {
            assert_eq!(set_back(&outputs, committed), expected, "{committed}");
        }
        assert_eq!(set_back::<Source>(&[], 0), None);
    }

    #[test]
    fn of_the_own_outputs_the_first_for_each_open_record_counts() {
        let outputs =
            vec![source("a", 7, 1), source("a", 5, 1), source("a", 4, 1), source("a", 7, 2), source("a", 5, 3)];
        assert_eq!(worked_off(outputs, 5), [source("a", 7, 1), source("a", 5, 1)]);
        let partition = Partition { topic: "a".into(), number: 0 };
        assert!(derived_from(&source("a", 7, 1), &partition, 0));
        assert!(!derived_from(&source("a", 7, 1), &partition, 1));
        assert!(!derived_from(&source("b", 7, 1), &partition, 0));
    }
}
