//! The commands, one file each.

mod backup;
mod batch;
mod completions;
mod config;
mod demo;
mod directory;
mod dlq;
mod doctor;
pub(crate) mod publish;
mod run;
mod storage;
mod tap;
mod topics;
mod up;
mod usage;
mod webhooks;

use anyhow::bail;
use millrace_config::{Config, LogFormat, TelemetryConfig};

use crate::cli::{Cli, Command, TapFormat};
use crate::endpoints;

/// Does what was typed.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { config, json, command } = cli;
    match command {
        Command::Demo(args) => {
            quiet_logs()?;
            demo::run(args, json).await
        }
        Command::Up(args) => up::run(args, config, json).await,
        Command::Run(args) => run::run(args, config.as_deref(), json).await,
        Command::Completions { .. } if json => bail!("completions are a shell's script: leave --json away"),
        Command::Completions { shell } => completions::run(shell),
        Command::Publish(args) => publish::run(args, tool_config(config.as_deref())?, json).await,
        Command::Batch(args) => batch::run(args, tool_config(config.as_deref())?, json).await,
        Command::Tap(args) if json && args.format == TapFormat::Pretty => {
            bail!("--format pretty is for people: leave it or --json away")
        }
        Command::Tap(args) => tap::run(args, tool_config(config.as_deref())?).await,
        Command::Dlq(args) => dlq::run(args, tool_config(config.as_deref())?, json).await,
        Command::Topics(args) => topics::run(args, tool_config(config.as_deref())?, json).await,
        Command::Usage(args) => usage::run(args, tool_config(config.as_deref())?, json).await,
        Command::Plans(args) => {
            directory::entries(args.admin, "plans", args.action, tool_config(config.as_deref())?, json).await
        }
        Command::Tenants(args) => {
            directory::entries(args.admin, "tenants", args.action, tool_config(config.as_deref())?, json).await
        }
        Command::Users(args) => {
            let collection = directory::of_tenant(&args.tenant, "users")?;
            directory::entries(args.admin, &collection, args.action, tool_config(config.as_deref())?, json).await
        }
        Command::Keys(args) => {
            directory::keys(args.admin, &args.tenant, args.action, tool_config(config.as_deref())?, json).await
        }
        Command::Endpoints(args) => {
            directory::endpoints(args.admin, &args.tenant, args.action, tool_config(config.as_deref())?, json).await
        }
        Command::Webhooks(args) => webhooks::run(args, tool_config(config.as_deref())?, json).await,
        Command::Config(args) => config::run(args, &tool_config(config.as_deref())?, json),
        Command::Doctor => doctor::run(tool_config(config.as_deref())?, json).await,
        Command::Backup(args) => backup::run(args, tool_config(config.as_deref())?, json).await,
        Command::Storage(args) => storage::run(args, tool_config(config.as_deref())?, json).await,
        #[cfg(feature = "harness")]
        Command::Bench(args) => {
            quiet_logs()?;
            interruptible(crate::bench::run(&args, json)).await
        }
        #[cfg(feature = "harness")]
        Command::Chaos(args) => {
            quiet_logs()?;
            interruptible(crate::chaos::run(&args, json)).await
        }
    }
}

/// Work that starts servers: dropped when a signal comes, which ends them.
#[cfg(feature = "harness")]
async fn interruptible(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let shutdown = millrace_telemetry::shutdown_signal()?;
    match shutdown.run_until_cancelled(work).await {
        Some(result) => result,
        None => bail!("interrupted; what was started is ended"),
    }
}

/// The configuration of a tool, which logs little.
fn tool_config(named: Option<&std::path::Path>) -> anyhow::Result<Config> {
    let config = endpoints::load(named)?;
    quiet_logs()?;
    Ok(config)
}

/// Logs of commands whose output is for people: errors, and what is waited for, unless MILLRACE_LOG says
/// otherwise.
fn quiet_logs() -> anyhow::Result<()> {
    let log_filter = std::env::var("MILLRACE_LOG")
        .unwrap_or_else(|_| "error,rdkafka::client=off,librdkafka=off,millrace::wiring=warn".to_owned());
    let _logs = millrace_telemetry::init(&TelemetryConfig { log_filter, log_format: LogFormat::Pretty, listen: None })?;
    Ok(())
}
