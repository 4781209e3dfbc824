//! A process that is told to stop once, and one that is told twice. The test starts itself again as
//! that process.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

const ROLE: &str = "MILLRACE_TEST_SHUTDOWN_ROLE";

/// Not a test of its own: the process under test, when the tests below start it.
#[test]
fn process_under_test() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let token = millrace_telemetry::shutdown_signal().unwrap();
        println!("waiting");
        token.cancelled().await;
        println!("draining");
        if role == "never drains" {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    });
}

fn start(role: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process_under_test", "--nocapture"])
        .env(ROLE, role)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    wait_for(&mut lines, "waiting");
    (child, lines)
}

fn wait_for(lines: &mut BufReader<ChildStdout>, text: &str) {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the process ended before `{text}`");
    }
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn the_first_signal_lets_it_drain() {
    for signal in ["-INT", "-TERM"] {
        let (mut child, mut lines) = start("drains");
        send(signal, &child);
        wait_for(&mut lines, "draining");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn the_second_signal_ends_it_at_once() {
    let (mut child, mut lines) = start("never drains");
    send("-TERM", &child);
    wait_for(&mut lines, "draining");
    send("-INT", &child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("second signal"), "{said}");
}
