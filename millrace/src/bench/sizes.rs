//! Short, long and very long prompts, beside the raw relay with records of the same size.

use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup};

use super::pipeline::{SHORT, burst};
use super::relay::Relay;
use super::{Amounts, Row, alone, middle, row};
use crate::cli::BenchArgs;

/// Bytes of a record, what they are called, and how many times fewer there are of them.
const SIZES: [(usize, &str, u32); 3] = [(1_024, "1 KB", 1), (16_384, "16 KB", 4), (204_800, "200 KB", 40)];

const PEER: &str = "raw rdkafka relay, 4 hops";

/// Requests per second of each size.
pub async fn run(args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    let Amounts { requests, runs, warm_up } = Amounts::of(args);
    eprintln!("starting Kafka, Cassandra, the registry and every service …");
    let stack = Stack::builder().start().await?;
    let relay = Relay::prepare(&stack.bootstrap_servers()).await?;
    let pipeline = Pipeline::start(&stack, Setup::copies(1)).await?;
    eprintln!("warming up with {warm_up} records on each side");
    relay.run(warm_up, SIZES[0].0).await?;
    burst(&pipeline, warm_up, SHORT).await?;
    let mut measured = [const { Vec::new() }; SIZES.len()];
    for run in 1..=runs {
        for (at, (bytes, name, fewer)) in SIZES.into_iter().enumerate() {
            eprintln!("run {run} of {runs}: {name}");
            let raw = relay.run(requests / fewer, bytes).await?;
            // What is around the prompt has about a hundred bytes.
            measured[at].push((burst(&pipeline, requests / fewer, bytes - 124).await?, raw));
        }
    }
    pipeline.stop().await?;
    stack.stop().await?;
    let rows = SIZES.into_iter().zip(measured).flat_map(|((bytes, name, _), runs)| {
        let rate = middle(runs.iter().map(|(ours, _)| ours.per_second));
        let megabytes = (rate.0 * bytes as f64 / 1e6, rate.1 * bytes as f64 / 1e6);
        let cpu = middle(runs.iter().map(|(ours, _)| ours.cpu_micros));
        let raw = |of: fn(&super::Measured) -> f64| Some((middle(runs.iter().map(|(_, raw)| of(raw))).0, PEER));
        vec![
            row(&format!("{name}: requests per second"), rate, raw(|raw| raw.per_second), None),
            alone(&format!("{name}: megabytes of prompts per second"), megabytes, None),
            row(&format!("{name}: CPU microseconds per request, our processes"), cpu, raw(|raw| raw.cpu_micros), None),
        ]
    });
    Ok(rows.collect())
}
