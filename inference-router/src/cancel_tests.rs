//! Requests that are taken back, at every point of their way.

use std::time::Duration;

use millrace_cancellation::Cancellations;
use millrace_provider::{CallLog, CallMetrics, LedgerError, Ledgered, UNCONFIRMED};
use millrace_schemas::{Call, CallKind, EndedStatus, Prompt, now_millis};
use millrace_stage::Received;
use serde_json::json;

use crate::completion::tests::{prompt, record};
use crate::router::Router;
use crate::tests::{Memory, Setup, answer, code, statuses};

fn long_prompt() -> Prompt {
    Prompt { model: "large".to_owned(), ..prompt(now_millis() + 60_000) }
}

fn cancel(cancellations: &Cancellations, prompt: &Prompt) {
    cancellations.cancel(&prompt.meta.tenant, &prompt.meta.request_id);
}

/// Waits until something is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..500 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not after 5 s: {what}");
}

#[tokio::test]
async fn nothing_is_asked_for_a_request_that_was_taken_back() {
    let setup = Setup::new(json!([]), |_| ()).await;
    let prompt = long_prompt();
    cancel(&setup.router.cancellations, &prompt);
    let verdict = answer(&setup.router, &record(Vec::new()), &prompt).await.expect("an end");
    assert_eq!((code(&verdict), setup.entries().len(), verdict.bill.len()), ("request_cancelled", 0, 0));
    let ended = verdict.result.expect_err("ended");
    assert_eq!((ended.status, ended.http_status), (EndedStatus::Cancelled, 499));
    assert_eq!(setup.server.count().requests, 0);
}

#[tokio::test]
async fn a_running_call_is_broken_off_and_booked_at_once() {
    let setup = Setup::new(json!([{"then": {"kind": "hang", "ms": 60_000}}]), |_| ()).await;
    let prompt = long_prompt();
    let (router, asked) = (setup.router.clone(), prompt.clone());
    let running = tokio::spawn(async move { answer(&router, &record(Vec::new()), &asked).await });
    until("the call is on its way", || setup.server.count().in_flight == 1).await;
    cancel(&setup.router.cancellations, &prompt);
    let verdict = running.await.expect("no panic").expect("an end");
    assert_eq!((code(&verdict), statuses(&verdict)), ("request_cancelled", vec![UNCONFIRMED]));
    assert_eq!(setup.entries(), ["started sim-large", "unconfirmed sim-large"]);
    let log = setup.log.0.lock().expect("no panic").clone();
    let (started, end) = (&log[0], &log[1]);
    assert_eq!((&end.call_id, end.reason.as_deref()), (&started.call_id, Some("cancelled")));
    assert_eq!((end.cost_nanos, end.charge_nanos, end.estimated), (started.reserved_nanos, 0, true));
    assert!(started.reserved_nanos > 0);
    until("the provider sees the connection closed", || setup.server.count().in_flight == 0).await;
    let shown = prometheus::TextEncoder::new().encode_to_string(&setup.registry.gather()).expect("text");
    assert!(shown.contains(r#"millrace_provider_calls_total{provider="sim",status="cancelled"} 1"#), "{shown}");
}

#[tokio::test]
async fn every_wait_ends_when_the_request_is_taken_back() {
    let faults = json!([{"then": {"kind": "rate_limited", "retry_after_ms": 30_000}}]);
    let setup = Setup::new(faults, |provider| provider.max_concurrency = 1).await;
    // For a place.
    let held = setup.router.providers.target("large").expect("configured").slot("interactive", "acme").await;
    let prompt = long_prompt();
    let (router, asked) = (setup.router.clone(), prompt.clone());
    let waiting = tokio::spawn(async move { answer(&router, &record(Vec::new()), &asked).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    cancel(&setup.router.cancellations, &prompt);
    let verdict = waiting.await.expect("no panic").expect("an end");
    assert_eq!((code(&verdict), setup.entries().len()), ("request_cancelled", 0));
    drop(held);
    // For the time that the provider asked for.
    let setup = Setup { router: Router { cancellations: Cancellations::default(), ..setup.router.clone() }, ..setup };
    let (router, asked) = (setup.router.clone(), prompt.clone());
    let waiting = tokio::spawn(async move { answer(&router, &record(Vec::new()), &asked).await });
    until("the provider has refused", || setup.entries().len() == 2).await;
    cancel(&setup.router.cancellations, &prompt);
    let verdict = waiting.await.expect("no panic").expect("an end");
    assert_eq!((code(&verdict), setup.entries().len()), ("request_cancelled", 2));
}

/// Takes the request back while its call is announced.
#[derive(Clone)]
struct Meanwhile(Memory, Cancellations, Prompt);

impl CallLog for Meanwhile {
    async fn append(&self, record: &Received, call: &Call) -> Result<(), LedgerError> {
        self.0.append(record, call).await?;
        if call.kind == CallKind::Started {
            cancel(&self.1, &self.2);
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_call_that_was_announced_is_not_sent_any_more() {
    let setup = Setup::new(json!([]), |_| ()).await;
    let Router { settings, providers, ledger, cancellations, budgets, streams } = setup.router.clone();
    let prompt = long_prompt();
    let log = Meanwhile(setup.log.clone(), cancellations.clone(), prompt.clone());
    let metrics = CallMetrics::register(&prometheus::Registry::new()).expect("registered once");
    let ledger = Ledgered::on(log, ledger.prices().clone().into(), metrics);
    let router = Router { settings, providers, ledger, cancellations, budgets, streams };
    let verdict = answer(&router, &record(Vec::new()), &prompt).await.expect("an end");
    assert_eq!((code(&verdict), verdict.bill.len()), ("request_cancelled", 0));
    assert_eq!(setup.entries(), ["started sim-large", "not_sent sim-large"]);
    assert_eq!(setup.server.count().requests, 0);
}
