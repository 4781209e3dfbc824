//! The largest batch that there may be: a file of 50,000 lines and 200 MB, from its upload to the file of answers.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use millrace_config::Config;
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup, TENANT_KEY, millrace, run as run_tool};
use serde_json::json;

use super::pipeline::{SHORT, burst, settle};
use super::{Row, alone, usage};
use crate::cli::BenchArgs;

const LINES: u32 = 50_000;
/// All of them together, so that the file is just as large as it may be.
const BYTES: u32 = 200 * 1024 * 1024;
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// One file through `millrace batch run`.
pub async fn run(args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    let lines = if args.quick { LINES / 50 } else { LINES };
    eprintln!("starting Kafka, Cassandra, the registry and every service …");
    let stack = Stack::builder().start().await?;
    let pipeline = Pipeline::start(&stack, Setup::copies(1)).await?;
    burst(&pipeline, if args.quick { lines } else { args.warm_up }, SHORT).await?;
    let (file, out) = (pipeline.folder().join("in.jsonl"), pipeline.folder().join("out.jsonl"));
    let bytes = write(&file, lines)?;
    let paid = pipeline.count().await?["billed_calls"].as_u64().unwrap_or(0);
    let door = pipeline.pids_of("ingress");
    let before = usage::resident(&door);

    eprintln!("a batch of {lines} lines, {} MB", bytes / 1_000_000);
    let (in_file, out_file) = (file.to_str().context("UTF-8")?, out.to_str().context("UTF-8")?);
    let arguments = ["batch", "run", in_file, "--out", out_file, "--url", &pipeline.http, "--key", TENANT_KEY];
    let began = Instant::now();
    let most = watched(run_tool(millrace()?, &arguments), &door).await?;
    let seconds = began.elapsed().as_secs_f64();
    let answers = BufReader::new(std::fs::File::open(&out)?).lines().count();
    ensure!(answers == lines as usize, "{lines} lines have {answers} answers");
    let paid = pipeline.count().await?["billed_calls"].as_u64().unwrap_or(0) - paid;
    ensure!(paid == u64::from(lines), "{lines} lines were {paid} calls");
    settle(&pipeline, &Config::load(Some(&pipeline.config), std::iter::empty(), [])?).await?;
    pipeline.stop().await?;
    stack.stop().await?;
    let of = |what: &str| format!("a batch of {lines} lines, {} MB: {what}", bytes / 1_000_000);
    Ok(vec![
        alone(&of("seconds from the upload to the answers"), (seconds, 0.0), None),
        alone(&of("lines per second"), (f64::from(lines) / seconds, 0.0), None),
        alone(&of("memory MiB of the ingress, at most"), (most, 0.0), None),
        alone(&of("the same before it"), (before, 0.0), None),
    ])
}

/// The most memory of processes until something has ended, MiB.
async fn watched<T>(work: impl Future<Output = anyhow::Result<T>>, pids: &[u32]) -> anyhow::Result<f64> {
    let mut work = std::pin::pin!(work);
    let mut most = usage::resident(pids);
    loop {
        tokio::select! {
            ended = &mut work => return ended.map(|_| most),
            () = tokio::time::sleep(LOOK_EVERY) => most = most.max(usage::resident(pids)),
        }
    }
}

/// The file; how many bytes it has.
fn write(path: &Path, lines: u32) -> anyhow::Result<u64> {
    let line = |n: u32, text: &str| {
        let body = json!({ "model": "sim-small", "max_completion_tokens": 20, "messages": [{ "role": "user", "content": text }] });
        json!({ "custom_id": format!("line-{n:05}"), "method": "POST", "url": "/v1/chat/completions", "body": body })
            .to_string()
    };
    let room = (BYTES / LINES) as usize - line(0, "").len() - 1;
    let text = "word ".repeat(room / 5);
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for n in 0..lines {
        writeln!(file, "{}", line(n, &text))?;
    }
    file.flush()?;
    Ok(std::fs::metadata(path)?.len())
}
