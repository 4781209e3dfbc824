//! What promises cost: the pipeline beside itself with one of them changed.

use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup};

use super::{Amounts, Measured, Row, middle, pipeline, row as beside};
use crate::cli::BenchArgs;

/// A change of the environment of every service, and what it is called.
const VARIANTS: [(&str, &[(&str, &str)]); 4] = [
    ("as it is: S = 1,024", &[]),
    ("`started` not waited for", &[("MILLRACE_OFF", "write-ahead")]),
    ("S = 10,000", &[("MILLRACE_STAGE__WINDOW", "10000")]),
    ("S = 50,000", &[("MILLRACE_STAGE__WINDOW", "50000")]),
];

/// Every variant in turn, `runs` times; the services are started anew for each.
pub async fn run(args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    let Amounts { requests, runs, warm_up } = Amounts::of(args);
    eprintln!("starting Kafka, Cassandra and the registry …");
    let stack = Stack::builder().start().await?;
    let mut pipeline = Pipeline::start(&stack, Setup::copies(1)).await?;
    eprintln!("warming up with {warm_up} records");
    pipeline::run(&pipeline, warm_up).await?;
    let mut measured: Vec<Vec<Measured>> = vec![Vec::new(); VARIANTS.len()];
    for run in 1..=runs {
        for turn in 0..VARIANTS.len() {
            // Another one begins each time: the Java servers grow faster all along.
            let variant = (turn + run as usize) % VARIANTS.len();
            let (name, env) = VARIANTS[variant];
            eprintln!("run {run} of {runs}: {name}");
            for service in pipeline.names() {
                pipeline.terminate(&service).await?;
            }
            for service in pipeline.names() {
                pipeline.restart_with(&service, env)?;
            }
            pipeline.until_ready().await?;
            // Connections, statements and caches are there when it counts.
            pipeline::run(&pipeline, requests / 4).await?;
            measured[variant].push(pipeline::run(&pipeline, requests).await?);
        }
    }
    pipeline.stop().await?;
    stack.stop().await?;
    let [base, changed @ ..] = measured.as_slice() else { return Ok(Vec::new()) };
    Ok(VARIANTS[1..].iter().zip(changed).flat_map(|((name, _), changed)| rows(name, changed, base)).collect())
}

fn rows(name: &str, changed: &[Measured], base: &[Measured]) -> Vec<Row> {
    let row = |question: &str, of: fn(&Measured) -> f64| {
        let (ours, (peer, _)) = (middle(changed.iter().map(of)), middle(base.iter().map(of)));
        beside(&format!("{name}: {question}"), ours, Some((peer, VARIANTS[0].0)), None)
    };
    vec![
        row("requests per second, whole arrow, provider 20 ms", |m| m.per_second),
        row("CPU microseconds per request, our processes", |m| m.cpu_micros),
        row("one alone over HTTP: p50 ms added to the provider", |m| m.p50_ms),
        row("peak memory MiB, our processes", |m| m.peak_mib),
    ]
}
