//! What can be typed after `millrace dlq`.

use clap::{Args, Subcommand, ValueEnum};
use millrace_schemas::now_micros;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::letters::{Filter, LetterId};

/// `millrace dlq`
#[derive(Debug, Args)]
pub struct DlqArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: DlqAction,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DlqAction {
    /// What was given up, the newest last.
    #[command(after_help = "Example:\n  millrace dlq list --tenant acme --code model_not_found --since 2h")]
    List {
        /// What was done about it.
        #[arg(long, value_enum, default_value = "open")]
        state: StateArg,
        /// The newest so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// One dead letter with everything that is known of it.
    #[command(after_help = "Example:\n  millrace dlq show 3/57")]
    Show {
        /// The dead letter.
        #[arg(value_name = "PARTITION/OFFSET")]
        letter: LetterId,
    },
    /// Run it again, from the beginning, once its cause is mended. Doing it twice is one run.
    #[command(
        after_help = "Example:\n  millrace dlq redrive 3/57\n  millrace dlq redrive --all --code model_not_found --since 2h --dry-run"
    )]
    Redrive(ChoiceArgs),
    /// Nothing is to be done about it: it is listed no more, and kept until its retention is over.
    #[command(after_help = "Example:\n  millrace dlq drop 3/57\n  millrace dlq drop --all --tenant system --yes")]
    Drop {
        #[command(flatten)]
        choice: ChoiceArgs,
        /// Drop all that fit without asking.
        #[arg(long)]
        yes: bool,
    },
}

/// Which dead letters to act on.
#[derive(Debug, Args)]
pub struct ChoiceArgs {
    /// The dead letters.
    #[arg(value_name = "PARTITION/OFFSET", required_unless_present = "all", conflicts_with = "all")]
    pub letters: Vec<LetterId>,
    /// All open ones that fit the filters.
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Filters; all that are given must fit.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Stage that gave it up, such as prompt-builder.
    #[arg(long)]
    stage: Option<String>,
    /// Tenant; `system` owns what names none.
    #[arg(long)]
    tenant: Option<String>,
    /// Code of the error.
    #[arg(long)]
    code: Option<String>,
    /// Id of the failed outcome.
    #[arg(long)]
    request_id: Option<String>,
    /// Given up at or after: 15m, 2h, 3d ago, or 2030-01-31T12:00:00Z.
    #[arg(long, value_parser = instant)]
    since: Option<i64>,
    /// Given up before.
    #[arg(long, value_parser = instant)]
    until: Option<i64>,
}

impl FilterArgs {
    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        let Self { stage, tenant, code, request_id, since, until } = self;
        [stage, tenant, code, request_id].iter().all(|text| text.is_none()) && since.is_none() && until.is_none()
    }
}

impl From<FilterArgs> for Filter {
    fn from(args: FilterArgs) -> Self {
        let FilterArgs { stage, tenant, code, request_id, since, until } = args;
        Self { stage, tenant, code, request_id, since, until }
    }
}

/// What was done about a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateArg {
    /// Nothing yet.
    Open,
    /// It ran again.
    Redriven,
    /// It was dropped.
    Dropped,
    /// Anything.
    All,
}

/// An instant, or how long ago it was; microseconds since the epoch.
fn instant(text: &str) -> Result<i64, String> {
    let ago = || {
        let unit = text.chars().last()?;
        let seconds: i64 = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        let count: i64 = text.strip_suffix(unit)?.parse().ok().filter(|count| *count >= 0)?;
        Some(now_micros().saturating_sub(count.saturating_mul(seconds).saturating_mul(1_000_000)))
    };
    let named = || {
        let nanos = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
        i64::try_from(nanos / 1_000).ok()
    };
    ago().or_else(named).ok_or_else(|| "write 15m, 2h, 3d, or an instant such as 2030-01-31T12:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_named_or_so_long_ago() {
        assert_eq!(instant("1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert_eq!(instant("1970-01-01T01:00:01+01:00"), Ok(1_000_000));
        for (text, seconds) in [("30s", 30), ("15m", 900), ("2h", 7_200), ("3d", 259_200)] {
            let then = instant(text).expect("valid");
            let ago = now_micros() - then;
            assert!((0..1_000_000).contains(&(ago - seconds * 1_000_000)), "{text}: {ago}");
        }
        for bad in ["", "2", "h", "-1h", "2w", "tomorrow", "2030-01-31"] {
            assert!(instant(bad).is_err(), "{bad}");
        }
    }
}
