//! What `tests/instructions.py` counts instructions of: what the loop does with a record, without any I/O.

use std::sync::Arc;

use millrace_schemas::Source;
use millrace_stage::core::{Duplicates, Limits, Partition, Seen, Tracker};

/// How many records; the difference between two counts is what the records cost.
fn records() -> i64 {
    std::env::var("MILLRACE_RECORDS").map_or(500, |count| count.parse().expect("a number"))
}

#[test]
fn stage_core_of_a_record() {
    const WINDOW: i64 = 1_024;
    const IN_FLIGHT: i64 = 64;
    let partition = Partition { topic: Arc::from("prompts.batch"), number: 7 };
    let mut tracker = Tracker::new(Limits { window: 1_024, records: 4_096, bytes: 64 << 20 });
    tracker.assign(partition.clone(), 1, 0);
    let mut duplicates = Duplicates::default();
    let mut tickets = Vec::new();
    for offset in 0..records() {
        let header = format!("requests.batch/0/7/{offset} {WINDOW} 00000000000000ff");
        let source: Source = header.parse().expect("as it was written");
        assert_eq!(duplicates.observe(&source), Seen::First);
        tickets.push(tracker.take(&partition, offset, 1_000).expect("there is room"));
        if offset % IN_FLIGHT == IN_FLIGHT - 1 {
            // The last comes first, so that all settle at once.
            while let Some(ticket) = tickets.pop() {
                assert!(tracker.settle(ticket));
            }
            for (partition, epoch, head) in tracker.uncommitted() {
                assert_eq!(head, offset + 1);
                tracker.committed(&partition, epoch, head);
            }
        }
    }
}
