//! Runs the simulated provider by itself: `serve [ADDRESS] [CONFIG.toml]`, until ctrl-C.

use std::error::Error;

use millrace_simulated_provider::{Server, SimulatedProviderConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned()).parse()?;
    let config = match arguments.next() {
        Some(file) => toml::from_str(&std::fs::read_to_string(file)?)?,
        None => SimulatedProviderConfig::default(),
    };
    let server = Server::start(config, address).await?;
    println!("{}", server.url());
    tokio::signal::ctrl_c().await?;
    server.shutdown().await?;
    Ok(())
}
