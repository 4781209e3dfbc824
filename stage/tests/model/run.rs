//! One seed: random events, then a healthy end, then the final account.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::rules::{Bug, Coverage, Rule, Violation};
use super::world::{World, note};

/// Random events of one world.
const EVENTS: usize = 1_500;
/// Events of a phase: wild ones, with faults, follow calm ones, with progress.
const PHASE: usize = 150;

/// What a seed ended with.
pub struct Failure {
    pub rule: Option<Rule>,
    pub text: String,
    pub trace: Vec<String>,
}

/// Runs a seed. A failing one is run again with its trace.
pub fn run(seed: u64, bug: Bug, sources: usize) -> Result<Coverage, Failure> {
    let result = attempt(seed, bug, sources, false);
    if result.is_ok() { result } else { attempt(seed, bug, sources, true) }
}

fn attempt(seed: u64, bug: Bug, sources: usize, traced: bool) -> Result<Coverage, Failure> {
    let mut world = World::new(seed, bug, sources, traced);
    let ended = catch_unwind(AssertUnwindSafe(|| whole(&mut world)));
    let (rule, text) = match ended {
        Ok(Ok(())) => return Ok(world.coverage),
        Ok(Err(violation)) => (Some(violation.rule), violation.text),
        Err(_) => (None, "panicked, see above".to_owned()),
    };
    Err(Failure { rule, text, trace: world.trace.unwrap_or_default() })
}

fn whole(world: &mut World) -> Result<(), Violation> {
    for number in 0..EVENTS {
        event(world, (number / PHASE).is_multiple_of(2))?;
    }
    heal(world)?;
    account(world)
}

fn event(world: &mut World, calm: bool) -> Result<(), Violation> {
    assign_somewhere(world);
    let rarity = if calm { 400 } else { world.spec.calm };
    if world.random.one_in(rarity) {
        return fault(world);
    }
    if world.processes.is_empty() {
        return Ok(());
    }
    let index = world.random.below(world.processes.len());
    if calm && world.random.one_in(world.spec.smooth) {
        (0..3).for_each(|_| append(world));
        return smooth(world, index).map(|_| ());
    }
    let id = world.processes[index].id;
    match world.random.below(20) {
        0..2 => append(world),
        2..7 => {
            let topics: Vec<_> = world.processes[index].owned.keys().copied().collect();
            if let Some(topic) = world.random.pick(&topics) {
                for _ in 0..=world.random.below(4) {
                    if !world.take(index, topic)? {
                        break;
                    }
                }
            }
        }
        7..12 => {
            for _ in 0..=world.random.below(3) {
                if !world.processes[index].work.is_empty() {
                    let at = world.random.below(world.processes[index].work.len());
                    world.work(index, at)?;
                }
            }
        }
        12..16 => {
            if !world.network.is_empty() {
                let at = world.random.below(world.network.len());
                world.land(at);
            }
        }
        16 => {
            let impatient = world.random.one_in(4);
            world.request_commit(index, impatient);
        }
        17 => world.broker_commits(id)?,
        18 => world.hear(id),
        _ => world.abandon(index)?,
    }
    Ok(())
}

/// Gives a partition without an owner to a process that is well, or to a new one.
fn assign_somewhere(world: &mut World) {
    let orphans: Vec<_> = (0..world.groups.len()).filter(|t| world.groups[*t].owner.is_none()).collect();
    if let Some(topic) = world.random.pick(&orphans).filter(|_| world.random.one_in(3)) {
        let stage = world.spec.consumer[topic];
        let well = world.processes.iter().filter(|p| p.stage == stage && !p.stalled && !p.owned.contains_key(&topic));
        let well: Vec<_> = well.map(|p| p.id).collect();
        let id = match world.random.pick(&well).filter(|_| well.len() > 2 || world.random.one_in(2)) {
            Some(id) => id,
            None => world.start_process(stage),
        };
        world.assign(topic, id);
    }
}

fn fault(world: &mut World) -> Result<(), Violation> {
    // The coordinator notices that a member is gone.
    for group in 0..world.groups.len() {
        if let Some((id, _)) = world.groups[group].owner
            && world.process(id).is_none()
        {
            world.groups[group].owner = None;
            return Ok(());
        }
    }
    if world.processes.is_empty() {
        return Ok(());
    }
    let index = world.random.below(world.processes.len());
    let topics: Vec<_> = world.processes[index].owned.keys().copied().collect();
    match world.random.below(10) {
        0..4 => {
            if let Some(topic) = world.random.pick(&topics).filter(|_| !world.processes[index].stalled) {
                let drained = world.processes[index].tracker.drained(&world.spec.partitions[topic]);
                if !world.processes[index].owned[&topic].giving_up {
                    world.give_up(index, topic);
                } else if drained || world.random.one_in(2) {
                    world.release(index, topic)?;
                }
            }
        }
        4..6 => world.crash(index),
        6..8 => {
            if world.processes[index].stalled {
                world.wake(index)?;
            } else {
                world.stall(index);
            }
        }
        8 => {
            // A dead process's last words are lost.
            let alive: Vec<_> = world.processes.iter().map(|p| p.id).collect();
            world.network.retain(|p| alive.contains(&p.process));
        }
        _ => {
            // Silence: an answer never comes, and the process loses patience.
            let id = world.processes[index].id;
            world.answers.retain(|(to, ..)| *to != id);
            world.request_commit(index, true);
        }
    }
    Ok(())
}

fn append(world: &mut World) {
    let written: usize = world.spec.sources.iter().map(|t| world.logs[*t].records.len()).sum();
    if written < world.spec.records {
        // The second source, where there is one, is the sparse one.
        let topic = usize::from(world.spec.sources.len() > 1 && world.random.one_in(8));
        world.append_source(topic);
    }
}

/// Everything that a process can do without a fault. False when that is nothing.
fn smooth(world: &mut World, index: usize) -> Result<bool, Violation> {
    let id = world.processes[index].id;
    let mut moved = false;
    for topic in world.processes[index].owned.keys().copied().collect::<Vec<_>>() {
        while world.take(index, topic)? {
            moved = true;
        }
    }
    while !world.processes[index].work.is_empty() {
        moved = true;
        for at in (0..world.processes[index].work.len()).rev() {
            world.work(index, at)?;
        }
        while let Some(at) = world.network.iter().position(|p| p.process == id) {
            world.land(at);
        }
    }
    world.request_commit(index, false);
    while world.commits.iter().any(|(from, _)| *from == id) {
        moved = true;
        world.broker_commits(id)?;
    }
    while world.answers.iter().any(|(to, ..)| *to == id) {
        world.hear(id);
    }
    Ok(moved)
}

/// Ends all trouble and lets healthy owners work everything off, also what zombies write meanwhile.
fn heal(world: &mut World) -> Result<(), Violation> {
    note!(world, "healing");
    while !world.processes.is_empty() {
        world.crash(world.processes.len() - 1);
    }
    for topic in 0..world.groups.len() {
        let id = world.start_process(world.spec.consumer[topic]);
        world.assign(topic, id);
    }
    let before = world.random.below(world.network.len() + 1);
    land_any(world, before);
    drain(world)?;
    land_any(world, world.network.len());
    drain(world)
}

fn land_any(world: &mut World, count: usize) {
    for _ in 0..count {
        let at = world.random.below(world.network.len());
        world.land(at);
    }
}

/// Works everything off, while outputs of zombies stay on their way.
fn drain(world: &mut World) -> Result<(), Violation> {
    let mut moved = true;
    while std::mem::take(&mut moved) {
        for index in 0..world.processes.len() {
            moved |= smooth(world, index)?;
            world.processes[index].commit = None;
        }
    }
    for topic in 0..world.groups.len() {
        let last = world.logs[topic].records.last().map_or(-1, |r| r.offset);
        if world.groups[topic].committed <= last {
            let text = format!("{topic} ends at {last}, but is committed at {} only", world.groups[topic].committed);
            return Err(Violation::new(Rule::Progress, text));
        }
    }
    Ok(())
}

/// Every source record has exactly one output that the last reader accepted.
fn account(world: &mut World) -> Result<(), Violation> {
    let last = world.logs.len() - 1;
    let mut accepted = std::collections::HashMap::<_, u32>::new();
    for record in world.logs[last].records.iter().filter(|r| world.settled.contains(&(last, r.offset))) {
        *accepted.entry(record.request).or_default() += 1;
    }
    for topic in world.spec.sources.clone() {
        for record in &world.logs[topic].records {
            let times = accepted.get(&record.request).copied().unwrap_or(0);
            if times != 1 && !(times > 1 && world.excused.contains(&record.request)) {
                let text = format!("{topic}@{} was accepted {times} times", record.offset);
                return Err(Violation::new(Rule::ExactlyOne, text));
            }
        }
    }
    Ok(())
}
