//! A provider that is away: what it costs, who goes elsewhere, and that everybody else goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use millrace_cancellation::Cancellations;
use millrace_config::{Config, ModelConfig, ProviderConfig};
use millrace_pricing::PriceTable;
use millrace_provider::{CallMetrics, Ledgered, Providers};
use millrace_schemas::CallKind;
use millrace_simulated_provider::{Latency, Server, SimulatedProviderConfig};
use serde_json::{Value, json};

use crate::completion::Verdict;
use crate::router::Router;
use crate::tests::{Memory, code, verdict_of};

/// An hour of pauses up to 30 s, a thousand times faster.
const OUTAGE: Duration = Duration::from_millis(3_600);
const LONG: Duration = Duration::from_secs(60);

/// A router for `large` at the provider `away`, `house` at the provider `other`, and `covered`, which
/// is `large` with `house` to fall back on.
struct TwoProviders {
    away: Server,
    other: Server,
    log: Memory,
    router: Router<Memory>,
}

async fn server(faults: Value) -> Server {
    let simulated = SimulatedProviderConfig {
        latency: Latency::Constant { ms: 0.0 },
        faults: serde_json::from_value(faults).expect("a fault script"),
        ..SimulatedProviderConfig::default()
    };
    Server::start(simulated, SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a server")
}

async fn two_providers(faults: Value, adapt: impl FnOnce(&mut ProviderConfig)) -> TwoProviders {
    let (away, other) = (server(faults).await, server(json!([])).await);
    let mut config = Config::default();
    let mut provider = ProviderConfig::new(away.url());
    adapt(&mut provider);
    config.providers.insert("sim".to_owned(), provider);
    config.providers.insert("simulated".to_owned(), ProviderConfig::new(other.url()));
    for (alias, provider, fallbacks) in
        [("large", "sim", vec![]), ("house", "simulated", vec![]), ("covered", "sim", vec!["house".to_owned()])]
    {
        let upstream = Some("sim-large".to_owned());
        config
            .models
            .insert(alias.to_owned(), ModelConfig { upstream, fallbacks, ..ModelConfig::chat(provider, 8_000) });
    }
    let log = Memory::default();
    let metrics = CallMetrics::register(&prometheus::Registry::new()).expect("registered once");
    let router = Router {
        settings: None,
        providers: Providers::new(&config).expect("providers"),
        ledger: Ledgered::on(log.clone(), Arc::new(PriceTable::built_in()), metrics),
        cancellations: Cancellations::default(),
        budgets: millrace_budgets::Budgets::none(),
        streams: None,
    };
    TwoProviders { away, other, log, router }
}

impl TwoProviders {
    fn count(&self, kind: CallKind, provider: &str) -> u64 {
        let log = self.log.0.lock().expect("no panic");
        log.iter().filter(|call| call.kind == kind && call.provider == provider).count() as u64
    }
}

/// An outage that begins with `records` records waiting for the provider, in tasks that are returned.
async fn outage(records: usize, breaker_failures: u32) -> (TwoProviders, tokio::task::JoinSet<Verdict>) {
    let faults = json!([{
        "when": {"until_s": OUTAGE.as_secs_f64()}, "then": {"kind": "server_error", "status": 503}}]);
    let setup = two_providers(faults, |provider| {
        provider.max_concurrency = 64;
        provider.breaker_failures = breaker_failures;
        (provider.breaker_pause_ms, provider.breaker_max_pause_ms) = (1, 30);
    })
    .await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..records {
        let router = setup.router.clone();
        waiting.spawn(async move { verdict_of(&router, "large", LONG).await });
    }
    (setup, waiting)
}

/// Those on their way when it begins, the run that opens the breaker, five while its pauses grow, then
/// one in three quarters of the longest pause.
const BOUND: u64 = 64 + 5 + 5 + 3_600 * 2 / 45;

fn calls_in_vain(setup: &TwoProviders) -> u64 {
    setup.away.count().by_status.get("503").copied().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hours_outage_costs_a_bounded_number_of_calls_and_nobody_his_request() {
    const RECORDS: usize = 2_000;
    let (setup, waiting) = outage(RECORDS, 5).await;
    for _ in 0..20 {
        assert_eq!(code(&verdict_of(&setup.router, "house", LONG).await), "answered");
    }
    assert_eq!(setup.away.count().by_status.get("200"), None, "others are answered while the outage lasts");
    let verdicts = waiting.join_all().await;
    assert!(verdicts.iter().all(|verdict| code(verdict) == "answered"), "nobody ends for an outage");
    let (away, other) = (setup.away.count(), setup.other.count());
    assert_eq!((away.billed_calls, other.billed_calls), (RECORDS as u64, 20));
    assert_eq!(setup.count(CallKind::Started, "sim"), away.requests, "no call without its record, and none beside");
    let calls = calls_in_vain(&setup);
    assert!(calls <= BOUND, "{calls} calls, not {BOUND}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_breaker_the_same_outage_costs_more() {
    let (setup, _waiting) = outage(500, u32::MAX).await;
    for _ in 0..2 * OUTAGE.as_millis() / 20 {
        if calls_in_vain(&setup) > BOUND {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} calls are within the bound: the test above shows nothing", calls_in_vain(&setup));
}

#[tokio::test]
async fn an_open_breaker_sends_requests_elsewhere_at_once_and_without_a_record() {
    let setup = two_providers(json!([]), |provider| {
        provider.base_url = "http://127.0.0.1:9/v1".to_owned();
        provider.breaker_failures = 1;
        (provider.breaker_pause_ms, provider.breaker_max_pause_ms) = (60_000, 60_000);
    })
    .await;
    for _ in 0..3 {
        assert_eq!(code(&verdict_of(&setup.router, "covered", LONG).await), "answered");
    }
    assert_eq!(setup.count(CallKind::Started, "sim"), 1, "the one that found out");
    assert_eq!(setup.count(CallKind::Started, "simulated"), 3);
    assert_eq!(setup.other.count().billed_calls, 3);
}

#[tokio::test]
async fn who_waits_for_a_provider_until_the_deadline_expires_and_pays_nothing() {
    let faults = json!([{"then": {"kind": "server_error", "status": 500}}]);
    let setup = two_providers(faults, |provider| {
        provider.breaker_failures = 1;
        (provider.breaker_pause_ms, provider.breaker_max_pause_ms) = (60_000, 60_000);
    })
    .await;
    let opens = verdict_of(&setup.router, "large", Duration::from_millis(400)).await;
    assert!(matches!(code(&opens), "deadline_exceeded" | "provider_unavailable"), "{opens:?}");
    let waits = verdict_of(&setup.router, "large", Duration::from_millis(100)).await;
    assert_eq!((code(&waits), waits.bill.len()), ("deadline_exceeded", 0));
    assert_eq!((setup.count(CallKind::Started, "sim"), setup.away.count().requests), (1, 1));
}

#[tokio::test]
async fn who_waits_out_a_rate_limit_until_the_deadline_pays_nothing() {
    let faults = json!([{"then": {"kind": "rate_limited", "retry_after_ms": 200}}]);
    let setup = two_providers(faults, |_| ()).await;
    let verdict = verdict_of(&setup.router, "large", Duration::from_millis(300)).await;
    assert!(matches!(code(&verdict), "deadline_exceeded" | "provider_unavailable"), "{verdict:?}");
    assert_eq!(setup.away.count().billed_calls, 0);
    assert!(verdict.bill.iter().all(|line| line.cost_nanos == 0));
    assert_eq!(setup.count(CallKind::Started, "sim"), setup.count(CallKind::Finished, "sim"), "none is left open");
}
