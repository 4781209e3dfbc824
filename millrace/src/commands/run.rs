//! `millrace run`: one service until it is told to stop.

use std::path::Path;

use anyhow::Context;
use millrace_config::{Config, LogFormat, OF_ENDPOINTS, Snapshot, TelemetryConfig, process_env};
use millrace_schemas::Lane;
use millrace_simulated_provider::SimulatedProviderConfig;
use millrace_telemetry::{Readiness, shutdown_signal};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::RunArgs;
use crate::reload::{Hangups, Load, Reloader, TakeUp};
use crate::services::Service;
use crate::wiring::{Metrics, Wiring, watch};

/// Runs a service; every lane of it where it has lanes. With `json` its log lines are JSON, whatever
/// the configuration says.
pub async fn run(args: RunArgs, config: Option<&Path>, json: bool) -> anyhow::Result<()> {
    if args.service == Service::SimulatedProvider {
        return simulated_provider(&args, json).await;
    }
    let service = args.service;
    let path = config.map(Path::to_owned);
    let hangups = path.as_ref().map(|_| Hangups::listen()).transpose()?;
    let read: Load = Box::new(move || load(service, path.as_deref()));
    let mut config = read()?;
    let used = Snapshot::of(&config);
    let version = used.version().to_owned();
    log_in_json(&mut config.telemetry, json);
    let _logs = millrace_telemetry::init(&config.telemetry)?;
    let shutdown = shutdown_signal()?;
    let after = CancellationToken::new();
    let (metrics, readiness) = (Metrics::register()?, Readiness::new());
    metrics.config.uses(&version);
    watch(config.telemetry.listen.as_deref(), &metrics, &readiness, &after).await?;
    let lanes = lanes(args.service, &config)?;
    let Some(wiring) = Wiring::connect(config, &[args.service], (metrics, readiness), shutdown).await? else {
        tracing::info!(service = args.service.name(), "service was stopped before it began");
        return Ok(());
    };
    tracing::info!(service = args.service.name(), version, "service starts");
    if let Some(hangups) = hangups {
        let parts = wiring.clone();
        let take_up: TakeUp = Box::new(move |config| parts.take_up(config));
        let reloader = Reloader::new(used, read, take_up, wiring.metrics.config.clone());
        let reloader = if service == Service::Ingress { reloader.after_the_others() } else { reloader };
        tokio::spawn(reloader.keep_up(hangups, wiring.shutdown.clone()));
    }
    let result = serve(&wiring, args.service, lanes).await;
    after.cancel();
    tracing::info!(service = args.service.name(), "service stopped");
    result
}

async fn serve(wiring: &Wiring, service: Service, lanes: Vec<Lane>) -> anyhow::Result<()> {
    if service == Service::Ingress {
        let listen = &wiring.config.ingress.listen;
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("ingress.listen `{listen}` is taken"))?;
        return wiring.run_ingress(listener).await;
    }
    let mut loops = JoinSet::new();
    for lane in lanes {
        let (wiring, env) = (wiring.clone(), wiring.stage_env(service, lane));
        loops.spawn(async move { wiring.run_stage(service, lane, env).await });
    }
    let mut result = Ok(());
    while let Some(ended) = loops.join_next().await {
        let ended = ended.context("a loop panicked").and_then(|ended| ended);
        // One lane that can not go on ends the process: whoever supervises it starts it again.
        if ended.is_err() && result.is_ok() {
            result = ended;
            wiring.shutdown.cancel();
        }
    }
    result
}

/// Only services that pay hold the providers' keys, and only the service webhooks what events are signed with; but the
/// ingress shows the secrets of new endpoints, so it has what they are derived from.
fn load(service: Service, config: Option<&Path>) -> anyhow::Result<Config> {
    let withheld: &[&str] = match service {
        Service::PromptBuilder | Service::InferenceRouter | Service::Indexer => &["webhooks"],
        Service::Webhooks => &["providers"],
        Service::Ingress => &["providers", OF_ENDPOINTS],
        Service::Moderator | Service::ResultSink | Service::CostLedger | Service::SimulatedProvider => {
            &["providers", "webhooks"]
        }
    };
    Ok(Config::load_withholding(config, process_env(), [], withheld)?)
}

fn lanes(service: Service, config: &Config) -> anyhow::Result<Vec<Lane>> {
    if !service.has_lanes() {
        return Ok(vec![Lane::Batch]);
    }
    config.stage.lanes.iter().map(|lane| lane.parse().map_err(anyhow::Error::msg)).collect()
}

fn log_in_json(telemetry: &mut TelemetryConfig, json: bool) {
    if json {
        telemetry.log_format = LogFormat::Json;
    }
}

async fn simulated_provider(args: &RunArgs, json: bool) -> anyhow::Result<()> {
    let mut telemetry = TelemetryConfig::default();
    log_in_json(&mut telemetry, json);
    let _logs = millrace_telemetry::init(&telemetry)?;
    let config = match &args.script {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("{} can not be read", path.display()))?;
            serde_json::from_str(&text).with_context(|| format!("{} is no provider script", path.display()))?
        }
        None => SimulatedProviderConfig::default(),
    };
    let listener = TcpListener::bind(&args.listen).await.with_context(|| format!("`{}` is taken", args.listen))?;
    let url = format!("http://{}/v1", listener.local_addr()?);
    if json {
        println!("{}", serde_json::json!({ "url": url }));
    } else {
        println!("{url}");
    }
    let shutdown = shutdown_signal()?;
    Ok(millrace_simulated_provider::run(listener, config, shutdown).await?)
}
