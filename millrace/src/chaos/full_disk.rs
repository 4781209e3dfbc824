//! A disk that fills up under the broker, the database and the registry, and is cleared again.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use millrace_config::Config;
use millrace_schemas::now_micros;
use millrace_stack::{Part, Stack};
use millrace_stage::fetch_metadata;
use millrace_tests::{Pipeline, Setup, State, TENANT_KEY};

use super::load::{TENANT, Tenant, publish};
use super::real::{COPIES, ENV, gather};
use super::storm::Storm;
use super::verdict::{Verdict, judge};
use crate::cli::ChaosArgs;

/// A larger file system is not filled up.
const MOST: u64 = 4 << 30;
/// Requests are published for so long; the disk is full in the middle of it.
const LENGTH: Duration = Duration::from_secs(50);
const BEFORE: Duration = Duration::from_secs(10);
const FULL: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(3);

/// Plays and judges. `disk` is a small file system of its own.
pub async fn run(args: &ChaosArgs, disk: &Path) -> anyhow::Result<Verdict> {
    let free = free_bytes(disk)?;
    ensure!(
        free <= MOST,
        "{} has {} MiB free: name a small file system of its own, such as one of `mount -t tmpfs -o size=1500m tmpfs DIR`",
        disk.display(),
        free >> 20
    );
    eprintln!(
        "starting Kafka, Cassandra and the registry on {}, and {COPIES} processes of every service …",
        disk.display()
    );
    let stack = Stack::builder().data_dir(disk.join("stack")).synced().start().await?;
    let mut pipeline = Pipeline::start(&stack, Setup::copies(COPIES).env(&ENV)).await?;
    let config = Config::load(Some(&pipeline.config), std::iter::empty(), [])?;
    let tenant = Tenant { id: TENANT.to_owned(), key: TENANT_KEY.to_owned() };
    let brokers = config.kafka.clone();
    let publishing = tokio::spawn(publish(config, tenant, args.requests, LENGTH));
    tokio::time::sleep(BEFORE).await;

    let mut filler = Filler::new(disk.join("filler"))?;
    let mut losses = vec![now_micros()];
    let until = tokio::time::Instant::now() + FULL;
    while tokio::time::Instant::now() < until {
        // What is freed meanwhile is filled up, too.
        let (back, written) = tokio::task::spawn_blocking(move || filler.fill()).await??;
        filler = back;
        if written > 0 {
            eprintln!("the disk is full: {} MiB more are taken", written >> 20);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let answers = tokio::task::spawn_blocking(move || fetch_metadata(&brokers, ANSWER).is_ok()).await?;
    eprintln!("meanwhile Kafka {}", if answers { "answers, and takes nothing" } else { "has ended" });
    filler.remove()?;
    eprintln!("there is room again: the servers are started anew");
    losses.push(now_micros());
    for part in [Part::Broker(0), Part::Database, Part::Registry] {
        stack.kill(part).await?;
        stack.start_part(part).await?;
    }
    // A supervisor would do this all the time.
    for name in pipeline.names() {
        if matches!(pipeline.state(&name)?, State::Failed) {
            eprintln!("{name} had ended with an error and is started again");
            pipeline.restart(&name)?;
        }
    }
    let storm = Storm { accepted: publishing.await??, losses, ..Storm::default() };
    pipeline.until_ready().await?;
    let verdict = judge(&gather(&pipeline, &storm).await?, &storm);
    if !verdict.broken.is_empty() {
        eprintln!("{}", pipeline.tails());
    }
    pipeline.stop().await?;
    stack.stop().await?;
    std::fs::remove_dir_all(disk.join("stack"))?;
    Ok(verdict)
}

fn free_bytes(disk: &Path) -> anyhow::Result<u64> {
    let answer = Command::new("df").arg("-Pk").arg(disk).output().context("df can not be run")?;
    ensure!(answer.status.success(), "{} is no folder of a file system", disk.display());
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let free = text.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    Ok(free.with_context(|| format!("df says: {text}"))? << 10)
}

/// A file that takes all the room there is.
struct Filler {
    path: PathBuf,
    file: File,
}

impl Filler {
    fn new(path: PathBuf) -> anyhow::Result<Self> {
        Ok(Self { file: File::create(&path)?, path })
    }

    /// Takes what is free, and says how much that was.
    fn fill(mut self) -> anyhow::Result<(Self, u64)> {
        let mut written = 0;
        let mut size = 1 << 20;
        let zeros = vec![0_u8; size];
        loop {
            match self.file.write(&zeros[..size]) {
                Ok(0) => bail!("nothing is written and nothing is wrong"),
                Ok(count) => written += count as u64,
                Err(error) if error.kind() == ErrorKind::StorageFull && size > 1 => size /= 2,
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok((self, written)),
                Err(error) => return Err(error.into()),
            }
            ensure!(written <= MOST, "the disk is larger than it said");
        }
    }

    fn remove(self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.path)?)
    }
}
