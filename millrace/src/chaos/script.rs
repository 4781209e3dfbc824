//! What goes wrong and when: a pure function of the seed.

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

/// What is done to a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL to a service's process.
    Kill(String),
    /// The process is started again.
    Restart(String),
    /// SIGSTOP: it loses its partitions while it sleeps.
    Freeze(String),
    /// SIGCONT: a zombie wakes.
    Thaw(String),
    /// SIGKILL to the broker.
    KillBroker,
    /// The broker is started again.
    StartBroker,
    /// The broker's connections stay open and nothing answers.
    FreezeBroker,
    /// It answers again.
    ThawBroker,
    /// The same for the database.
    FreezeDatabase,
    /// It answers again.
    ThawDatabase,
    /// SIGKILL to the database.
    KillDatabase,
    /// The database is started again.
    StartDatabase,
    /// SIGKILL to the schema registry.
    KillRegistry,
    /// The registry is started again.
    StartRegistry,
    /// The provider answers 503 to everybody.
    ProviderDown,
    /// The provider is as before.
    ProviderUp,
}

impl Action {
    /// Whether a call can be lost by this: what was in flight then may be paid for again.
    pub fn can_lose_calls(&self) -> bool {
        match self {
            Self::Kill(name) | Self::Freeze(name) => name.starts_with("inference-router"),
            Self::KillBroker | Self::FreezeBroker => true,
            Self::Restart(_)
            | Self::Thaw(_)
            | Self::StartBroker
            | Self::ThawBroker
            | Self::FreezeDatabase
            | Self::ThawDatabase
            | Self::KillDatabase
            | Self::StartDatabase
            | Self::KillRegistry
            | Self::StartRegistry
            | Self::ProviderDown
            | Self::ProviderUp => false,
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
    // Kafka, Cassandra, registry, provider.
    let mut parts_free_at = [0_u64; 4];
    let mut now = 1_000;
    for _ in 0..faults {
        let roll = dice.random_range(0..100);
        let (part, lasts, begin, end) = match roll {
            0..4 => (0, dice.random_range(500..3_000), Action::KillBroker, Action::StartBroker),
            4..8 => (0, dice.random_range(1_000..9_000), Action::FreezeBroker, Action::ThawBroker),
            8..11 => (1, dice.random_range(2_000..9_000), Action::FreezeDatabase, Action::ThawDatabase),
            11..13 => (1, dice.random_range(500..2_000), Action::KillDatabase, Action::StartDatabase),
            13..16 => (2, dice.random_range(500..5_000), Action::KillRegistry, Action::StartRegistry),
            16..20 => (3, dice.random_range(1_000..8_000), Action::ProviderDown, Action::ProviderUp),
            _ => {
                let free: Vec<usize> = (0..processes.len()).filter(|i| free_at[*i] <= now).collect();
                if !free.is_empty() {
                    let chosen = free[dice.random_range(0..free.len())];
                    let name = processes[chosen].clone();
                    let freeze = roll >= 80;
                    let lasts = if freeze { dice.random_range(FREEZE_MS) } else { dice.random_range(100..5_000) };
                    let (begin, end) = if freeze {
                        (Action::Freeze(name.clone()), Action::Thaw(name))
                    } else {
                        (Action::Kill(name.clone()), Action::Restart(name))
                    };
                    events.push(Event { at_ms: now, action: begin });
                    events.push(Event { at_ms: now + lasts, action: end });
                    // A process that starts again is left alone until it works.
                    free_at[chosen] = now + lasts + 3_000;
                }
                now += dice.random_range(GAP_MS);
                continue;
            }
        };
        // A part takes its time to come back: the database most.
        let start = now.max(parts_free_at[part]);
        events.push(Event { at_ms: start, action: begin });
        events.push(Event { at_ms: start + lasts, action: end });
        parts_free_at[part] = start + lasts + if part == 1 { 60_000 } else { 15_000 };
        now += dice.random_range(GAP_MS);
    }
    events.sort_by_key(|event| event.at_ms);
    events
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
                match &event.action {
                    Action::Kill(name) | Action::Freeze(name) => assert!(down.insert(name.clone()), "{name} was down"),
                    Action::Restart(name) | Action::Thaw(name) => assert!(down.remove(name), "{name} was up"),
                    Action::KillBroker | Action::FreezeBroker => assert!(down.insert("kafka".to_owned())),
                    Action::StartBroker | Action::ThawBroker => assert!(down.remove("kafka")),
                    Action::KillDatabase | Action::FreezeDatabase => assert!(down.insert("database".to_owned())),
                    Action::StartDatabase | Action::ThawDatabase => assert!(down.remove("database")),
                    Action::KillRegistry => assert!(down.insert("registry".to_owned())),
                    Action::StartRegistry => assert!(down.remove("registry")),
                    Action::ProviderDown => assert!(down.insert("provider".to_owned())),
                    Action::ProviderUp => assert!(down.remove("provider")),
                }
            }
            assert!(down.is_empty(), "seed {seed} leaves {down:?} down");
        }
    }
}
