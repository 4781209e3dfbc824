//! How a partition is lost: handed over, called off, crashed, stalled.

use super::log::Topic;
use super::process::Head;
use super::rules::{Rule, Violation};
use super::world::{World, note};

impl World {
    /// Stops taking from a partition that is to be handed over.
    pub fn give_up(&mut self, index: usize, topic: Topic) {
        let process = &mut self.processes[index];
        process.tracker.give_up(&self.spec.partitions[topic]);
        if let Some(owned) = process.owned.get_mut(&topic) {
            owned.giving_up = true;
        }
        note!(self, "process {} gives {topic} up", self.processes[index].id);
    }

    /// Hands a partition over: commits what is settled and waits for it, then lets go.
    pub fn release(&mut self, index: usize, topic: Topic) -> Result<(), Violation> {
        let id = self.processes[index].id;
        let drained = self.processes[index].tracker.drained(&self.spec.partitions[topic]);
        self.coverage.drained += u64::from(drained);
        self.coverage.drain_overruns += u64::from(!drained);
        while self.commits.iter().any(|(from, _)| *from == id) {
            self.broker_commits(id)?;
        }
        let heads: Vec<Head> =
            self.processes[index].heads(&self.spec, self.bug).into_iter().filter(|(t, ..)| *t == topic).collect();
        if !self.random.one_in(5) && !heads.is_empty() && self.accept(id, &heads)? {
            self.processes[index].acknowledged(&self.spec, &heads);
        }
        self.forget(index, topic)?;
        if self.groups[topic].owner.is_some_and(|(owner, _)| owner == id) {
            self.groups[topic].owner = None;
        }
        note!(self, "process {id} releases {topic}, drained: {drained}");
        Ok(())
    }

    /// The process is told that the partition is no longer its own: what is in flight is called
    /// off, but some of it gets through before it notices.
    pub fn forget(&mut self, index: usize, topic: Topic) -> Result<(), Violation> {
        let process = &mut self.processes[index];
        process.tracker.remove(&self.spec.partitions[topic]);
        let Some(owned) = process.owned.remove(&topic) else { return Ok(()) };
        for work in std::mem::take(&mut process.work) {
            if work.topic != topic || work.epoch != owned.epoch {
                process.work.push(work);
                continue;
            }
            let mut work = work;
            if !std::mem::replace(&mut work.interrupted, true) {
                self.calls.entry((topic, work.offset)).or_default().1 += 1;
            }
            if self.random.one_in(3) {
                process.work.push(work);
            } else {
                process.called_off.push(work.ticket);
            }
        }
        Ok(())
    }

    /// Work that was called off notices it.
    pub fn abandon(&mut self, index: usize) -> Result<(), Violation> {
        let process = &mut self.processes[index];
        for ticket in std::mem::take(&mut process.called_off) {
            let text = format!("{ticket:?} was called off, but the tracker says it was lost");
            if process.tracker.abandon(ticket) {
                return Err(Violation::new(Rule::Tracker, text));
            }
        }
        Ok(())
    }

    /// Everything in memory is gone. What was handed to the network may still arrive.
    pub fn crash(&mut self, index: usize) {
        self.coverage.crashes += 1;
        self.interrupt(index);
        let process = self.processes.remove(index);
        note!(self, "process {} crashes", process.id);
    }

    fn interrupt(&mut self, index: usize) {
        for work in &mut self.processes[index].work {
            if !std::mem::replace(&mut work.interrupted, true) {
                self.calls.entry((work.topic, work.offset)).or_default().1 += 1;
            }
        }
    }

    /// The broker gives the process up, which does not know it and works on.
    pub fn stall(&mut self, index: usize) {
        self.coverage.stalls += 1;
        self.interrupt(index);
        let process = &mut self.processes[index];
        process.stalled = true;
        let id = process.id;
        for group in self.groups.iter_mut().filter(|g| g.owner.is_some_and(|(owner, _)| owner == id)) {
            group.owner = None;
        }
        note!(self, "process {id} stalls");
    }

    /// A stalled process hears that it has lost everything.
    pub fn wake(&mut self, index: usize) -> Result<(), Violation> {
        for topic in self.processes[index].owned.keys().copied().collect::<Vec<_>>() {
            self.forget(index, topic)?;
        }
        let process = &mut self.processes[index];
        process.stalled = false;
        note!(self, "process {} hears that it stalled", process.id);
        Ok(())
    }
}
