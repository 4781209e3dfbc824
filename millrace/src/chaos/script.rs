//! What goes wrong and when: a pure function of the seed.

use millrace_stack::Part;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A step of the script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Milliseconds since the storm began.
    pub at_ms: u64,
    /// What is done.
    pub action: Action,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL.
    Kill(Target),
    /// SIGTERM to a process, by name.
    Drain(String),
    /// What was killed is started again, and what drains as soon as it has ended.
    Start(Target),
    /// SIGSTOP: connections stay open, nothing answers, and partitions are lost in time.
    Freeze(Target),
    /// SIGCONT: a zombie wakes.
    Thaw(Target),
    /// The provider answers 503 to everybody.
    ProviderDown,
    /// The provider is as before.
    ProviderUp,
}

/// To what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A process of ours, by name.
    Process(String),
    /// Kafka, the database or the registry.
    Part(Part),
}

impl Action {
    /// Whether a call can be lost by this: what was in flight then may be paid for again.
    pub fn can_lose_calls(&self) -> bool {
        match self {
            Self::Kill(Target::Process(name)) | Self::Freeze(Target::Process(name)) => pays(name),
            Self::Kill(Target::Part(part)) | Self::Freeze(Target::Part(part)) => match part {
                Part::Broker(_) => true,
                Part::Database | Part::Registry => false,
            },
            // Whoever is asked to leave waits for its calls.
            Self::Drain(_) | Self::Start(_) | Self::Thaw(_) | Self::ProviderDown | Self::ProviderUp => false,
        }
    }
}

/// Whether a process pays providers.
pub fn pays(process: &str) -> bool {
    ["inference-router", "prompt-builder", "indexer"].iter().any(|service| process.starts_with(service))
}

/// Time between two faults: some overlap with the one before.
const GAP_MS: std::ops::Range<u64> = 500..4_000;
/// Longer than a session, so that a frozen process has lost its partitions when it wakes.
const FREEZE_MS: std::ops::Range<u64> = 8_000..11_000;

/// How often members leave and come back in one storm of rebalances, and the time between two steps.
const REBALANCES: std::ops::Range<u32> = 3..6;
const REBALANCE_MS: std::ops::Range<u64> = 200..1_500;
/// A process that starts again is left alone until it works, and so is a server.
const PROCESS_REST_MS: u64 = 3_000;
const PART_REST_MS: u64 = 30_000;

/// One fault, before it is known to whom and when.
enum Fault {
    /// Index into the times when parts are free: brokers share one, so that one at a time is down.
    Part(usize, Part),
    Provider,
    Rebalances,
    Process,
}

/// Writes a script of `faults` faults, each with the steps that undo it, in order of time.
pub fn write(seed: u64, faults: u32, processes: &[String], brokers: usize) -> Vec<Event> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut events = Vec::new();
    let mut free_at = vec![0_u64; processes.len()];
    // Kafka, Cassandra, registry.
    let mut parts_free_at = [0_u64; 3];
    let mut provider_free_at = 0;
    let mut now = 1_000;
    for _ in 0..faults {
        let roll = dice.random_range(0..100);
        let broker = Part::Broker(dice.random_range(0..brokers));
        let (fault, lasts, freeze) = match roll {
            0..4 => (Fault::Part(0, broker), 500..3_000, false),
            4..8 => (Fault::Part(0, broker), 1_000..9_000, true),
            8..11 => (Fault::Part(1, Part::Database), 2_000..9_000, true),
            11..13 => (Fault::Part(1, Part::Database), 500..2_000, false),
            13..16 => (Fault::Part(2, Part::Registry), 500..5_000, false),
            16..20 => (Fault::Provider, 1_000..8_000, false),
            20..28 => (Fault::Rebalances, REBALANCE_MS, false),
            28..45 => (Fault::Process, FREEZE_MS, true),
            _ => (Fault::Process, 100..5_000, false),
        };
        let lasts = dice.random_range(lasts);
        let free: Vec<usize> = (0..processes.len()).filter(|i| free_at[*i] <= now).collect();
        match fault {
            Fault::Provider => {
                let start = now.max(provider_free_at);
                events.push(Event { at_ms: start, action: Action::ProviderDown });
                events.push(Event { at_ms: start + lasts, action: Action::ProviderUp });
                provider_free_at = start + lasts + 1;
            }
            Fault::Part(index, part) => {
                let start = now.max(parts_free_at[index]);
                hurt(&mut events, start, lasts, freeze, Target::Part(part));
                parts_free_at[index] = start + lasts + PART_REST_MS;
            }
            Fault::Rebalances | Fault::Process if free.is_empty() => {}
            Fault::Rebalances => {
                let service = service_of(&processes[free[dice.random_range(0..free.len())]]);
                let members: Vec<usize> =
                    free.iter().copied().filter(|i| service_of(&processes[*i]) == service).collect();
                let end = rebalances(&mut events, &mut dice, now, &members, processes);
                members.iter().for_each(|i| free_at[*i] = end + PROCESS_REST_MS);
            }
            Fault::Process => {
                let chosen = free[dice.random_range(0..free.len())];
                hurt(&mut events, now, lasts, freeze, Target::Process(processes[chosen].clone()));
                free_at[chosen] = now + lasts + PROCESS_REST_MS;
            }
        }
        now += dice.random_range(GAP_MS);
    }
    events.sort_by_key(|event| event.at_ms);
    events
}

fn service_of(process: &str) -> &str {
    process.rsplit_once('-').map_or(process, |(service, _)| service)
}

/// Members of one group leave and join in quick succession: the next rebalance begins before the
/// last one is over. Returns when it ends.
fn rebalances(events: &mut Vec<Event>, dice: &mut StdRng, start: u64, members: &[usize], processes: &[String]) -> u64 {
    let mut at = start;
    for _ in 0..dice.random_range(REBALANCES) {
        for member in members {
            let name = processes[*member].clone();
            events.push(Event { at_ms: at, action: Action::Drain(name.clone()) });
            at += dice.random_range(REBALANCE_MS);
            events.push(Event { at_ms: at, action: Action::Start(Target::Process(name)) });
        }
        at += dice.random_range(REBALANCE_MS);
    }
    at
}

fn hurt(events: &mut Vec<Event>, start: u64, lasts: u64, freeze: bool, target: Target) {
    let (begin, end) = if freeze {
        (Action::Freeze(target.clone()), Action::Thaw(target))
    } else {
        (Action::Kill(target.clone()), Action::Start(target))
    };
    events.push(Event { at_ms: start, action: begin });
    events.push(Event { at_ms: start + lasts, action: end });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_script_and_every_fault_is_undone() {
        let names: Vec<String> = ["a-0", "a-1", "b-0"].map(str::to_owned).to_vec();
        for (seed, brokers) in (0..50).flat_map(|seed| [(seed, 1), (seed, 3)]) {
            let script = write(seed, 60, &names, brokers);
            assert_eq!(script, write(seed, 60, &names, brokers));
            let mut down = std::collections::HashSet::new();
            for event in &script {
                let provider = Target::Process("provider".to_owned());
                match &event.action {
                    Action::Drain(name) => assert!(down.insert(Target::Process(name.clone())), "{event:?}"),
                    Action::Kill(target) | Action::Freeze(target) => assert!(down.insert(target.clone()), "{event:?}"),
                    Action::Start(target) | Action::Thaw(target) => assert!(down.remove(target), "{event:?}"),
                    Action::ProviderDown => assert!(down.insert(provider)),
                    Action::ProviderUp => assert!(down.remove(&provider)),
                }
                let brokers = down.iter().filter(|target| matches!(target, Target::Part(Part::Broker(_)))).count();
                assert!(brokers <= 1, "seed {seed} takes {brokers} brokers down at once");
            }
            assert!(down.is_empty(), "seed {seed} leaves {down:?} down");
        }
    }

    #[test]
    fn every_broker_and_a_storm_of_rebalances_come_up() {
        let names: Vec<String> = ["a-0", "a-1", "b-0"].map(str::to_owned).to_vec();
        let script: Vec<Event> = (0..20).flat_map(|seed| write(seed, 60, &names, 3)).collect();
        for index in 0..3 {
            let part = Target::Part(Part::Broker(index));
            assert!(script.iter().any(|event| event.action == Action::Kill(part.clone())), "broker {index}");
            assert!(script.iter().any(|event| event.action == Action::Freeze(part.clone())), "broker {index}");
        }
        let drains = |name: &str| script.iter().filter(|e| e.action == Action::Drain(name.to_owned())).count();
        assert!(drains("a-0") > 1 && drains("a-1") > 1);
    }
}
