//! A new effect without a fail point fails here: every call by which a service changes something
//! outside of itself has a point right before it and right after it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

/// Calls that change something, in the crates that services are made of.
const EFFECTS: [&str; 15] = [
    "client.send(base",         // Kafka: a record
    ".send_result(",            // Kafka: a record, by another of the binding's producers
    ".commit(&",                // Kafka: offsets
    ".commit_message(",         // Kafka: offsets
    ".commit_consumer_state(",  // Kafka: offsets
    ".send_offsets_to_",        // Kafka: offsets in a transaction
    "session.execute_unpaged(", // the database
    "session.query_unpaged(",   // the database, not prepared
    "session.batch(",           // the database
    ".create_byot(",            // a provider is paid
    ".create_stream_byot(",     // a provider is paid
    ".upsert_points(",          // Qdrant
    ".delete_points(",          // Qdrant
    ".set_payload(",            // Qdrant
    "http.execute(signed",      // an endpoint of a customer is told
];
/// Kafka producers and clients for HTTP, which are made in these files and nowhere else: what goes out
/// by them passes the points there.
const DOORS: [(&str, &[&str]); 6] = [
    ("Polled<", &["stage/src/driver/producer.rs", "stage/src/driver/polled.rs"]),
    ("BaseProducer", &["stage/src/driver/polled.rs"]),
    ("ThreadedProducer<", &[]),
    ("FutureProducer", &[]),
    ("reqwest::Client", &["provider/src", "webhooks/src/http.rs"]),
    ("hyper_util::client", &[]),
];
/// What services are made of. The binary's tools are run by hand, and an operator runs them again.
const CRATES: [&str; 13] = [
    "stage",
    "storage",
    "files",
    "provider",
    "admission",
    "ingress",
    "prompt-builder",
    "inference-router",
    "moderator",
    "result-sink",
    "webhooks",
    "cost-ledger",
    "indexer",
];
/// Done before a service starts, by `millrace storage migrate`: again until it is through.
const BEFORE_ANY_SERVICE: [&str; 1] = ["storage/src/cql/migrate.rs"];
/// How far from its effect a point may stand, in lines.
const NEAR: usize = 4;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Sources of a crate without its tests: path from the root, and text.
fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let ours = text.split("#[cfg(test)]\nmod ").next().unwrap().to_owned();
            found.push((path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), ours));
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    CRATES.iter().for_each(|name| sources(&root().join(name).join("src"), &mut found));
    assert!(found.len() > 100, "where are the sources? {}", found.len());
    found
}

/// The effects in a text that no point stands before and after: line number and line.
fn bare(text: &str) -> Vec<(usize, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    let has = |lines: &[&str], side: &str| lines.iter().any(|line| line.contains(&format!("reach(Side::{side}")));
    let is_bare = |(number, line): &(usize, &str)| {
        let code = line.split("//").next().unwrap_or_default();
        // An acknowledgement is awaited far from where the record is sent.
        let after = if code.contains("client.send(base") { 20 } else { NEAR };
        EFFECTS.iter().any(|effect| code.contains(effect))
            && !(has(&lines[number.saturating_sub(after)..*number], "Before")
                && has(&lines[*number..lines.len().min(number + after + 1)], "After"))
    };
    lines.iter().copied().enumerate().filter(is_bare).map(|(number, line)| (number + 1, line.trim())).collect()
}

#[test]
fn every_effect_has_a_point_before_and_after_it() {
    let mut effects = 0;
    for (path, text) in all_sources() {
        if BEFORE_ANY_SERVICE.contains(&path.as_str()) {
            continue;
        }
        let bare = bare(&text);
        assert!(bare.is_empty(), "{path}: no fail point before and after {bare:?}");
        effects += EFFECTS.iter().map(|effect| text.matches(effect).count()).sum::<usize>();
    }
    assert!(effects >= 8, "only {effects} effects were found: has a client's method another name?");
}

#[test]
fn records_and_requests_leave_through_the_doors_that_have_points() {
    for (path, text) in all_sources() {
        for (door, places) in DOORS {
            let elsewhere = text.contains(door) && !places.iter().any(|place| path.starts_with(place));
            assert!(!elsewhere, "{path} uses {door}: send through the places that have fail points, or add them there");
        }
    }
}

#[test]
fn an_effect_without_points_is_found() {
    let check = |text: &str, expected: usize| assert_eq!(bare(text).len(), expected, "{text}");
    check("self.client.upsert_points(upsert).await?;\n", 1);
    check("fail_point::reach(Side::Before, f);\nself.client.upsert_points(upsert).await?;\n", 1);
    let both =
        "fail_point::reach(Side::Before, f);\nc.upsert_points(upsert).await?;\nfail_point::reach(Side::After, f);\n";
    check(both, 0);
    check("// one.upsert_points(upsert)\nlet a = 1;\n", 0);
}
