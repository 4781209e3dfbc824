//! The embedded store through kill -9. The test starts itself as a writer and kills that:
//! in the middle of its work, to look for every write that it had acknowledged; and while it makes
//! its directory, to open what is left.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use millrace_config::StorageConfig;
use millrace_storage::{LedgerFlush, LogPlace, Storage};

const ROUNDS: i64 = 5;
const CREATIONS: u32 = 40;
const ACKNOWLEDGED: usize = 400;
const WRITER: &str = "--write-until-killed";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mode, path, round] = &arguments[..]
        && mode == WRITER
    {
        write_until_killed(Path::new(path), round.parse().unwrap()).await;
    }
    acknowledged_writes_survive_kill_9().await;
    a_directory_half_made_is_made_again().await;
}

async fn acknowledged_writes_survive_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut kept = 0;
    for round in 0..ROUNDS {
        kept += kill_one_writer(directory.path(), round).await;
    }
    println!("test acknowledged_writes_survive_kill_9 ... ok ({kept} writes, {ROUNDS} kills)");
}

async fn a_directory_half_made_is_made_again() {
    let parent = tempfile::tempdir().unwrap();
    // How long making a directory and the first write take here, to spread the kills over it.
    let started = Instant::now();
    let mut writer = spawn(&parent.path().join("whole"), 0);
    let mut first = String::new();
    BufReader::new(writer.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    let step = started.elapsed() * 2 / CREATIONS;
    writer.kill().unwrap();
    writer.wait().unwrap();

    let mut cut_short = 0;
    for n in 0..CREATIONS {
        let path = parent.path().join(format!("store{n}"));
        let mut writer = spawn(&path, 0);
        std::thread::sleep(step * n);
        writer.kill().unwrap();
        writer.wait().unwrap();
        let mut said = String::new();
        writer.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        cut_short += u32::from(said.is_empty());
        let storage = open(&path).await;
        storage.results.put("t", "r", 0, LogPlace { generation: 0, offset: 9 }, outcome(9)).await.unwrap();
        assert!(storage.results.get("t", "r").await.unwrap() == Some(outcome(9)));
    }
    assert!(cut_short > CREATIONS / 10, "only {cut_short} of {CREATIONS} writers died early: kill sooner");
    println!("test a_directory_half_made_is_made_again ... ok ({cut_short} of {CREATIONS} cut short)");
}

async fn open(path: &Path) -> Storage {
    Storage::open(&StorageConfig::Embedded { path: path.to_owned() }).await.unwrap()
}

/// Writes a result and a flush, says so, and goes on.
async fn write_until_killed(path: &Path, round: i64) -> ! {
    let storage = open(path).await;
    let mut out = std::io::stdout();
    let mut offset = round * 1_000_000;
    loop {
        let request = format!("r{offset}");
        let place = LogPlace { generation: 0, offset };
        storage.results.put("t", &request, 0, place, outcome(offset)).await.unwrap();
        let flush = LedgerFlush { upto: offset, checkpoint: outcome(offset), ..LedgerFlush::default() };
        storage.ledger.flush(&flush).await.unwrap();
        writeln!(out, "{offset}").unwrap();
        out.flush().unwrap();
        offset += 1;
    }
}

fn outcome(offset: i64) -> Vec<u8> {
    format!("outcome {offset} ").repeat(100).into_bytes()
}

async fn kill_one_writer(path: &Path, round: i64) -> usize {
    let mut writer = spawn(path, round);
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let mut acknowledged: Vec<i64> =
        lines.by_ref().take(ACKNOWLEDGED).map(|line| line.unwrap().parse().unwrap()).collect();
    // SIGKILL, while it writes.
    writer.kill().unwrap();
    // It may have said more before it died; a last line without an end was cut off.
    acknowledged.extend(lines.map_while(|line| line.ok()?.parse::<i64>().ok().filter(|n| n / 1_000_000 == round)));
    writer.wait().unwrap();
    assert!(acknowledged.len() >= ACKNOWLEDGED, "the writer ended by itself after {} writes", acknowledged.len());

    let storage = open(path).await;
    for offset in &acknowledged {
        let kept = storage.results.get("t", &format!("r{offset}")).await.unwrap();
        assert!(kept == Some(outcome(*offset)), "acknowledged result {offset} is lost or changed");
    }
    let last = acknowledged.last().unwrap();
    let (upto, state) = storage.ledger.checkpoint(0, 0).await.unwrap().unwrap();
    assert!(upto >= *last, "checkpoint {upto} is older than the acknowledged {last}");
    assert_eq!(state, outcome(upto));
    acknowledged.len()
}

fn spawn(path: &Path, round: i64) -> Child {
    let program: PathBuf = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.arg(WRITER).arg(path).arg(round.to_string()).stdout(Stdio::piped()).spawn().unwrap()
}
