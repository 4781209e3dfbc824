//! The router's calls over real HTTP, with the log of calls in memory: what the provider counts
//! must be what was recorded.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_admission::{Directory, EditableBody};
use millrace_budgets::Budgets;
use millrace_cancellation::Cancellations;
use millrace_config::{Config, ModelConfig, ProviderConfig};
use millrace_pricing::PriceTable;
use millrace_provider::{CallLog, CallMetrics, LedgerError, Ledgered, Providers};
use millrace_schemas::{Call, CallKind, Operation, Prompt, now_millis};
use millrace_settings::{Current, Settings};
use millrace_simulated_provider::{Latency, Server, SimulatedProviderConfig};
use millrace_stage::{Received, StageError};
use serde_json::{Value, json};

use crate::completion::Verdict;
use crate::completion::tests::{prompt, record};
use crate::router::Router;

#[derive(Clone, Default)]
pub(crate) struct Memory(pub(crate) Arc<Mutex<Vec<Call>>>);

impl CallLog for Memory {
    async fn append(&self, _: &Received, call: &Call) -> Result<(), LedgerError> {
        self.0.lock().expect("no panic").push(call.clone());
        Ok(())
    }
}

pub(crate) struct Setup {
    pub(crate) server: Server,
    pub(crate) log: Memory,
    pub(crate) router: Router<Memory>,
    pub(crate) registry: prometheus::Registry,
}

impl Setup {
    /// `small` falls back to `large`; the provider goes wrong as `faults` say.
    pub(crate) async fn new(faults: Value, adapt: impl FnOnce(&mut ProviderConfig)) -> Self {
        let simulated = SimulatedProviderConfig {
            latency: Latency::Constant { ms: 0.0 },
            faults: serde_json::from_value(faults).expect("a fault script"),
            ..SimulatedProviderConfig::default()
        };
        let server = Server::start(simulated, SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a server");
        let mut config = Config::default();
        let mut provider = ProviderConfig::new(server.url());
        adapt(&mut provider);
        config.providers.insert("sim".to_owned(), provider);
        for (alias, upstream, fallbacks) in [("small", "sim-small", vec!["large"]), ("large", "sim-large", vec![])] {
            let model = ModelConfig {
                upstream: Some(upstream.to_owned()),
                fallbacks: fallbacks.into_iter().map(str::to_owned).collect(),
                ..ModelConfig::chat("sim", 8_000)
            };
            config.models.insert(alias.to_owned(), model);
        }
        let registry = prometheus::Registry::new();
        let metrics = CallMetrics::register(&registry).expect("registered once");
        let log = Memory::default();
        let router = Router {
            settings: None,
            providers: Providers::new(&config).expect("providers"),
            ledger: Ledgered::on(log.clone(), Arc::new(PriceTable::built_in()), metrics),
            cancellations: Cancellations::default(),
            budgets: Budgets::none(),
            streams: None,
        };
        Self { server, log, router, registry }
    }

    /// Answers a prompt for `model` that has `time` left.
    async fn ask(&self, model: &str, time: Duration) -> Verdict {
        let verdict = verdict_of(&self.router, model, time).await;
        // No request without a record of it, and none beside.
        let announced = self.log.0.lock().expect("no panic").iter().filter(|c| c.kind == CallKind::Started).count();
        let unsent = self.log.0.lock().expect("no panic").iter().filter(|c| c.kind == CallKind::NotSent).count();
        assert_eq!(self.server.count().requests, (announced - unsent) as u64);
        verdict
    }

    /// Kind, model and status of each entry.
    pub(crate) fn entries(&self) -> Vec<String> {
        let log = self.log.0.lock().expect("no panic");
        log.iter()
            .map(|call| match call.http_status {
                Some(status) => format!("{} {} {status}", call.kind, call.model),
                None => format!("{} {}", call.kind, call.model),
            })
            .collect()
    }
}

pub(crate) fn statuses(verdict: &Verdict) -> Vec<&str> {
    verdict.bill.iter().map(|line| line.status.as_str()).collect()
}

/// What becomes of a prompt for `model` that has `time` left.
pub(crate) async fn verdict_of(router: &Router<Memory>, model: &str, time: Duration) -> Verdict {
    let deadline = now_millis() + i64::try_from(time.as_millis()).expect("short");
    let prompt = Prompt { model: model.to_owned(), ..prompt(deadline) };
    answer(router, &record(Vec::new()), &prompt).await.expect("an end")
}

pub(crate) async fn answer<L: CallLog + Clone>(
    router: &Router<L>,
    record: &Received,
    prompt: &Prompt,
) -> Result<Verdict, StageError> {
    let body = String::from_utf8(prompt.body.clone().expect("a body")).expect("UTF-8");
    router.answer(record, prompt, Operation::Chat, &EditableBody::parse(body).expect("an object")).await
}

pub(crate) fn code(verdict: &Verdict) -> &str {
    verdict.result.as_ref().map_or_else(|ended| ended.code.as_str(), |_| "answered")
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn one_call_is_one_line_and_its_end_is_left_to_the_plan() {
    let setup = Setup::new(json!([]), |_| ()).await;
    let verdict = setup.ask("large", LONG).await;
    assert_eq!(setup.entries(), ["started sim-large"]);
    assert_eq!((code(&verdict), statuses(&verdict)), ("answered", vec!["finished"]));
    let (response, provider) = verdict.result.expect("answered");
    let response: Value = serde_json::from_slice(&response).expect("JSON");
    assert_eq!((response["model"].as_str(), provider.as_str()), (Some("sim-large"), "sim"));
    let line = &verdict.bill[0];
    assert_eq!(response["usage"]["completion_tokens"], line.output_tokens);
    assert!(line.cost_nanos > 0 && !line.estimated);
    // 100 prompt tokens and 2 choices of 50 tokens at the built-in prices, and one for rounding.
    assert_eq!(setup.log.0.lock().expect("no panic")[0].reserved_nanos, 100 * 2_500 + 100 * 10_000 + 1);
    let shown = prometheus::TextEncoder::new().encode_to_string(&setup.registry.gather()).expect("text");
    assert!(shown.contains(r#"millrace_provider_calls_total{provider="sim",status="200"} 1"#), "{shown}");
    assert!(shown.contains(&format!(r#"millrace_cost_nanos_total{{model="large"}} {}"#, line.cost_nanos)), "{shown}");
}

#[tokio::test]
async fn an_outage_is_survived_and_every_attempt_recorded() {
    let faults = json!([
        {"when": {"first": 1}, "then": {"kind": "server_error", "status": 503}},
        {"when": {"first": 1}, "then": {"kind": "rate_limited", "retry_after_ms": 30}}]);
    let setup = Setup::new(faults, |provider| provider.max_attempts = 1).await;
    let verdict = setup.ask("large", LONG).await;
    let expected = [
        "started sim-large",
        "finished sim-large 503",
        "started sim-large",
        "finished sim-large 429",
        "started sim-large",
    ];
    assert_eq!(setup.entries(), expected);
    assert_eq!(statuses(&verdict), ["failed", "failed", "finished"]);
}

#[tokio::test]
async fn another_model_answers_when_the_first_can_not() {
    let faults = json!([{"when": {"model": "sim-small"}, "then": {"kind": "insufficient_quota"}}]);
    let setup = Setup::new(faults, |_| ()).await;
    let verdict = setup.ask("small", LONG).await;
    assert_eq!(setup.entries(), ["started sim-small", "finished sim-small 429", "started sim-large"]);
    assert_eq!((code(&verdict), verdict.bill[1].model.as_str()), ("answered", "sim-large"));
}

#[tokio::test]
async fn lost_answers_are_bounded_and_left_open() {
    let setup = Setup::new(json!([{"then": {"kind": "malformed_json"}}]), |provider| provider.max_attempts = 2).await;
    let verdict = setup.ask("large", LONG).await;
    assert_eq!(setup.entries(), ["started sim-large", "started sim-large"]);
    assert_eq!((code(&verdict), statuses(&verdict)), ("provider_unavailable", vec!["unconfirmed", "unconfirmed"]));
    assert!(verdict.bill.iter().all(|line| line.charge_nanos == 0));
}

#[tokio::test]
async fn a_call_never_outlives_the_deadline() {
    let setup = Setup::new(json!([{"then": {"kind": "hang", "ms": 5_000}}]), |_| ()).await;
    let began = std::time::Instant::now();
    let verdict = setup.ask("large", Duration::from_millis(300)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!((code(&verdict), statuses(&verdict)), ("provider_unavailable", vec!["unconfirmed"]));
    let started = setup.log.0.lock().expect("no panic")[0].clone();
    let given = started.deadline - started.started_at / 1_000;
    assert!((5_000..=5_300).contains(&given), "what is left, and a margin: {given}");
}

#[tokio::test]
async fn the_providers_no_to_the_request_is_final() {
    let setup = Setup::new(json!([{"then": {"kind": "context_length_exceeded"}}]), |_| ()).await;
    let verdict = setup.ask("small", LONG).await;
    assert_eq!(setup.entries(), ["started sim-small", "finished sim-small 400"]);
    let ended = verdict.result.expect_err("refused");
    assert_eq!((ended.http_status, ended.code.as_str()), (400, "context_length_exceeded"));
}

#[tokio::test]
async fn nobody_there_is_not_sent() {
    let setup = Setup::new(json!([]), |provider| {
        provider.base_url = "http://127.0.0.1:9/v1".to_owned();
        provider.breaker_failures = 1_000;
    })
    .await;
    let verdict = setup.ask("large", Duration::from_millis(400)).await;
    assert_eq!((code(&verdict), verdict.bill.len()), ("provider_unavailable", 0));
    let entries = setup.entries();
    assert!(entries.len() >= 2, "{entries:?}");
    assert!(entries.chunks(2).all(|pair| pair == ["started sim-large", "not_sent sim-large"]), "{entries:?}");
}

#[tokio::test]
async fn nothing_is_sent_for_a_partition_that_was_taken_away() {
    let setup = Setup::new(json!([]), |_| ()).await;
    let record = record(Vec::new());
    record.assignment.cancel();
    let ended = answer(&setup.router, &record, &prompt(now_millis() + 20_000)).await;
    assert!(matches!(ended, Err(StageError::Retry { .. })), "{ended:?}");
    assert_eq!(setup.entries(), ["started sim-small", "not_sent sim-small"]);
    assert_eq!(setup.server.count().requests, 0);
}

#[tokio::test]
async fn waiting_for_the_providers_limit_ends_at_the_deadline_without_a_call() {
    let setup = Setup::new(json!([]), |provider| provider.max_concurrency = 1).await;
    let held = setup.router.providers.target("large").expect("configured").slot("interactive", "acme").await;
    let verdict = setup.ask("large", Duration::from_millis(100)).await;
    assert_eq!((code(&verdict), setup.entries().len()), ("deadline_exceeded", 0));
    drop(held);
    assert_eq!(code(&setup.ask("large", LONG).await), "answered");
}

#[tokio::test]
async fn missing_usage_is_counted_here() {
    let setup = Setup::new(json!([{"then": {"kind": "usage_missing"}}]), |_| ()).await;
    let verdict = setup.ask("large", LONG).await;
    let (line, count) = (&verdict.bill[0], setup.server.count());
    assert!(line.estimated);
    assert_eq!((line.input_tokens as u64, line.output_tokens as u64), (count.prompt_tokens, count.completion_tokens));
    assert!(line.cost_nanos > 0);
}

#[tokio::test]
async fn a_model_that_is_gone_ends_the_request() {
    let setup = Setup::new(json!([]), |_| ()).await;
    let verdict = setup.ask("retired", LONG).await;
    assert_eq!((code(&verdict), setup.entries().len()), ("model_not_found", 0));
    // Its prompt has just been written: word of the model may be on its way.
    let young = Received { timestamp: now_millis(), ..record(Vec::new()) };
    let prompt = Prompt { model: "early".to_owned(), ..prompt(now_millis() + 60_000) };
    let waits = answer(&setup.router, &young, &prompt).await;
    assert!(matches!(waits, Err(StageError::Retry { .. })), "{:?}", waits.map(|verdict| verdict.bill));
}

#[tokio::test]
async fn who_waits_for_a_provider_goes_on_with_the_next_configuration() {
    let setup = Setup::new(json!([]), |_| ()).await;
    let mut config = Config::default();
    // Nobody listens there, and it is not asked again for a long time.
    let gone = ProviderConfig {
        breaker_failures: 1,
        breaker_pause_ms: 600_000,
        breaker_max_pause_ms: 600_000,
        ..ProviderConfig::new("http://127.0.0.1:1/v1")
    };
    config.providers.insert("sim".to_owned(), gone);
    config.models.insert("sim-small".to_owned(), ModelConfig::chat("sim", 8_000));
    let directory = Directory::from_config(&config).expect("a directory");
    let current = Current::new(Settings::new(&config, directory, true).expect("settings"));
    let providers = current.now().providers.clone();
    let router = Router { settings: Some(current.clone()), providers, ..setup.router.clone() };
    let waiting = tokio::spawn(async move { verdict_of(&router, "sim-small", Duration::from_secs(300)).await });
    while setup.entries().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    config.providers.insert("sim".to_owned(), ProviderConfig::new(setup.server.url()));
    current.replace(Arc::new(current.now().next(&config).expect("settings")));
    let verdict = tokio::time::timeout(LONG, waiting).await.expect("it moves on").expect("no panic");
    assert_eq!((code(&verdict), verdict.bill.len()), ("answered", 1));
    assert_eq!(setup.entries(), ["started sim-small", "not_sent sim-small", "started sim-small"]);
}
