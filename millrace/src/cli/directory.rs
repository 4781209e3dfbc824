//! What can be typed after `millrace plans`, `tenants`, `users`, `keys` and `endpoints`.

use clap::{Args, Subcommand};

/// Where the administrative API is, and who asks.
#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    /// Base URL of ingress.
    #[arg(long, global = true, env = "MILLRACE_URL")]
    pub url: Option<String>,
    /// The administrator's key.
    #[arg(long, global = true, env = "MILLRACE_ADMIN_KEY", hide_env_values = true)]
    pub admin_key: Option<String>,
    /// In its place a tenant's own key that is `admin`, for its users, keys and endpoints.
    #[arg(long, global = true, env = "MILLRACE_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
}

/// `millrace plans` and `millrace tenants`
#[derive(Debug, Args)]
pub struct EntriesArgs {
    #[command(flatten)]
    pub admin: AdminArgs,
    /// What to do.
    #[command(subcommand)]
    pub action: EntryAction,
}

/// `millrace users`
#[derive(Debug, Args)]
pub struct UsersArgs {
    #[command(flatten)]
    pub admin: AdminArgs,
    /// The tenant that they belong to.
    #[arg(long, global = true, env = "MILLRACE_TENANT", default_value = "")]
    pub tenant: String,
    /// What to do.
    #[command(subcommand)]
    pub action: EntryAction,
}

/// `millrace keys`
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(flatten)]
    pub admin: AdminArgs,
    /// The tenant that they belong to.
    #[arg(long, global = true, env = "MILLRACE_TENANT", default_value = "")]
    pub tenant: String,
    /// What to do.
    #[command(subcommand)]
    pub action: KeyAction,
}

/// `millrace endpoints`
#[derive(Debug, Args)]
pub struct EndpointsArgs {
    #[command(flatten)]
    pub admin: AdminArgs,
    /// The tenant that they belong to.
    #[arg(long, global = true, env = "MILLRACE_TENANT", default_value = "")]
    pub tenant: String,
    /// What to do.
    #[command(subcommand)]
    pub action: EndpointAction,
}

/// What to do with plans, tenants and users.
#[derive(Debug, Subcommand)]
pub enum EntryAction {
    /// All of them.
    List,
    /// One of them.
    Show {
        /// Its id.
        id: String,
    },
    /// Make one.
    #[command(after_help = MEMBERS)]
    Create {
        /// Its id.
        id: String,
        /// What it is: `name=Acme`, `models=a,b`, `limits.requests_per_minute=60`.
        #[arg(value_name = "MEMBER=VALUE")]
        members: Vec<String>,
    },
    /// Change what is named; an empty value takes a member away.
    #[command(after_help = MEMBERS)]
    Change {
        /// Its id.
        id: String,
        /// What changes.
        #[arg(value_name = "MEMBER=VALUE", required = true)]
        members: Vec<String>,
    },
    /// Delete it; a tenant is closed, and opened again with `change … closed_at=`.
    #[command(alias = "close")]
    Delete {
        /// Its id.
        id: String,
    },
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeyAction {
    /// All of them, without the keys themselves.
    List,
    /// One of them.
    Show {
        /// Its id.
        id: String,
    },
    /// Make one; the key is shown this once.
    #[command(after_help = MEMBERS)]
    Create {
        /// Its id, which names it in logs and usage.
        id: String,
        /// What it is: `user=web`, `admin=true`, `expires_at=2030-01-31T12:00:00Z`, `models=a,b`, `lanes=batch`.
        #[arg(value_name = "MEMBER=VALUE")]
        members: Vec<String>,
    },
    /// Change what is named; an empty value takes a member away.
    #[command(after_help = MEMBERS)]
    Change {
        /// Its id.
        id: String,
        /// What changes.
        #[arg(value_name = "MEMBER=VALUE", required = true)]
        members: Vec<String>,
    },
    /// Put a new key in its place; the old one is good for a while longer.
    Rotate {
        /// Its id.
        id: String,
        /// How long the old one is good, in seconds.
        #[arg(long, default_value_t = 24 * 60 * 60)]
        overlap_seconds: u64,
    },
    /// Refuse it from now on, everywhere.
    #[command(alias = "delete")]
    Revoke {
        /// Its id.
        id: String,
    },
}

/// What to do with webhook endpoints.
#[derive(Debug, Subcommand)]
pub enum EndpointAction {
    /// All of them, without their secrets.
    List,
    /// One of them.
    Show {
        /// Its id.
        id: String,
    },
    /// Make one; its secret is shown this once.
    #[command(after_help = MEMBERS)]
    Create {
        /// Its id, not to be used for another place later.
        id: String,
        /// What it is: `url=https://hooks.acme.example/millrace`, `events=response.completed,batch.completed`.
        #[arg(value_name = "MEMBER=VALUE", required = true)]
        members: Vec<String>,
    },
    /// Change what is named; an empty value takes a member away.
    #[command(after_help = MEMBERS)]
    Change {
        /// Its id.
        id: String,
        /// What changes.
        #[arg(value_name = "MEMBER=VALUE", required = true)]
        members: Vec<String>,
    },
    /// Put a new secret in the place of the old one; both sign for a while.
    Rotate {
        /// Its id.
        id: String,
        /// How long the old one signs, too, in seconds.
        #[arg(long, default_value_t = 24 * 60 * 60)]
        overlap_seconds: u64,
    },
    /// Tell it nothing any more; what is on its way to it fails.
    Delete {
        /// Its id.
        id: String,
    },
}

const MEMBERS: &str = "Members:
  plans      name, models, limits.*
  tenants    name, models, moderation, reply_topics, json_reply_topics, plan, limits.*, budget.*
  users      name, service, limits.*, budget.*
  keys       user, admin, expires_at, models, lanes, limits.*
  endpoints  url, events
  limits     requests_per_minute, tokens_per_minute, tokens_per_day, concurrent_requests, prompt_tokens, output_tokens
  budget     amount, currency, period";
