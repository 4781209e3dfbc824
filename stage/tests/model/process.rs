//! A process that runs a stage: the driver's bookkeeping around the core, without any I/O.

use std::collections::{BTreeMap, HashMap};

use millrace_schemas::Source;
use millrace_stage::core::{Duplicates, Limits, Ticket, Tracker};

use super::log::Topic;
use super::rules::Bug;
use super::world::Spec;

/// Where the work on a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Taken,
    /// The provider was paid (stages that pay only).
    Paid,
    /// The output is on its way to the broker.
    Issued,
    /// The output is in the log; the acknowledgement is on its way back.
    Landed,
}

#[derive(Debug)]
pub struct Work {
    pub id: u64,
    pub topic: Topic,
    pub offset: i64,
    pub request: (Topic, i64),
    pub epoch: u64,
    pub ticket: Ticket,
    pub step: Step,
    /// End of the stage's output when its tail was scanned for this assignment.
    pub scanned: i64,
    /// Its owner crashed, stalled or lost the partition.
    pub interrupted: bool,
}

/// A partition that the process believes to be its own.
#[derive(Debug)]
pub struct Owned {
    pub epoch: u64,
    pub duplicates: Option<Duplicates>,
    /// How far back the windows were rebuilt from, and the topics in sight there.
    pub read_from: i64,
    pub in_sight: Vec<Topic>,
    pub done: HashMap<i64, (Topic, i64)>,
    pub scanned: i64,
    pub giving_up: bool,
    /// What the broker acknowledged, and the highest record settled, for the broken variants.
    pub told: i64,
    pub highest: i64,
}

/// A head to commit: topic, epoch, offset.
pub type Head = (Topic, u64, i64);

#[derive(Debug)]
pub struct Process {
    pub id: usize,
    pub stage: usize,
    pub window: u32,
    pub tracker: Tracker,
    pub owned: BTreeMap<Topic, Owned>,
    pub work: Vec<Work>,
    /// Tickets of work that was called off and has not noticed it yet.
    pub called_off: Vec<Ticket>,
    /// The commit that an answer is awaited for.
    pub commit: Option<Vec<Head>>,
    /// It stands still as far as the broker can tell; its work goes on.
    pub stalled: bool,
}

impl Process {
    pub fn new(id: usize, stage: usize, window: u32, records: usize) -> Self {
        let limits = Limits { window, records, bytes: 1 << 40 };
        Self {
            id,
            stage,
            window,
            tracker: Tracker::new(limits),
            owned: BTreeMap::new(),
            work: Vec::new(),
            called_off: Vec::new(),
            commit: None,
            stalled: false,
        }
    }

    /// What the records derived from this one say of it.
    pub fn as_source(&self, from: millrace_schemas::Coordinates, epoch: u64) -> Source {
        Source { from, window: self.window, epoch }
    }

    /// Heads to commit; the broken variants choose others.
    pub fn heads(&self, spec: &Spec, bug: Bug) -> Vec<Head> {
        if bug == Bug::GatesOnHead {
            return self.chosen(|topic, _| self.tracker.head(&spec.partitions[topic]).unwrap_or(0));
        }
        if bug == Bug::CommitsHighest {
            return self.chosen(|_, owned| owned.highest + 1);
        }
        let number = |p| spec.partitions.iter().position(|known| known == p).expect("a partition of the model");
        self.tracker.uncommitted().iter().map(|(p, epoch, offset)| (number(p), *epoch, *offset)).collect()
    }

    fn chosen(&self, offset: impl Fn(Topic, &Owned) -> i64) -> Vec<Head> {
        self.owned
            .iter()
            .map(|(topic, owned)| (*topic, owned.epoch, offset(*topic, owned)))
            .filter(|(topic, _, offset)| *offset > self.owned[topic].told)
            .collect()
    }

    pub fn acknowledged(&mut self, spec: &Spec, heads: &[Head]) {
        for (topic, epoch, offset) in heads {
            self.tracker.committed(&spec.partitions[*topic], *epoch, *offset);
            if let Some(owned) = self.owned.get_mut(topic).filter(|owned| owned.epoch == *epoch) {
                owned.told = owned.told.max(*offset);
            }
        }
    }

    /// Settles a record. `Err` when the tracker does not agree about whose it was.
    pub fn settle(
        &mut self,
        spec: &Spec,
        topic: Topic,
        offset: i64,
        epoch: u64,
        ticket: Ticket,
        bug: Bug,
    ) -> Result<(), String> {
        let ours = self.owned.get(&topic).is_some_and(|owned| owned.epoch == epoch);
        if self.tracker.settle(ticket) != ours {
            return Err(format!("settling {topic}@{offset} of epoch {epoch}: the tracker does not say {ours}"));
        }
        if let Some(owned) = self.owned.get_mut(&topic).filter(|_| ours) {
            owned.highest = owned.highest.max(offset);
        }
        if bug == Bug::GatesOnHead && ours {
            let partition = &spec.partitions[topic];
            let head = self.tracker.head(partition).unwrap_or(0);
            self.tracker.committed(partition, epoch, head);
        }
        Ok(())
    }
}
