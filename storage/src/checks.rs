//! What both adapters refuse.

use crate::port::{LedgerFlush, LogPlace, StorageError};

/// Bits of an offset in a CQL timestamp; `cql/place.rs` says why.
pub(crate) const OFFSET_BITS: u32 = 40;
/// Offsets of a partition are less.
pub(crate) const OFFSETS: i64 = 1 << OFFSET_BITS;
/// Generations of a topic are less.
pub(crate) const GENERATIONS: u32 = 1 << 10;

/// A place that can be stored.
pub(crate) fn place(place: LogPlace) -> Result<(), StorageError> {
    let LogPlace { generation, offset } = place;
    if generation < GENERATIONS && (0..OFFSETS).contains(&offset) {
        return Ok(());
    }
    Err(StorageError::Refused(format!(
        "generation {generation} offset {offset} is outside what can be stored (generations under {GENERATIONS}, offsets from 0 to under 2^{OFFSET_BITS}): start a new generation of the topic, or a new database"
    )))
}

/// A flush whose every part can be stored, checked before anything is written.
pub(crate) fn flush(flush: &LedgerFlush) -> Result<(), StorageError> {
    upto(flush.generation, flush.upto)?;
    for entry in &flush.entries {
        place(entry.place)?;
    }
    for (key, rollup) in &flush.rollups {
        upto(key.generation, rollup.upto)?;
        // A rollup cell has one writer, the one that folds its partition: that, and nothing else,
        // makes "an older `upto` never replaces a newer one" enough.
        if (key.generation, key.partition) != (flush.generation, flush.partition) {
            return Err(StorageError::Refused(format!(
                "a flush of generation {} partition {} holds a rollup of generation {} partition {}: fold each partition by itself",
                flush.generation, flush.partition, key.generation, key.partition
            )));
        }
    }
    Ok(())
}

/// -1 stands before the first offset.
fn upto(generation: u32, upto: i64) -> Result<(), StorageError> {
    place(LogPlace { generation, offset: upto.saturating_add(1) })
}
