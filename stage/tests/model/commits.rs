//! Commits: asked for, worked off by the broker, answered late or never.

use super::log::Topic;
use super::process::Head;
use super::rules::{Bug, Rule, Violation};
use super::world::{World, note};

impl World {
    /// Commits one at a time, as the driver does; an impatient one, which the driver's never is, does
    /// not wait for the answer.
    pub fn request_commit(&mut self, index: usize, impatient: bool) {
        let process = &mut self.processes[index];
        if process.commit.is_some() && !impatient {
            return;
        }
        let heads = process.heads(&self.spec, self.bug);
        if !heads.is_empty() {
            let id = process.id;
            process.commit = Some(heads.clone());
            note!(self, "process {id} asks to commit {heads:?}");
            self.commits.push_back((id, heads));
        }
    }

    /// The broker works the oldest commit of a process off and answers, mostly.
    pub fn broker_commits(&mut self, id: usize) -> Result<(), Violation> {
        let Some(at) = self.commits.iter().position(|(from, _)| *from == id) else { return Ok(()) };
        let (_, heads) = self.commits.remove(at).expect("it was found");
        let accepted = self.accept(id, &heads)?;
        if !self.random.one_in(6) {
            self.answers.push_back((id, heads, accepted));
        }
        Ok(())
    }

    /// True when every head was accepted: a superseded member's are refused.
    pub fn accept(&mut self, id: usize, heads: &[Head]) -> Result<bool, Violation> {
        if !heads.iter().all(|(topic, epoch, _)| self.groups[*topic].owner == Some((id, *epoch))) {
            self.coverage.commits_refused += 1;
            note!(self, "the broker refuses {heads:?} of process {id}");
            return Ok(false);
        }
        for (topic, _, offset) in heads {
            let before = std::mem::replace(&mut self.groups[*topic].committed, *offset);
            note!(self, "{topic} is committed at {offset} by process {id}");
            if self.bug != Bug::CommitsHighest {
                self.check_settled(*topic, before, *offset)?;
            }
        }
        Ok(true)
    }

    fn check_settled(&self, topic: Topic, before: i64, committed: i64) -> Result<(), Violation> {
        let stage = &self.spec.stages[self.spec.consumer[topic]];
        for record in self.logs[topic].range(before, committed) {
            let copy = record.origin().is_some_and(|origin| self.logs[topic].first[&origin] != record.offset);
            let done = match stage.output {
                Some(output) => self.logs[output].first.contains_key(&(topic, record.offset)),
                None => self.settled.contains(&(topic, record.offset)),
            };
            let dropped = copy && stage.drops_duplicates;
            if !done && !dropped {
                let text = format!("{topic} is committed at {committed}, but {} is not settled", record.offset);
                return Err(Violation::new(Rule::CommittedIsSettled, text));
            }
        }
        Ok(())
    }

    /// The oldest answer of a process reaches it.
    pub fn hear(&mut self, id: usize) {
        let Some(at) = self.answers.iter().position(|(to, ..)| *to == id) else { return };
        let (_, answered, accepted) = self.answers.remove(at).expect("it was found");
        let bug = self.bug;
        let Some(process) = self.processes.iter_mut().find(|p| p.id == id) else { return };
        let Some(heads) = process.commit.take() else { return };
        if heads != answered {
            self.coverage.answers_late += 1;
            if bug != Bug::TakesAnyAnswer {
                process.commit = Some(heads);
                return;
            }
        }
        if accepted {
            process.acknowledged(&self.spec, &heads);
        }
    }
}
