//! Where a version of a document lies in the log, and which of two is the later one.

use std::fmt;

use millrace_schemas::{Coordinates, REDRIVE_OF};
use millrace_stage::Received;

/// The record of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub generation: u32,
    pub partition: i32,
    pub offset: i64,
    /// The record's own time, milliseconds.
    pub timestamp: i64,
}

impl Place {
    /// Where the version first came: a record that is redriven does not become later than what was
    /// published after it. Who may write here may say so only of what lies before its own record.
    pub fn of(record: &Received) -> Self {
        let here = Self {
            generation: record.at.generation,
            partition: record.at.partition,
            offset: record.at.offset,
            timestamp: record.timestamp,
        };
        let first = record.header(REDRIVE_OF).and_then(Self::parse);
        first.filter(|first| here.is_after(first) && first.partition == here.partition).unwrap_or(here)
    }

    /// Its coordinates on `topic`.
    pub fn on(&self, topic: &str) -> Coordinates {
        let Self { generation, partition, offset, .. } = *self;
        Coordinates { topic: topic.to_owned(), generation, partition, offset }
    }

    /// Within a partition the log decides. Between partitions, where producers of one document do
    /// not agree on its key, only their clocks can.
    pub fn is_after(&self, other: &Self) -> bool {
        if (self.generation, self.partition) == (other.generation, other.partition) {
            return self.offset > other.offset;
        }
        let order = |p: &Self| (p.generation, p.timestamp, p.partition);
        order(self) > order(other)
    }

    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let place = Self {
            generation: parts.next()?.parse().ok()?,
            partition: parts.next()?.parse().ok()?,
            offset: parts.next()?.parse().ok()?,
            timestamp: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(place)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.generation, self.partition, self.offset, self.timestamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_mutate as mutate;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(mutate::cases(1_000))]

        #[test]
        fn any_text_is_a_place_or_none(text in mutate::text(&["1/2/3/4", "-1/-2/-3/-4"])) {
            if let Some(place) = Place::parse(&text) {
                prop_assert_eq!(Place::parse(&place.to_string()), Some(place));
            }
        }
    }

    #[test]
    fn a_place_survives_its_text() {
        let place = Place { generation: 2, partition: 7, offset: 99, timestamp: -1 };
        assert_eq!(Place::parse(&place.to_string()), Some(place));
        for bad in ["", "1/2/3", "1/2/3/4/5", "-1/2/3/4", "a/2/3/4"] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_log_decides_within_a_partition_and_the_clocks_between() {
        let check = |a: (u32, i32, i64, i64), b: (u32, i32, i64, i64), expected: bool| {
            let place = |(generation, partition, offset, timestamp)| Place { generation, partition, offset, timestamp };
            assert_eq!(place(a).is_after(&place(b)), expected, "{a:?} {b:?}");
        };
        check((0, 1, 6, 0), (0, 1, 5, 900), true);
        check((0, 1, 5, 900), (0, 1, 6, 0), false);
        check((0, 1, 5, 0), (0, 1, 5, 0), false);
        check((0, 1, 5, 20), (0, 2, 500, 10), true);
        check((0, 2, 500, 10), (0, 1, 5, 20), false);
        check((1, 1, 0, 10), (0, 1, 500, 20), true);
    }
}
