//! Apache Cassandra, one node: the CQL peer of ScyllaDB.

use std::path::Path;

use anyhow::Result;

use crate::parts::CASSANDRA;
use crate::server::{Launch, write_file};
use crate::wire::Probe;

/// How to run the node.
///
/// # Errors
/// When Cassandra was not fetched or its configuration cannot be written.
pub(crate) fn launch(folder: &Path, port: u16, storage_port: u16, synced: bool) -> Result<Launch> {
    let libs = CASSANDRA.locate()?.join("libs");
    let yaml = write_file(folder, "cassandra.yaml", &yaml(folder, port, storage_port, synced))?;
    let logback = write_file(folder, "logback.xml", include_str!("../cassandra/logback.xml"))?;

    let mut run: Vec<String> =
        ["-Xms512m", "-Xmx1g", "-Xss512k", "-XX:+UseG1GC", "-XX:+ExitOnOutOfMemoryError"].map(str::to_owned).into();
    run.extend(include_str!("../cassandra/jvm17.options").split_whitespace().map(str::to_owned));
    run.extend([
        "-Djdk.attach.allowAttachSelf=true".to_owned(),
        "-Djava.awt.headless=true".to_owned(),
        format!("-Dcassandra.config=file://{}", yaml.display()),
        format!("-Dcassandra.storagedir={}/data", folder.display()),
        format!("-Dlogback.configurationFile={}", logback.display()),
        // One node has nobody to wait for.
        "-Dcassandra.ring_delay_ms=100".to_owned(),
        "-Dcassandra.skip_wait_for_gossip_to_settle=0".to_owned(),
        "-cp".to_owned(),
        format!("{}/*", libs.display()),
        "org.apache.cassandra.service.CassandraDaemon".to_owned(),
    ]);

    Ok(Launch {
        name: "Cassandra".to_owned(),
        folder: folder.to_owned(),
        prepare: None,
        arguments: run,
        port,
        probe: Probe::Cql,
    })
}

fn yaml(folder: &Path, port: u16, storage_port: u16, synced: bool) -> String {
    // Periodic is the default. One that is killed then forgets what it acknowledged in the last 100 ms: what it
    // replays ends at a marker (CASSANDRA-13987).
    let sync = if synced { "batch" } else { "periodic\ncommitlog_sync_period: 10000ms" };
    // The time-outs are above the defaults: a CI machine with two busy cores is no reason to fail.
    format!(
        "cluster_name: millrace-stack
num_tokens: 1
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
commitlog_sync: {sync}
commitlog_directory: {folder}/data/commitlog
data_file_directories:
  - {folder}/data/data
saved_caches_directory: {folder}/data/saved_caches
hints_directory: {folder}/data/hints
cdc_raw_directory: {folder}/data/cdc_raw
listen_address: 127.0.0.1
storage_port: {storage_port}
rpc_address: 127.0.0.1
native_transport_port: {port}
start_native_transport: true
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: \"127.0.0.1:{storage_port}\"
auto_bootstrap: false
auto_snapshot: false
read_request_timeout: 10000ms
write_request_timeout: 10000ms
cas_contention_timeout: 5000ms
range_request_timeout: 20000ms
request_timeout: 20000ms
",
        folder = folder.display(),
    )
}
