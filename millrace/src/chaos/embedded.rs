//! `millrace up`, killed again and again.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use millrace_config::{Config, StorageConfig};
use millrace_schemas::now_micros;
use millrace_storage::Storage;
use millrace_tests::Process;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::evidence::{Books, Evidence, Topics, provider_calls};
use super::load::{Tenant, publish};
use super::storm::Storm;
use super::verdict::{Verdict, judge};
use super::{DRAIN, LOOK, spoil};
use crate::cli::ChaosArgs;
use crate::endpoints::CLIENT_FILE;
use crate::stack::TENANT;
use crate::wiring::connect_codec;

/// Time from one kill to the next, of which a start takes some.
const GAP_MS: std::ops::Range<u64> = 8_000..16_000;
/// So that sums are worth comparing.
const PRICES: &str = "version = \"chaos\"\ncurrency = \"USD\"\n\n[[price]]\nprovider = \"provider\"\n\
    model = \"sim-small\"\neffective_from = 2020-01-01\ninput_per_million = 150000000\noutput_per_million = 600000000\n";

/// Plays and judges. The provider is a process of its own, so that its count survives.
pub async fn run(args: &ChaosArgs) -> anyhow::Result<Verdict> {
    let folder = tempfile::Builder::new().prefix("millrace-chaos-").tempdir()?;
    let listen = ["run", "simulated-provider", "--listen", "127.0.0.1:0"];
    let mut provider_process = Process::start("simulated-provider", &listen, folder.path().join("provider.log"))?;
    let provider_url = provider_process.line("http://").await?;
    let provider = provider_url.trim_end_matches("/v1").to_owned();
    spoil(&provider, args.seed).await?;

    let data = folder.path().join("data");
    std::fs::create_dir(&data)?;
    std::fs::write(data.join("prices.toml"), PRICES)?;
    let port = millrace_stack::free_ports(1)?[0].to_string();
    let up = Up { data: &data, port: &port, provider: &provider_url };
    let (mut process, said) = up.start().await?;
    let key = said["api_key"].as_str().context("the first start gives a key")?.to_owned();

    let mut dice = StdRng::seed_from_u64(args.seed);
    let gaps: Vec<u64> = (0..args.kills).map(|_| dice.random_range(GAP_MS)).collect();
    let length = Duration::from_millis(gaps.iter().sum());
    let tenant = Tenant { id: TENANT.to_owned(), key };
    let publishing = tokio::spawn(publish(up.config()?, tenant, args.requests, length));
    let mut losses = Vec::new();
    for gap in gaps {
        tokio::time::sleep(Duration::from_millis(gap)).await;
        losses.push(now_micros());
        process.kill().await?;
        eprintln!("killed");
        (process, _) = up.start().await?;
    }
    let storm = Storm { accepted: publishing.await??, losses, ..Storm::default() };
    eprintln!("the storm is over, waiting until the books close");
    let (process, evidence) = gather(&up, process, &provider, &storm).await?;
    let verdict = judge(&evidence, &storm);
    if !verdict.broken.is_empty() {
        eprintln!("{}", process.map(|p| p.tail()).unwrap_or_default());
    }
    provider_process.terminate().await?;
    Ok(verdict)
}

/// How `up` is started, the same each time.
struct Up<'a> {
    data: &'a Path,
    port: &'a str,
    provider: &'a str,
}

impl Up<'_> {
    async fn start(&self) -> anyhow::Result<(Process, Value)> {
        let data = self.data.to_str().context("a path in UTF-8")?;
        let args = ["up", "--data-dir", data, "--http-port", "0", "--kafka-port", self.port];
        let provider = ["--provider", self.provider, "--model", "sim-small", "--json"];
        let env = [("MILLRACE_LEDGER__GRACE_MS", "3000"), ("MILLRACE_LOG", "warn,millrace_stage=info,librdkafka=off")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let log = self.data.with_extension(format!("{}.log", now_micros()));
        let mut process = Process::start_with("up", &[&args[..], &provider].concat(), &env, log)?;
        let said = serde_json::from_str(&process.line("{").await?)?;
        Ok((process, said))
    }

    fn config(&self) -> anyhow::Result<Config> {
        Ok(Config::load(Some(&self.data.join(CLIENT_FILE)), std::iter::empty(), [])?)
    }
}

/// Reads the topics while the broker runs, and the store once it is free.
async fn gather(
    up: &Up<'_>,
    mut process: Process,
    provider: &str,
    storm: &Storm,
) -> anyhow::Result<(Option<Process>, Evidence)> {
    let until = Instant::now() + DRAIN;
    loop {
        let config = up.config()?;
        let codec = connect_codec(&config).await?;
        let mut topics = Topics::read(&config, &codec).await?;
        while !topics.is_closed(&storm.accepted) && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
            topics = Topics::read(&config, &codec).await?;
        }
        // The sink and the ledger read on for a moment.
        tokio::time::sleep(LOOK).await;
        process.terminate().await?;
        let calls = provider_calls(provider).await?;
        let books = {
            let storage = Storage::open(&StorageConfig::Embedded { path: up.data.join("store") }).await?;
            Books::read(&storage, TENANT, &storm.accepted, &topics).await?
        };
        let evidence = Evidence { topics, books, provider: calls, documents: HashSet::new() };
        if evidence.is_closed(storm) || Instant::now() >= until {
            return Ok((None, evidence));
        }
        (process, _) = up.start().await?;
    }
}
