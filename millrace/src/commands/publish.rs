//! `millrace publish`

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use millrace_config::Config;
use millrace_issuers::is_token;
use millrace_schemas::{Lane, Outcome, topics};
use millrace_stage::Producer;
use serde_json::json;

use crate::cli::PublishArgs;
use crate::outcomes::Follower;
use crate::publish::{Proof, Publisher};
use crate::ui::progress;
use crate::wiring::{connect_codec, wait_for_kafka};

/// Has a signed token. There is no option for it: who looks at the processes sees their arguments.
const TOKEN: &str = "MILLRACE_TOKEN";

/// Publishes a file of requests, and waits for their outcomes when asked to.
pub async fn run(args: PublishArgs, config: Config, json: bool) -> anyhow::Result<()> {
    let bodies = read(&args.file)?;
    let lane = Lane::from(args.lane);
    let proof = proof(&args, std::env::var(TOKEN).ok())?;
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
        proof,
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

/// What proves to the builder who publishes.
fn proof(args: &PublishArgs, token: Option<String>) -> anyhow::Result<Proof> {
    if args.topic.is_some() {
        return Ok(Proof::Topic);
    }
    let in_file = args
        .token_file
        .as_deref()
        .map(|path| std::fs::read_to_string(path).with_context(|| format!("{} can not be read", path.display())));
    let (token, whence) = match (in_file.transpose()?, token) {
        (Some(token), _) => (Some(token), "the file of --token-file"),
        (None, token) => (token, TOKEN),
    };
    match (token, &args.key) {
        (Some(_), Some(_)) => {
            bail!("both a token ({whence}) and a key (MILLRACE_API_KEY or --key) are given: leave one of them out")
        }
        (Some(token), None) => match token.trim() {
            token if is_token(token) => Ok(Proof::Token(token.to_owned())),
            _ => bail!("{whence} has no signed token: a JWT, as an issuer of `issuers` signs them"),
        },
        (None, Some(key)) => Ok(Proof::Key { id: args.key_id.clone(), key: key.clone() }),
        (None, None) => bail!(
            "set MILLRACE_API_KEY to one of the tenant's keys, or {TOKEN} to a signed token: records on a shared topic say \
             who publishes them"
        ),
    }
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    const JWT: &str = "eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJ4In0.c2ln";

    #[test]
    fn a_key_or_a_token_says_who_publishes() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("written");
            path.to_str().expect("UTF-8").to_owned()
        };
        let (good, bad) = (file("good", &format!("{JWT}\n")), file("bad", "mr_key"));
        let check = |args: &[&str], token: Option<&str>, expected: &str| {
            let all = [&["millrace", "publish", "--file", "-"][..], args].concat();
            let Command::Publish(mut args) = Cli::parse_from(all).command else { panic!("another command") };
            // What the machine has in its environment is not meant.
            args.key = args.key.filter(|key| key == "mr_key");
            let said = match proof(&args, token.map(str::to_owned)) {
                Ok(Proof::Topic) => "topic".to_owned(),
                Ok(Proof::Key { id, key }) => format!("{id} {key}"),
                Ok(Proof::Token(token)) => token,
                Err(error) => format!("{error:#}"),
            };
            assert!(said.contains(expected), "{said}");
        };
        check(&["--key", "mr_key", "--key-id", "k"], None, "k mr_key");
        check(&[], Some(JWT), JWT);
        check(&["--token-file", &good], None, JWT);
        check(&["--token-file", &good], Some("what the file has counts"), JWT);
        check(&["--topic", "acme.requests"], Some(JWT), "topic");
        check(&[], None, "MILLRACE_API_KEY");
        check(&["--key", "mr_key"], Some(JWT), "leave one of them out");
        check(&["--token-file", &bad], None, "--token-file has no signed token");
        check(&[], Some("mr_key"), "MILLRACE_TOKEN has no signed token");
        check(&["--token-file", "/nowhere/token"], None, "/nowhere/token can not be read");
    }
}
