//! `millrace publish`

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use millrace_config::Config;
use millrace_schemas::{Lane, Outcome, topics};
use millrace_stage::Producer;
use serde_json::json;

use crate::cli::PublishArgs;
use crate::outcomes::Follower;
use crate::publish::Publisher;
use crate::ui::progress;
use crate::wiring::{connect_codec, wait_for_kafka};

/// Publishes a file of requests, and waits for their outcomes when asked to.
pub async fn run(args: PublishArgs, config: Config, json: bool) -> anyhow::Result<()> {
    let bodies = read(&args.file)?;
    let lane = Lane::from(args.lane);
    let key = match (&args.topic, &args.key) {
        (Some(_), _) => None,
        (None, Some(key)) => Some((args.key_id.clone(), key.clone())),
        (None, None) => bail!("set MILLRACE_API_KEY to one of the tenant's keys: records on a shared topic are signed"),
    };
    let waits = args.wait || args.out.is_some();
    if waits && args.topic.is_some() {
        bail!("--wait follows the ids that are signed in; on a bound topic follow `millrace tap` instead");
    }
    wait_for_kafka(&config).await?;
    let codec = connect_codec(&config).await?;
    let mut follower = if waits { Some(Follower::start(&config, lane).await?) } else { None };
    let publisher = Publisher {
        producer: Producer::batching(&config.kafka)?,
        codec: codec.clone(),
        topic: args.topic.clone().unwrap_or_else(|| topics::of(topics::REQUESTS, lane)),
        foreign: args.topic.is_some(),
        tenant: args.tenant.clone(),
        key,
        user: args.user.clone(),
    };
    let total = bodies.len() as u64;
    let began = Instant::now();
    let bar = progress(total, "published");
    let ids = publisher.publish(bodies.into_iter(), || bar.inc(1)).await?;
    bar.finish_and_clear();
    let mut by_status = std::collections::BTreeMap::<String, u64>::new();
    if let Some(follower) = &mut follower {
        let mut out = match &args.out {
            Some(path) => {
                Some(std::fs::File::create(path).with_context(|| format!("{} can not be written", path.display()))?)
            }
            None => None,
        };
        let bar = progress(total, "outcomes");
        let expected = ids.iter().cloned().collect();
        follower
            .collect(&codec, expected, Duration::from_secs(args.timeout), |outcome, _| {
                bar.inc(1);
                *by_status.entry(outcome.status.to_string()).or_default() += 1;
                if let Some(out) = &mut out {
                    writeln!(out, "{}", line(outcome))?;
                }
                Ok(())
            })
            .await?;
        bar.finish_and_clear();
    }
    if json {
        println!(
            "{}",
            json!({ "published": total, "outcomes": by_status, "wall_seconds": began.elapsed().as_secs_f64() })
        );
    } else {
        println!("{total} requests acknowledged by the broker");
        by_status.iter().for_each(|(status, count)| println!("{count} {status}"));
    }
    Ok(())
}

/// One outcome as a line of the output file.
fn line(outcome: &Outcome) -> serde_json::Value {
    let response = outcome.response.as_deref().and_then(|r| serde_json::from_slice::<serde_json::Value>(r).ok());
    json!({
        "request_id": outcome.meta.request_id,
        "status": outcome.status.as_str(),
        "model": outcome.model,
        "response": response,
        "error": outcome.error.as_ref().map(|e| json!({ "code": e.code, "message": e.message, "param": e.param })),
        "input_tokens": outcome.input_tokens,
        "output_tokens": outcome.output_tokens,
        "charge_nanos": outcome.charge_nanos,
        "currency": outcome.currency,
    })
}

/// The requests of a file, each checked to be a JSON object before anything is published.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let reader: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(BufReader::new(
            std::fs::File::open(path).with_context(|| format!("{} can not be read", path.display()))?,
        ))
    };
    let mut bodies = Vec::new();
    for (number, line) in reader.lines().enumerate() {
        let line = line.with_context(|| format!("line {} of {}", number + 1, path.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        let value: serde_json::Value = serde_json::from_str(&line)
            .with_context(|| format!("line {} of {} is not JSON; nothing was published", number + 1, path.display()))?;
        if !value.is_object() {
            bail!("line {} of {} is no JSON object; nothing was published", number + 1, path.display());
        }
        bodies.push(line.into_bytes());
    }
    if bodies.is_empty() {
        bail!("{} holds no request", path.display());
    }
    Ok(bodies)
}
