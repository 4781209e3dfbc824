//! Every step boundary, one by one: each fail point kills one process of its service, and freezes one
//! until its partitions have moved and their new owner has read back.
//!
//! The services go through their points side by side, each at its own pace, while requests keep
//! coming: a process that died is started again with its next point armed, and nothing waits for
//! anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use millrace_schemas::now_micros;
use millrace_stack::Stack;
use millrace_tests::{Pipeline, Setup, State};
use serde_json::json;

use super::load::{Load, Rate};
use super::real::{COPIES, ENV, PLENTY, gather};
use super::script::pays;
use super::set_faults;
use super::shots::{self, Shot};
use super::storm::Storm;
use super::verdict::{Verdict, judge};
use crate::cli::ChaosArgs;

/// Enough to reach each point a few times in each process. A client is done with one thing in ten seconds or so,
/// as long as everything is shot at.
const RATE: Rate =
    Rate { per_second: 40, clients: 8, documents: true, cancels: true, bad: true, streams: true, pictures: true };
/// How long the services may take to have reached all that they are known to do.
const DISCOVERY: Duration = Duration::from_secs(90);
/// How long an armed point may take to be reached, with the start of its process. Where it was not, it is armed once
/// more after all others: what leads to it may have been held up by what was shot at elsewhere.
const PATIENCE: Duration = Duration::from_secs(90);
/// Longer than a session and the reading back after it.
const FROZEN: Duration = Duration::from_secs(9);
/// How long a zombie is awake before it is asked to leave.
const AWAKE: Duration = Duration::from_secs(2);
/// How long a process may take to drain.
const DRAINED: Duration = Duration::from_secs(60);
/// Of so many calls one is charged and loses its answer at the first attempt: the ledger has to say so.
const ONE_LOST_IN: u32 = 25;
const TICK: Duration = Duration::from_millis(150);
/// Where each process lists the points that it reaches.
const LOG: &str = "MILLRACE_FAIL_POINT_LOG";
const LOG_FILE: &str = "{folder}/{name}.points";
/// After this time without its point, a process is given the partitions of the other copy, which leaves
/// and joins again: where a group reads several topics, one process may have all of a topic.
const NUDGE: Duration = Duration::from_secs(12);

/// Arms one point of every service at a time, until each has killed and has frozen.
pub async fn run(args: &ChaosArgs) -> anyhow::Result<Verdict> {
    eprintln!("starting Kafka, Cassandra, the registry and {COPIES} processes of every service …");
    let stack = Stack::builder().start().await?;
    let env = [&ENV[..], &PLENTY, &[(LOG, LOG_FILE)]].concat();
    let mut pipeline = Pipeline::start(&stack, Setup { bindings: false, ..Setup::copies(COPIES).env(&env) }).await?;
    let mut storm = Storm::default();

    let lost = json!({ "when": { "model": "sim-small", "every": ONE_LOST_IN, "first_attempts": 1 },
        "then": { "kind": "connection_reset" } });
    set_faults(&pipeline.provider, &json!([lost])).await?;
    let mut load = Load::start(&pipeline, RATE)?;
    let points = discover(&pipeline, &mut load).await?;
    let count: usize = points.values().map(BTreeSet::len).sum();
    let shots = shots::of(&points, args.seed, args.one_in.unwrap_or(1));
    let mut lines: Vec<Line> = shots.into_iter().map(|(service, shots)| Line::new(&service, shots)).collect();
    let fired: usize = lines.iter().map(|line| line.left.len()).sum();
    eprintln!("{count} points, of which {fired} shots are fired (--seed {})", args.seed);
    let mut not_reached = fire(&mut pipeline, &mut load, &mut lines, &mut storm).await?;

    let given = load.stop().await?;
    (storm.accepted, storm.bad, storm.documents) = (given.requests, given.bad, given.documents);
    pipeline.until_ready().await?;
    let mut verdict = judge(&gather(&pipeline, &storm).await?, &storm);
    not_reached.sort();
    if !not_reached.is_empty() {
        verdict.broken.push(format!("never reached: {}", not_reached.join(", ")));
    }
    if !verdict.broken.is_empty() {
        eprintln!("{}", pipeline.tails());
    }
    pipeline.stop().await?;
    stack.stop().await?;
    Ok(verdict)
}

/// By service, what it reaches. Ends when all that is known of them was reached.
async fn discover(pipeline: &Pipeline, load: &mut Load) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
    let until = Instant::now() + DISCOVERY;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        load.check()?;
        let points = reached(pipeline.folder())?;
        let missing = shots::missing(&points)?;
        if missing.is_empty() {
            return Ok(points);
        }
        if Instant::now() > until {
            bail!("no fail point was reached for {}: is the feature `armed` on?", missing.join(", "));
        }
    }
}

/// What the processes have listed.
fn reached(folder: &Path) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
    let mut points: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        let Some(name) = path.to_str().and_then(|path| path.strip_suffix(".points")) else { continue };
        let service = name.rsplit('/').next().and_then(|name| name.rsplit_once('-')).context("a process")?.0;
        let text = std::fs::read_to_string(&path)?;
        // Reading has no effect.
        let effects = text.lines().filter(|point| !point.contains(" read "));
        points.entry(service.to_owned()).or_default().extend(effects.map(str::to_owned));
    }
    Ok(points)
}

/// Goes through all shots of all services; returns those that were not reached.
async fn fire(
    pipeline: &mut Pipeline,
    load: &mut Load,
    lines: &mut [Line],
    storm: &mut Storm,
) -> anyhow::Result<Vec<String>> {
    let began = Instant::now();
    while lines.iter().any(|line| !line.done()) {
        for line in lines.iter_mut() {
            line.step(pipeline, storm, began).await?;
        }
        pipeline.revive()?;
        load.check()?;
        if let Some(failed) = pipeline.failed()? {
            bail!("{failed}");
        }
        tokio::time::sleep(TICK).await;
    }
    while pipeline.any_returns() {
        pipeline.revive()?;
        tokio::time::sleep(TICK).await;
    }
    Ok(lines.iter().flat_map(Line::not_reached).collect())
}

/// A service on its way through its points.
struct Line {
    /// The process that is hurt; the other copies work on.
    name: String,
    left: Vec<Shot>,
    now: Now,
    since: Instant,
    /// When it was armed, or last nudged.
    nudged: Instant,
    /// What was not reached in time, and whether all of it had its second chance.
    missed: Vec<Shot>,
    is_second: bool,
}

enum Now {
    /// The process is as it was started with the pipeline.
    Fresh,
    /// It waits for its point.
    Armed(Shot),
    /// It was frozen by its point.
    Frozen,
    /// It goes on as a zombie.
    Awake,
    /// It was asked to leave.
    Draining,
    /// Every shot is fired, and the process is back.
    Done,
}

impl Line {
    fn new(service: &str, left: Vec<Shot>) -> Self {
        let now = Instant::now();
        let name = format!("{service}-0");
        Self { name, left, now: Now::Fresh, since: now, nudged: now, missed: Vec::new(), is_second: false }
    }

    fn done(&self) -> bool {
        matches!(self.now, Now::Done)
    }

    fn not_reached(&self) -> impl Iterator<Item = String> {
        self.missed.iter().map(|shot| format!("{} {shot}", self.name))
    }

    /// What is armed next.
    fn next(&mut self) -> Option<Shot> {
        if self.left.is_empty() && !self.is_second {
            self.is_second = true;
            self.left = std::mem::take(&mut self.missed);
        }
        self.left.pop()
    }

    async fn step(&mut self, pipeline: &mut Pipeline, storm: &mut Storm, began: Instant) -> anyhow::Result<()> {
        let (state, lasted) = (pipeline.state(&self.name)?, self.since.elapsed());
        match (&self.now, state) {
            (Now::Done, _) => {}
            (Now::Fresh, _) => self.drain(pipeline).await?,
            (Now::Draining, State::Ended) => self.arm(pipeline, began)?,
            (Now::Armed(_), State::Killed) => {
                self.lose(storm);
                self.arm(pipeline, began)?;
            }
            (Now::Armed(_), State::Frozen) => {
                self.lose(storm);
                self.enter(Now::Frozen);
            }
            (Now::Armed(shot), State::Running) if lasted > PATIENCE => {
                eprintln!("{:6.1} s  {} {shot} was not reached", began.elapsed().as_secs_f64(), self.name);
                self.missed.push(shot.clone());
                self.drain(pipeline).await?;
            }
            (Now::Armed(_), State::Running) if self.nudged.elapsed() > NUDGE => self.nudge(pipeline).await?,
            (Now::Frozen, State::Frozen) if lasted > FROZEN => {
                pipeline.signal(&self.name, "CONT").await?;
                self.enter(Now::Awake);
            }
            (Now::Awake, State::Running) if lasted > AWAKE => self.drain(pipeline).await?,
            (Now::Armed(_), State::Running) | (Now::Frozen, State::Frozen) | (Now::Awake, State::Running) => {}
            (Now::Draining, State::Running) if lasted < DRAINED => {}
            (Now::Armed(_) | Now::Frozen | Now::Awake | Now::Draining, state) => {
                bail!("{}\n{} is {state:?}, which no fail point made it", pipeline.tails(), self.name)
            }
        }
        Ok(())
    }

    async fn drain(&mut self, pipeline: &mut Pipeline) -> anyhow::Result<()> {
        pipeline.drain(&self.name).await?;
        self.enter(Now::Draining);
        Ok(())
    }

    /// Has the other copy leave the group and come back.
    async fn nudge(&mut self, pipeline: &mut Pipeline) -> anyhow::Result<()> {
        self.nudged = Instant::now();
        let other = self.name.replace("-0", "-1");
        if pipeline.state(&other)? == State::Running {
            pipeline.drain(&other).await?;
            pipeline.restart_once_ended(&other)?;
        }
        Ok(())
    }

    /// Starts the process again, with its next point armed.
    fn arm(&mut self, pipeline: &mut Pipeline, began: Instant) -> anyhow::Result<()> {
        let Some(shot) = self.next() else {
            eprintln!("{:6.1} s  {} is through", began.elapsed().as_secs_f64(), self.name);
            pipeline.restart(&self.name)?;
            self.enter(Now::Done);
            return Ok(());
        };
        eprintln!("{:6.1} s  {} {shot}, {} left", began.elapsed().as_secs_f64(), self.name, self.left.len());
        // Not always the first time, which is often right after the start.
        let armed = format!("{}:{}:{}", shot.action, 1 + self.left.len() % 3, shot.point);
        pipeline.restart_with(&self.name, &[("MILLRACE_FAIL_POINT", armed.as_str())])?;
        self.enter(Now::Armed(shot));
        Ok(())
    }

    /// Only who pays can lose a call.
    fn lose(&self, storm: &mut Storm) {
        if pays(&self.name) {
            storm.losses.push(now_micros());
        }
    }

    fn enter(&mut self, now: Now) {
        (self.now, self.since) = (now, Instant::now());
        self.nudged = self.since;
    }
}
