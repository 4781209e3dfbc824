//! One, two and four routers with few calls each and a slow provider: the rate is what their calls allow.

use std::time::Duration;

use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup};

use super::pipeline::{SHORT, burst};
use super::{Row, Target, middle, row, set_latency};
use crate::cli::BenchArgs;

const ROUTERS: [usize; 3] = [1, 2, 4];
/// Calls at once that each may have.
const CALLS: u32 = 50;
const ENV: [(&str, &str); 1] = [("MILLRACE_PROVIDERS__SIM__MAX_CONCURRENCY", "50")];
const SLOW: Duration = Duration::from_secs(1);
/// Calls one after the other in each place.
const ROUNDS: u32 = 12;
const ONE: &str = "one router, times their number";

/// Requests per second with each number of routers.
pub async fn run(args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    let (runs, rounds) = if args.quick { (1, 2) } else { (args.runs.max(1), ROUNDS) };
    let mut rates = Vec::new();
    for routers in ROUTERS {
        eprintln!("starting Kafka, Cassandra, the registry and {routers} of every service …");
        // Anew: what the ledger has booked is held against what this provider counts.
        let stack = Stack::builder().start().await?;
        let pipeline = Pipeline::start(&stack, Setup::copies(routers).env(&ENV)).await?;
        let places = CALLS * u32::try_from(routers)?;
        burst(&pipeline, places, SHORT).await?;
        set_latency(&pipeline, SLOW).await?;
        let mut measured = Vec::new();
        for run in 1..=runs {
            eprintln!("run {run} of {runs}");
            measured.push(burst(&pipeline, places * rounds, SHORT).await?.per_second);
        }
        rates.push(middle(measured.into_iter()));
        pipeline.stop().await?;
        stack.stop().await?;
    }
    let one = rates[0].0;
    Ok(ROUTERS
        .into_iter()
        .zip(rates)
        .map(|(routers, rate)| {
            let question = format!("{routers} router(s), {CALLS} calls of 1 s each: requests per second");
            let linear = (routers > 1).then_some(Target::RatioAtLeast(0.85));
            row(&question, rate, Some((one * routers as f64, ONE)), linear)
        })
        .collect())
}
