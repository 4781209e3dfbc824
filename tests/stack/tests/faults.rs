//! The servers start, take every fault, keep their data and leave nothing behind. Needs the parts
//! that `fetch.sh` brings.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use millrace_stack::{Part, Stack};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn accepts(address: &str) -> bool {
    TcpStream::connect(address).await.is_ok()
}

/// One HTTP request by hand, answered with its whole text.
async fn http(url: &str, method: &str, path: &str, body: &str) -> String {
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let root = url.split_once(address).unwrap().1;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} {root}{path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn three_brokers_lose_one_and_get_it_back() {
    let stack = Stack::builder()
        .brokers(3)
        .cassandra(false)
        .registry(false)
        .sasl([("admin", "admin-secret")])
        .start()
        .await
        .unwrap();
    let brokers: Vec<String> = stack.bootstrap_servers().split(',').map(str::to_owned).collect();
    assert_eq!(brokers.len(), 3);
    assert_eq!(stack.sasl_bootstrap_servers().split(',').count(), 3);
    assert!(stack.cassandra_addr().is_empty() && stack.registry_url().is_empty());

    stack.kill_broker(1).await.unwrap();
    assert!(!accepts(&brokers[1]).await);
    assert!(accepts(&brokers[0]).await && accepts(&brokers[2]).await);
    assert!(stack.sigstop(Part::Broker(1)).await.is_err(), "it is not running");

    stack.start_broker(1).await.unwrap();
    assert!(accepts(&brokers[1]).await);
    stack.start_broker(1).await.unwrap(); // running already
    assert!(stack.kill_broker(3).await.is_err(), "there is no fourth");

    // A frozen broker is ended all the same.
    stack.sigstop(Part::Broker(2)).await.unwrap();
    let folder = stack.data_dir().to_owned();
    stack.stop().await.unwrap();
    assert!(!folder.exists());
    for broker in &brokers {
        assert!(!accepts(broker).await, "{broker}");
    }
}

#[tokio::test]
async fn the_database_and_the_registry_come_back_with_their_data() {
    let data = tempfile::tempdir().unwrap();
    let start = || Stack::builder().kafka(false).data_dir(data.path()).start();
    let stack = start().await.unwrap();
    let (database, registry) = (stack.cassandra_addr(), stack.registry_url());

    let schema = r#"{"schema":"{\"type\":\"string\"}"}"#;
    let registered = http(&registry, "POST", "/subjects/a-value/versions", schema).await;
    assert!(registered.contains(r#""id":1"#), "{registered}");

    stack.stop_database().await.unwrap();
    assert!(!accepts(&database).await);
    stack.kill(Part::Registry).await.unwrap();
    stack.start_database().await.unwrap();
    stack.start_registry().await.unwrap();
    assert!(accepts(&database).await);
    assert_eq!((stack.cassandra_addr(), stack.registry_url()), (database, registry.clone()), "the ports stay");
    let subjects = http(&registry, "GET", "/subjects", "").await;
    assert!(subjects.contains("a-value"), "{subjects}");

    // Frozen, the registry accepts and does not answer; then it goes on.
    stack.sigstop(Part::Registry).await.unwrap();
    let frozen = tokio::time::timeout(Duration::from_secs(1), http(&registry, "GET", "/subjects", "")).await;
    assert!(frozen.is_err());
    stack.sigcont(Part::Registry).await.unwrap();
    assert!(http(&registry, "GET", "/subjects", "").await.contains("a-value"));
    stack.stop().await.unwrap();

    // Another stack finds the same data on other ports.
    let stack = start().await.unwrap();
    assert!(http(&stack.registry_url(), "GET", "/subjects", "").await.contains("a-value"));
    drop(stack);
    assert!(data.path().join("cassandra/server.log").exists(), "kept data stays");
}

#[tokio::test]
async fn a_dropped_stack_is_gone_and_a_start_that_fails_says_why() {
    let stack = Stack::builder().kafka(false).cassandra(false).start().await.unwrap();
    let address = stack.registry_url().split('/').nth(2).unwrap().to_owned();
    let folder = stack.data_dir().to_owned();
    drop(stack);
    assert!(!accepts(&address).await);
    assert!(!folder.exists());

    // A data folder whose log folder is a file: Kafka cannot be prepared.
    let data = tempfile::tempdir().unwrap();
    std::fs::create_dir(data.path().join("kafka-0")).unwrap();
    std::fs::write(data.path().join("kafka-0/log"), "not a folder").unwrap();
    let refused =
        Stack::builder().cassandra(false).registry(false).data_dir(data.path()).start().await.unwrap_err().to_string();
    assert!(refused.contains("Kafka broker 0") && refused.contains("its log ends"), "{refused}");
    assert!(refused.contains("kafka-0/log"), "the server's own words are in it: {refused}");
}
