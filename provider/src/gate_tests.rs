//! The gate, with pauses of milliseconds.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::metrics::Metrics;

fn gate(adapt: impl FnOnce(&mut ProviderConfig)) -> Arc<Gate> {
    let mut provider = ProviderConfig::new("http://127.0.0.1:9/v1");
    provider.breaker_failures = 3;
    adapt(&mut provider);
    Arc::new(Gate::new("sim", &provider, Metrics::new().expect("metrics").of("sim")))
}

async fn fail(gate: &Arc<Gate>) {
    gate.enter("batch", "acme").await.ended(Heard::Silent, Load::Unknown);
}

#[tokio::test]
async fn a_long_outage_costs_thousands_of_waiters_a_bounded_number_of_probes() {
    const WAITERS: u32 = 5_000;
    // Half an hour of pauses up to 30 s, a thousand times faster.
    const OUTAGE: Duration = Duration::from_millis(1_800);
    let gate = gate(|provider| (provider.breaker_pause_ms, provider.breaker_max_pause_ms) = (1, 30));
    let (calls, answered) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let back = Instant::now() + OUTAGE;
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..WAITERS {
        let (gate, calls, answered) = (Arc::clone(&gate), Arc::clone(&calls), Arc::clone(&answered));
        waiters.spawn(async move {
            loop {
                let entry = gate.enter("batch", "acme").await;
                if Instant::now() >= back {
                    answered.fetch_add(1, Ordering::Relaxed);
                    return entry.ended(Heard::Answered, Load::Carried);
                }
                calls.fetch_add(1, Ordering::Relaxed);
                entry.ended(Heard::Silent, Load::Unknown);
            }
        });
    }
    waiters.join_all().await;
    assert_eq!(answered.load(Ordering::Relaxed), WAITERS);
    // Three to open it, five while the pauses grow, then one in 22.5 ms at most.
    let calls = calls.load(Ordering::Relaxed);
    assert!((3..=3 + 5 + 1_800 * 2 / 45).contains(&calls), "{calls}");
    assert_eq!((gate.metrics.state.get(), gate.places.free()), (0, 512));
}

#[tokio::test]
async fn waiting_for_a_provider_that_is_gone_takes_no_place() {
    let gate = gate(|provider| (provider.max_concurrency, provider.breaker_pause_ms) = (1, 400));
    for _ in 0..3 {
        fail(&gate).await;
    }
    let mut waiting = Box::pin(gate.enter("batch", "acme"));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    assert_eq!((gate.places.free(), gate.metrics.state.get()), (1, 1));
    let refused = gate.enter_unless_open("batch", "acme").await.err().expect("refused");
    assert!(refused.after <= Duration::from_millis(350), "{refused:?}");
    assert_eq!(gate.metrics.refused.get(), 1);
    // The head of the queue leaves, say at its deadline; the next one takes over.
    let next = tokio::spawn({
        let gate = Arc::clone(&gate);
        async move { gate.enter("batch", "acme").await }
    });
    tokio::task::yield_now().await;
    drop(waiting);
    let probe = next.await.expect("it probes");
    assert_eq!(gate.metrics.state.get(), 2);
    assert!(gate.enter_unless_open("batch", "acme").await.is_err(), "one probe at a time");
    // A probe that is called off decides nothing: another one follows at once.
    drop(probe);
    gate.enter_unless_open("batch", "acme").await.expect("due").ended(Heard::Answered, Load::Carried);
    assert_eq!(gate.metrics.state.get(), 0);
}

#[tokio::test]
async fn a_place_is_not_waited_for_at_a_provider_that_went_away_meanwhile() {
    let gate = gate(|provider| {
        provider.max_concurrency = 1;
        provider.breaker_failures = 1;
    });
    let held = gate.enter("batch", "acme").await;
    let waiting = tokio::spawn({
        let gate = Arc::clone(&gate);
        async move { gate.enter_unless_open("batch", "acme").await.err() }
    });
    tokio::task::yield_now().await;
    held.ended(Heard::Silent, Load::Unknown);
    assert!(waiting.await.expect("no panic").is_some());
}

#[tokio::test]
async fn rate_limits_cut_the_places_and_successes_bring_them_back() {
    let gate = gate(|provider| provider.max_concurrency = 8);
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(gate.enter("batch", "acme").await);
    }
    for _ in 0..3 {
        held.pop().expect("held").ended(Heard::Answered, Load::TooMuch);
    }
    assert_eq!(gate.metrics.limit.get(), 4, "three of one round cut once");
    // Five are on their way, four are allowed: the next one waits for two to come back.
    assert_eq!(gate.places.free(), 0);
    held.pop();
    assert_eq!(gate.places.free(), 0);
    held.pop();
    assert_eq!(gate.places.free(), 1);
    drop(held);
    assert_eq!(gate.places.free(), 4);
    for _ in 0..4 + 5 + 6 + 7 {
        gate.enter("batch", "acme").await.ended(Heard::Answered, Load::Carried);
    }
    assert_eq!((gate.metrics.limit.get(), gate.places.free()), (8, 8));
}
