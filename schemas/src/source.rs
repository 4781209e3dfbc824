//! The `source` header: where a record was derived from, for readers that drop duplicates.

use std::fmt;
use std::str::FromStr;

/// Name of the header on every record that a stage writes.
pub const SOURCE_HEADER: &str = "source";

/// One record's place: topic (logical, without prefix), generation, partition, offset.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinates {
    /// Logical topic name.
    pub topic: String,
    /// Generation of the topic.
    pub generation: u32,
    /// Partition number.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.topic, self.generation, self.partition, self.offset)
    }
}

/// Where a record came from and who wrote it. Travels as text,
/// `topic/generation/partition/offset window epoch`, so that a person can read it too.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// The record this one was derived from.
    pub from: Coordinates,
    /// The writer's window S: it had at most this many offsets in flight beyond its commit.
    pub window: u32,
    /// Unique per assignment of the source partition to a writer.
    pub epoch: u64,
}

/// A `source` header that can not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the `source` header `{0}` is not `topic/generation/partition/offset window epoch`")]
pub struct SourceError(String);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:016x}", self.from, self.window, self.epoch)
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        parse(text).ok_or_else(|| SourceError(text.chars().take(200).collect()))
    }
}

fn parse(text: &str) -> Option<Source> {
    let mut words = text.split(' ');
    let (place, window, epoch) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let mut parts = place.rsplitn(4, '/');
    let offset: i64 = parts.next()?.parse().ok()?;
    let partition: i32 = parts.next()?.parse().ok()?;
    let generation = parts.next()?.parse().ok()?;
    let topic = parts.next().filter(|t| !t.is_empty())?.to_owned();
    let window = window.parse().ok().filter(|w| *w > 0)?;
    let epoch = u64::from_str_radix(epoch, 16).ok()?;
    (offset >= 0 && partition >= 0).then_some(Source {
        from: Coordinates { topic, generation, partition, offset },
        window,
        epoch,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_survives_its_text_and_nonsense_is_refused() {
        let source = Source {
            from: Coordinates { topic: "prompts.batch".into(), generation: 2, partition: 7, offset: 99 },
            window: 1024,
            epoch: u64::MAX - 1,
        };
        assert_eq!(source.to_string().parse(), Ok(source));
        for bad in ["", "a/0/0/0", "a/0/0/-1 1 0", "/0/0/0 1 0", "a/0/0/0 0 0", "a/0/0/0 1 0 x", "a/0/0/0 1 zz"] {
            assert!(bad.parse::<Source>().is_err(), "{bad}");
        }
    }
}
