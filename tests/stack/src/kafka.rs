//! Apache Kafka in KRaft mode: every node is broker and controller.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::parts::KAFKA;
use crate::server::{Launch, write_file};
use crate::wire::Probe;

const CLUSTER_ID: &str = "bWlsbHJhY2Utc3RhY2stMQ";

/// Warnings, and what the broker says about its own start.
const LOGGING: [&str; 3] = [
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
];

/// The ports of one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodePorts {
    pub(crate) plain: u16,
    pub(crate) controller: u16,
    pub(crate) sasl: u16,
}

/// A user of the SASL listener, by SCRAM-SHA-256.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
}

/// How to run node `index` of the cluster.
///
/// # Errors
/// When Kafka was not fetched or its configuration cannot be written.
pub(crate) fn launch(
    folder: &Path,
    index: usize,
    nodes: &[NodePorts],
    users: &[User],
    session: Duration,
) -> Result<Launch> {
    let libs = KAFKA.locate()?.join("libs");
    let properties = write_file(folder, "server.properties", &properties(folder, index, nodes, users, session))?;

    let properties = properties.display().to_string();
    let java = |heap: &str, main: &str| -> Vec<String> {
        let classpath = format!("{}/*", libs.display());
        let mut arguments: Vec<String> =
            [heap, "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"].map(str::to_owned).into();
        arguments.extend(LOGGING.map(str::to_owned));
        arguments.extend(["-cp", &classpath, main].map(str::to_owned));
        arguments
    };
    let mut format = java("-Xmx256m", "kafka.tools.StorageTool");
    format.extend(["format", "--ignore-formatted", "-t", CLUSTER_ID, "-c", &properties].map(str::to_owned));
    for User { name, password } in users {
        format.extend(["--add-scram".to_owned(), format!("SCRAM-SHA-256=[name={name},password={password}]")]);
    }
    let mut run = java("-Xmx768m", "kafka.Kafka");
    run.push(properties);

    Ok(Launch {
        name: format!("Kafka broker {index}"),
        folder: folder.to_owned(),
        prepare: Some(format),
        arguments: run,
        port: nodes[index].plain,
        probe: Probe::Kafka { node: node_id(index) },
    })
}

/// Kafka's own number for the broker at `index`.
pub(crate) fn node_id(index: usize) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX - 1) + 1
}

fn properties(folder: &Path, index: usize, nodes: &[NodePorts], users: &[User], session: Duration) -> String {
    let NodePorts { plain, controller, sasl } = nodes[index];
    let voters: Vec<String> = nodes
        .iter()
        .enumerate()
        .map(|(index, ports)| format!("{}@127.0.0.1:{}", node_id(index), ports.controller))
        .collect();
    let replicas = nodes.len().min(3);
    let in_sync = if replicas == 3 { 2 } else { 1 };
    let sasl_listener = if users.is_empty() { String::new() } else { format!(",SASL_PLAINTEXT://127.0.0.1:{sasl}") };
    let mut text = format!(
        "process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller}{sasl_listener}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain}{sasl_listener}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={folder}/log
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=8
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=8
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
unclean.leader.election.enable=false
message.max.bytes=8388608
replica.fetch.max.bytes=8388608
num.network.threads=2
num.io.threads=4
broker.session.timeout.ms={session}
broker.heartbeat.interval.ms=1000
controlled.shutdown.enable=true
",
        id = node_id(index),
        session = session.as_millis(),
        voters = voters.join(","),
        folder = folder.display(),
    );
    if let Some(first) = users.first() {
        // The plain listener stays all-powerful: it is the test's own way in.
        text.push_str(&format!(
            "sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:ANONYMOUS;User:{}
",
            first.name
        ));
    }
    text
}
