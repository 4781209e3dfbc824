//! What can be typed after `millrace webhooks`.

use clap::{Args, Subcommand, ValueEnum};

/// `millrace webhooks`
#[derive(Debug, Args)]
pub struct WebhooksArgs {
    /// Base URL of ingress.
    #[arg(long, global = true, env = "MILLRACE_URL")]
    pub url: Option<String>,
    /// A key of the tenant with `admin = true`.
    #[arg(long, global = true, env = "MILLRACE_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub action: WebhooksAction,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeliveryState {
    /// To be sent, or tried again.
    Pending,
    /// Taken by the endpoint.
    Delivered,
    /// Given up.
    Failed,
}

impl DeliveryState {
    /// As the API calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// What to do with webhooks.
#[derive(Debug, Subcommand)]
pub enum WebhooksAction {
    /// List deliveries, the newest first.
    #[command(after_help = "Example:\n  MILLRACE_API_KEY=… millrace webhooks list --status failed --limit 50")]
    List {
        /// Only those of this endpoint.
        #[arg(long)]
        endpoint: Option<String>,
        /// Only those that stand so.
        #[arg(long, value_enum)]
        status: Option<DeliveryState>,
        /// Go on after this delivery.
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// How many.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
    /// Show a delivery with its payload and its latest attempts.
    #[command(after_help = "Example:\n  MILLRACE_API_KEY=… millrace webhooks show wh_…")]
    Show {
        /// Its id, as in the header `webhook-id`.
        id: String,
    },
    /// Send events again, whatever became of them.
    #[command(after_help = "Example:\n  MILLRACE_API_KEY=… millrace webhooks resend wh_…")]
    Resend {
        /// Their ids.
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Send a signed event of the type `webhook.test` from here, once, and print the answer.
    #[command(after_help = "Example:\n  millrace webhooks test --tenant acme --endpoint main --config millrace.toml")]
    Test {
        /// The tenant.
        #[arg(long, default_value = "demo")]
        tenant: String,
        /// The endpoint's id.
        #[arg(long)]
        endpoint: String,
    },
}
