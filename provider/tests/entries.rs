//! The entries of `calls` and the lines on the bill, as functions.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_config::{Config, ModelConfig, ProviderConfig, Secret};
use millrace_pricing::PriceTable;
use millrace_provider::{
    Bounds, CallError, CallLog, CallMetrics, FAILED, FINISHED, LedgerError, Ledgered, Providers, Refusal, StartedCall,
    Target, UNCONFIRMED, Usage, Who, finished_from_line,
};
use millrace_schemas::{Call, CallKind, Coordinates, Operation, Source, call_started_at};
use millrace_stage::Received;
use millrace_stage::core::{Lease, Moment};

const PRICES: &str = r#"
version = "test-1"
currency = "USD"
[[price]]
provider = "sim"
model = "sim-small"
effective_from = 2020-01-01
input_per_million = 1_000_000_000
cached_input_per_million = 100_000_000
output_per_million = 2_000_000_000
charge_input_per_million = 1_500_000_000
charge_cached_input_per_million = 150_000_000
charge_output_per_million = 3_000_000_000
"#;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<Call>>>);

impl CallLog for Memory {
    async fn append(&self, _: &Received, call: &Call) -> Result<(), LedgerError> {
        self.0.lock().unwrap().push(call.clone());
        Ok(())
    }
}

struct Setup {
    registry: prometheus::Registry,
    log: Memory,
    ledger: Ledgered<Memory>,
    target: Target,
    unpriced: Target,
    who: Who,
    record: Received,
}

fn setup() -> Setup {
    setup_with(ProviderConfig::new("http://127.0.0.1:9/v1"))
}

fn setup_with(provider: ProviderConfig) -> Setup {
    let mut config = Config::default();
    config.providers.insert("sim".to_owned(), provider);
    config.models.insert("sim-small".to_owned(), ModelConfig::chat("sim", 8_000));
    config.models.insert("unpriced".to_owned(), ModelConfig::chat("sim", 8_000));
    let providers = Providers::new(&config).unwrap();
    let log = Memory::default();
    let registry = prometheus::Registry::new();
    let metrics = CallMetrics::register(&registry).unwrap();
    let from = Coordinates { topic: "prompts.batch".to_owned(), generation: 0, partition: 1, offset: 7 };
    Setup {
        ledger: Ledgered::on(log.clone(), Arc::new(PriceTable::parse(PRICES, "test").unwrap()), metrics),
        registry,
        log,
        target: providers.target("sim-small").unwrap().clone(),
        unpriced: providers.target("unpriced").unwrap().clone(),
        who: Who {
            tenant: "acme".to_owned(),
            user: "ann".to_owned(),
            key_id: Some("k1".to_owned()),
            request_id: "req_1".to_owned(),
            run: 2,
            lane: "batch".to_owned(),
        },
        record: Received {
            at: from.clone(),
            timestamp: 0,
            key: None,
            value: Vec::new(),
            headers: Vec::new(),
            source: None,
            as_source: Source { from, window: 1_024, epoch: 1 },
            assignment: tokio_util::sync::CancellationToken::new(),
            lease: millrace_stage::core::Lease::unlimited(),
        },
    }
}

const BOUNDS: Bounds = Bounds { input_tokens: 1_000, output_tokens: 500, timeout: Duration::from_secs(60) };

/// What is shown, without the comments.
fn shown(setup: &Setup) -> Vec<String> {
    let text = prometheus::TextEncoder::new().encode_to_string(&setup.registry.gather()).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

async fn start(setup: &Setup) -> StartedCall {
    setup
        .ledger
        .start(&setup.record, &setup.who, &setup.target.slot("interactive", "acme").await, Operation::Chat, BOUNDS)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_call_is_announced_with_what_it_may_cost_and_until_when() {
    let setup = setup();
    let call = start(&setup).await;
    let started = setup.log.0.lock().unwrap()[0].clone();
    assert_eq!(&started, call.entry());
    assert_eq!(started.kind, CallKind::Started);
    assert_eq!(Some(started.started_at), call_started_at(call.id()));
    assert_eq!(started.at, started.started_at);
    assert_eq!(started.deadline, started.started_at / 1_000 + 65_000);
    // 1,000 tokens at 1,000 nano-units, 500 at 2,000, and one for rounding.
    assert_eq!(started.reserved_nanos, 1_000 * 1_000 + 500 * 2_000 + 1);
    assert_eq!((started.price_version.as_str(), started.currency.as_str()), ("test-1", "USD"));
    assert_eq!((started.request_id.as_str(), started.run, started.lane.as_str()), ("req_1", 2, "batch"));
    assert_eq!((started.cost_nanos, started.http_status), (0, None));
}

#[tokio::test]
async fn a_process_that_was_frozen_announces_nothing_before_it_is_sure_again() {
    let mut setup = setup();
    let lease = Lease::new(Duration::from_secs(3), Moment::now());
    setup.record.lease = lease.clone();
    let gap = Moment { steady: Moment::now().steady + 9_000_000, wall: Moment::now().wall };
    lease.beat(gap);
    lease.beat(Moment::now());
    let in_doubt = tokio::time::timeout(Duration::from_millis(100), start(&setup)).await;
    assert!(in_doubt.is_err() && setup.log.0.lock().unwrap().is_empty());
    lease.confirm(lease.doubts());
    let _started = start(&setup).await;
    assert_eq!(setup.log.0.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_answered_call_is_priced_and_its_end_is_a_function_of_its_line() {
    let setup = setup();
    let call = start(&setup).await;
    let usage = Usage { input_tokens: 100, cached_input_tokens: 40, output_tokens: 10, estimated: true };
    let line = setup.ledger.line(&call, usage);
    assert_eq!(line.status, FINISHED);
    assert_eq!(
        shown(&setup),
        [
            r#"millrace_cost_nanos_total{model="sim-small"} 84000"#,
            r#"millrace_provider_calls_total{provider="sim",status="200"} 1"#,
            r#"millrace_tokens_total{direction="input",model="sim-small"} 100"#,
            r#"millrace_tokens_total{direction="output",model="sim-small"} 10"#,
        ]
    );
    assert_eq!(
        (line.cost_nanos, line.charge_nanos),
        (60 * 1_000 + 40 * 100 + 10 * 2_000, 60 * 1_500 + 40 * 150 + 10 * 3_000)
    );
    let end = finished_from_line(&setup.who, &line, 77);
    assert_eq!(end, finished_from_line(&setup.who, &line, 77));
    assert_eq!(end.started_at, call.entry().started_at, "the same in every entry of a call");
    assert_eq!((end.kind, end.at, end.http_status, end.estimated), (CallKind::Finished, 77, Some(200), true));
    assert_eq!((end.cost_nanos, end.charge_nanos), (line.cost_nanos, line.charge_nanos));
    assert_eq!((end.input_tokens, end.cached_input_tokens, end.output_tokens), (100, 40, 10));

    setup.ledger.finished(&setup.record, &setup.who, &line).await.unwrap();
    let written = setup.log.0.lock().unwrap()[1].clone();
    assert_eq!(written, Call { at: written.at, ..end });
}

#[tokio::test]
async fn a_call_that_is_broken_off_is_booked_at_its_upper_bound_and_charges_nothing() {
    let setup = setup();
    let call = start(&setup).await;
    let started = call.entry().clone();
    let line = setup.ledger.broken_off(&setup.record, call, "cancelled").await.unwrap();
    assert_eq!((line.status.as_str(), line.cost_nanos, line.charge_nanos), (UNCONFIRMED, 0, 0));
    let end = setup.log.0.lock().unwrap()[1].clone();
    let expected = Call {
        kind: CallKind::Unconfirmed,
        at: end.at,
        estimated: true,
        cost_nanos: started.reserved_nanos,
        reason: Some("cancelled".to_owned()),
        ..started
    };
    assert_eq!(end, expected);
}

#[tokio::test]
async fn the_key_of_a_pool_is_named_in_what_is_written_for_a_call() {
    let mut provider = ProviderConfig::new("http://127.0.0.1:9/v1");
    provider.api_keys = [("main".to_owned(), Secret::from("sk-secret"))].into();
    let setup = setup_with(provider);
    let call = start(&setup).await;
    setup.ledger.not_sent(&setup.record, call, "not now").await.unwrap();
    let written = setup.log.0.lock().unwrap().clone();
    assert_eq!([0, 1].map(|place| written[place].provider_key.as_deref()), [Some("main"); 2]);
    assert!(!format!("{written:?}").contains("sk-secret"));
}

#[tokio::test]
async fn each_failure_ends_its_call_in_its_own_way() {
    let refusal = Refusal {
        status: 503,
        message: "busy".to_owned(),
        kind: String::new(),
        code: None,
        param: None,
        retry_after: None,
        retryable: true,
        of_key: false,
    };
    let cases = [
        (CallError::NotSent("refused".to_owned()), Some((CallKind::NotSent, None, Some("refused"))), None, "not_sent"),
        (CallError::Answered(refusal), Some((CallKind::Finished, Some(503), None)), Some(FAILED), "503"),
        (CallError::Lost("cut".to_owned()), None, Some(UNCONFIRMED), "lost"),
    ];
    for (error, entry, status, counted) in cases {
        let setup = setup();
        let call = start(&setup).await;
        let id = call.id().to_owned();
        let line = setup.ledger.failed(&setup.record, call, &error).await.unwrap();
        let counted = format!(r#"millrace_provider_calls_total{{provider="sim",status="{counted}"}} 1"#);
        assert_eq!(shown(&setup), [counted]);
        let log = setup.log.0.lock().unwrap();
        let end = log.get(1);
        assert_eq!(end.map(|e| (e.kind, e.http_status, e.reason.as_deref())), entry, "{error:?}");
        assert!(end.is_none_or(|e| e.call_id == id && e.started_at == log[0].started_at && e.cost_nanos == 0));
        assert_eq!(line.as_ref().map(|line| line.status.as_str()), status, "{error:?}");
        assert!(line.is_none_or(|line| line.call_id == id && line.cost_nanos == 0 && line.charge_nanos == 0));
    }
}

#[tokio::test]
async fn a_model_without_a_price_is_never_called() {
    let setup = setup();
    let error = setup
        .ledger
        .start(&setup.record, &setup.who, &setup.unpriced.slot("interactive", "acme").await, Operation::Chat, BOUNDS)
        .await
        .unwrap_err();
    assert!(matches!(error, LedgerError::NoPrice(_)), "{error}");
    assert!(setup.log.0.lock().unwrap().is_empty());
}
