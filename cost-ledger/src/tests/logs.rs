//! Random logs of calls.

use millrace_schemas::{Call, CallKind};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

const MICROS_PER_MINUTE: i64 = 60_000_000;

pub struct RandomLog {
    pub rng: StdRng,
    pub records: Vec<Call>,
}

/// Who made a call and when: the same in all its records.
#[derive(Clone)]
struct Maker {
    call_id: String,
    tenant: &'static str,
    user: &'static str,
    started_at: i64,
    reserved: i64,
}

/// The log of a seed: plausible lives of calls with duplicates and late ends, or plain chaos.
pub fn random_log(seed: u64) -> RandomLog {
    let mut rng = StdRng::seed_from_u64(seed);
    let calls = rng.random_range(1..12_i64);
    let makers: Vec<_> = (0..calls).map(|n| maker(&mut rng, n)).collect();
    let mut records = Vec::new();
    if rng.random_bool(0.7) {
        let mut lives: Vec<Vec<Call>> = makers.iter().map(|maker| life(&mut rng, maker)).collect();
        lives.iter_mut().for_each(|life| life.reverse());
        while !lives.is_empty() {
            // Some calls overlap, others follow one another.
            let index = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..lives.len()) };
            match lives[index].pop() {
                Some(call) => records.push(call),
                None => drop(lives.remove(index)),
            }
        }
    } else {
        for _ in 0..rng.random_range(1..70) {
            let maker = makers.choose(&mut rng).unwrap().clone();
            let kind = *CallKind::ALL.choose(&mut rng).unwrap();
            records.push(record(&mut rng, &maker, kind));
        }
    }
    RandomLog { rng, records }
}

fn maker(rng: &mut StdRng, number: i64) -> Maker {
    // Calls start more or less in the order of their numbers, within a few hours.
    let minutes = number * 20 + rng.random_range(0..60);
    let millis = 1_700_000_000_000 + minutes * MICROS_PER_MINUTE / 1000;
    let call_id = if rng.random_bool(0.9) {
        format!("call_{millis:012x}7{:03x}8{number:015x}", rng.random_range(0..0x1000))
    } else {
        format!("somebody-elses-{number}")
    };
    Maker {
        call_id,
        tenant: ["acme", "zeta"].choose(rng).unwrap(),
        user: ["ann", "bob"].choose(rng).unwrap(),
        started_at: millis * 1000,
        reserved: rng.random_range(0..5000),
    }
}

fn life(rng: &mut StdRng, maker: &Maker) -> Vec<Call> {
    use CallKind::{Adjusted, Finished, NotSent, Started, Unconfirmed};
    let lives: &[&[CallKind]] = &[
        &[Started, Finished],
        &[Started, Finished],
        &[Started, Finished, Finished],
        &[Started, Started, Finished],
        &[Started, NotSent],
        &[Started, Unconfirmed],
        &[Started, Unconfirmed, Unconfirmed],
        &[Started, Unconfirmed, Finished],
        &[Started, Unconfirmed, Finished, Finished],
        &[Started, Unconfirmed, NotSent, Finished],
        &[Started, Finished, Unconfirmed],
        &[Started, Finished, Adjusted, Finished],
        &[Started, Unconfirmed, Adjusted, Finished],
        &[Started, Unconfirmed, Finished, Adjusted, Finished],
        &[Started, Finished, Started, Finished],
        &[Started],
        &[Finished],
    ];
    let mut kinds = lives.choose(rng).unwrap().to_vec();
    if rng.random_bool(0.1) {
        kinds.shuffle(rng);
    }
    kinds.into_iter().map(|kind| record(rng, maker, kind)).collect()
}

fn record(rng: &mut StdRng, maker: &Maker, kind: CallKind) -> Call {
    let lowest = if kind == CallKind::Adjusted { -300 } else { 0 };
    Call {
        cost_nanos: rng.random_range(lowest..4000),
        charge_nanos: rng.random_range(lowest..6000),
        input_tokens: rng.random_range(0..90),
        output_tokens: rng.random_range(0..90),
        at: maker.started_at + rng.random_range(0..1_000_000),
        currency: if kind == CallKind::Finished && rng.random_bool(0.05) { "EUR" } else { "USD" }.to_owned(),
        provider: if kind == CallKind::Adjusted { "by-hand" } else { "sim" }.to_owned(),
        price_version: if kind == CallKind::Adjusted && rng.random_bool(0.5) { "v2" } else { "v1" }.to_owned(),
        ..plain(&maker.call_id, kind, maker.tenant, maker.user, maker.started_at, maker.reserved)
    }
}

/// A record with nothing spent.
pub fn plain(call_id: &str, kind: CallKind, tenant: &str, user: &str, started_at: i64, reserved: i64) -> Call {
    Call {
        call_id: call_id.to_owned(),
        kind,
        request_id: format!("req_{call_id}"),
        run: 0,
        tenant: tenant.to_owned(),
        user: user.to_owned(),
        key_id: Some(format!("key-of-{user}")),
        lane: "batch".to_owned(),
        operation: "chat.completions".to_owned(),
        provider: "sim".to_owned(),
        model: "sim-small".to_owned(),
        at: started_at,
        started_at,
        deadline: started_at / 1000 + 60_000,
        price_version: "v1".to_owned(),
        currency: "USD".to_owned(),
        reserved_nanos: reserved,
        input_tokens: 0,
        cached_input_tokens: 0,
        output_tokens: 0,
        estimated: false,
        cost_nanos: 0,
        charge_nanos: 0,
        http_status: None,
        reason: None,
        reserved_charge_nanos: Some(reserved * 2),
        provider_key: None,
    }
}
