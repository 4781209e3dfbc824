//! The limiter alone, and several of them that hear of each other late.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const NOW: i64 = 60_000_000;

fn per_minute(requests: u64) -> UsageLimits {
    UsageLimits { requests_per_minute: Some(requests), ..UsageLimits::default() }
}

fn under(limits: UsageLimits) -> Vec<(String, UsageLimits)> {
    vec![("tenant/acme".to_owned(), limits)]
}

#[test]
fn a_limit_is_reached_and_says_when_to_come_back() {
    let limiter = Limiter::new("a");
    let limits = under(per_minute(3));
    for left in [2, 1, 0] {
        let Taken { standing, .. } = limiter.take(&limits, 9, NOW).expect("there is room");
        assert_eq!(standing.requests.map(|left| (left.limit, left.remaining)), Some((3, left)));
    }
    let exceeded = limiter.take(&limits, 9, NOW).err().expect("it is reached");
    assert_eq!((exceeded.kind, exceeded.used, exceeded.limit, exceeded.is_share), (Kind::Requests, 3, 3, false));
    let wait = i64::try_from(exceeded.retry_after.expect("it passes")).expect("short");
    assert!(limiter.take(&limits, 9, NOW + wait - 1).is_err());
    assert!(limiter.take(&limits, 9, NOW + wait).is_ok());
}

#[test]
fn tokens_are_what_was_used_and_not_what_might_have_been() {
    let limiter = Limiter::new("a");
    let limits =
        under(UsageLimits { tokens_per_minute: Some(100), tokens_per_day: Some(150), ..UsageLimits::default() });
    let Taken { reserved, standing, .. } = limiter.take(&limits, 80, NOW).expect("there is room");
    assert_eq!(standing.tokens.map(|left| left.remaining), Some(20));
    assert_eq!(limiter.take(&limits, 30, NOW).err().map(|e| e.kind), Some(Kind::Tokens));
    reserved.settle(10);
    assert!(limiter.take(&limits, 90, NOW).is_ok());
    let day = limiter.take(&limits, 60, NOW + 120_000).err().expect("the day has no room");
    assert_eq!((day.kind, day.used, day.retry_after), (Kind::DayTokens, 100, Some(rest_of_day(NOW + 120_000))));
    let never = limiter.take(&limits, 101, NOW).err().expect("more than there is");
    assert_eq!((never.kind, never.retry_after), (Kind::Tokens, None));
}

#[test]
fn tokens_of_the_day_alone_are_no_requests_and_of_no_minute() {
    let limiter = Limiter::new("a");
    let day = UsageLimits { tokens_per_day: Some(100), ..UsageLimits::default() };
    let limits = under(UsageLimits {
        tokens_per_minute: Some(10),
        requests_per_minute: Some(1),
        concurrent_requests: Some(1),
        ..day
    });
    let reserved = limiter.take_of_day(&limits, 70, NOW).expect("there is room");
    let full = limiter.take_of_day(&limits, 31, NOW).err().expect("the day has no room");
    assert_eq!((full.kind, full.used, full.retry_after), (Kind::DayTokens, 70, Some(rest_of_day(NOW))));
    let never = limiter.take_of_day(&limits, 101, NOW).err().expect("more than there is");
    assert_eq!((never.kind, never.retry_after), (Kind::DayTokens, None));
    let Taken { standing, .. } = limiter.take(&limits, 10, NOW).expect("nothing of the minute is used");
    assert_eq!(standing.requests.map(|left| left.remaining), Some(0));
    // Long after, and in the window that it was taken in.
    reserved.settle(5);
    assert!(limiter.take_of_day(&limits, 85, NOW).is_ok());
    assert!(limiter.take_of_day(&limits, 1, NOW).is_err());
}

#[test]
fn a_place_is_given_back_and_all_or_nothing_is_taken() {
    let limiter = Limiter::new("a");
    let two = UsageLimits { concurrent_requests: Some(2), ..UsageLimits::default() };
    let both = [("key/acme/k".to_owned(), per_minute(9)), ("tenant/acme".to_owned(), two)];
    let held: Vec<_> = (0..2).map(|_| limiter.take(&both, 1, NOW).expect("there is room").permit).collect();
    let exceeded = limiter.take(&both, 1, NOW).err().expect("both places are taken");
    assert_eq!((exceeded.subject.as_str(), exceeded.kind), ("tenant/acme", Kind::Concurrent));
    drop(held);
    let Taken { standing, .. } = limiter.take(&both, 1, NOW).expect("there is room again");
    assert_eq!(standing.requests.map(|left| left.remaining), Some(6), "what was refused took nothing");
}

#[test]
fn replicas_know_of_each_other_and_of_nobody_who_is_silent() {
    let (a, b) = (Limiter::new("a"), Limiter::new("b"));
    let limits = under(UsageLimits { concurrent_requests: Some(2), ..per_minute(4) });
    let _held: Vec<_> = (0..2).map(|_| a.take(&limits, 0, NOW).expect("there is room")).collect();
    a.news(NOW, true).into_iter().for_each(|word| b.hear(word, true, NOW));
    assert_eq!(b.take(&limits, 0, NOW).err().map(|e| e.kind), Some(Kind::Concurrent));
    // The one that died holds no places; what it used was used.
    let later = NOW + SILENT;
    b.take(&limits, 0, later).expect("its places are free");
    assert_eq!(b.take(&under(per_minute(3)), 0, later).err().map(|e| e.used), Some(3));
    // One that begins anew under the same name is told what it had used by nobody else.
    a.news(NOW, false).into_iter().for_each(|word| a.hear(word, false, NOW));
    assert_eq!(a.state().heard.len(), 0);
}

#[test]
fn what_does_not_matter_any_more_is_forgotten() {
    let (a, b) = (Limiter::new("a"), Limiter::new("b"));
    drop(a.take(&under(per_minute(4)), 0, NOW).expect("there is room"));
    a.news(NOW, true).into_iter().for_each(|word| b.hear(word, true, NOW));
    assert_eq!((a.state().subjects.len(), b.state().subjects.len()), (1, 1));
    for limiter in [&a, &b] {
        limiter.news(NOW + 200_000, false);
        limiter.news(NOW + 200_000, false);
        let state = limiter.state();
        assert_eq!((state.subjects.len(), state.heard.len()), (0, 0));
    }
}

/// Replicas under a flood, each of which hears the others some ticks late: together they let through the limit,
/// and at most one share more for each tick of delay.
#[test]
fn several_replicas_let_through_little_more_than_one_would() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let count = random.random_range(2..=5);
        let lag = random.random_range(0..=3);
        let limit = random.random_range(1..=200);
        let replicas: Vec<_> = (0..count).map(|n| Limiter::new(n.to_string())).collect();
        let limits = under(per_minute(limit));
        for word in replicas.iter().flat_map(|replica| replica.news(NOW, true)).collect::<Vec<_>>() {
            replicas.iter().for_each(|replica| replica.hear(word.clone(), true, NOW));
        }
        let mut on_the_way = Vec::new();
        let mut passed = 0;
        for tick in 0..50 {
            let now = NOW + tick * TICK;
            for _ in 0..random.random_range(0..400) {
                let replica = &replicas[random.random_range(0..replicas.len())];
                passed += u64::from(replica.take(&limits, 0, now).is_ok());
            }
            let words = replicas.iter().flat_map(|replica| replica.news(now, true));
            on_the_way.extend(words.map(|word| (tick + lag, word)));
            let (here, later): (Vec<_>, _) = on_the_way.into_iter().partition(|(at, _)| *at <= tick);
            on_the_way = later;
            for (_, word) in here {
                replicas.iter().for_each(|replica| replica.hear(word.clone(), true, now));
            }
        }
        let most = (limit + count) * (1 + u64::try_from(lag).expect("positive"));
        assert!(passed >= limit.min(50), "seed {seed}: {passed} of {limit}");
        assert!(passed <= most, "seed {seed}: {passed} of {limit}, {count} replicas, {lag} ticks late");
        if lag == 0 {
            assert!(passed < limit + count, "seed {seed}: {passed} of {limit}, {count} replicas");
        }
    }
}
