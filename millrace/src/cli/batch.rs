//! What can be typed after `millrace batch`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `millrace batch`
#[derive(Debug, Args)]
pub struct BatchArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: BatchAction,
}

/// What to do with a batch.
#[derive(Debug, Subcommand)]
pub enum BatchAction {
    /// Say what a file would cost and how long it would take, and which lines are wrong. Nothing is sent.
    #[command(after_help = "Example:\n  millrace batch plan requests.jsonl --rate 50")]
    Plan {
        /// One request a line, as OpenAI's batches have them.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The tenant that would ask.
        #[arg(long, default_value = "demo")]
        tenant: String,
        /// Requests a second, for the time that it takes; else as in the last batch that was completed.
        #[arg(long, value_parser = rate)]
        rate: Option<f64>,
        #[command(flatten)]
        door: DoorArgs,
    },
    /// Upload a file and make a batch of it.
    #[command(after_help = "Example:\n  MILLRACE_API_KEY=… millrace batch run requests.jsonl --out answers.jsonl")]
    Run {
        /// One request a line, as OpenAI's batches have them.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The time it may take, such as `24h` or `30m`.
        #[arg(long, default_value = "24h")]
        window: String,
        #[command(flatten)]
        follow: FollowArgs,
        #[command(flatten)]
        door: DoorArgs,
    },
    /// How far a batch is.
    #[command(after_help = "Example:\n  MILLRACE_API_KEY=… millrace batch status batch_… --out answers.jsonl")]
    Status {
        /// The batch.
        id: String,
        #[command(flatten)]
        follow: FollowArgs,
        #[command(flatten)]
        door: DoorArgs,
    },
    /// Stop a batch. What was answered is kept.
    #[command(after_help = "Example:\n  MILLRACE_API_KEY=… millrace batch cancel batch_…")]
    Cancel {
        /// The batch.
        id: String,
        #[command(flatten)]
        door: DoorArgs,
    },
}

/// How long a batch is followed.
#[derive(Debug, Args)]
pub struct FollowArgs {
    /// Wait until it has ended.
    #[arg(long)]
    pub wait: bool,
    /// Write the answers here when it has ended (implies --wait); what failed goes beside them, as `FILE.errors`.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Where ingress is.
#[derive(Debug, Args)]
pub struct DoorArgs {
    /// Base URL of ingress.
    #[arg(long, env = "MILLRACE_URL")]
    pub url: Option<String>,
    /// The tenant's key.
    #[arg(long, env = "MILLRACE_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| "name a number above 0".to_owned())
}
