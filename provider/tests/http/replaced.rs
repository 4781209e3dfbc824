//! Another configuration while calls are made: what goes on, and what begins anew.

use super::*;

fn config(base_url: &str) -> Config {
    let mut config = Config::default();
    let provider = ProviderConfig { breaker_failures: 1, max_concurrency: 1, ..ProviderConfig::new(base_url) };
    config.providers.insert("sim".to_owned(), provider);
    config.models.insert("sim-small".to_owned(), ModelConfig::chat("sim", 8_000));
    config
}

fn target_of(providers: &Providers) -> Target {
    providers.target("sim-small").unwrap().clone()
}

/// Whether a place among the provider's calls is free now.
async fn has_room(providers: &Providers) -> bool {
    tokio::time::timeout(Duration::from_millis(50), target_of(providers).slot("interactive", "acme")).await.is_ok()
}

fn shown(providers: &Providers, metric: &str) -> Vec<String> {
    let registry = prometheus::Registry::new();
    providers.register(&registry).unwrap();
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    text.lines().filter(|line| line.starts_with(metric)).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_provider_that_is_reached_as_before_keeps_its_breaker_and_its_places() {
    // Nobody listens there.
    let first = Providers::new(&config("http://127.0.0.1:1/v1")).unwrap();
    chat(&target_of(&first), r#"{"model":"sim-small","messages":[]}"#, LONG).await.unwrap_err();
    assert!(target_of(&first).is_open());
    let alike = |change: &dyn Fn(&mut Config)| {
        let mut config = config("http://127.0.0.1:1/v1");
        change(&mut config);
        first.next(&config).unwrap()
    };
    let kept: [&dyn Fn(&mut Config); 4] = [
        &|_| (),
        &|config| drop(config.providers.insert("other".to_owned(), ProviderConfig::new("http://127.0.0.1:2/v1"))),
        &|config| config.providers.get_mut("sim").unwrap().timeout_ms = 7,
        &|config| config.providers.get_mut("sim").unwrap().api_key = Some(Secret::from("sk-new")),
    ];
    for change in kept {
        assert!(target_of(&alike(change)).is_open());
    }
    let anew = alike(&|config| config.providers.get_mut("sim").unwrap().base_url = "http://127.0.0.1:2/v1".to_owned());
    assert!(!target_of(&anew).is_open() && target_of(&first).is_open());
    assert_eq!(target_of(&alike(kept[2])).timeout, Duration::from_millis(7));
}

#[tokio::test]
async fn calls_on_their_way_count_as_before() {
    let first = Providers::new(&config("http://127.0.0.1:1/v1")).unwrap();
    let held = target_of(&first).slot("interactive", "acme").await;
    let mut keys = config("http://127.0.0.1:1/v1");
    keys.providers.get_mut("sim").unwrap().api_key = Some(Secret::from("sk-new"));
    let (same, keys) = (first.next(&config("http://127.0.0.1:1/v1")).unwrap(), first.next(&keys).unwrap());
    let anew = first.next(&config("http://127.0.0.1:2/v1")).unwrap();
    assert!(!has_room(&same).await && !has_room(&keys).await && has_room(&anew).await);
    drop(held);
    assert!(has_room(&same).await && has_room(&keys).await);
}

#[tokio::test]
async fn a_provider_that_goes_finishes_its_calls_and_is_shown_no_more() {
    let server = simulated(json!([{"then": {"kind": "hang", "ms": 300}}])).await;
    let first = Providers::new(&config(&server.url())).unwrap();
    let (target, metric) = (target_of(&first), "millrace_provider_concurrency_limit");
    let body = r#"{"model":"sim-small","messages":[{"role":"user","content":"hi"}]}"#;
    let calling = tokio::spawn(async move { chat(&target, body, LONG).await });
    while server.count().in_flight == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let none = first.next(&Config::default()).unwrap();
    assert_eq!(shown(&none, metric).len(), 1);
    none.forget_gone(&first);
    assert_eq!(shown(&none, metric), Vec::<String>::new());
    drop(first);
    calling.await.unwrap().unwrap();
}

#[tokio::test]
async fn other_keys_are_used_from_the_next_call_on() {
    let server = simulated(json!([])).await;
    let of_key = |name: &str| {
        let mut config = config(&server.url());
        config.providers.get_mut("sim").unwrap().api_keys = [(name.to_owned(), Secret::from("sk-1"))].into();
        config
    };
    let first = Providers::new(&of_key("one")).unwrap();
    let before = target_of(&first).slot("interactive", "acme").await;
    let next = first.next(&of_key("two")).unwrap();
    next.forget_gone(&first);
    assert_eq!(before.key_name(), Some("one"));
    drop(before);
    assert_eq!(target_of(&next).slot("interactive", "acme").await.key_name(), Some("two"));
    let wrong = first.next(&Config {
        providers: [(
            "sim".to_owned(),
            ProviderConfig { api_keys_file: Some("/nowhere".into()), ..ProviderConfig::new("http://p") },
        )]
        .into(),
        ..Config::default()
    });
    assert!(wrong.err().unwrap().to_string().contains("`providers.sim.api_keys_file`"));
}
