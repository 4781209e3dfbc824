//! LiteLLM's proxy as another process, with the settings its documentation names for speed: no database, no
//! logging, one worker for each core.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use millrace_tests::{Process, client, run};

use super::usage;

/// It refuses keys that are easily guessed.
pub const KEY: &str = "sk-8f1d2c7a90b34e65a1d0";

const WORKERS: &str = "2";
const READY_WITHIN: Duration = Duration::from_secs(180);

/// The proxy while it runs. It ends with all its workers, which outlive a parent that was killed.
pub struct Proxy {
    /// Its base URL.
    pub url: String,
    process: Option<Process>,
}

impl Proxy {
    /// Its processes.
    pub fn pids(&self) -> Vec<u32> {
        self.process.as_ref().and_then(Process::pid).map(usage::tree).unwrap_or_default()
    }

    /// Ends it in good order.
    pub async fn terminate(mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(process) => process.terminate().await,
            None => Ok(()),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for pid in self.pids() {
            // One that has ended meanwhile needs no signal.
            let _ended = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).output();
        }
    }
}

/// Starts it before the provider at `provider` (with `/v1`).
pub async fn start(provider: &str, folder: &Path) -> anyhow::Result<Proxy> {
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
    let proxy = Proxy { url: format!("http://127.0.0.1:{port}"), process: Some(process) };
    let until = Instant::now() + READY_WITHIN;
    let client = client()?;
    loop {
        let answer = client.get(format!("{}/health/liveliness", proxy.url)).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(proxy);
        }
        let tail = || proxy.process.as_ref().map(Process::tail).unwrap_or_default();
        ensure!(Instant::now() < until, "LiteLLM is not ready after {READY_WITHIN:?}:\n{}", tail());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn settings(provider: &str) -> String {
    format!(
        "model_list:\n- model_name: sim-small\n  litellm_params:\n    model: openai/sim-small\n    api_base: {provider}\n    \
         api_key: none\nlitellm_settings:\n  num_retries: 0\n  request_timeout: 120\ngeneral_settings:\n  master_key: {KEY}\n"
    )
}
