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
    /// What was killed is started again.
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
            Self::Kill(Target::Process(name)) | Self::Freeze(Target::Process(name)) => {
                name.starts_with("inference-router")
            }
            Self::Kill(Target::Part(part)) | Self::Freeze(Target::Part(part)) => match part {
                Part::Broker(_) => true,
                Part::Database | Part::Registry => false,
            },
            Self::Start(_) | Self::Thaw(_) | Self::ProviderDown | Self::ProviderUp => false,
        }
    }
}

/// Time between two faults: some overlap with the one before.
const GAP_MS: std::ops::Range<u64> = 500..4_000;
/// Longer than a session, so that a frozen process has lost its partitions when it wakes.
const FREEZE_MS: std::ops::Range<u64> = 8_000..11_000;

/// Writes a script of `faults` faults, each with the step that undoes it, in order of time.
pub fn write(seed: u64, faults: u32, processes: &[String]) -> Vec<Event> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut events = Vec::new();
    let mut free_at = vec![0_u64; processes.len()];
    // Kafka, Cassandra, registry.
    let mut parts_free_at = [0_u64; 3];
    let mut provider_free_at = 0;
    let mut now = 1_000;
    for _ in 0..faults {
        let roll = dice.random_range(0..100);
        let (part, lasts, freeze) = match roll {
            0..4 => (Some((0, Part::Broker(0))), 500..3_000, false),
            4..8 => (Some((0, Part::Broker(0))), 1_000..9_000, true),
            8..11 => (Some((1, Part::Database)), 2_000..9_000, true),
            11..13 => (Some((1, Part::Database)), 500..2_000, false),
            13..16 => (Some((2, Part::Registry)), 500..5_000, false),
            16..20 => (None, 1_000..8_000, false),
            20..40 => (None, FREEZE_MS, true),
            _ => (None, 100..5_000, false),
        };
        let lasts = dice.random_range(lasts);
        if (16..20).contains(&roll) {
            let start = now.max(provider_free_at);
            events.push(Event { at_ms: start, action: Action::ProviderDown });
            events.push(Event { at_ms: start + lasts, action: Action::ProviderUp });
            provider_free_at = start + lasts + 1;
        } else if let Some((index, part)) = part {
            let start = now.max(parts_free_at[index]);
            hurt(&mut events, start, lasts, freeze, Target::Part(part));
            // A server takes its time to come back.
            parts_free_at[index] = start + lasts + 30_000;
        } else {
            let free: Vec<usize> = (0..processes.len()).filter(|i| free_at[*i] <= now).collect();
            if !free.is_empty() {
                let chosen = free[dice.random_range(0..free.len())];
                hurt(&mut events, now, lasts, freeze, Target::Process(processes[chosen].clone()));
                // A process that starts again is left alone until it works.
                free_at[chosen] = now + lasts + 3_000;
            }
        }
        now += dice.random_range(GAP_MS);
    }
    events.sort_by_key(|event| event.at_ms);
    events
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
        for seed in 0..50 {
            let script = write(seed, 40, &names);
            assert_eq!(script, write(seed, 40, &names));
            let mut down = std::collections::HashSet::new();
            for event in &script {
                let provider = Target::Process("provider".to_owned());
                match &event.action {
                    Action::Kill(target) | Action::Freeze(target) => assert!(down.insert(target.clone()), "{event:?}"),
                    Action::Start(target) | Action::Thaw(target) => assert!(down.remove(target), "{event:?}"),
                    Action::ProviderDown => assert!(down.insert(provider)),
                    Action::ProviderUp => assert!(down.remove(&provider)),
                }
            }
            assert!(down.is_empty(), "seed {seed} leaves {down:?} down");
        }
    }
}
