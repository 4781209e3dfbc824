//! Which points are there to be reached, and in which order each kills and freezes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

/// What each service may write: who is allowed to has to be seen doing it.
const ACLS: &str = include_str!("../../../infra/kafka/acls.json");
/// What a healthy pipeline never writes, or has no way to be asked for.
const NOT_WRITTEN: [(&str, &str, &str); 9] = [
    ("inference-router", "dead-letters", DAMAGED),
    ("moderator", "dead-letters", DAMAGED),
    ("result-sink", "dead-letters", DAMAGED),
    ("cost-ledger", "dead-letters", DAMAGED),
    ("indexer", "dead-letters", "ingress lets no document in that can never be indexed"),
    ("ingress", "requests.batch", "nobody makes a batch here; its own test kills every replica"),
    ("ingress", "tenants", "nobody administers here"),
    ("ingress", "audit", "nobody administers here"),
    ("webhooks", "dead-letters", DAMAGED),
];
const DAMAGED: &str = "our own records would have to be damaged; the builder's dead letters take the same way";
/// What services do beside writing to topics and committing.
const BESIDE: [(&str, &str); 12] = [
    ("ingress", "store a part of a file"),
    ("prompt-builder", "claim an idempotency key"),
    ("prompt-builder", "add a waiter"),
    ("prompt-builder", "store a part of a file"),
    ("prompt-builder", "call"),
    ("inference-router", "call"),
    ("result-sink", "store an outcome"),
    ("cost-ledger", "store ledger entries"),
    ("cost-ledger", "store a rollup"),
    ("cost-ledger", "store a checkpoint"),
    ("indexer", "call"),
    ("indexer", "upsert"),
];

/// One point and what it does to its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shot {
    pub point: String,
    pub action: &'static str,
}

impl std::fmt::Display for Shot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.action, self.point)
    }
}

/// The effects that the services are known to have and that no point was reached for.
pub fn missing(reached: &BTreeMap<String, BTreeSet<String>>) -> anyhow::Result<Vec<String>> {
    let acls: Value = serde_json::from_str(ACLS)?;
    let mut missing = Vec::new();
    let mut expect = |service: &str, effect: &str| {
        for side in ["before", "after"] {
            let point = format!("{side} {effect}");
            if reached.get(service).is_none_or(|points| !points.contains(&point)) {
                missing.push(format!("{service}: {point}"));
            }
        }
    };
    for entry in acls["services"].as_array().context("acls.json lists services")? {
        let principal = entry["principal"].as_str().context("a service has a principal")?;
        let service = principal.strip_prefix("millrace-").context("our principals begin so")?;
        let topics: Vec<&str> = entry["write"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let written = |topic: &str| !NOT_WRITTEN.iter().any(|(s, t, _)| *s == service && *t == topic);
        topics.iter().filter(|topic| written(topic)).for_each(|topic| expect(service, &format!("produce {topic}")));
        // The ingress reads replies without a group, and those who tap commit nothing of ours.
        if !topics.is_empty() && service != "ingress" {
            expect(service, "commit");
        }
    }
    BESIDE.iter().for_each(|(service, effect)| expect(service, effect));
    Ok(missing)
}

/// Each point with each action, in an order that the seed decides, or one in `one_in` of each service, which it chooses.
pub fn of(points: &BTreeMap<String, BTreeSet<String>>, seed: u64, one_in: usize) -> BTreeMap<String, Vec<Shot>> {
    let mut dice = StdRng::seed_from_u64(seed);
    let shots = points.iter().map(|(service, points)| {
        let both = |point: &String| ["kill", "freeze"].map(|action| Shot { point: point.clone(), action });
        let mut shots: Vec<Shot> = points.iter().flat_map(both).collect();
        for i in (1..shots.len()).rev() {
            shots.swap(i, dice.random_range(0..=i));
        }
        shots.truncate(shots.len().div_ceil(one_in.max(1)));
        (service.clone(), shots)
    });
    shots.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> BTreeMap<String, BTreeSet<String>> {
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in missing(&BTreeMap::new()).unwrap() {
            let (service, point) = line.split_once(": ").unwrap();
            all.entry(service.to_owned()).or_default().insert(point.to_owned());
        }
        all
    }

    #[test]
    fn an_effect_that_no_point_was_reached_for_is_missing() {
        let all = everything();
        assert_eq!(all.len(), 8, "every service has effects: {all:?}");
        assert!(missing(&all).unwrap().is_empty());
        for (service, point) in [
            ("result-sink", "before produce facts"),
            ("indexer", "after commit"),
            ("cost-ledger", "after produce calls"),
        ] {
            let mut less = all.clone();
            assert!(less.get_mut(service).unwrap().remove(point), "{service} {point}");
            assert_eq!(missing(&less).unwrap(), [format!("{service}: {point}")]);
        }
    }

    #[test]
    fn a_half_is_chosen_by_the_seed_and_two_halves_differ() {
        let all = everything();
        let whole = of(&all, 1, 1);
        let (one, same, other) = (of(&all, 1, 2), of(&all, 1, 2), of(&all, 2, 2));
        assert_eq!(one, same);
        assert_ne!(one, other);
        for (service, shots) in &whole {
            assert_eq!(shots.len(), all[service].len() * 2);
            assert_eq!(one[service].len(), shots.len().div_ceil(2));
        }
    }
}
