//! Random writes in random orders, some of them repeated, against the model.

use millrace_storage::{Claim, LedgerFlush, LogPlace, Rollup, Storage, Waiter};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::model::Model;
use super::{entry, place, rollup_key, unique, unique_partition};

enum Write {
    Put { request: String, run: i32, place: LogPlace, outcome: Vec<u8> },
    Claim { key: String, claim: Claim },
    Wait { request: String, waiter: Waiter },
    Flush(LedgerFlush),
}

pub async fn random_orders_end_as_the_model_does(storage: &Storage, seeds: u64) {
    for seed in 0..seeds {
        one_seed(storage, seed).await;
    }
}

async fn one_seed(storage: &Storage, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let tenant = unique("t");
    let mut writes = writes(&mut random, &tenant);
    writes.shuffle(&mut random);

    let mut model = Model::default();
    for write in &writes {
        // A writer that saw a time-out writes again.
        for _ in 0..random.random_range(1..=2) {
            apply(storage, &mut model, &tenant, write, seed).await;
        }
    }
    compare(storage, &model, &tenant, seed).await;
}

fn writes(random: &mut StdRng, tenant: &str) -> Vec<Write> {
    let mut writes = Vec::new();
    for n in 0..random.random_range(0..20) {
        let place = place(random.random_range(0..3), random.random_range(0..1_000) * 100 + n);
        writes.push(Write::Put {
            request: format!("r{}", random.random_range(0..4)),
            run: random.random_range(0..3),
            place,
            outcome: format!("{place:?}").into_bytes(),
        });
    }
    for n in 0..random.random_range(0..8) {
        let claim = Claim {
            request_id: format!("request {n}"),
            coordinates: format!("topic/0/0/{n}"),
            body_hash: format!("hash {n}"),
        };
        writes.push(Write::Claim { key: format!("k{}", random.random_range(0..3)), claim });
        let waiter = Waiter {
            coordinates: format!("topic/0/0/{}", random.random_range(0..5)),
            replica: Some("replica".to_owned()),
            reply_topic: None,
        };
        writes.push(Write::Wait { request: format!("r{}", random.random_range(0..2)), waiter });
    }
    for _ in 0..2 {
        let (generation, partition) = (random.random_range(0..3), unique_partition());
        writes.extend(fold(random, tenant, generation, partition).into_iter().map(Write::Flush));
    }
    writes
}

/// The flushes of one partition's fold, each with the cells it changed.
fn fold(random: &mut StdRng, tenant: &str, generation: u32, partition: i32) -> Vec<LedgerFlush> {
    let mut flushes = Vec::new();
    let mut cells = std::collections::BTreeMap::<_, Rollup>::new();
    let mut offset = 0;
    for _ in 0..random.random_range(0..6) {
        let mut entries = Vec::new();
        let mut changed = std::collections::BTreeSet::new();
        let upto = offset + random.random_range(0..5);
        while offset <= upto {
            let hour = 495_000 + random.random_range(0..48);
            let call = format!("call {}", random.random_range(0..20));
            let line = entry(tenant, hour, partition, place(generation, offset), &call);
            let key = rollup_key(tenant, &line.user, hour, generation, partition);
            let cell = cells.entry(key.clone()).or_default();
            cell.upto = offset;
            cell.entries += 1;
            *cell.cost_nanos.entry("USD".to_owned()).or_default() += line.cost_nanos;
            changed.insert(key);
            entries.push(line);
            offset += 1;
        }
        let rollups = changed.into_iter().map(|key| (key.clone(), cells[&key].clone())).collect();
        let checkpoint = format!("open at {upto}").into_bytes();
        flushes.push(LedgerFlush { generation, partition, upto, checkpoint, entries, rollups });
    }
    flushes
}

async fn apply(storage: &Storage, model: &mut Model, tenant: &str, write: &Write, seed: u64) {
    match write {
        Write::Put { request, run, place, outcome } => {
            storage.results.put(tenant, request, *run, *place, outcome.clone()).await.unwrap();
            model.put(request, *run, *place, outcome);
            assert_eq!(storage.results.get(tenant, request).await.unwrap(), model.latest(request), "seed {seed}");
        }
        Write::Claim { key, claim } => {
            let claimed = storage.keys.claim(tenant, key, claim).await.unwrap();
            assert_eq!(claimed, model.claim(key, claim), "seed {seed}");
        }
        Write::Wait { request, waiter } => {
            storage.keys.add_waiter(tenant, request, waiter).await.unwrap();
            model.waiters.entry(request.clone()).or_default().insert(waiter.clone());
        }
        Write::Flush(flush) => {
            storage.ledger.flush(flush).await.unwrap();
            model.flush(flush);
        }
    }
}

async fn compare(storage: &Storage, model: &Model, tenant: &str, seed: u64) {
    for (request, waiters) in &model.waiters {
        let mut kept = storage.keys.waiters(tenant, request).await.unwrap();
        kept.sort();
        assert_eq!(kept, waiters.iter().cloned().collect::<Vec<_>>(), "seed {seed}");
    }
    for ((generation, partition), checkpoint) in &model.checkpoints {
        let kept = storage.ledger.checkpoint(*generation, *partition).await.unwrap();
        assert_eq!(kept.as_ref(), Some(checkpoint), "seed {seed}");
    }
    for ((hour, partition, call), entries) in &model.entries {
        let kept = storage.ledger.entries_of(tenant, *hour, *partition, call).await.unwrap();
        assert_eq!(kept, entries.values().cloned().collect::<Vec<_>>(), "seed {seed}");
    }
    let keys: Vec<_> = model.rollups.keys().cloned().collect();
    let wanted: Vec<_> = model.rollups.values().cloned().map(Some).collect();
    assert_eq!(storage.ledger.rollups(&keys).await.unwrap(), wanted, "seed {seed}");
    let mut usage = storage.usage.usage(tenant, 495_000, 495_048).await.unwrap();
    usage.sort_by(|(a, _), (b, _)| a.cmp(b));
    let wanted: Vec<_> = model.rollups.iter().map(|(key, rollup)| (key.clone(), rollup.clone())).collect();
    assert_eq!(usage, wanted, "seed {seed}");
}
