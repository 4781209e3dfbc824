//! What becomes of a record: taken, worked off, written, acknowledged, settled.

use millrace_stage::core::{Refused, Seen};

use super::log::{Record, Topic};
use super::process::{Step, Work};
use super::rules::{Bug, Rule, Violation};
use super::world::{Produce, World, note};

impl World {
    /// Takes the next record of a partition, if there is one and room for it.
    pub fn take(&mut self, index: usize, topic: Topic) -> Result<bool, Violation> {
        let partition = self.spec.partitions[topic].clone();
        let stage = self.spec.consumer[topic];
        let bug = self.bug;
        let process = &mut self.processes[index];
        let Some((next, epoch)) = process.tracker.next(&partition) else { return Ok(false) };
        let Some(record) = self.logs[topic].at_or_after(next).cloned() else { return Ok(false) };
        let offset = record.offset;
        let before = process.tracker.head(&partition);
        let ticket = match process.tracker.take(&partition, offset, 1) {
            Ok(ticket) => ticket,
            Err(Refused::Full) => return Ok(process.tracker.head(&partition) != before),
            Err(Refused::NotOurs) if process.owned.get(&topic).is_none_or(|o| o.giving_up) => return Ok(false),
            Err(refused) => {
                return Err(Violation::new(Rule::Tracker, format!("{topic}@{offset} was refused: {refused:?}")));
            }
        };
        let (id, stalled, window) = (process.id, process.stalled, process.window);
        let committed = self.groups[topic].committed;
        if bug != Bug::GatesOnHead && offset >= committed + i64::from(window) {
            let text = format!("process {id} took {topic}@{offset} with window {window} and {committed} committed");
            return Err(Violation::new(Rule::Window, text));
        }
        note!(self, "process {id} takes {topic}@{offset}");
        let duplicate = self.observe(index, topic, &record)?;
        let process = &mut self.processes[index];
        let owned = process.owned.get_mut(&topic).expect("the tracker has it");
        let recovered = owned.done.remove(&offset).is_some_and(|request| request == record.request);
        if duplicate || recovered {
            self.coverage.recovered += u64::from(recovered && !duplicate);
            note!(self, "  {}", if duplicate { "a copy" } else { "worked off by an earlier owner" });
            let process = &mut self.processes[index];
            let settled = process.settle(&self.spec, topic, offset, epoch, ticket, bug);
            return settled.map(|()| true).map_err(|text| Violation::new(Rule::Tracker, text));
        }
        self.next_work += 1;
        let work = Work {
            id: self.next_work,
            topic,
            offset,
            request: record.request,
            epoch,
            ticket,
            step: Step::Taken,
            scanned: owned.scanned,
            interrupted: stalled,
        };
        if stalled && self.spec.stages[stage].pays {
            self.calls.entry((topic, offset)).or_default().1 += 1;
        }
        self.processes[index].work.push(work);
        Ok(true)
    }

    /// Shows a record to the duplicate windows, and compares their answer with the truth.
    fn observe(&mut self, index: usize, topic: Topic, record: &Record) -> Result<bool, Violation> {
        let Some((source, origin)) = &record.source else { return Ok(false) };
        let source = self.floored(source);
        let first = self.logs[topic].first[&(*origin, source.from.offset)];
        let most: u32 = self.spec.windows.iter().copied().max().unwrap_or(1);
        let sources = self.spec.sources.len();
        let owned = self.processes[index].owned.get_mut(&topic).expect("taken from");
        let Some(duplicates) = &mut owned.duplicates else { return Ok(false) };
        let seen = duplicates.observe(&source);
        if duplicates.bits() > most as usize * sources {
            let text = format!("{} bits for {sources} sources with windows up to {most}", duplicates.bits());
            return Err(Violation::new(Rule::Memory, text));
        }
        let expected = if first == record.offset { Seen::First } else { Seen::Duplicate };
        if seen == expected {
            self.coverage.copies_dropped += u64::from(seen == Seen::Duplicate);
            return Ok(seen == Seen::Duplicate);
        }
        // What may go wrong: a source that had no record in sight is not followed further back.
        if seen == Seen::First && first < owned.read_from && !owned.in_sight.contains(origin) {
            self.coverage.out_of_sight += 1;
            let writer = &self.spec.stages[self.spec.consumer[*origin]];
            self.coverage.out_of_sight_though_scanned += u64::from(writer.pays);
            self.excused.insert(record.request);
            return Ok(false);
        }
        let text = format!(
            "{topic}@{} of {origin}@{} was taken for {seen:?}, but the first lies at {first} (windows rebuilt from {})",
            record.offset, source.from.offset, owned.read_from
        );
        Err(Violation::new(Rule::FirstCounts, text))
    }

    /// Takes the work on a record one step further.
    pub fn work(&mut self, index: usize, at: usize) -> Result<(), Violation> {
        let process = &mut self.processes[index];
        let stage = &self.spec.stages[process.stage];
        let work = &mut process.work[at];
        let (id, topic, offset) = (process.id, work.topic, work.offset);
        match (work.step, stage.output) {
            (Step::Taken, Some(output)) if stage.pays => {
                work.step = Step::Paid;
                let calls = self.calls.entry((topic, offset)).or_default();
                calls.0 += 1;
                note!(self, "process {id} pays for {topic}@{offset} ({} calls, {} interruptions)", calls.0, calls.1);
                self.coverage.paid_twice += u64::from(calls.0 == 2);
                let known = self.logs[output].first.get(&(topic, offset));
                if let Some(at) = known.filter(|at| **at < work.scanned) {
                    let text = format!("{topic}@{offset}: its output lay at {at} when {} was scanned", work.scanned);
                    return Err(Violation::new(Rule::RecordedIsNotPaidAgain, text));
                }
                if calls.0 > 1 + calls.1 {
                    let text = format!("{topic}@{offset}: {} calls with {} interruptions", calls.0, calls.1);
                    return Err(Violation::new(Rule::Calls, text));
                }
                Ok(())
            }
            (Step::Taken | Step::Paid, Some(output)) => {
                work.step = Step::Issued;
                let (epoch, request, number) = (work.epoch, work.request, work.id);
                let source = process.as_source(self.logs[topic].coordinates(offset), epoch);
                self.network.push(Produce {
                    topic: output,
                    from: (topic, offset),
                    request,
                    source,
                    process: id,
                    work: number,
                });
                note!(self, "process {id} produces for {topic}@{offset}");
                Ok(())
            }
            (Step::Taken | Step::Paid, None) => {
                self.settled.insert((topic, offset));
                self.finish(index, at)
            }
            (Step::Issued, _) => Ok(()),
            (Step::Landed, _) => self.finish(index, at),
        }
    }

    fn finish(&mut self, index: usize, at: usize) -> Result<(), Violation> {
        let bug = self.bug;
        let process = &mut self.processes[index];
        let work = process.work.swap_remove(at);
        note!(self, "process {} settles {}@{}", process.id, work.topic, work.offset);
        let settled = process.settle(&self.spec, work.topic, work.offset, work.epoch, work.ticket, bug);
        settled.map_err(|text| Violation::new(Rule::Tracker, text))
    }

    /// An output arrives in its log; the acknowledgement is still under way.
    pub fn land(&mut self, at: usize) {
        let produce = self.network.swap_remove(at);
        let (topic, offset) = produce.from;
        self.gap(produce.topic);
        let landed = self.logs[produce.topic].append(Some(produce.request), topic, Some((produce.source, topic)));
        note!(self, "process {}'s output for {topic}@{offset} lands at {}@{landed}", produce.process, produce.topic);
        let owner = self.groups[topic].owner.map(|(id, _)| id);
        self.coverage.late_zombie_outputs += u64::from(owner != Some(produce.process));
        if let Some(process) = self.process(produce.process)
            && let Some(work) = process.work.iter_mut().find(|w| w.id == produce.work)
        {
            work.step = Step::Landed;
        }
    }
}
