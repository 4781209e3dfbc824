//! `millrace-stack up`: the real servers for a developer's terminal, until ctrl-C.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use millrace_stack::{Addresses, Builder, Stack, sweep};
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
Starts Apache Kafka, Apache Cassandra and the Apicurio registry on free loopback ports.

usage: millrace-stack up [--brokers 1|3] [--only kafka,cassandra,registry] [--data-dir FOLDER]
                          [--user NAME:PASSWORD]...
       millrace-stack clean      ends what a killed run left

up prints the addresses as one line of JSON, then as shell exports, and runs until ctrl-C.
--user adds a SASL listener (SCRAM-SHA-256) with access control; the first user may do anything.
example: millrace-stack up --only kafka,registry > stack.out &
         eval \"$(grep ^export stack.out)\"";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-stack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("up") => up(options(&arguments[1..])?).await,
        Some("clean") => {
            let swept = sweep()?;
            say(&format!("ended {} processes, removed {} folders", swept.processes, swept.folders))
        }
        Some("help" | "--help" | "-h") => say(HELP),
        Some(other) => bail!("no command is called {other}: choose up or clean"),
        None => bail!("say what to do: up or clean; --help shows more"),
    }
}

fn options(arguments: &[String]) -> Result<Builder> {
    let mut builder = Stack::builder();
    let mut users = Vec::new();
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let value = rest.next().with_context(|| format!("{name} needs a value"))?;
        builder = match name.as_str() {
            "--brokers" => builder.brokers(value.parse().context("--brokers is 1 or 3")?),
            "--data-dir" => builder.data_dir(value),
            "--only" => {
                let parts: Vec<&str> = value.split(',').collect();
                if let Some(unknown) = parts.iter().find(|part| !["kafka", "cassandra", "registry"].contains(part)) {
                    bail!("no part is called {unknown}: choose from kafka, cassandra, registry");
                }
                let wanted = |part| parts.contains(&part);
                builder.kafka(wanted("kafka")).cassandra(wanted("cassandra")).registry(wanted("registry"))
            }
            "--user" => {
                users.push(value.split_once(':').context("--user is NAME:PASSWORD")?);
                builder
            }
            _ => bail!("no option is called {name}: --help shows them"),
        };
    }
    Ok(builder.sasl(users))
}

async fn up(builder: Builder) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stopped = async move {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
    };
    tokio::pin!(stopped);

    eprintln!("starting; this takes about half a minute");
    let stack = tokio::select! {
        started = builder.start() => started?,
        () = &mut stopped => return Ok(()),
    };
    print_addresses(&stack.addresses())?;
    eprintln!("running; ctrl-C ends it");
    stopped.await;
    stack.stop().await
}

fn print_addresses(addresses: &Addresses) -> Result<()> {
    say(&serde_json::to_string(addresses)?)?;
    let exports = [
        ("MILLRACE_STACK_KAFKA", &addresses.bootstrap_servers),
        ("MILLRACE_STACK_KAFKA_SASL", &addresses.sasl_bootstrap_servers),
        ("MILLRACE_STACK_CASSANDRA", &addresses.cassandra),
        ("MILLRACE_STACK_REGISTRY", &addresses.registry_url),
    ];
    for (name, address) in exports {
        if let Some(address) = address {
            say(&format!("export {name}={address}"))?;
        }
    }
    Ok(())
}

/// One line on standard output; a reader that has gone is an error, not a panic.
fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
}
