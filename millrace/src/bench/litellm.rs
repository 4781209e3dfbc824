//! LiteLLM's proxy as another process, with the settings its documentation names for speed: no database, no
//! logging, one worker for each core.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use millrace_tests::{Process, client, run};

/// It refuses keys that are easily guessed.
pub const KEY: &str = "sk-8f1d2c7a90b34e65a1d0";

const WORKERS: &str = "2";
const READY_WITHIN: Duration = Duration::from_secs(180);

/// Starts it before the provider at `provider` (with `/v1`); its base URL comes with it.
pub async fn start(provider: &str, folder: &Path) -> anyhow::Result<(Process, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bench/peers/litellm.sh");
    let command = run(&script, &[]).await?;
    let config = folder.join("litellm.yaml");
    std::fs::write(&config, settings(provider))?;
    let port = millrace_stack::free_ports(1)?[0].to_string();
    let args = ["--config", config.to_str().context("a path in UTF-8")?, "--host", "127.0.0.1", "--port", &port];
    let args = [&args[..], &["--num_workers", WORKERS]].concat();
    let env = [("LITELLM_LOCAL_MODEL_COST_MAP", "True"), ("LITELLM_LOG", "ERROR"), ("NO_PROXY", "127.0.0.1")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let log = folder.join("litellm.log");
    let process = Process::start_binary(Path::new(command.trim()), "litellm", &args, &env, log)?;
    let url = format!("http://127.0.0.1:{port}");
    let until = Instant::now() + READY_WITHIN;
    let client = client()?;
    loop {
        let answer = client.get(format!("{url}/health/liveliness")).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok((process, url));
        }
        ensure!(Instant::now() < until, "LiteLLM is not ready after {READY_WITHIN:?}:\n{}", process.tail());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn settings(provider: &str) -> String {
    format!(
        "model_list:\n- model_name: sim-small\n  litellm_params:\n    model: openai/sim-small\n    api_base: {provider}\n    \
         api_key: none\nlitellm_settings:\n  num_retries: 0\n  request_timeout: 120\ngeneral_settings:\n  master_key: {KEY}\n"
    )
}
