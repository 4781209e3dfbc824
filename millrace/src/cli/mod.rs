//! What can be typed.

mod batch;
mod directory;
mod dlq;
mod webhooks;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use batch::{BatchAction, BatchArgs, DoorArgs, FollowArgs};
pub use directory::{
    AdminArgs, EndpointAction, EndpointsArgs, EntriesArgs, EntryAction, KeyAction, KeysArgs, UsersArgs,
};
pub use dlq::{ChoiceArgs, DlqAction, DlqArgs, StateArg};
pub use webhooks::{WebhooksAction, WebhooksArgs};

use crate::services::Service;

/// Runs AI work as a stream on Kafka: one request in, exactly one outcome out, every call on the
/// bill exactly once.
#[derive(Debug, Parser)]
#[command(
    name = "millrace",
    version,
    propagate_version = true,
    after_help = "Example:\n  millrace demo\n  millrace up"
)]
pub struct Cli {
    /// Configuration file; else MILLRACE_CONFIG, ./millrace.toml, or that of the stack in ./millrace-data.
    #[arg(long, global = true, env = "MILLRACE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print machine-readable JSON on standard output; an error is `{"error": "…"}` on standard error.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the whole pipeline on embedded parts with a few hundred requests, and show what came out.
    #[command(after_help = "Example:\n  millrace demo --requests 500 --json")]
    Demo(DemoArgs),
    /// Keep the whole pipeline running on embedded parts, durable in a data directory.
    #[command(
        after_help = "Example:\n  millrace up --data-dir ./data --http-port 8080\n  OPENAI_API_KEY=… millrace up --provider openai"
    )]
    Up(UpArgs),
    /// Run one service against the parts that the configuration names.
    #[command(after_help = "Example:\n  millrace run inference-router --config millrace.toml")]
    Run(RunArgs),
    /// Publish requests, one JSON object a line, straight to a topic.
    #[command(
        after_help = "Example:\n  MILLRACE_API_KEY=… millrace publish --file requests.jsonl --lane batch --wait --out outcomes.jsonl"
    )]
    Publish(PublishArgs),
    /// Files of requests over HTTP, as OpenAI's batches: what they would cost, and how far they are.
    #[command(
        after_help = "Example:\n  millrace batch plan requests.jsonl\n  MILLRACE_API_KEY=… millrace batch run requests.jsonl --out answers.jsonl"
    )]
    Batch(BatchArgs),
    /// Print the records of a topic, decoded.
    #[command(after_help = "Example:\n  millrace tap outcomes.batch --format json --from-beginning --limit 10")]
    Tap(TapArgs),
    /// Records that could not be worked off: look at them, run them again, or drop them.
    #[command(after_help = "Example:\n  millrace dlq list --since 2h\n  millrace dlq redrive 3/57")]
    Dlq(DlqArgs),
    /// Make the topics, or compare them with what they should be.
    #[command(after_help = "Example:\n  millrace topics plan")]
    Topics(TopicsArgs),
    /// What a tenant used.
    #[command(after_help = "Example:\n  MILLRACE_ADMIN_KEY=… millrace usage --tenant demo")]
    Usage(UsageArgs),
    /// What several tenants may do alike.
    #[command(after_help = "Example:\n  millrace plans create gold limits.requests_per_minute=600")]
    Plans(EntriesArgs),
    /// Customers.
    #[command(after_help = "Example:\n  millrace tenants create acme name='Acme Ltd' plan=gold")]
    Tenants(EntriesArgs),
    /// Users and service accounts of a tenant.
    #[command(after_help = "Example:\n  millrace users create web --tenant acme service=true")]
    Users(UsersArgs),
    /// API keys of a tenant.
    #[command(
        after_help = "Example:\n  millrace keys create web-1 --tenant acme user=web expires_at=2030-01-31T12:00:00Z\n  millrace keys rotate web-1 --tenant acme --overlap-seconds 3600"
    )]
    Keys(KeysArgs),
    /// Webhook endpoints of a tenant.
    #[command(
        after_help = "Example:\n  millrace endpoints create main --tenant acme url=https://hooks.acme.example/millrace\n  millrace endpoints rotate main --tenant acme --overlap-seconds 3600"
    )]
    Endpoints(EndpointsArgs),
    /// Events sent to the tenants' endpoints: look at them, send them again, or try an endpoint out.
    #[command(
        after_help = "Example:\n  MILLRACE_API_KEY=… millrace webhooks list --status failed\n  millrace webhooks test --tenant acme --endpoint main"
    )]
    Webhooks(WebhooksArgs),
    /// Look at the configuration.
    #[command(after_help = "Example:\n  millrace config show --config millrace.toml")]
    Config(ConfigArgs),
    /// Check that the parts are there and set up as the promises need.
    #[command(after_help = "Example:\n  millrace doctor --config millrace.toml")]
    Doctor,
    /// Prepare the database.
    #[command(after_help = "Example:\n  millrace storage migrate --config millrace.toml")]
    Storage(StorageArgs),
    /// Keep the store and the groups' positions in a folder, and bring them back.
    #[command(after_help = "Example:\n  millrace backup create --dir backups/monday --config millrace.toml")]
    Backup(BackupArgs),
    /// Measure the pipeline beside a raw relay on real Kafka and Cassandra.
    #[cfg(feature = "harness")]
    #[command(after_help = "Example:\n  millrace bench pipeline --requests 20000")]
    Bench(BenchArgs),
    /// Play faults against the pipeline on real Kafka and Cassandra, then hold the books against the promises.
    #[cfg(feature = "harness")]
    #[command(after_help = "Example:\n  millrace chaos --requests 2000 --kills 10 --seed 1")]
    Chaos(ChaosArgs),
    /// Print a shell's completions.
    #[command(after_help = "Example:\n  millrace completions bash > /etc/bash_completion.d/millrace")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// `millrace demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How many requests are published to `requests.batch`.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests: u32,
    /// Leave the pipeline running afterwards.
    #[arg(long)]
    pub keep: bool,
}

/// `millrace up`
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Where everything durable lies.
    #[arg(long, default_value = "millrace-data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Port of the HTTP API on loopback.
    #[arg(long, default_value_t = 8080)]
    pub http_port: u16,
    /// Port of the Kafka broker on loopback.
    #[arg(long, default_value_t = 9092)]
    pub kafka_port: u16,
    /// Who answers: `simulated`, `openai` (OPENAI_API_KEY), `ollama`, or the base URL of any
    /// OpenAI-compatible server (MILLRACE_PROVIDER_KEY).
    #[arg(long, default_value = "simulated")]
    pub provider: String,
    /// Model offered with a provider of your own; may be given several times.
    #[arg(long = "model", value_name = "NAME")]
    pub models: Vec<String>,
}

/// `millrace run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The service.
    #[arg(value_enum)]
    pub service: Service,
    /// For the simulated provider: where to listen.
    #[arg(long, default_value = "127.0.0.1:8090")]
    pub listen: String,
    /// For the simulated provider: its settings and fault script (JSON).
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
}

/// The lanes, for the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LaneArg {
    /// A person waits.
    Interactive,
    /// Nobody waits.
    Batch,
}

impl From<LaneArg> for millrace_schemas::Lane {
    fn from(lane: LaneArg) -> Self {
        match lane {
            LaneArg::Interactive => Self::Interactive,
            LaneArg::Batch => Self::Batch,
        }
    }
}

/// `millrace publish`
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// One request a line: OpenAI's request body; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// The lane.
    #[arg(long, value_enum, default_value = "batch")]
    pub lane: LaneArg,
    /// Another topic that the configuration binds to a tenant; no key is needed there.
    #[arg(long)]
    pub topic: Option<String>,
    /// Tenant of the key or the token.
    #[arg(long, default_value = "demo")]
    pub tenant: String,
    /// Id of the key that signs.
    #[arg(long, default_value = "default")]
    pub key_id: String,
    /// The key.
    #[arg(long, env = "MILLRACE_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// File with a signed token (JWT) of an issuer, in place of a key; MILLRACE_TOKEN may have it, too.
    #[arg(long, value_name = "FILE", env = "MILLRACE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// User that the requests are accounted to.
    #[arg(long)]
    pub user: Option<String>,
    /// Wait until every request has its outcome.
    #[arg(long)]
    pub wait: bool,
    /// Write the outcomes here, one JSON object a line (implies --wait).
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Give up waiting after so many seconds.
    #[arg(long, default_value_t = 3600)]
    pub timeout: u64,
}

/// How `tap` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TapFormat {
    /// One JSON object a record.
    Json,
    /// Place and headers, then the value.
    Pretty,
}

/// `millrace tap`
#[derive(Debug, Args)]
pub struct TapArgs {
    /// The topic, without prefix; a customer's topic by its full name.
    pub topic: String,
    /// How to print.
    #[arg(long, value_enum, default_value = "json")]
    pub format: TapFormat,
    /// Begin with the oldest record instead of the next one.
    #[arg(long)]
    pub from_beginning: bool,
    /// End at the end of the log instead of waiting for more.
    #[arg(long)]
    pub no_follow: bool,
    /// End after so many records.
    #[arg(long)]
    pub limit: Option<u64>,
}

/// What to do with the topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TopicsAction {
    /// Show what apply would do.
    Plan,
    /// Make what is missing and set what differs.
    Apply,
    /// Fail when anything differs.
    Check,
    /// Go on with customers' own topics where an earlier generation's builders stopped.
    HandOver,
    /// Fail while the configured generation has anything left to work off.
    Drained,
}

/// `millrace topics`
#[derive(Debug, Args)]
pub struct TopicsArgs {
    /// What to do.
    #[arg(value_enum)]
    pub action: TopicsAction,
    /// Another data file than the built-in infra/kafka/topics.json.
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// For hand-over: the generation that read before; else the one before.
    #[arg(long, value_name = "GENERATION")]
    pub from: Option<u32>,
}

/// `millrace usage`
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// The tenant.
    #[arg(long)]
    pub tenant: String,
    /// Hours back from now.
    #[arg(long, default_value_t = 24 * 30)]
    pub hours: u32,
    /// Base URL of ingress.
    #[arg(long, env = "MILLRACE_URL")]
    pub url: Option<String>,
    /// The administrator's key.
    #[arg(long, env = "MILLRACE_ADMIN_KEY", hide_env_values = true)]
    pub admin_key: Option<String>,
    /// The tenant's own key.
    #[arg(long, env = "MILLRACE_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
}

/// `millrace config`
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ConfigAction,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Print what a process would use, and where each value came from.
    #[command(after_help = "Example:\n  millrace config show --config millrace.toml")]
    Show,
}

/// `millrace storage`
#[derive(Debug, Args)]
pub struct StorageArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: StorageAction,
}

/// What to do with the database.
#[derive(Debug, Subcommand)]
pub enum StorageAction {
    /// Bring the schema up to date; safe to run again.
    #[command(after_help = "Example:\n  millrace storage migrate --config millrace.toml")]
    Migrate,
}

/// `millrace backup`
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: BackupAction,
}

/// What to do with a backup.
#[derive(Debug, Subcommand)]
pub enum BackupAction {
    /// Take a backup, while everything runs.
    #[command(after_help = "Example:\n  millrace backup create --dir backups/monday --config millrace.toml")]
    Create {
        /// A new folder.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Bring a backup back into a migrated store, while no service runs. Safe to run again.
    #[command(
        after_help = "Example:\n  millrace storage migrate && millrace backup restore --dir backups/monday --config millrace.toml"
    )]
    Restore {
        /// The folder.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Only check the backup and the positions.
        #[arg(long)]
        dry_run: bool,
    },
}

/// What to measure.
#[cfg(feature = "harness")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchQuestion {
    /// The raw relay alone: the limit.
    Relay,
    /// The whole arrow beside the raw relay.
    Pipeline,
    /// The whole arrow beside one hop of Bento with a call in it.
    Bento,
    /// The HTTP door beside LiteLLM's proxy and the provider asked directly.
    Gateway,
    /// The whole arrow beside itself: `started` not waited for, and larger windows.
    Price,
    /// How soon everything flows again after a SIGKILL of each service.
    Recovery,
    /// What the services take while nothing happens, on real Kafka and embedded.
    Idle,
    /// Thousands of slow calls at once in one router.
    InFlight,
    /// Short, long and very long prompts, beside the raw relay.
    Sizes,
    /// One, two and four routers with few calls each and a slow provider.
    Routers,
    /// Up to 100,000 tenants that take turns, beside one.
    Tenants,
    /// A batch of 50,000 lines and 200 MB, from its upload to the answers.
    Batch,
    /// A backlog of fifty times `--requests`: rate and memory at its beginning, middle and end.
    Backlog,
    /// Each of the others, one after the other.
    All,
}

/// `millrace chaos`
#[cfg(feature = "harness")]
#[derive(Debug, Args)]
pub struct ChaosArgs {
    /// Requests published during the storm.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub requests: u32,
    /// Faults: kills, frozen processes, servers and providers that go away.
    #[arg(long, default_value_t = 10)]
    pub kills: u32,
    /// Decides what goes wrong and when.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Instead of a storm: every fail point, in every service, once with SIGKILL and once with SIGSTOP
    /// until its partitions have moved.
    #[arg(long, conflicts_with_all = ["requests", "kills", "brokers"])]
    pub points: bool,
    /// Of the fail points, one in so many of each service, which the seed chooses.
    #[arg(long, requires = "points", value_name = "N")]
    pub one_in: Option<usize>,
    /// Instead of a storm: every process is told to stop and started again, one after the other, while
    /// calls are slow. No call may be paid twice, and none may stay unconfirmed.
    #[arg(long, conflicts_with_all = ["requests", "kills", "points", "stack"])]
    pub rolling: bool,
    /// Instead of a storm: the servers lie on this small file system, which is filled up and cleared again.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kills", "points", "rolling", "brokers", "stack"])]
    pub full_disk: Option<PathBuf>,
    /// Begin with this `millrace` of an earlier release in every process, and replace it by this one; at the
    /// end one process of every service goes back.
    #[arg(long, requires = "rolling", value_name = "BINARY")]
    pub from: Option<PathBuf>,
    /// Kafka brokers: 1, or 3, of which one at a time is killed or frozen.
    #[arg(long, default_value_t = 1, value_parser = brokers)]
    pub brokers: usize,
    /// Separate processes on Kafka, Cassandra and a registry, or `millrace up`, which is killed.
    #[arg(long, value_enum, default_value = "real")]
    pub stack: ChaosStack,
}

#[cfg(feature = "harness")]
fn brokers(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("choose 1 or 3".to_owned()),
    }
}

/// What is put under faults.
#[cfg(feature = "harness")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ChaosStack {
    /// Two processes of every service, on real servers.
    Real,
    /// `millrace up`.
    Embedded,
}

/// `millrace bench`
#[cfg(feature = "harness")]
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[arg(value_enum)]
    pub question: BenchQuestion,
    /// Records in each run.
    #[arg(long, default_value_t = 20_000)]
    pub requests: u32,
    /// Runs of each side, interleaved.
    #[arg(long, default_value_t = 3)]
    pub runs: u32,
    /// Records that each side works off before the first run: two Java servers compile what they run often.
    #[arg(long, default_value_t = 160_000)]
    pub warm_up: u32,
    /// A small run, to see that it works.
    #[arg(long)]
    pub quick: bool,
}
