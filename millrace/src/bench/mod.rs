//! `millrace bench`: the pipeline beside a raw relay of the same hops, interleaved in one run on the
//! same real Kafka and Cassandra.

mod pipeline;
mod relay;
mod usage;

use comfy_table::Table;
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup};
use serde::Serialize;

use crate::cli::{BenchArgs, BenchQuestion};

/// What one run of one side gave.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// End to end.
    pub per_second: f64,
    /// User and system time of our own processes.
    pub cpu_micros: f64,
    /// One record at a time.
    pub p50_ms: f64,
    /// One record at a time.
    pub p99_ms: f64,
    /// Of our own processes together.
    pub peak_mib: f64,
}

/// One answer.
#[derive(Debug, Serialize)]
struct Row {
    question: String,
    ours: f64,
    peer: f64,
    peer_name: &'static str,
    ratio: f64,
    spread: f64,
    target: Option<f64>,
    met: Option<bool>,
}

/// Starts the real parts, measures, shows.
pub async fn run(args: &BenchArgs, json: bool) -> anyhow::Result<()> {
    let requests = if args.quick { args.requests.min(2000) } else { args.requests };
    let runs = if args.quick { 1 } else { args.runs.max(1) };
    eprintln!("starting Kafka, Cassandra and the registry …");
    let with_pipeline = args.question == BenchQuestion::Pipeline;
    let stack = Stack::builder().kafka(true).cassandra(with_pipeline).registry(with_pipeline).start().await?;
    let relay = relay::Relay::prepare(&stack.bootstrap_servers()).await?;
    let pipeline = if with_pipeline { Some(Pipeline::start(&stack, Setup::copies(1)).await?) } else { None };
    let warm_up = if args.quick { requests } else { args.warm_up };
    eprintln!("warming up with {warm_up} records on each side");
    relay.run(warm_up).await?;
    if let Some(pipeline) = &pipeline {
        pipeline::run(pipeline, warm_up).await?;
    }
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        eprintln!("run {run} of {runs}");
        raw.push(relay.run(requests).await?);
        if let Some(pipeline) = &pipeline {
            ours.push(pipeline::run(pipeline, requests).await?);
        }
    }
    let rows = rows(&raw, &ours);
    if let Some(pipeline) = pipeline {
        pipeline.stop().await?;
    }
    stack.stop().await?;
    if json {
        println!("{}", serde_json::to_string(&rows)?);
    } else {
        show(&rows);
    }
    Ok(())
}

fn rows(raw: &[Measured], ours: &[Measured]) -> Vec<Row> {
    let sides = |question: &str, of: fn(&Measured) -> f64, target: Option<f64>, at_least: bool| {
        let (peer, _) = middle(raw.iter().map(of));
        let (value, spread) = if ours.is_empty() { middle(raw.iter().map(of)) } else { middle(ours.iter().map(of)) };
        let ratio = if peer > 0.0 { value / peer } else { 0.0 };
        Row {
            question: question.to_owned(),
            ours: value,
            peer,
            peer_name: "raw rdkafka relay, 4 hops, 1 KB",
            ratio,
            spread,
            target,
            met: target.map(|target| if at_least { ratio >= target } else { value <= target }),
        }
    };
    let ours_too = |target: f64| (!ours.is_empty()).then_some(target);
    vec![
        sides("requests per second, whole arrow, provider 20 ms (ratio)", |m| m.per_second, ours_too(0.12), true),
        sides("CPU microseconds per request, our processes", |m| m.cpu_micros, None, true),
        sides("one alone over HTTP: p50 ms added to the provider asked directly", |m| m.p50_ms, ours_too(10.0), false),
        sides("one alone over HTTP: p99 ms added to the provider asked directly", |m| m.p99_ms, None, true),
        sides("peak memory MiB, our processes", |m| m.peak_mib, None, true),
    ]
}

/// Median, and half the distance between the extremes.
fn middle(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return (0.0, 0.0) };
    (values[values.len() / 2], (last - first) / 2.0)
}

fn show(rows: &[Row]) {
    let mut table = Table::new();
    table.set_header(["question", "ours", "±", "peer", "ratio", "target", "met"]);
    for row in rows {
        table.add_row([
            row.question.clone(),
            format!("{:.1}", row.ours),
            format!("{:.1}", row.spread),
            format!("{:.1} ({})", row.peer, row.peer_name),
            format!("{:.3}", row.ratio),
            row.target.map(|t| t.to_string()).unwrap_or_default(),
            row.met.map(|met| if met { "yes" } else { "no" }).unwrap_or_default().to_owned(),
        ]);
    }
    println!("{table}");
}
