//! Pools of keys, against a provider that knows who may do what.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// The values of keys, by their names: nothing that is shown may hold one.
fn value(name: &str) -> String {
    format!("sk-secret-{name}")
}

fn write(path: &Path, names: &[&str]) {
    let lines: Vec<String> = names.iter().map(|name| format!("{name} = {}", value(name))).collect();
    std::fs::write(path, lines.join("\n")).unwrap();
}

fn pool(server: &Server, names: &[&str], file: Option<&Path>) -> Providers {
    targets(&server.url(), |provider| {
        provider.api_keys = names.iter().map(|name| ((*name).to_owned(), Secret::from(value(name)))).collect();
        provider.api_keys_file = file.map(Path::to_owned);
    })
}

/// Lets in these keys, each with what is changed of it.
async fn let_in(server: &Server, rules: &[(&str, Value)]) {
    let rule = |(name, more): &(&str, Value)| {
        let mut rule = json!({ "name": name, "key": value(name) });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule
    };
    let rules: Vec<Value> = rules.iter().map(rule).collect();
    let url = format!("http://{}/keys", server.addr());
    let answer = reqwest::Client::new().put(url).json(&rules).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// What was asked with a key: let in, refused, beyond its limit.
async fn counts(server: &Server, name: &str) -> (u64, u64, u64) {
    let all: Value = reqwest::get(format!("http://{}/keys", server.addr())).await.unwrap().json().await.unwrap();
    let of = |what: &str| all[name][what].as_u64().unwrap_or_default();
    (of("requests"), of("refused"), of("limited"))
}

/// Asks until it is answered, as the router does; how often a key was refused or limited.
async fn persist(target: Target) -> usize {
    for refused in 0..100 {
        match chat(&target, &ask(), LONG).await {
            Ok(_) => return refused,
            Err(CallError::Answered(refusal)) if refusal.of_key => {
                assert_eq!((refusal.retryable, refusal.retry_after), (true, None));
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("no key is let in");
}

fn shown(providers: &Providers) -> String {
    let registry = prometheus::Registry::new();
    providers.register(&registry).unwrap();
    prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
}

#[tokio::test]
async fn a_key_that_is_refused_or_used_up_slows_no_call() {
    let server = simulated(json!([])).await;
    let limited = json!({ "requests": 2, "window_ms": 600_000 });
    let_in(&server, &[("free", json!({})), ("limited", limited), ("revoked", json!({ "refused": 401 }))]).await;
    let providers = pool(&server, &["free", "limited", "revoked"], None);
    let target = providers.target("small").unwrap();
    let calls: Vec<_> = (0..40).map(|_| tokio::spawn(persist(target.clone()))).collect();
    let mut again = 0;
    for call in calls {
        again += call.await.unwrap();
    }
    let (free, limited, revoked) =
        (counts(&server, "free").await, counts(&server, "limited").await, counts(&server, "revoked").await);
    assert_eq!((free.0 + limited.0, limited.0), (40, 2));
    assert_eq!(again as u64, limited.2 + revoked.1, "each refusal is one call, and one more");
    // None of what is known by now is asked once more.
    for _ in 0..10 {
        assert_eq!(persist(target.clone()).await, 0);
    }
    assert_eq!((counts(&server, "limited").await, counts(&server, "revoked").await), (limited, revoked));
    let shown = shown(&providers);
    for line in [
        "millrace_provider_concurrency_limit{provider=\"sim\"} 512",
        "millrace_provider_breaker_state{provider=\"sim\"} 0",
        "millrace_provider_key_quarantined{key=\"revoked\",provider=\"sim\"} 1",
        "millrace_provider_key_quarantined{key=\"free\",provider=\"sim\"} 0",
        "millrace_provider_key_remaining{key=\"limited\",provider=\"sim\",what=\"requests\"} 0",
        &format!("millrace_provider_key_calls_total{{key=\"free\",provider=\"sim\",status=\"200\"}} {}", free.0 + 10),
        &format!("millrace_provider_key_calls_total{{key=\"revoked\",provider=\"sim\",status=\"401\"}} {}", revoked.1),
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    assert!(!shown.contains("sk-secret"), "{shown}");
}

#[tokio::test]
async fn the_provider_is_given_fewer_calls_when_no_other_key_has_room() {
    let server =
        simulated(json!([{"when": {"first": 1}, "then": {"kind": "rate_limited", "retry_after_ms": 60_000}}])).await;
    let providers = pool(&server, &["only"], None);
    let target = providers.target("small").unwrap();
    let error = chat(target, &ask(), LONG).await.unwrap_err();
    assert!(matches!(&error, CallError::Answered(refusal) if refusal.of_key), "{error:?}");
    assert!(shown(&providers).contains("millrace_provider_concurrency_limit{provider=\"sim\"} 256"));
    // A minute is too long to wait here: a fallback is asked, or the record comes back later.
    assert!(target.is_open());
    let refused = target.slot_unless_open("interactive", "acme").await.err().unwrap();
    assert!(refused.after > Duration::from_secs(30), "{refused:?}");
}

#[tokio::test]
async fn keys_come_and_go_with_their_file() {
    let server = simulated(json!([{"when": {"first": 1}, "then": {"kind": "hang", "ms": 3_000}}])).await;
    let_in(&server, &[("old", json!({})), ("new", json!({}))]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    write(&file, &["old"]);
    let providers = pool(&server, &[], Some(&file));
    let target = providers.target("small").unwrap().clone();
    let slow = tokio::spawn(persist(target.clone()));
    while counts(&server, "old").await.0 == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    write(&file, &["new"]);
    while counts(&server, "new").await.0 == 0 {
        assert_eq!(persist(target.clone()).await, 0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = counts(&server, "old").await;
    for _ in 0..10 {
        persist(target.clone()).await;
    }
    assert_eq!(counts(&server, "old").await, before, "no new call is made with it");
    assert_eq!(slow.await.unwrap(), 0, "a call that was on its way ends well");

    std::fs::write(&file, "new = sk-secret-new\nsk-secret-old").unwrap();
    let unread = "millrace_provider_keys_file_unread{provider=\"sim\"} 1";
    while !shown(&providers).contains(unread) {
        assert_eq!(persist(target.clone()).await, 0, "those before are used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!shown(&providers).contains("key=\"old\",provider=\"sim\"} "), "it has no state any more");
}

#[tokio::test]
async fn calls_wait_while_every_key_is_refused_and_go_on_with_a_new_one() {
    let server = simulated(json!([])).await;
    let_in(&server, &[("good", json!({})), ("bad", json!({ "refused": 403 }))]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    write(&file, &["bad"]);
    let providers = pool(&server, &[], Some(&file));
    let target = providers.target("small").unwrap();
    assert!(matches!(chat(target, &ask(), LONG).await, Err(CallError::Answered(refusal)) if refusal.of_key));
    assert!(target.is_open() && target.slot_unless_open("interactive", "acme").await.is_err());
    let answered = Arc::new(AtomicBool::new(false));
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let (target, answered) = (target.clone(), Arc::clone(&answered));
            tokio::spawn(async move {
                let refused = persist(target).await;
                answered.store(true, Ordering::Relaxed);
                refused
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!answered.load(Ordering::Relaxed));
    assert_eq!(counts(&server, "bad").await.1, 1, "it is not asked again and again");
    write(&file, &["good"]);
    for call in waiting {
        assert_eq!(call.await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_key_that_was_refused_is_tried_after_a_while() {
    let server = simulated(json!([])).await;
    let_in(&server, &[("back", json!({ "refused": 401 })), ("other", json!({}))]).await;
    let providers = targets(&server.url(), |provider| {
        provider.api_keys = ["back", "other"].map(|name| (name.to_owned(), Secret::from(value(name)))).into();
        provider.key_quarantine_ms = 100;
    });
    let target = providers.target("small").unwrap();
    while counts(&server, "back").await.1 < 2 {
        persist(target.clone()).await;
    }
    let_in(&server, &[("back", json!({})), ("other", json!({}))]).await;
    while counts(&server, "back").await.0 < 2 {
        persist(target.clone()).await;
    }
    assert!(shown(&providers).contains("millrace_provider_key_quarantined{key=\"back\",provider=\"sim\"} 0"));
}

#[tokio::test]
async fn what_a_provider_quotes_is_hidden() {
    let quoted = format!(r#"{{"error":{{"message":"{0} is wrong","code":"{0}"}}}}"#, value("main"));
    let (server, url) = scripted(move || (StatusCode::BAD_REQUEST, quoted.clone()).into_response()).await;
    let providers = targets(&url, |provider| {
        provider.api_keys = [("main".to_owned(), Secret::from(value("main")))].into();
    });
    let error = chat(providers.target("small").unwrap(), &ask(), LONG).await.unwrap_err();
    assert_eq!(server.seen.lock().unwrap()[0].0["authorization"], format!("Bearer {}", value("main")));
    let CallError::Answered(refusal) = error else { panic!("{error:?}") };
    assert_eq!((refusal.message.as_str(), refusal.code.as_deref()), ("*** is wrong", Some("***")));
}

#[test]
fn a_file_that_can_not_be_read_is_told_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let refused = || {
        let mut config = Config::default();
        let mut provider = ProviderConfig::new("http://127.0.0.1:9/v1");
        provider.api_keys_file = Some(file.clone());
        config.providers.insert("sim".to_owned(), provider);
        Providers::new(&config).err().unwrap().to_string()
    };
    let told = refused();
    assert!(told.contains("`providers.sim.api_keys_file`") && told.contains("can not be read"), "{told}");
    std::fs::write(&file, "sk-secret-main").unwrap();
    let told = refused();
    assert!(told.contains("line 1 is not `name = key`") && !told.contains("sk-secret"), "{told}");
}
