//! Places in the log as CQL write timestamps: with them the database itself keeps the first, or the
//! last, of several writes to a cell.
//!
//! A place is the number `generation * 2^40 + offset`. Generations have 10 bits and offsets 40, so
//! that a place is less than 2^50. Read as microseconds, 2^50 is September 2005: every timestamp
//! made here is positive (zero and less mean other things to some tools) and long past (ScyllaDB
//! refuses timestamps in the future). At ten thousand records a second, 2^40 offsets of one
//! partition last three years; a topic can have 1023 generations after its first.

use crate::checks::{self, GENERATIONS, OFFSET_BITS};
use crate::port::{LogPlace, StorageError};

const PLACES: i64 = (GENERATIONS as i64) << OFFSET_BITS;

/// Falls along the log, from 2^50 down to 1: the write from the first place wins.
pub(super) fn falling(place: LogPlace) -> Result<i64, StorageError> {
    Ok(PLACES - number(place.generation, place.offset)?)
}

/// The place that [`falling`] made a timestamp of.
pub(super) fn fallen(timestamp: i64) -> Result<LogPlace, StorageError> {
    let number = PLACES - timestamp;
    if !(0..PLACES).contains(&number) {
        return Err(StorageError::Refused(format!(
            "a stored outcome has the write time {timestamp}, which is no place in the log: it was written by hand; remove it"
        )));
    }
    let generation = u32::try_from(number >> OFFSET_BITS).unwrap_or(GENERATIONS);
    Ok(LogPlace { generation, offset: number & ((1 << OFFSET_BITS) - 1) })
}

/// Rises along the log, from 1 up to 2^50: the write of the last `upto` wins. -1 stands before the
/// first offset.
pub(super) fn rising(generation: u32, upto: i64) -> Result<i64, StorageError> {
    Ok(1 + number(generation, upto.saturating_add(1))?)
}

/// Generations as the tables keep them.
pub(super) fn generation(generation: u32) -> Result<i32, StorageError> {
    i32::try_from(generation)
        .map_err(|_| StorageError::Refused(format!("generation {generation} can not be stored: start at 0")))
}

fn number(generation: u32, offset: i64) -> Result<i64, StorageError> {
    checks::place(LogPlace { generation, offset })?;
    Ok((i64::from(generation) << OFFSET_BITS) + offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::OFFSETS;

    const LAST: LogPlace = LogPlace { generation: GENERATIONS - 1, offset: OFFSETS - 1 };

    #[test]
    fn earlier_places_have_later_falling_timestamps() {
        let places = [(0, 0), (0, 1), (0, OFFSETS - 1), (1, 0), (1, 7), (2, 0), (GENERATIONS - 1, OFFSETS - 1)];
        let stamps: Vec<_> =
            places.map(|(generation, offset)| falling(LogPlace { generation, offset }).unwrap()).into();
        assert!(stamps.is_sorted_by(|a, b| a > b), "{stamps:?}");
    }

    #[test]
    fn a_place_comes_back_from_its_falling_timestamp() {
        for (generation, offset) in [(0, 0), (0, OFFSETS - 1), (1, 0), (7, 12_345), (GENERATIONS - 1, OFFSETS - 1)] {
            let place = LogPlace { generation, offset };
            assert_eq!(fallen(falling(place).unwrap()).unwrap(), place);
        }
        for timestamp in [0, -1, PLACES + 1, 1_800_000_000_000_000] {
            assert!(fallen(timestamp).is_err(), "{timestamp}");
        }
    }

    #[test]
    fn later_places_have_later_rising_timestamps() {
        let places = [(0, -1), (0, 0), (0, OFFSETS - 2), (1, -1), (1, 7), (2, -1)];
        let stamps: Vec<_> = places.map(|(generation, upto)| rising(generation, upto).unwrap()).into();
        assert!(stamps.is_sorted_by(|a, b| a < b), "{stamps:?}");
    }

    #[test]
    fn timestamps_are_positive_and_before_2006() {
        let new_year_2006 = 1_136_073_600_000_000;
        assert_eq!(falling(LAST).unwrap(), 1);
        assert_eq!(rising(0, -1).unwrap(), 1);
        assert!(falling(LogPlace { generation: 0, offset: 0 }).unwrap() < new_year_2006);
        assert!(rising(LAST.generation, LAST.offset - 1).unwrap() < new_year_2006);
    }

    #[test]
    fn what_would_wrap_is_refused() {
        for (generation, offset) in [(GENERATIONS, 0), (0, OFFSETS), (0, -1), (0, i64::MAX), (u32::MAX, 0)] {
            assert!(falling(LogPlace { generation, offset }).is_err());
        }
        for (generation, upto) in [(GENERATIONS, 0), (0, OFFSETS - 1), (0, -2), (0, i64::MAX)] {
            assert!(rising(generation, upto).is_err());
        }
    }
}
