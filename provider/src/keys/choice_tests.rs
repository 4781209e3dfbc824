//! The choice of keys, by examples and by arbitrary histories.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const QUARANTINE: Duration = Duration::from_secs(60);

fn ring(keys: u64) -> (Ring, Instant) {
    let mut ring = Ring::new(QUARANTINE);
    (0..keys).for_each(|id| ring.add(id));
    (ring, Instant::now())
}

fn left(limit: u64, remaining: u64, reset_ms: u64) -> Limits {
    let requests = Some(Left { limit, remaining, reset: Duration::from_millis(reset_ms) });
    Limits { requests, tokens: None }
}

#[test]
fn calls_go_round_among_keys_that_are_alike() {
    let (mut ring, now) = ring(3);
    let picked: Vec<_> = (0..6).filter_map(|_| ring.pick(now)).collect();
    assert_eq!(picked, [0, 1, 2, 0, 1, 2]);
    ring.ended(1, Told::Accepted, now);
    assert_eq!(ring.pick(now), Some(1), "it has the fewest calls");
}

#[test]
fn the_key_that_is_used_up_least_is_picked() {
    let (mut ring, now) = ring(2);
    ring.learn(0, left(100, 20, 1_000), now);
    ring.learn(1, left(100, 90, 1_000), now);
    assert_eq!([ring.pick(now), ring.pick(now)], [Some(1), Some(1)]);
    let tokens = Some(Left { limit: 1_000, remaining: 1, reset: Duration::from_secs(1) });
    ring.learn(1, Limits { requests: None, tokens }, now);
    assert_eq!(ring.pick(now), Some(0), "tokens count as well");
    let later = now + Duration::from_secs(1);
    assert_eq!(ring.pick(later), Some(0), "what was learned is over with its time; this one has fewer calls");
}

#[test]
fn a_key_that_is_used_up_waits_and_the_others_do_not() {
    let (mut ring, now) = ring(2);
    assert_eq!(ring.pick(now), Some(0));
    ring.ended(0, Told::TooMany(Some(Duration::from_secs(5))), now);
    ring.learn(1, left(100, 1, 2_000), now);
    assert_eq!(ring.pick(now), Some(1));
    assert_eq!(ring.pick(now), None, "one remains, and one is on its way");
    assert_eq!(ring.room(now), Room::At(now + Duration::from_secs(2)));
    ring.learn(1, left(100, 0, 2_000), now);
    ring.ended(1, Told::Accepted, now);
    assert_eq!(ring.pick(now), None, "nothing remains");
    assert_eq!(ring.pick(now + Duration::from_secs(2)), Some(1));
    assert_eq!(ring.pick(now + Duration::from_secs(5)), Some(0));
}

#[test]
fn waits_without_a_word_for_how_long_grow_once_a_round() {
    let (mut ring, mut now) = ring(1);
    let mut waits = Vec::new();
    for _ in 0..12 {
        assert_eq!([ring.pick(now), ring.pick(now)], [Some(0), Some(0)]);
        ring.ended(0, Told::TooMany(None), now);
        ring.ended(0, Told::TooMany(None), now);
        let Room::At(until) = ring.room(now) else { panic!("it waits") };
        waits.push((until - now).as_millis());
        now = until;
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000]);
    ring.pick(now);
    ring.ended(0, Told::TooMany(Some(Duration::ZERO)), now);
    assert_eq!(ring.room(now), Room::At(now + SHORTEST_WAIT));
}

#[test]
fn a_key_that_was_refused_is_tried_by_one_call_at_a_time() {
    let (mut ring, now) = ring(2);
    assert_eq!([ring.pick(now), ring.pick(now), ring.pick(now)], [Some(0), Some(1), Some(0)]);
    assert!(ring.ended(0, Told::Refused, now));
    assert!(!ring.ended(0, Told::Refused, now), "told once");
    assert_eq!([ring.pick(now), ring.pick(now)], [Some(1), Some(1)]);
    let due = now + QUARANTINE;
    assert_eq!([ring.pick(due), ring.pick(due)], [Some(0), Some(1)]);
    ring.ended(0, Told::Nothing, due);
    assert_eq!(ring.pick(due), Some(0), "that call told nothing");
    assert!(!ring.ended(0, Told::Refused, due));
    assert_eq!(ring.pick(due), Some(1));
    ring.pardon();
    assert!(!ring.is_quarantined(0));
    assert_eq!(ring.pick(due), Some(0));
    ring.ended(0, Told::Refused, due);
    assert_eq!(ring.pick(due + QUARANTINE), Some(0));
    ring.ended(0, Told::Accepted, due + QUARANTINE);
    assert!(!ring.is_quarantined(0));
}

#[test]
fn a_key_that_is_gone_is_picked_no_more_and_its_calls_end() {
    let (mut ring, now) = ring(2);
    assert_eq!(ring.pick(now), Some(0));
    ring.remove(0);
    ring.add(2);
    assert_eq!([ring.pick(now), ring.pick(now), ring.pick(now)], [Some(1), Some(2), Some(1)]);
    ring.learn(0, left(1, 0, 1_000), now);
    assert!(!ring.ended(0, Told::Refused, now));
    ring.remove(1);
    ring.remove(2);
    assert_eq!((ring.pick(now), ring.room(now)), (None, Room::Later));
}

#[derive(Debug, Clone)]
enum Event {
    Pick,
    End(usize, Told),
    Learn(u64, Limits),
    Pass(u64),
    Add,
    Remove(u64),
    Pardon,
}

fn events() -> impl Strategy<Value = Event> {
    let told = prop_oneof![
        4 => Just(Told::Accepted),
        1 => proptest::option::of(0..5_000u64).prop_map(|ms| Told::TooMany(ms.map(Duration::from_millis))),
        1 => Just(Told::Refused),
        1 => Just(Told::Nothing),
    ];
    prop_oneof![
        8 => Just(Event::Pick),
        6 => (any::<usize>(), told).prop_map(|(which, told)| Event::End(which, told)),
        2 => (0..6u64, 0..5u64, 0..5u64, 0..5_000u64).prop_map(|(id, limit, remaining, reset)| {
            Event::Learn(id, left(limit, remaining, reset))
        }),
        2 => (0..20_000u64).prop_map(Event::Pass),
        1 => Just(Event::Add),
        1 => (0..6u64).prop_map(Event::Remove),
        1 => Just(Event::Pardon),
    ]
}

/// What a test knows of a key, told apart from the code that it judges.
#[derive(Debug, Default, Clone, Copy)]
struct Known {
    not_before: Option<Instant>,
}

proptest! {
    #[test]
    fn no_key_is_picked_that_waits_and_none_is_starved(history in proptest::collection::vec(events(), 1..200)) {
        let (mut ring, mut now) = ring(3);
        let mut known: BTreeMap<Id, Known> = (0..3).map(|id| (id, Known::default())).collect();
        let mut on_their_way: Vec<Id> = Vec::new();
        let mut next = 3;
        for event in history {
            match event {
                Event::Pick => {
                    let room = ring.room(now);
                    let picked = ring.pick(now);
                    prop_assert_eq!(picked.is_some(), room == Room::Now, "{:?}", room);
                    if let Some(id) = picked {
                        let key = known.get(&id).expect("it was not removed");
                        prop_assert!(key.not_before.is_none_or(|at| at <= now), "{} waits", id);
                        on_their_way.push(id);
                    }
                }
                Event::End(which, told) if !on_their_way.is_empty() => {
                    let id = on_their_way.swap_remove(which % on_their_way.len());
                    ring.ended(id, told, now);
                    if let Some(key) = known.get_mut(&id) {
                        let until = match told {
                            Told::TooMany(wait) => Some(now + wait.unwrap_or(SHORTEST_WAIT)),
                            Told::Refused => Some(now + QUARANTINE),
                            Told::Accepted | Told::Nothing => None,
                        };
                        key.not_before = key.not_before.max(until);
                    }
                }
                Event::Learn(id, limits) => ring.learn(id, limits, now),
                Event::Pass(ms) => now += Duration::from_millis(ms),
                Event::Add => {
                    ring.add(next);
                    known.insert(next, Known::default());
                    next += 1;
                }
                Event::Remove(id) => {
                    ring.remove(id);
                    known.remove(&id);
                }
                Event::Pardon => {
                    ring.pardon();
                    known.values_mut().for_each(|key| key.not_before = None);
                }
                Event::End(..) => {}
            }
        }
        // Whatever has been: once its calls have ended and its times are over, every key is picked again.
        on_their_way.into_iter().for_each(|id| { ring.ended(id, Told::Nothing, now); });
        now += QUARANTINE * 2;
        let picked: BTreeSet<Id> = (0..known.len()).filter_map(|_| ring.pick(now)).collect();
        prop_assert_eq!(picked, known.keys().copied().collect::<BTreeSet<_>>());
    }
}
