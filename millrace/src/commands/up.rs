//! `millrace up`: the stack, kept running.

use std::path::PathBuf;

use anyhow::{Context, bail};
use millrace_config::{Config, ProviderConfig, Secret, process_env};
use millrace_telemetry::shutdown_signal;
use serde_json::json;

use crate::cli::UpArgs;
use crate::endpoints::CLIENT_FILE;
use crate::stack::{Options, Stack};

/// Runs until ctrl-C, then drains.
pub async fn run(args: UpArgs, config: Option<PathBuf>, json: bool) -> anyhow::Result<()> {
    let mut telemetry = Config::load(config.as_deref(), process_env(), [])?.telemetry;
    telemetry.log_filter = std::env::var("MILLRACE_LOG")
        .unwrap_or_else(|_| "warn,librdkafka=off,rdkafka::client=off,async_openai=off".to_owned());
    let _logs = millrace_telemetry::init(&telemetry)?;
    let shutdown = shutdown_signal()?;
    let provider = provider(&args)?;
    let model = provider.as_ref().map_or_else(|| "sim-small".to_owned(), |(_, models)| models[0].clone());
    let options = Options {
        data_dir: args.data_dir.clone(),
        http_port: args.http_port,
        kafka_port: args.kafka_port,
        provider,
        config,
    };
    eprintln!("starting the embedded broker, registry, vectors, store and all services …");
    let stack = Stack::start(options, shutdown.clone()).await?;
    announce(&stack, &args, &model, json);
    shutdown.cancelled().await;
    eprintln!("draining; a second ctrl-C stops at once");
    stack.stop().await?;
    eprintln!("stopped; everything accepted is in {} and goes on at the next start", args.data_dir.display());
    Ok(())
}

fn announce(stack: &Stack, args: &UpArgs, model: &str, json: bool) {
    let kafka = &stack.wiring.config.kafka.bootstrap_servers;
    let registry = &stack.wiring.config.registry.url;
    let keys = &stack.new_keys;
    if json {
        println!(
            "{}",
            json!({
                "http": stack.http, "kafka": kafka, "registry": registry,
                "admin_key": keys.admin, "api_key": keys.tenant, "model": model,
            })
        );
        return;
    }
    println!("HTTP API         {}/v1", stack.http);
    println!("Kafka            {kafka}");
    println!("schema registry  {registry}");
    println!("data             {}", args.data_dir.display());
    println!("other commands   take --config {}", args.data_dir.join(CLIENT_FILE).display());
    if let Some(admin) = &keys.admin {
        println!("admin key        {admin}   (shown once)");
    }
    match &keys.tenant {
        Some(key) => println!("API key          {key}   (tenant demo, shown once)"),
        None => println!("API key          the one that the first start printed"),
    }
    let key = keys.tenant.as_deref().unwrap_or("$MILLRACE_API_KEY");
    println!(
        "\ncurl {}/v1/chat/completions -H 'Authorization: Bearer '{key} -H 'Content-Type: application/json' -d '{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"Say hello\"}}]}}'",
        stack.http
    );
}

/// The provider that was asked for; none for the simulated one.
fn provider(args: &UpArgs) -> anyhow::Result<Option<(ProviderConfig, Vec<String>)>> {
    let secret = |name: &str| std::env::var(name).ok().filter(|key| !key.is_empty()).map(Secret::new);
    let (url, key, default_model) = match args.provider.as_str() {
        "simulated" => return Ok(None),
        "openai" => {
            let key = secret("OPENAI_API_KEY").context("set OPENAI_API_KEY: --provider openai sends real calls")?;
            ("https://api.openai.com/v1".to_owned(), Some(key), "gpt-4o-mini")
        }
        "ollama" => ("http://127.0.0.1:11434/v1".to_owned(), None, "llama3.2"),
        url if url.starts_with("http://") || url.starts_with("https://") => {
            (url.trim_end_matches('/').to_owned(), secret("MILLRACE_PROVIDER_KEY"), "default")
        }
        other => bail!(
            "`{other}` is no provider: use simulated, openai, ollama, or a base URL such as http://127.0.0.1:8000/v1"
        ),
    };
    let models = if args.models.is_empty() { vec![default_model.to_owned()] } else { args.models.clone() };
    Ok(Some((ProviderConfig { api_key: key, ..ProviderConfig::new(url) }, models)))
}
