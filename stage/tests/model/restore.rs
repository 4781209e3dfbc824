//! A new owner: its state is rebuilt as the driver does, by the same rules.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;

use millrace_schemas::Source;
use millrace_stage::core::{Duplicates, derived_from, read_back, worked_off};

use super::log::{ReadBack, Topic};
use super::process::Owned;
use super::rules::Bug;
use super::world::{World, note};

impl World {
    /// Gives a partition to a process, which rebuilds its state as the driver does.
    pub fn assign(&mut self, topic: Topic, id: usize) {
        self.next_epoch += 1;
        let epoch = self.next_epoch;
        let committed = self.groups[topic].committed;
        self.groups[topic].owner = Some((id, epoch));
        let stage = self.spec.stages[self.spec.consumer[topic]].clone();
        let partition = self.spec.partitions[topic].clone();
        let window = self.process(id).map_or(1, |p| p.window);

        let mut owned = Owned {
            epoch,
            duplicates: None,
            read_from: committed,
            in_sight: Vec::new(),
            done: HashMap::new(),
            scanned: 0,
            giving_up: false,
            told: committed,
            highest: -1,
        };
        if stage.drops_duplicates {
            let mut duplicates = Duplicates::default();
            let (found, from) = self.read_back(topic, committed, window, |_| true);
            for back in found.iter().filter(|_| self.bug != Bug::ReaderForgets) {
                duplicates.observe(&self.floored(&back.source));
                let origin = self.spec.partitions.iter().position(|p| *p.topic == back.source.from.topic);
                owned.in_sight.extend(origin);
            }
            owned.read_from = from;
            owned.duplicates = Some(duplicates);
            self.coverage.read_back_short_of_start += u64::from(from > 0);
        }
        if let Some(output) = stage.output.filter(|_| stage.pays) {
            owned.scanned = self.logs[output].end;
            if committed < self.logs[topic].end && self.bug != Bug::DoesNotScan {
                let end = self.logs[output].end;
                let (found, _) = self.read_back(output, end, window, |source| derived_from(source, &partition, 0));
                owned.done =
                    worked_off(found, committed).into_iter().map(|b| (b.source.from.offset, b.request)).collect();
            }
        }
        note!(
            self,
            "process {id} owns {topic} from {committed} as epoch {epoch}, windows from {}, done {:?}",
            owned.read_from,
            owned.done.keys().collect::<BTreeSet<_>>()
        );
        if let Some(process) = self.process(id) {
            process.tracker.assign(partition, epoch, committed);
            process.owned.insert(topic, owned);
        }
    }

    fn read_back(&self, topic: Topic, end: i64, window: u32, wanted: impl Fn(&Source) -> bool) -> (Vec<ReadBack>, i64) {
        let mut from = end;
        let mut read = |start: i64, end: i64| {
            assert_eq!(end, from, "ranges lie next to each other");
            from = start;
            let records = self.logs[topic].range(start, end).iter();
            let backs =
                records.filter_map(|r| Some(ReadBack { source: r.source.as_ref()?.0.clone(), request: r.request }));
            Ok::<_, Infallible>(backs.filter(|back| wanted(&back.source)).collect::<Vec<_>>())
        };
        let found = if self.bug == Bug::ReadsBackTooLittle {
            read((end - i64::from(window)).max(0), end)
        } else {
            read_back((0, end), self.least_window(window), read)
        };
        let found = found.unwrap_or_else(|never| match never {});
        (found, from)
    }

    /// A source as a reader with a broken floor would take it.
    pub fn floored(&self, source: &Source) -> Source {
        let mut source = source.clone();
        if self.bug == Bug::FloorTooHigh {
            source.window -= 1;
        } else if self.bug == Bug::FloorTooLow {
            source.window += 1;
        }
        source
    }
}
