//! Holds the evidence against the promises.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};

use super::evidence::Evidence;
use super::storm::Storm;

/// A call counts as in flight this much longer than it took: its end had to be written, too.
const WRITING_MICROS: i64 = 1_000_000;

/// The counts, and which promises are broken.
pub struct Verdict {
    accepted: usize,
    outcomes: usize,
    outcomes_stored: u64,
    duplicates_in_topic: u64,
    provider_calls: usize,
    /// Of the prompts and of the answers, as the provider counts them.
    provider_tokens: (u64, u64),
    ledger_calls: usize,
    entries_by_kind: BTreeMap<String, usize>,
    unconfirmed: usize,
    paid_twice: usize,
    in_flight_at_kills: usize,
    entries_sum: i64,
    rollups_sum: i64,
    dead_letters: usize,
    /// One line each.
    pub broken: Vec<String>,
}

/// Judges.
pub fn judge(evidence: &Evidence, storm: &Storm) -> Verdict {
    let accepted: HashSet<&str> = storm.accepted.iter().map(String::as_str).collect();
    let paid: Vec<&str> =
        evidence.provider.iter().filter(|c| c.billed).filter_map(|c| c.client_request_id.as_deref()).collect();
    let ledger_calls = paid.iter().filter(|id| evidence.books.entries.contains_key(**id)).count();
    let in_flight = |at: &i64| {
        let open = |c: &&super::evidence::Told| {
            c.started_at <= *at && c.ended_at.is_none_or(|end| end.saturating_add(WRITING_MICROS) > *at)
        };
        evidence.topics.calls.values().filter(open).count()
    };
    let mut verdict = Verdict {
        accepted: accepted.len(),
        outcomes: evidence.topics.outcomes.len(),
        outcomes_stored: evidence.books.stored,
        duplicates_in_topic: evidence.topics.duplicates,
        provider_calls: paid.len(),
        provider_tokens: evidence.provider.iter().filter(|call| call.billed).fold(
            (0, 0),
            |(prompts, answers), call| {
                (prompts + u64::from(call.prompt_tokens), answers + u64::from(call.completion_tokens))
            },
        ),
        ledger_calls,
        entries_by_kind: by_kind(evidence.books.entries.values().flatten()),
        unconfirmed: evidence.books.entries.values().filter(|kinds| kinds.iter().any(|k| k == "unconfirmed")).count(),
        paid_twice: paid_twice(evidence),
        in_flight_at_kills: storm.losses.iter().map(in_flight).sum(),
        entries_sum: evidence.books.totals.entries_sum,
        rollups_sum: evidence.books.totals.rollups_sum,
        dead_letters: evidence.topics.dead_letters.len(),
        broken: Vec::new(),
    };
    verdict.check(evidence, &accepted, &paid);
    verdict.check_dead_letters(&evidence.topics.dead_letters, &storm.bad.iter().cloned().collect());
    let lost = storm.documents.iter().filter(|id| !evidence.documents.contains(*id)).count();
    if lost > 0 {
        verdict.broken.push(format!("{lost} of {} documents can not be found", storm.documents.len()));
    }
    verdict
}

/// Calls beyond the first that were paid for and answered whole, over the requests. One request may ask
/// several models: its answer, and the vector of what it looks for.
fn paid_twice(evidence: &Evidence) -> usize {
    let mut good: HashMap<(&str, &str), usize> = HashMap::new();
    for call in evidence.provider.iter().filter(|call| call.billed && !call.spoilt) {
        let told = call.client_request_id.as_deref().and_then(|id| evidence.topics.calls.get(id));
        if let Some(told) = told {
            *good.entry((told.request_id.as_str(), &*call.model)).or_default() += 1;
        }
    }
    good.values().map(|count| count - 1).sum()
}

impl Verdict {
    /// For a pipeline in which nothing was killed: every call has to have its end.
    pub fn nothing_lost(&mut self) {
        if self.unconfirmed > 0 {
            self.broken.push(format!("{} calls are unconfirmed, though nothing was killed", self.unconfirmed));
        }
    }

    fn check(&mut self, evidence: &Evidence, accepted: &HashSet<&str>, paid: &[&str]) {
        let mut broken = Vec::new();
        let mut promise = |holds: bool, line: String| {
            if !holds {
                broken.push(line);
            }
        };
        let missing = accepted.iter().filter(|id| !evidence.topics.outcomes.contains_key(**id)).count();
        let strange = evidence.topics.outcomes.keys().filter(|id| !accepted.contains(id.as_str())).count();
        promise(missing == 0, format!("{missing} accepted requests have no outcome"));
        promise(strange == 0, format!("{strange} outcomes belong to no accepted request"));
        let unstored = accepted.len() as u64 - self.outcomes_stored.min(accepted.len() as u64);
        promise(unstored == 0, format!("{unstored} outcomes are not stored as the log has them first"));
        let rows = evidence.books.rows;
        promise(rows == self.accepted as u64, format!("{rows} rows are stored for {} requests", self.accepted));
        let unbooked = paid.iter().filter(|id| !evidence.books.entries.contains_key(**id)).count();
        promise(unbooked == 0, format!("{unbooked} calls that the provider charges are not in the ledger"));
        let twice = evidence.books.entries.values().filter(|kinds| !once(kinds)).count();
        promise(twice == 0, format!("{twice} calls are in the ledger more than once"));
        let unwritten = paid.iter().filter(|id| !evidence.topics.calls.contains_key(**id)).count();
        promise(unwritten == 0, format!("{unwritten} calls were made before `started` was written"));
        promise(self.entries_sum == self.rollups_sum, "entries and rollups differ".to_owned());
        let other = evidence.other_budgets();
        promise(other.is_empty(), format!("`budgets` says something else than the ledger: {}", other.join("; ")));
        let (twice, in_flight) = (self.paid_twice, self.in_flight_at_kills);
        promise(twice <= in_flight, format!("{twice} calls were paid twice, {in_flight} were in flight at kills"));
        self.broken = broken;
    }

    /// Exactly what can never succeed is a dead letter.
    fn check_dead_letters(&mut self, found: &HashSet<String>, bad: &HashSet<String>) {
        let (outages, missing) = (found.difference(bad).count(), bad.difference(found).count());
        if outages > 0 {
            self.broken.push(format!("{outages} dead letters for outages"));
        }
        if missing > 0 {
            self.broken.push(format!("{missing} requests that can never succeed have no dead letter"));
        }
    }

    /// One object.
    pub fn to_json(&self) -> Value {
        json!({
            "accepted": self.accepted,
            "outcomes": self.outcomes,
            "outcomes_stored": self.outcomes_stored,
            "duplicates_in_topic": self.duplicates_in_topic,
            "provider_calls": self.provider_calls,
            "provider_prompt_tokens": self.provider_tokens.0,
            "provider_completion_tokens": self.provider_tokens.1,
            "ledger_calls": self.ledger_calls,
            "ledger_entries": self.entries_by_kind,
            "unconfirmed": self.unconfirmed,
            "paid_twice": self.paid_twice,
            "in_flight_at_kills": self.in_flight_at_kills,
            "entries_sum": self.entries_sum,
            "rollups_sum": self.rollups_sum,
            "dead_letters": self.dead_letters,
            "verdict": if self.broken.is_empty() { "kept" } else { "broken" },
        })
    }
}

fn by_kind<'a>(kinds: impl Iterator<Item = &'a String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    kinds.for_each(|kind| *counts.entry(kind.clone()).or_default() += 1);
    counts
}

/// Booked once: `finished`, or `unconfirmed` with at most one late end.
fn once(kinds: &[String]) -> bool {
    let count = |kind: &str| kinds.iter().filter(|k| *k == kind).count();
    count("finished") + count("unconfirmed") == 1 && count("adjusted") <= count("unconfirmed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_booked_once_in_these_ways_only() {
        let check = |kinds: &[&str], expected: bool| {
            let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
            assert_eq!(once(&kinds), expected, "{kinds:?}");
        };
        check(&["finished"], true);
        check(&["unconfirmed"], true);
        check(&["unconfirmed", "adjusted"], true);
        check(&["finished", "finished"], false);
        check(&["finished", "unconfirmed"], false);
        check(&["adjusted"], false);
        check(&["unconfirmed", "adjusted", "adjusted"], false);
    }
}
