//! What a log means, told call by call with everything in sight: what the ledger is checked against.

use std::collections::BTreeMap;

use millrace_schemas::{Call, CallKind};

use super::model::Tables;

/// Cost, charge, prompt tokens, output tokens, by currency.
type Sums = BTreeMap<String, [i64; 4]>;

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Nowhere,
    Open(Call),
    /// What was booked since, adjustments included, and whether the end is decided.
    Unconfirmed(Call, [i64; 4], bool),
    Ended,
}

#[derive(Default, Debug)]
struct Told {
    state: State,
    sums: Sums,
    booked: i64,
}

/// What all the lines of each call must add up to, and how often it must be booked as a call.
pub fn check(log: &[Call], tables: &Tables) {
    let mut told: BTreeMap<&str, Told> = BTreeMap::new();
    for call in log {
        tell(told.entry(call.call_id.as_str()).or_default(), call);
    }
    let expected: BTreeMap<_, _> = told.iter().map(|(id, told)| (*id, nonzero(told.sums.clone()))).collect();
    let mut found: BTreeMap<&str, Sums> = told.keys().map(|id| (*id, Sums::new())).collect();
    let mut booked: BTreeMap<&str, i64> = BTreeMap::new();
    for entry in tables.entries.values() {
        let amounts = [entry.cost_nanos, entry.charge_nanos, entry.input_tokens, entry.output_tokens];
        add(found.get_mut(entry.call_id.as_str()).unwrap(), &entry.currency, amounts);
        *booked.entry(&entry.call_id).or_default() += i64::from(entry.kind != "adjusted");
    }
    found.values_mut().for_each(|sums| *sums = nonzero(std::mem::take(sums)));
    assert_eq!(found, expected);
    for (id, told) in &told {
        assert_eq!(booked.get(id).copied().unwrap_or(0), told.booked, "{id} is booked once or never: {told:?}");
    }
    let unknown = told.values().filter(|t| matches!(t.state, State::Unconfirmed(_, _, false))).count();
    cells_add_up(tables, unknown);
}

/// sum(entries) == sum(rollups), cell by cell.
fn cells_add_up(tables: &Tables, unknown: usize) {
    let mut sums: BTreeMap<_, ([i64; 4], Sums)> = BTreeMap::new();
    for entry in tables.entries.values() {
        let (counts, amounts) = sums.entry(crate::cells::key(entry)).or_default();
        counts[0] += i64::from(entry.kind != "adjusted");
        counts[1] += 1;
        counts[2] += entry.input_tokens;
        counts[3] += entry.output_tokens;
        add(amounts, &entry.currency, [entry.cost_nanos, entry.charge_nanos, 0, 0]);
    }
    let expected: BTreeMap<_, _> =
        sums.into_iter().map(|(key, (counts, amounts))| (key, (counts, nonzero(amounts)))).collect();
    let found = tables.rollups.iter().map(|(key, cell)| {
        let mut amounts = Sums::new();
        cell.cost_nanos.iter().for_each(|(currency, nanos)| add(&mut amounts, currency, [*nanos, 0, 0, 0]));
        cell.charge_nanos.iter().for_each(|(currency, nanos)| add(&mut amounts, currency, [0, *nanos, 0, 0]));
        let counts = [cell.calls, cell.entries, cell.input_tokens, cell.output_tokens];
        (key.clone(), (counts, nonzero(amounts)))
    });
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
    // A correction by hand decides what a call cost, but its end is still not known.
    let unconfirmed: i64 = tables.rollups.values().map(|cell| cell.unconfirmed).sum();
    let corrected = i64::try_from(by_hand(tables)).unwrap();
    assert_eq!(unconfirmed, i64::try_from(unknown).unwrap() + corrected);
}

/// Unconfirmed calls that were decided by an `adjusted` record, not by an end.
fn by_hand(tables: &Tables) -> usize {
    let lines = || tables.entries.values();
    lines()
        .filter(|e| e.kind == "unconfirmed")
        .filter(|unconfirmed| {
            let mut later = lines().filter(|e| e.call_id == unconfirmed.call_id && e.place > unconfirmed.place);
            // The random logs' own corrections name this provider.
            later.find(|e| e.kind == "adjusted" && e.price_version == "v1").is_some_and(|e| e.provider == "by-hand")
        })
        .count()
}

fn tell(told: &mut Told, call: &Call) {
    let amounts = [call.cost_nanos, call.charge_nanos, call.input_tokens, call.output_tokens];
    let state = std::mem::take(&mut told.state);
    told.state = match (call.kind, state) {
        (CallKind::Started, State::Nowhere) => State::Open(call.clone()),
        (CallKind::NotSent, State::Open(_)) => State::Nowhere,
        (CallKind::Finished, State::Open(_)) => {
            add(&mut told.sums, &call.currency, amounts);
            told.booked += 1;
            State::Ended
        }
        (CallKind::Unconfirmed, State::Open(open)) => {
            let upper_bound = [open.reserved_nanos, 0, 0, 0];
            add(&mut told.sums, &open.currency, upper_bound);
            told.booked += 1;
            State::Unconfirmed(open, upper_bound, false)
        }
        (CallKind::Finished, State::Unconfirmed(open, since, false)) if call.currency == open.currency => {
            add(&mut told.sums, &open.currency, minus(amounts, since));
            State::Ended
        }
        (CallKind::NotSent, State::Unconfirmed(open, since, false)) => {
            add(&mut told.sums, &open.currency, minus([0; 4], since));
            State::Ended
        }
        (CallKind::Adjusted, state) => {
            add(&mut told.sums, &call.currency, amounts);
            match state {
                State::Unconfirmed(open, since, decided) => {
                    let decided = decided || call.price_version == open.price_version;
                    State::Unconfirmed(open, minus(since, minus([0; 4], amounts)), decided)
                }
                other @ (State::Nowhere | State::Open(_) | State::Ended) => other,
            }
        }
        (_, state) => state,
    };
}

fn add(sums: &mut Sums, currency: &str, amounts: [i64; 4]) {
    let sum = sums.entry(currency.to_owned()).or_default();
    *sum = std::array::from_fn(|i| sum[i] + amounts[i]);
}

fn minus(a: [i64; 4], b: [i64; 4]) -> [i64; 4] {
    std::array::from_fn(|i| a[i] - b[i])
}

fn nonzero(sums: Sums) -> Sums {
    sums.into_iter().filter(|(_, amounts)| *amounts != [0; 4]).collect()
}
