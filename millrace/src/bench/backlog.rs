//! A backlog that was there before the services: rate and memory at its beginning, middle and end.

use std::time::{Duration, Instant};

use anyhow::Context;
use millrace_config::Config;
use millrace_schemas::Lane;
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup};

use super::pipeline::{SHORT, burst, publish, settle};
use super::{Row, alone, usage};
use crate::cli::BenchArgs;
use crate::outcomes::Follower;

/// Records of a backlog for each that `--requests` says.
const TIMES: u32 = 50;
/// Where in the backlog, in per cent.
const PLACES: [u32; 3] = [1, 50, 99];
/// The longest that all of it may take.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// What was seen when so many had an outcome.
struct Seen {
    at: Instant,
    mib: f64,
}

/// Stops the services, publishes, starts them again.
pub async fn run(args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    let records = if args.quick { args.requests.min(2_000) } else { args.requests.saturating_mul(TIMES) };
    eprintln!("starting Kafka, Cassandra, the registry and every service …");
    let stack = Stack::builder().start().await?;
    let mut pipeline = Pipeline::start(&stack, Setup::copies(1)).await?;
    burst(&pipeline, if args.quick { records } else { args.warm_up }, SHORT).await?;
    for service in pipeline.names() {
        pipeline.terminate(&service).await?;
    }
    let config = Config::load(Some(&pipeline.config), std::iter::empty(), [])?;
    let mut follower = Follower::start(&config, Lane::Batch).await?;
    eprintln!("publishing {records} records");
    let waiting = publish(&config, records, SHORT).await?.into_iter().collect();
    for service in pipeline.names() {
        pipeline.restart(&service)?;
    }
    eprintln!("working them off");
    // A step of one per cent around each place.
    let step = (records / 100).max(1);
    let (mut count, mut seen, pids) = (0, Vec::new(), pipeline.pids());
    let look = || {
        count += 1;
        if count % step == 0 {
            seen.push(Seen { at: Instant::now(), mib: usage::resident(&pids) });
        }
    };
    follower.wait(waiting, PATIENCE, look).await?;
    settle(&pipeline, &config).await?;
    pipeline.stop().await?;
    stack.stop().await?;
    let mut rows = Vec::new();
    for place in PLACES {
        // Over five steps where there are so many: single ones jump.
        let (from, to) = (place.saturating_sub(3).max(1) as usize - 1, (place as usize + 2).min(seen.len() - 1));
        let (first, last) = seen.get(from).zip(seen.get(to)).context("a hundred steps")?;
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        let rate = f64::from(step) * (to - from) as f64 / seconds;
        rows.push(alone(&format!("{records} records waiting, {place} %: requests per second"), (rate, 0.0), None));
        rows.push(alone(&format!("{records} records waiting, {place} %: memory MiB"), (last.mib, 0.0), None));
    }
    Ok(rows)
}
