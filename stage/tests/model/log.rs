//! Partitions and consumer groups, as a broker keeps them.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_schemas::{Coordinates, Source};
use millrace_stage::core::{Partition, Sourced};

/// Number of a topic; each has one partition.
pub type Topic = usize;

#[derive(Debug, Clone)]
pub struct Record {
    pub offset: i64,
    /// Stands for the request id: the record of the first topic that all this goes back to.
    pub request: (Topic, i64),
    /// What it was derived from, and the same as the model's own truth.
    pub source: Option<(Source, Topic)>,
}

impl Record {
    pub fn origin(&self) -> Option<(Topic, i64)> {
        self.source.as_ref().map(|(source, topic)| (*topic, source.from.offset))
    }
}

/// A record read back. Only one that has a source is.
pub struct ReadBack {
    pub source: Source,
    pub request: (Topic, i64),
}

impl Sourced for ReadBack {
    fn source(&self) -> &Source {
        &self.source
    }
}

#[derive(Debug)]
pub struct Log {
    pub partition: Partition,
    pub records: Vec<Record>,
    pub end: i64,
    /// Where the first record of each origin lies: the one that counts.
    pub first: HashMap<(Topic, i64), i64>,
}

impl Log {
    pub fn new(name: &str) -> Self {
        let partition = Partition { topic: Arc::from(name), number: 0 };
        Self { partition, records: Vec::new(), end: 0, first: HashMap::new() }
    }

    pub fn append(&mut self, request: Option<(Topic, i64)>, own: Topic, source: Option<(Source, Topic)>) -> i64 {
        let offset = self.end;
        let record = Record { offset, request: request.unwrap_or((own, offset)), source };
        if let Some(origin) = record.origin() {
            self.first.entry(origin).or_insert(offset);
        }
        self.records.push(record);
        self.end += 1;
        offset
    }

    /// The first record at or after an offset.
    pub fn at_or_after(&self, offset: i64) -> Option<&Record> {
        self.records.get(self.records.partition_point(|r| r.offset < offset))
    }

    pub fn range(&self, start: i64, end: i64) -> &[Record] {
        let from = self.records.partition_point(|r| r.offset < start);
        let to = self.records.partition_point(|r| r.offset < end);
        &self.records[from..to]
    }

    pub fn coordinates(&self, offset: i64) -> Coordinates {
        Coordinates { topic: self.partition.topic.to_string(), generation: 0, partition: 0, offset }
    }
}

/// What the broker knows of the group that consumes a topic.
#[derive(Debug, Default)]
pub struct Group {
    pub committed: i64,
    /// The process and the epoch of the assignment that it accepts commits of.
    pub owner: Option<(usize, u64)>,
}
