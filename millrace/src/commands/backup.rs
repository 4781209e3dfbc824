//! `millrace backup`: the store and the groups' positions, into a folder and back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, ensure};
use millrace_admission::SYSTEM_TENANT;
use millrace_config::Config;
use millrace_schemas::{Lane, Prompt, SOURCE_HEADER, Source, now_millis, topics};
use millrace_storage::{Claim, Row, Storage};
use rdkafka::consumer::Consumer;
use rdkafka::message::{Headers, Message};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::cli::{BackupAction, BackupArgs};
use crate::positions::{self, Position};
use crate::reading::{read_to_end, whole_topic};
use crate::topic_data;
use crate::ui;
use crate::wiring::connect_codec;

const POSITIONS: &str = "positions.json";
const STORE: &str = "store.jsonl";
/// Written last: a folder without it holds no whole backup.
const MANIFEST: &str = "backup.json";
const VERSION: u32 = 1;
/// Rows written at once.
const BATCH: usize = 512;

/// What a backup holds.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    /// Milliseconds since the epoch, before anything was read.
    taken_at: i64,
    /// `kafka.generation`.
    generation: u32,
    positions: usize,
    /// Rows by kind.
    rows: BTreeMap<String, u64>,
}

/// Takes or restores a backup.
pub async fn run(args: BackupArgs, config: Config, json: bool) -> anyhow::Result<()> {
    let report = match &args.action {
        BackupAction::Create { dir } => create(&config, dir).await?,
        BackupAction::Restore { dir, dry_run } => restore(&config, dir, *dry_run).await?,
    };
    if json {
        println!("{report}");
    } else if let serde_json::Value::Object(fields) = report {
        fields.iter().for_each(|(name, value)| println!("{:<14} {value}", name.replace('_', " ")));
    }
    Ok(())
}

async fn create(config: &Config, dir: &Path) -> anyhow::Result<serde_json::Value> {
    fs::create_dir_all(dir).with_context(|| format!("{} can not be made", dir.display()))?;
    ensure!(fs::read_dir(dir)?.next().is_none(), "{} is not empty: name a new folder", dir.display());
    let taken_at = now_millis();
    // Positions first: the store is then never behind them.
    let topics = topic_data::wanted(config, None)?;
    let positions = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || positions::read(&config, &topics)).await??
    };
    write(dir, POSITIONS, &positions)?;

    let storage = Storage::open(&config.storage).await?;
    let (sender, receiver) = mpsc::channel(BATCH);
    let file = File::create_new(dir.join(STORE)).with_context(|| format!("{} can not be written", dir.display()))?;
    let writing = tokio::task::spawn_blocking(move || write_rows(file, receiver));
    let exported = storage.backup.export(sender).await;
    let rows = writing.await??;
    exported?;
    let manifest =
        Manifest { version: VERSION, taken_at, generation: config.kafka.generation, positions: positions.len(), rows };
    write(dir, MANIFEST, &manifest)?;
    Ok(serde_json::to_value(&manifest)?)
}

fn write_rows(file: File, mut rows: mpsc::Receiver<Row>) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut out = BufWriter::new(file);
    let mut counts = BTreeMap::new();
    let progress = ui::count("rows");
    while let Some(row) = rows.blocking_recv() {
        *counts.entry(kind(&row).to_owned()).or_default() += 1;
        serde_json::to_writer(&mut out, &row)?;
        out.write_all(b"\n").context("the backup can not be written; is the disk full?")?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    out.flush().context("the backup can not be written; is the disk full?")?;
    out.into_inner()?.sync_all()?;
    Ok(counts)
}

fn kind(row: &Row) -> &'static str {
    match row {
        Row::Checkpoint { .. } => "checkpoints",
        Row::Rollup { .. } => "rollups",
        Row::Entry(_) => "entries",
        Row::Key { .. } => "keys",
        Row::Waiter { .. } => "waiters",
        Row::Result { .. } => "results",
        Row::Object { .. } => "objects",
        Row::FilePart { .. } => "parts of files",
        Row::Kept { .. } => "kept requests",
        Row::Webhook(_) => "webhooks",
    }
}

async fn restore(config: &Config, dir: &Path, dry_run: bool) -> anyhow::Result<serde_json::Value> {
    let manifest: Manifest = read(dir, MANIFEST)
        .with_context(|| format!("{} holds no whole backup: taking it was interrupted", dir.display()))?;
    ensure!(manifest.version == VERSION, "the backup has version {}, this program reads {VERSION}", manifest.version);
    let (ours, theirs) = (config.kafka.generation, manifest.generation);
    ensure!(ours == theirs, "the backup is of kafka.generation {theirs}, the configuration says {ours}");
    let positions: Vec<Position> = read(dir, POSITIONS)?;
    let storage = Storage::open(&config.storage).await?;

    // Set back first: a store that is not whole yet is filled from the log all the same, and whoever is
    // interrupted here runs the command again.
    let topics = topic_data::wanted(config, None)?;
    let set_back = {
        let (config, positions) = (config.clone(), positions.clone());
        tokio::task::spawn_blocking(move || positions::restore(&config, &topics, &positions, dry_run)).await??
    };
    let rows: u64 = manifest.rows.values().sum();
    let mut keys = 0;
    if !dry_run {
        import(&storage, dir, rows).await?;
        keys = claim_again(config, &storage, &positions).await?;
    }
    Ok(serde_json::json!({
        "positions_set_back": set_back, "rows": rows, "keys_claimed_again": keys, "dry_run": dry_run
    }))
}

/// Writes the rows. Checkpoints come last: with one in place, what it covers must be there.
async fn import(storage: &Storage, dir: &Path, expected: u64) -> anyhow::Result<()> {
    let progress = ui::progress(expected, "restoring");
    let mut checkpoints = Vec::new();
    let mut batch = Vec::new();
    let mut count = 0;
    for line in BufReader::new(File::open(dir.join(STORE))?).lines() {
        count += 1;
        let row: Row = serde_json::from_str(&line?).with_context(|| format!("line {count} of {STORE} is damaged"))?;
        if matches!(row, Row::Checkpoint { .. }) {
            checkpoints.push(row);
        } else {
            batch.push(row);
        }
        if batch.len() == BATCH {
            storage.backup.import(std::mem::take(&mut batch)).await?;
            progress.inc(BATCH as u64);
        }
    }
    ensure!(count == expected, "{STORE} has {count} rows of {expected}: the backup is damaged");
    storage.backup.import(batch).await?;
    storage.backup.import(checkpoints).await?;
    progress.finish_and_clear();
    Ok(())
}

/// Idempotency keys and redrives that were claimed after the backup was taken: every prompt names what it
/// was written for, and the record that claimed it.
async fn claim_again(config: &Config, storage: &Storage, saved: &[Position]) -> anyhow::Result<u64> {
    let codec = connect_codec(config).await?;
    let mut count = 0;
    for &lane in Lane::ALL {
        let name = config.kafka.topic(&topics::of(topics::PROMPTS, lane));
        let from = saved.iter().filter(|p| p.topic == name).map(|p| (p.partition, p.end)).collect();
        let prompts = {
            let config = config.clone();
            let (sender, receiver) = mpsc::channel(BATCH);
            let reading = tokio::task::spawn_blocking(move || prompts_since(&config, &name, &from, &sender));
            (reading, receiver)
        };
        let (reading, mut receiver) = prompts;
        while let Some((bytes, source)) = receiver.recv().await {
            let prompt: Prompt = codec.decode(&bytes).await?;
            let meta = prompt.meta;
            let (tenant, key, body_hash) = match (meta.redrive_claim(), &meta.idempotency_key, meta.body_hash) {
                (Some(run), _, _) => (SYSTEM_TENANT, run, String::new()),
                (None, Some(key), Some(hash)) => (meta.tenant.as_str(), key.clone(), hash),
                (None, None, _) | (None, _, None) => continue,
            };
            let claim = Claim { request_id: meta.request_id, coordinates: source.from.to_string(), body_hash };
            storage.keys.claim(tenant, &key, &claim).await?;
            count += 1;
        }
        reading.await??;
    }
    Ok(count)
}

/// Values and sources of the prompts from these offsets on, to the present end. Blocks.
fn prompts_since(
    config: &Config,
    topic: &str,
    from: &BTreeMap<i32, i64>,
    found: &mpsc::Sender<(Vec<u8>, Source)>,
) -> anyhow::Result<()> {
    let (consumer, ends) = whole_topic(config, topic, true)?;
    let ends =
        ends.into_iter().filter(|(partition, end)| from.get(partition).is_none_or(|start| start < end)).collect();
    let mut list = consumer.assignment()?;
    for (partition, start) in from {
        list.set_partition_offset(topic, *partition, rdkafka::Offset::Offset(*start))?;
    }
    consumer.assign(&list)?;
    read_to_end(&consumer, ends, |message| {
        let source = message.headers().and_then(|headers| {
            let header = headers.iter().find(|h| h.key == SOURCE_HEADER)?;
            std::str::from_utf8(header.value?).ok()?.parse().ok()
        });
        match (message.payload(), source) {
            (Some(value), Some(source)) => found.blocking_send((value.to_vec(), source)).is_ok(),
            (None, _) | (_, None) => true,
        }
    })
}

fn write(dir: &Path, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
    let path = dir.join(name);
    let mut file = File::create_new(&path).with_context(|| format!("{} can not be written", path.display()))?;
    file.write_all(&serde_json::to_vec_pretty(value)?).context("the backup can not be written; is the disk full?")?;
    Ok(file.sync_all()?)
}

fn read<T: serde::de::DeserializeOwned>(dir: &Path, name: &str) -> anyhow::Result<T> {
    let path = dir.join(name);
    let file = File::open(&path).with_context(|| format!("{} can not be read", path.display()))?;
    serde_json::from_reader(BufReader::new(file)).with_context(|| format!("{} is damaged", path.display()))
}
