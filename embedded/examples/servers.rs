//! The embedded servers alone, until ctrl-C: `cargo run --example servers -- DIRECTORY [KAFKA_PORT]`.
//!
//! For trying other people's clients on them; see `clients.py` beside it. Prints the addresses of
//! the broker, the registry and the vector store on one line.

use std::{error::Error, path::PathBuf};

use millrace_embedded::{Broker, Registry, Vectors};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let directory: PathBuf = arguments.next().ok_or("which directory?")?.into();
    let port = arguments.next().and_then(|port| port.to_str()?.parse().ok()).unwrap_or(0);
    let broker = Broker::start(&directory.join("broker"), port)?;
    let registry = Registry::start(&directory.join("registry"), 0)?;
    let vectors = Vectors::start(&directory.join("vectors"), 0)?;
    println!("{} {} {}", broker.bootstrap_servers(), registry.url(), vectors.url());
    tokio::signal::ctrl_c().await?;
    vectors.shutdown().await;
    registry.shutdown().await;
    broker.shutdown().await;
    Ok(())
}
